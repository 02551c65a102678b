//! Debian's tools for TPMs, with all they need, for a guest whose userland has no shared libraries: an archive that the kernel unpacks after
//! the initrd's own. tpm2-tools are this machine's (`qemu-scripts` installs them); TrouSerS and the tools for TPM 1.2, which install a
//! daemon, are fetched and unpacked below `build/`, as the guest's kernel is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::files;
use crate::initrd::Initrd;
use crate::paths::build_dir;
use crate::process::{self, run, say};

const LIMIT: Duration = Duration::from_secs(300);
const PACKAGES: [&str; 3] = ["tpm-tools", "trousers", "libtspi1"];
/// Where Debian's libraries are.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// All tools for TPM 2.0 are one program, under many names.
const TPM2: &str = "/usr/bin/tpm2";
const TPM2_NAMES: [&str; 15] = [
    "tpm2_create",
    "tpm2_createprimary",
    "tpm2_flushcontext",
    "tpm2_getcap",
    "tpm2_getrandom",
    "tpm2_load",
    "tpm2_nvdefine",
    "tpm2_nvundefine",
    "tpm2_pcrextend",
    "tpm2_pcrread",
    "tpm2_pcrreset",
    "tpm2_policylocality",
    "tpm2_policypcr",
    "tpm2_startauthsession",
    "tpm2_unseal",
];
/// Loaded by name: for /dev/tpm0, and for threads that end.
const LOADED: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0", "/lib/x86_64-linux-gnu/libgcc_s.so.1"];
const TPM12: [&str; 4] = ["tcsd", "tpm_nvinfo", "tpm_selftest", "tpm_version"];

/// The archive, to be appended to an initrd.
pub fn tpm_tools() -> Result<Vec<u8>> {
    let packages = fetch()?;
    let mut programs: BTreeMap<String, PathBuf> =
        TPM12.iter().map(|name| ((*name).into(), packages.join("usr/sbin").join(name))).collect();
    programs.insert("tpm2".into(), TPM2.into());
    let own_libraries = packages.join("usr").join(LIBRARIES);
    let mut libraries = BTreeMap::new();
    for library in LOADED.map(PathBuf::from) {
        libraries.insert(name(&library)?, library);
    }
    for file in programs.values().chain(&libraries.values().cloned().collect::<Vec<_>>()) {
        libraries.extend(needed(file, &own_libraries)?);
    }
    let mut archive = Initrd::default();
    for folder in ["etc", "lib64", LIBRARIES, "var", "var/lib", "var/lib/tpm"] {
        archive.folder(folder);
    }
    for (name, path) in &programs {
        archive.program(&format!("bin/{name}"), &files::read(path)?);
    }
    for name in TPM2_NAMES {
        archive.link(&format!("bin/{name}"), "tpm2");
    }
    for (name, path) in &libraries {
        archive.program(&format!("{LIBRARIES}/{name}"), &files::read(path)?);
    }
    archive.link("lib64/ld-linux-x86-64.so.2", &format!("../{LIBRARIES}/ld-linux-x86-64.so.2"));
    Ok(archive.finish())
}

fn fetch() -> Result<PathBuf> {
    let folder = build_dir().join("tpm-tools");
    let _lock = files::lock(&build_dir())?;
    if folder.exists() {
        return Ok(folder);
    }
    say(format_args!("fetching {}", PACKAGES.join(", ")));
    let new = tempfile::tempdir_in(build_dir())?;
    let mut download = Command::new("apt-get");
    download.arg("download").args(PACKAGES).current_dir(&new);
    run("fetching tools for TPMs", download, LIMIT)?;
    let unpacked = new.path().join("unpacked");
    for entry in fs::read_dir(&new)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg");
            unpack.arg("-x").arg(path).arg(&unpacked);
            run("unpacking tools for TPMs", unpack, LIMIT)?;
        }
    }
    fs::rename(unpacked, &folder)?;
    Ok(folder)
}

/// The libraries of a program, the dynamic linker among them, as that linker says: `NAME => PATH (ADDRESS)` or `PATH (ADDRESS)`.
fn needed(program: &Path, own: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LD_LIBRARY_PATH", own).env("LC_ALL", "C");
    let text = process::output("ldd", ldd, LIMIT)?;
    parse(&text).with_context(|| format!("{}: {text}", program.display()))
}

fn parse(text: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut libraries = Vec::new();
    for line in text.lines().filter(|line| !line.contains("linux-vdso")) {
        let path = line.rsplit(" => ").next().and_then(|rest| rest.split(" (").next());
        let path = PathBuf::from(path.context("no path")?.trim());
        anyhow::ensure!(path.is_absolute(), "{line:?}");
        libraries.push((name(&path)?, path));
    }
    Ok(libraries)
}

fn name(path: &Path) -> Result<String> {
    Ok(path.file_name().context("a library has a name")?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dynamic_linker_says() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        let pairs = |names: [&str; 2]| names.map(|path| (name(Path::new(path)).unwrap(), path.into()));
        assert_eq!(parse(text).unwrap(), pairs(["/lib/libc.so.6", "/lib64/ld.so.2"]));
        assert!(parse("\tlibx.so => not found\n").is_err());
    }
}
