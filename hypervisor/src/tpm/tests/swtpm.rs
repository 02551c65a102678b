//! A real TPM of either family: swtpm, by its sockets. At every locality, and launched into as a CPU does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::tpm::{Error, Family, Tpm, Transport};

/// Commands of its control channel (swtpm_ioctls(3)).
const SET_LOCALITY: u32 = 5;
const HASH_START: u32 = 6;
const HASH_DATA: u32 = 7;
const HASH_END: u32 = 8;

pub struct SwTpm {
    family: Family,
    state: TempDir,
    process: Child,
    control: UnixStream,
    data: UnixStream,
}

impl Drop for SwTpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl SwTpm {
    /// A TPM 2.0 that is like no other.
    pub fn new() -> Self {
        Self::on(Family::V20, tempfile::tempdir().unwrap())
    }

    /// A TPM 1.2 with an endorsement key that is like no other; what else `swtpm_setup` does to it.
    pub fn v12(setup: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new("swtpm_setup");
        command.arg("--tpmstate").arg(state.path()).arg("--createek").args(setup);
        let output = command.stdin(Stdio::null()).output().expect("Debian package swtpm-tools");
        assert!(output.status.success(), "{output:?}");
        Self::on(Family::V12, state)
    }

    /// A TPM with the same state.
    pub fn twin(&self) -> Self {
        let state = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.state.path()).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), state.path().join(entry.file_name())).unwrap();
            }
        }
        Self::on(self.family, state)
    }

    /// Switches it off and on.
    pub fn restart(self) -> Self {
        let mut old = self;
        let state = std::mem::replace(&mut old.state, tempfile::tempdir().unwrap());
        let family = old.family;
        drop(old);
        Self::on(family, state)
    }

    fn on(family: Family, state: TempDir) -> Self {
        let path = |name: &str| state.path().join(name);
        for socket in ["control", "data"] {
            let _ = std::fs::remove_file(path(socket));
        }
        let mut command = Command::new("swtpm");
        command.args(["socket", "--terminate"]);
        if family == Family::V20 {
            command.arg("--tpm2");
        }
        command.arg("--tpmstate").arg(format!("dir={}", state.path().display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}", path("control").display()));
        command.arg("--server").arg(format!("type=unixio,path={}", path("data").display()));
        command.args(["--flags", "startup-clear"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().expect("Debian package swtpm");
        let control = connect(&mut process, &path("control"));
        let data = connect(&mut process, &path("data"));
        Self { family, state, process, control, data }
    }

    fn control(&mut self, command: u32, rest: &[u8]) {
        self.control.write_all(&[&command.to_be_bytes(), rest].concat()).unwrap();
        let mut answer = [0; 4];
        self.control.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0; 4], "control command {command}");
    }

    /// SKINIT of this SLB; then what the SLB extends, at locality 2.
    pub fn launch(&mut self, slb: &[u8], extended: &[(u8, &[u8])]) {
        self.control(HASH_START, &[]);
        self.control(HASH_DATA, &[&(slb.len() as u32).to_be_bytes(), slb].concat());
        self.control(HASH_END, &[]);
        for (pcr, bytes) in extended {
            self.at(2).extend(*pcr, &utpm::digest(bytes)).unwrap();
        }
    }

    /// The TPM at a locality.
    pub fn at(&mut self, locality: u8) -> Tpm<&mut Self> {
        self.control(SET_LOCALITY, &[locality]);
        Tpm::open(self).unwrap()
    }
}

impl Transport for &mut SwTpm {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        self.data.write_all(command).unwrap();
        let (header, _) = answer.split_at_mut(10);
        self.data.read_exact(header).unwrap();
        let size = u32::from_be_bytes(*header[2..].first_chunk().unwrap()) as usize;
        self.data.read_exact(&mut answer[10..size]).unwrap();
        Ok(size)
    }

    fn pause(&mut self, _: u64) {}

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

fn connect(process: &mut Child, path: &Path) -> UnixStream {
    for _ in 0..500 {
        if let Ok(stream) = UnixStream::connect(path) {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            return stream;
        }
        assert!(process.try_wait().unwrap().is_none(), "swtpm ends");
        sleep(Duration::from_millis(10));
    }
    panic!("swtpm does not listen");
}
