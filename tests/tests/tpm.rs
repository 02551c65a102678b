//! What the hardware TPM keeps for TrustVisor: the root, from one boot to the next; and that the event log tells what is in its PCRs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use abi::quote::KEY_BLOB;
use anyhow::{Context, Result, ensure};
use machine::{Boot, Family, Machine, manufacture};
use tempfile::TempDir;
use trustvisor_tests::{SOON, built, pcr_in_guest};

const PAGE: usize = 4096;
/// Until an RSA key is made.
const LATE: Duration = Duration::from_secs(240);

#[path = "tpm/counters.rs"]
mod counters;
#[path = "tpm/evidence.rs"]
mod evidence;
#[path = "tpm/evidence_1_2.rs"]
mod evidence_1_2;
#[path = "tpm/migration.rs"]
mod migration;
#[path = "tpm/os_tools.rs"]
mod os_tools;
#[path = "tpm/owner.rs"]
mod owner;
#[path = "shared/policy.rs"]
mod policy;
#[path = "tpm/robust.rs"]
mod robust;
#[path = "tpm/secrets.rs"]
mod secrets;

/// A machine's disk and TPM, which outlive a boot.
struct Computer {
    family: Family,
    folder: TempDir,
    /// The root, as it was last saved.
    root: Vec<u8>,
    /// Bytes of the sealed blob on the disk.
    blob: usize,
}

impl Computer {
    fn new() -> Result<Self> {
        Self::with(Family::V20)
    }

    fn with(family: Family) -> Result<Self> {
        let computer = Self { family, folder: tempfile::tempdir()?, root: Vec::new(), blob: 0 };
        fs::File::create(computer.disk())?.set_len(1 << 20)?;
        Ok(computer)
    }

    fn disk(&self) -> std::path::PathBuf {
        self.folder.path().join("disk")
    }

    fn tpm(&self) -> std::path::PathBuf {
        self.folder.path().join("tpm")
    }

    fn boot(&self) -> Result<Boot> {
        let boot = Boot::new("tpm", built()?.as_ref()).tpm(self.family).tpm_state(&self.tpm());
        Ok(boot.disk(&self.disk()))
    }

    /// Boots with the saved root; the root's state must be this.
    fn start(&self, boot: Boot, state: &str) -> Result<Machine> {
        let boot = if self.root.is_empty() { boot } else { boot.root(self.root.clone()) };
        let machine = boot.start()?;
        machine.wait_until_ready()?;
        let info = machine.succeed("trustvisor info", SOON)?;
        let root = info.iter().find(|line| line.starts_with("root: ")).context("no word of the root")?;
        ensure!(root.contains(state), "{root:?} instead of {state:?} (log: {})", machine.log().display());
        Ok(machine)
    }

    /// S1 seals for S2; blob and root go to the disk. Returns the secret.
    fn seal(&mut self, machine: &Machine) -> Result<String> {
        let secret = word_after(&machine.succeed("tvtest seal-for-later", SOON)?, "tvtest: sealed ")?;
        self.blob = length(machine, "/tmp/blob")?;
        // With an RSA key of two primes, which have to be found.
        machine.succeed("trustvisor root save /tmp/root", LATE)?;
        let root = length(machine, "/tmp/root")?;
        for (file, page) in [("blob", 0), ("root", 1)] {
            let copy =
                format!("dd if=/tmp/{file} of=/dev/vda bs={PAGE} seek={page} conv=sync 2>/dev/null && sync");
            machine.succeed(&copy, SOON)?;
        }
        self.root = fs::read(self.disk())?[PAGE..][..root].to_vec();
        Ok(secret)
    }

    /// Saves the root as it is, without an RSA key, which takes long to make.
    fn save_root(&mut self, machine: &Machine) -> Result<()> {
        let lines = machine.succeed("tvtest save-root && xxd -p /tmp/root", SOON)?;
        let hexadecimal = |line: &&String| line.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.root = from_hex(&lines.iter().filter(hexadecimal).cloned().collect::<String>())?;
        Ok(())
    }

    /// Has the guest read the blob from the disk, and runs a test on it.
    fn try_blob(&self, machine: &Machine, test: &str) -> Result<Vec<String>> {
        machine.succeed(&format!("head -c {} /dev/vda >/tmp/blob", self.blob), SOON)?;
        machine.succeed(&format!("tvtest {test}"), SOON)
    }
}

fn word_after(lines: &[String], start: &str) -> Result<String> {
    lines.iter().find_map(|line| line.strip_prefix(start)).map(str::to_owned).context("nothing sealed")
}

fn length(machine: &Machine, file: &str) -> Result<usize> {
    let lines = machine.succeed(&format!("wc -c <{file}"), SOON)?;
    Ok(lines.last().context("no length")?.trim().parse()?)
}

/// S1 seals for S2, which opens it at the next boot, with the saved root alone. Returns that root, which the computer is without then.
fn sealed_and_opened(computer: &mut Computer) -> Result<Vec<u8>> {
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    let secret = computer.seal(&machine)?;
    drop(machine);

    let machine = computer.start(computer.boot()?, "the saved one, opened")?;
    let unsealed = word_after(&computer.try_blob(&machine, "unseal-later")?, "tvtest: unsealed ")?;
    ensure!(unsealed == secret, "unsealed {unsealed} instead of {secret}");
    // What it would save now is what it was given.
    machine.succeed("trustvisor root save /tmp/root", SOON)?;
    ensure!(length(&machine, "/tmp/root")? == computer.root.len(), "the root to save has changed");
    // PCR 19 is extended by now: nobody opens the root any more.
    drop(machine);

    // Without the root, all is new.
    let root = std::mem::take(&mut computer.root);
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    computer.try_blob(&machine, "no-longer")?;
    Ok(root)
}

/// A flipped bit of the root, and the state that it leads to.
fn flipped(computer: &mut Computer, root: &[u8], at: usize, state: &str) -> Result<()> {
    computer.root = root.to_vec();
    computer.root[at] ^= 1;
    let machine = computer.start(computer.boot()?, state)?;
    computer.try_blob(&machine, "no-longer").map(drop)
}

#[test]
fn what_is_sealed_outlives_a_reboot_and_nothing_else_opens_it() -> Result<()> {
    let mut computer = Computer::new()?;
    let root = sealed_and_opened(&mut computer)?;

    // In what only the TPM can judge, and in what can be judged before.
    let private = 8 + 2 + 40;
    flipped(&mut computer, &root, private, "damaged or another TPM's")?;
    flipped(&mut computer, &root, 0, "no saved root")?;
    flipped(&mut computer, &root, root.len() - KEY_BLOB - 1, "was not made by")?;
    for root in [vec![1], vec![7; 100_000]] {
        computer.root = root;
        drop(computer.start(computer.boot()?, "no saved root")?);
    }
    computer.root.clear();
    drop(computer.start(computer.boot()?.root(Vec::new()), "no saved root")?);
    computer.root = root;

    // Another release is another PCR 17.
    let mut hypervisor = built()?.hypervisor.clone();
    *hypervisor.last_mut().context("a hypervisor")? ^= 1;
    let machine = computer.start(computer.boot()?.hypervisor(hypervisor), "another TrustVisor")?;
    computer.try_blob(&machine, "no-longer")?;
    drop(machine);
    let machine = computer.start(computer.boot()?.skinit(false), "no dynamic launch")?;
    computer.try_blob(&machine, "no-longer")?;
    ensure!(machine.command("trustvisor root save /tmp/root", SOON)?.code != 0, "an ephemeral root is saved");
    drop(machine);
    another_tpm(computer.family, &computer.tpm())?;
    let machine = computer.start(computer.boot()?, "another TPM's")?;
    computer.try_blob(&machine, "no-longer")?;
    Ok(())
}

fn another_tpm(family: Family, state: &Path) -> Result<()> {
    fs::remove_dir_all(state)?;
    fs::create_dir(state)?;
    manufacture(family, state)
}

/// The same on a TPM 1.2, which keeps no counters.
#[test]
fn a_tpm_1_2_keeps_a_root() -> Result<()> {
    let mut computer = Computer::with(Family::V12)?;
    let root = sealed_and_opened(&mut computer)?;

    // Magic; locality at creation and at release, in what the TPM sealed with; what is encrypted.
    flipped(&mut computer, &root, 0, "no saved root")?;
    flipped(&mut computer, &root, 18, "was not made by")?;
    flipped(&mut computer, &root, 19, "another TrustVisor")?;
    flipped(&mut computer, &root, 100, "damaged or another TPM's")?;
    computer.root = root;
    let machine = computer.start(computer.boot()?, "the saved one, opened")?;
    computer.try_blob(&machine, "unseal-later sealed no-counters")?;
    let info = machine.succeed("trustvisor info", SOON)?;
    ensure!(info.iter().any(|line| line == "counters: none: unsupported on TPM 1.2"), "{info:?}");
    machine.succeed("trustvisor tpm provision", SOON)?;
    machine.succeed("echo no root >/tmp/else && ! trustvisor root reset /tmp/else", SOON)?;
    machine.succeed("trustvisor root save /tmp/root", SOON)?;
    machine.succeed("trustvisor root reset /tmp/root && ! test -e /tmp/root", SOON)?;
    drop(machine);
    another_tpm(computer.family, &computer.tpm())?;
    drop(computer.start(computer.boot()?, "another TPM's")?);
    Ok(())
}

/// Another's parser reads the log, and its replay gives what the TPM holds.
#[test]
fn the_event_log_replays_to_the_pcrs() -> Result<()> {
    for (family, banks) in [(Family::V20, &["sha1", "sha256"][..]), (Family::V12, &["sha1"])] {
        let machine = Boot::new("tpm-eventlog", built()?.as_ref()).tpm(family).start()?;
        machine.wait_until_ready()?;
        let lines = machine.succeed("trustvisor eventlog | xxd -p", SOON)?;
        let file = tempfile::NamedTempFile::new()?;
        fs::write(&file, from_hex(&lines.concat())?)?;
        let replay = replay(file.path())?;
        for bank in banks {
            for register in 17..20 {
                let value = pcr_in_guest(&machine, bank, register)?;
                let told = replay.contains(&(bank.to_string(), register, value.clone()));
                ensure!(told, "PCR {register} {bank} is {value}, not {replay:?}");
            }
        }
        // The log is binary: nothing for a terminal, but for a file.
        ensure!(machine.command("trustvisor eventlog", SOON)?.code != 0, "a binary log on a terminal");
        machine.succeed("trustvisor eventlog /tmp/log && trustvisor eventlog | cmp - /tmp/log", SOON)?;
    }
    Ok(())
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let bytes = text.trim().as_bytes().chunks(2);
    bytes.map(|byte| Ok(u8::from_str_radix(str::from_utf8(byte)?, 16)?)).collect()
}

/// Bank, register and value of what tpm2_eventlog makes of a log: its last section, `pcrs:`, then banks, then registers.
fn replay(log: &Path) -> Result<Vec<(String, u32, String)>> {
    let output = Command::new("tpm2_eventlog").arg(log).output().context("tpm2_eventlog")?;
    let (text, errors) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "tpm2_eventlog: {errors}");
    let (_, pcrs) = text.split_once("\npcrs:\n").context("no replay")?;
    let (mut bank, mut values) = (String::new(), Vec::new());
    for line in pcrs.lines() {
        let (name, value) = line.split_once(':').context("no name")?;
        let (name, value) = (name.trim(), value.trim());
        match value.strip_prefix("0x") {
            None => bank = name.to_owned(),
            Some(value) => values.push((bank.clone(), name.parse()?, value.to_lowercase())),
        }
    }
    Ok(values)
}
