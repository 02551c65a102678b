//! Sleep. A machine that wakes up runs what the OS left for it, without TrustVisor, over a memory that was kept: TrustVisor does not let
//! it sleep. It wipes, shuts the TPM's registers of the launch, and resets.

use crate::trial::{Build, Trial, boot};
use crate::{Reset, Wrong, expect_nothing_left};
use anyhow::{Context, Result, bail, ensure};
use machine::Machine;
use serde_json::json;
use trustvisor_tests::pcr_in_guest;

/// What the launch's registers hold, from which keys and the root hang: 17, 18, 19 in the bank that they are sealed by.
fn launch_registers(machine: &Machine) -> Result<Vec<Vec<u8>>> {
    let digits = |at| pcr_in_guest(machine, "sha256", at);
    (17..=19).map(|at| from_hex(&digits(at)?)).collect()
}

fn from_hex(digits: &str) -> Result<Vec<u8>> {
    ensure!(digits.len() == 64, "{digits:?} is no digest");
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2).context("no digits")?, 16).context("no digits");
    (0..64).step_by(2).map(byte).collect()
}

/// How many of the values are in the TPM. The machine is stopped.
fn held(machine: &Machine, values: &[Vec<u8>]) -> Result<usize> {
    let state = machine.tpm_volatile_state()?;
    let is_there = |value: &&Vec<u8>| state.windows(value.len()).any(|window| window == *value);
    Ok(values.iter().filter(is_there).count())
}

/// `may_be_ignored`: a machine that does nothing at all has not slept.
fn refused(way: &str, may_be_ignored: bool) -> Result<()> {
    let trial = Trial::start(way, boot(way)?, &Build::real()?, "")?;
    let machine = &trial.machine;
    let values = launch_registers(machine)?;
    machine.monitor_command("stop", json!({}))?;
    ensure!(held(machine, &values)? == values.len(), "the TPM's state does not show its registers");
    machine.go_on()?;
    trial.go()?;
    let Some((status, reason)) = trial.wait_for_end()? else {
        ensure!(may_be_ignored, "{way}: nothing happens");
        return Ok(());
    };
    println!("reset: {way}: {status}, {reason}");
    let open = held(machine, &values)?;
    if status == "suspended" {
        // At a reset it would wake up: firmware goes on with Linux, whose memory it is, without TrustVisor.
        bail!(
            "{way}: the machine sleeps, {open} of PCRs 17 to 19 are as at the launch; memory has {}",
            trial.look()?
        );
    }
    let mut wrong = Wrong::default();
    wrong.unless(open == 0, || format!("{open} of PCRs 17 to 19 are as at the launch"));
    expect_nothing_left(&trial, &mut wrong)?;
    wrong.result(way)
}

#[test]
fn linux_may_not_sleep() -> Result<()> {
    refused("s3", false)
}

#[test]
fn nor_may_root_by_the_register() -> Result<()> {
    refused("s3-register", false)
}

#[test]
fn nor_by_the_register_s_second_byte() -> Result<()> {
    // QEMU takes only the whole register, a chipset may take its half.
    refused("s3-byte", true)
}

/// Linux hibernates: it writes its own memory to its disk, and has the machine go off by another sleeping state.
#[test]
fn linux_hibernates() -> Result<()> {
    let way = "s4";
    let disk = tempfile::NamedTempFile::new()?;
    disk.as_file().set_len(512 << 20)?;
    let prepare = "mkswap /dev/vda && swapon /dev/vda && cat /sys/block/vda/dev >/sys/power/resume; true";
    let trial = Trial::start(way, boot(way)?.disk(disk.path()), &Build::real()?, prepare)?;
    trial.go()?;
    let (status, reason) = trial.wait_for_end()?.with_context(|| format!("{way}: nothing happens"))?;
    println!("reset: {way}: {status}, {reason}");
    let mut wrong = Wrong::default();
    expect_nothing_left(&trial, &mut wrong)?;
    wrong.result(way)
}

/// QEMU's number for it is, on a chipset, that of a sleep that keeps memory: the machine is reset instead.
#[test]
fn hibernation_s_register() -> Result<()> {
    crate::nothing_is_left("s4-register", Reset)
}
