//! INIT and start-up interrupts that the guest sends itself, with two processors in the machine: the second
//! must neither be reset nor start to run the guest's code outside SVM.

use crate::attack::{Icr, Kernel};
use crate::bait::Bait;
use crate::support::register;
use anyhow::ensure;
use std::thread::sleep;
use std::time::Duration;

/// ICR, AMD APM vol. 2, 16.5: message types, level assert, and destination shorthands.
pub const INIT: u32 = 5 << 8;
pub const STARTUP: u32 = 6 << 8;
const SMI: u32 = 2 << 8;
pub const ASSERT: u32 = 1 << 14;
const ALL_BUT_SELF: u32 = 3 << 18;

pub fn run() -> anyhow::Result<()> {
    let info = trustvisor::info()?;
    let kernel = Kernel::open()?;
    let bait = Bait::lay(&kernel)?;
    let startup = STARTUP | bait.vector();
    let to_second = 1 << 24;
    let commands = [
        (to_second, INIT | ASSERT),
        (to_second, startup),
        (to_second, startup),
        (0, ALL_BUT_SELF | INIT | ASSERT),
        (0, ALL_BUT_SELF | startup),
        (to_second, SMI),
        // Every processor, ourselves too.
        (0xff << 24, INIT | ASSERT),
        (0xff << 24, startup),
    ];
    let started = commands.into_iter().try_fold(false, |started, (high, low)| {
        if started {
            return Ok(true);
        }
        kernel.ask(Icr { high, low, ..Default::default() })?;
        sleep(Duration::from_millis(20));
        bait.taken()
    })?;
    bait.clear()?;
    ensure!(!started, "the second processor runs the guest's code outside SVM");

    let after = trustvisor::info()?;
    let refused = after.ipis_refused - info.ipis_refused;
    ensure!(refused >= commands.len() as u64, "{refused} of {} commands refused", commands.len());
    ensure!(register()?.count()? == 1, "S does not run after it");
    Ok(())
}
