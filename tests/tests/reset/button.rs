//! The reset button, which TrustVisor does not notice. All that it keeps is there for the next kernel, unless firmware overwrites memory
//! first. TrustVisor does not ask firmware to; root can, as the bit for it is in memory that the OS has, and can take it back as well.

use crate::trial::{Build, Found, Trial, WORDS, boot};
use anyhow::{Result, ensure};
use serde_json::json;

/// Sets the bit as the method `_DSM` of QEMU's TPM does (TCG Platform Reset Attack Mitigation Specification 1.10; QEMU, specs/tpm: `movv`).
const ASK: &str = "devmem 0xfed4515a 8 1";

/// What is in memory when the button was pressed and nothing has run since. QEMU overwrites memory itself, its firmware's ROM with it:
/// where that was asked for, the machine does not boot again.
fn pressed(name: &str, prepare: &str) -> Result<(Trial, Found)> {
    let trial = Trial::start("button", boot(name)?, &Build::real()?, prepare)?;
    trial.machine.monitor_command("stop", json!({}))?;
    trial.machine.reset_anyway()?;
    let found = trial.look()?;
    Ok((trial, found))
}

#[test]
fn the_reset_button_leaves_everything() -> Result<()> {
    let (trial, found) = pressed("button", "")?;
    ensure!(trial.are_all_left(&found), "button: {found}");
    let (secret, keys) = trial.scan()?;
    let enough = WORDS as u64;
    ensure!(secret >= enough && keys >= enough / 2, "button: {secret} + {keys} hits");
    Ok(())
}

#[test]
fn firmware_that_is_asked_overwrites_memory() -> Result<()> {
    let (_, found) = pressed("button-asked", ASK)?;
    ensure!(found.secret == 0 && found.fingerprints == 0, "button, firmware asked: {found}");
    Ok(())
}
