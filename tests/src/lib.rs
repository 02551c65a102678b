//! Whole-system tests: each boots a machine in QEMU with a TPM, through GRUB and the real SKINIT instruction. They are
//! ordinary cargo tests; `qemu-scripts/test` runs them with all they need installed. What every suite uses is here.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use machine::{Artifacts, Boot, Machine};

/// For a machine to get through its firmware, GRUB and loader.
pub const SOON: Duration = Duration::from_secs(60);

/// What is tested.
pub fn built() -> Result<Arc<Artifacts>> {
    machine::artifacts()
}

/// A register of the hardware TPM as Linux reads it, in lower case; `bank` is `sha1` or `sha256`.
pub fn pcr_in_guest(machine: &Machine, bank: &str, register: u32) -> Result<String> {
    let file = format!("/sys/class/tpm/tpm0/pcr-{bank}/{register}");
    let lines = machine.succeed(&format!("cat {file}"), SOON)?;
    Ok(lines.last().context("an empty file")?.trim().to_lowercase())
}

/// Boots, and expects exactly the two lines of a refusal by `who`, and then a processor that halts: no reset, no more output.
pub fn expect_refusal(boot: Boot, who: &str, reason: &str) -> Result<()> {
    let machine = boot.start()?;
    machine.wait_for(&format!("{who}: stopped"), SOON)?;
    let expected = [format!("{who}: refused: {reason}"), format!("{who}: stopped")];
    let deadline = Instant::now() + Duration::from_secs(5);
    while !machine.halted()? {
        ensure!(Instant::now() < deadline, "the processor does not halt (log: {})", machine.log().display());
        thread::sleep(Duration::from_millis(50));
    }
    let lines = machine.lines();
    if !lines.ends_with(&expected) {
        bail!("expected the refusal {reason:?}, not {:?}", lines.last_chunk::<2>());
    }
    ensure!(machine.resets()? == 0, "the machine was reset (log: {})", machine.log().display());
    Ok(())
}
