//! Writes an initrd: a cpio archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::files;

/// An archive being written. The same contents give the same bytes.
#[derive(Default)]
pub(crate) struct Initrd {
    bytes: Vec<u8>,
    inode: u32,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CONSOLE: u32 = 0o020_600;

impl Initrd {
    pub(crate) fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER, (0, 0), &[]);
    }

    pub(crate) fn program(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, PROGRAM, (0, 0), contents);
    }

    /// Files of this machine, each by its name in a folder.
    pub(crate) fn copies(&mut self, folder: &str, paths: &[PathBuf]) -> Result<()> {
        for path in paths {
            let name = path.file_name().context("a file has a name")?.to_string_lossy();
            self.program(&format!("{folder}/{name}"), &files::read(path)?);
        }
        Ok(())
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK, (0, 0), target.as_bytes());
    }

    /// The kernel opens /dev/console before anything is mounted.
    pub(crate) fn console(&mut self) {
        self.entry("dev/console", CONSOLE, (5, 1), &[]);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.inode += 1;
        let name_size = path.len() as u32 + 1;
        let size = contents.len() as u32;
        self.bytes.extend(b"070701");
        // Owner, group and time are 0; the last field is a checksum this format does not use.
        for field in [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0] {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file() {
        let mut archive = Initrd::default();
        archive.program("init", b"#!x\n!");
        let bytes = archive.finish();
        let header = "070701\
            00000001000081ed00000000000000000000000100000000000000050000000000000000\
            00000000000000000000000500000000";
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..124], b"init\0\0#!x\n!\0\0\0");
        assert!(bytes[124..].starts_with(b"070701"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
