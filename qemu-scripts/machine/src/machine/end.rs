//! A machine that comes to its end but keeps its memory: it stops where it would reset or go off (`-no-reboot -no-shutdown`), is looked
//! at, and boots something else.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Machine, lock};
use crate::boot::Boot;

/// QEMU's name of the drive that the machine boots from.
const DRIVE: &str = "ide2-cd0";

impl Machine {
    /// What it does: `running`, `suspended` (asleep), `shutdown` (stopped where it would reset or go off), `paused`.
    pub fn status(&self) -> Result<String> {
        let status = self.monitor_command("query-status", json!({}))?;
        Ok(status["status"].as_str().context("a status is a text")?.into())
    }

    /// Waits until it no longer runs; the status that it has then.
    pub fn wait_until_stopped(&self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status()?;
            if status != "running" {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the machine goes on (log: {})", self.log().display());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Why it came to its end, in QEMU's words: `guest-reset`, `guest-shutdown` (power off), or others.
    pub fn end(&self) -> Result<Option<String>> {
        let events = lock(&self.monitor).events("SHUTDOWN")?;
        Ok(events.last().and_then(|event| Some(event["data"]["reason"].as_str()?.to_owned())))
    }

    /// Presses the reset button with another medium in the drive: that of `next`, of which nothing else counts. Memory stays as it is.
    pub fn restart_with(&self, next: &Boot) -> Result<()> {
        let folder = self.folder.path().join("next");
        fs::create_dir_all(&folder)?;
        let medium = next.iso(&folder)?;
        let change = json!({ "device": DRIVE, "filename": medium, "format": "raw", "force": true });
        self.monitor_command("blockdev-change-medium", change)?;
        self.reset_anyway()?;
        self.go_on()
    }

    /// Presses the reset button of a machine that would stop there, and waits until it is done. If it stands still, it does so afterwards.
    pub fn reset_anyway(&self) -> Result<()> {
        self.monitor_command("set-action", json!({ "reboot": "reset" }))?;
        let before = self.resets()?;
        self.reset()?;
        // The monitor answers before the machine does it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.resets()? == before {
            ensure!(Instant::now() < deadline, "no reset (log: {})", self.log().display());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// What its TPM loses without power, as swtpm keeps it: PCRs are in there as they are. Only while the machine is stopped; at the next
    /// reset the TPM takes this state up again.
    pub fn tpm_volatile_state(&self) -> Result<Vec<u8>> {
        self.tpm.as_ref().context("the machine has no TPM")?.volatile_state()
    }
}
