//! What somebody else did to the TPM before TrustVisor came: an index where the counters go, an owner with a password. What depends on it
//! is not there, and says so; all else goes on.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use machine::{Family, Machine, manufacture};
use trustvisor_tests::SOON;

use super::Computer;
use super::counters::state;
use super::robust::measured;

/// TPM_ST_SESSIONS; TPM_RH_OWNER with an empty password (TPM 2.0 Library part 2, 6.9 and 7.4).
const SESSIONS: [u8; 2] = [0x80, 2];
const OWNER: [u8; 17] = [0x40, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
/// TPM2_NV_DefineSpace (part 3, 31.3) of the counters' index: no password; SHA-256; OWNERWRITE, AUTHWRITE, OWNERREAD, AUTHREAD, NO_DA; no
/// policy, 8 bytes.
const NV_DEFINE_SPACE: u32 = 0x12a;
const INDEX: [u8; 18] = [0, 0, 0, 14, 1, 0x80, 0x54, 0x56, 0, 0x0b, 2, 6, 0, 6, 0, 0, 0, 8];
/// TPM2_HierarchyChangeAuth (24.8), and the password.
const HIERARCHY_CHANGE_AUTH: u32 = 0x129;
const PASSWORD: [u8; 8] = *b"\0\x06secret";

/// A command of the owner's to a TPM that no machine has now.
fn by_the_owner(state: &Path, code: u32, parameters: &[u8]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("tpm");
    let mut swtpm = Command::new("timeout");
    swtpm.args(["60", "swtpm", "socket", "--tpm2", "--terminate", "--flags", "not-need-init,startup-clear"]);
    swtpm.arg("--tpmstate").arg(format!("dir={}", state.display()));
    swtpm.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
    let mut swtpm = swtpm.stderr(Stdio::null()).spawn().context("swtpm")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut tpm = loop {
        match UnixStream::connect(&socket) {
            Err(error) if Instant::now() > deadline => return Err(error).context("swtpm"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
            Ok(tpm) => break tpm,
        }
    };
    tpm.set_read_timeout(Some(Duration::from_secs(30)))?;
    let size = (10 + OWNER.len() + parameters.len()) as u32;
    tpm.write_all(&[&SESSIONS[..], &size.to_be_bytes(), &code.to_be_bytes(), &OWNER, parameters].concat())?;
    let mut header = [0; 10];
    tpm.read_exact(&mut header)?;
    ensure!(header[6..] == [0; 4], "the TPM answers {header:x?}");
    drop(tpm);
    ensure!(swtpm.wait()?.success(), "swtpm fails");
    Ok(())
}

#[test]
fn an_index_and_an_owner_that_are_somebody_elses_stop_nobody() -> Result<()> {
    let mut computer = Computer::new()?;
    fs::create_dir(computer.tpm())?;
    manufacture(Family::V20, &computer.tpm())?;
    by_the_owner(&computer.tpm(), NV_DEFINE_SPACE, &INDEX)?;
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    let somebody_elses = |machine: &Machine| -> Result<()> {
        state(
            machine,
            "NONE: what lies at their place in the hardware TPM is another root's, or somebody else's",
        )?;
        measured(machine)?;
        machine.succeed("tvtest no-counters calls sealed", SOON).map(drop)
    };
    somebody_elses(&machine)?;
    computer.save_root(&machine)?;
    drop(machine);
    let machine = computer.start(computer.boot()?, "the saved one, opened")?;
    somebody_elses(&machine)?;
    drop(machine);

    by_the_owner(&computer.tpm(), HIERARCHY_CHANGE_AUTH, &PASSWORD)?;
    let machine = computer.start(computer.boot()?, "NONE, nothing can be sealed: the hardware TPM fails")?;
    let lines = machine.lines();
    let why = "no root: the TPM's owner, or what is kept there, has a secret of its own";
    let said = lines.iter().any(|line| line.ends_with(why));
    ensure!(said, "no word of it (log: {})", machine.log().display());
    state(&machine, "none: they need a root")?;
    measured(&machine)?;
    machine.succeed("tvtest no-counters calls", SOON)?;
    ensure!(machine.command("tvtest save-root", SOON)?.code != 0, "there is a root to save");
    Ok(())
}
