//! INIT and start-up interrupts that the guest sends itself, with two processors in the machine: the second
//! must neither be reset nor start to run the guest's code outside SVM.

use crate::attack::{Icr, Kernel, NO_FAULT};
use crate::support::register;
use anyhow::ensure;
use std::thread::sleep;
use std::time::Duration;

/// Physical page of the real-mode code that a start-up interrupt would begin at. Linux keeps the first MiB
/// to itself and uses only its end.
const PAGE: u64 = 0x1_0000;
const MARKER: u64 = PAGE + 0x100;
const STARTED: u16 = 0x5654;
/// MOV WORD CS:[0x100], STARTED; HLT; JMP to the HLT.
const CODE: [u8; 16] = [0x2e, 0xc7, 0x06, 0x00, 0x01, 0x54, 0x56, 0xf4, 0xeb, 0xfd, 0, 0, 0, 0, 0, 0];

/// ICR, AMD APM vol. 2, 16.5: message types, level assert, and destination shorthands.
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;
const SMI: u32 = 2 << 8;
const ASSERT: u32 = 1 << 14;
const ALL_BUT_SELF: u32 = 3 << 18;

pub fn run() -> anyhow::Result<()> {
    let info = trustvisor::info()?;
    ensure!(info.parked_cpus == 1, "TrustVisor holds {} processors besides ours", info.parked_cpus);
    let kernel = Kernel::open()?;
    let before: Vec<u64> =
        [0, 8, 0x100].map(|at| kernel.read(PAGE + at)).into_iter().collect::<Result<_, _>>()?;
    let (code, _) = CODE.as_chunks::<8>();
    for (at, word) in code.iter().enumerate() {
        ensure!(
            kernel.write(PAGE + at as u64 * 8, u64::from_le_bytes(*word))? == NO_FAULT,
            "no place for the code"
        );
    }
    ensure!(kernel.write(MARKER, 0)? == NO_FAULT, "no place for the marker");

    let startup = STARTUP | (PAGE >> 12) as u32;
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
        Ok::<_, anyhow::Error>(kernel.read(MARKER)? as u16 == STARTED)
    })?;
    for (at, word) in [0, 8, 0x100].into_iter().zip(before) {
        kernel.write(PAGE + at, word)?;
    }
    ensure!(!started, "the second processor runs the guest's code outside SVM");

    let after = trustvisor::info()?;
    let refused = after.ipis_refused - info.ipis_refused;
    ensure!(refused >= commands.len() as u64, "{refused} of {} commands refused", commands.len());
    ensure!(after.parked_cpus == 1, "TrustVisor holds {} processors now", after.parked_cpus);
    ensure!(register()?.count()? == 1, "S does not run after it");
    Ok(())
}
