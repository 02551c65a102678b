//! Entries of the I/O APIC's redirection table that would send INIT and the like (82093AA data sheet, 3.2.4): refused; ordinary
//! ones are the OS's.

use crate::attack::{IoApic, Kernel, NO_FAULT};
use anyhow::ensure;

/// The last entry, which no device uses: its low half. The high half, the destination, follows.
const LOW: u32 = 0x10 + 2 * 23;
const HIGH: u32 = LOW + 1;
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const ALL_PROCESSORS: u32 = 0xff << 24;
/// SMI, a reserved type, INIT and start-up, and INIT with every other bit that could matter.
const HOSTILE: [u32; 6] = [2 << 8, 3 << 8, 5 << 8, 6 << 8 | 0x10, 5 << 8 | LEVEL, 5 << 8 | 1 << 11 | 0xfe];

pub fn run() -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    let read = |index| anyhow::Ok(kernel.ask(IoApic { index, ..Default::default() })?.value);
    let write = |index, value| {
        let answer = kernel.ask(IoApic { index, value, write: 1, ..Default::default() })?;
        ensure!(answer.vector == NO_FAULT, "register {index:#x}: exception {}", answer.vector);
        Ok(answer.value)
    };
    let before = (read(LOW)?, read(HIGH)?);
    ensure!(before.0 & MASKED != 0, "the entry is in use: {:#x}", before.0);
    let refused = || trustvisor::info().map_or(0, |info| info.ipis_refused);
    let refused_before = refused();

    write(HIGH, ALL_PROCESSORS)?;
    let mut sends = None;
    // From a masked ordinary entry, and from one that is hostile already but for the mask.
    for harmless in [before.0, MASKED | 5 << 8] {
        ensure!(write(LOW, harmless)? == harmless, "a masked entry cannot be written");
        for hostile in HOSTILE {
            let now = write(LOW, hostile)?;
            sends = sends.or((now != harmless).then_some(now));
            write(LOW, harmless)?;
        }
    }
    let ordinary = 0x31;
    let masked = write(LOW, MASKED | LEVEL | ordinary)?;
    let open = write(LOW, ordinary)?;
    write(LOW, before.0)?;
    write(HIGH, before.1)?;
    if let Some(entry) = sends {
        anyhow::bail!("an entry of the I/O APIC is now {entry:#x}");
    }
    ensure!((masked, open) == (MASKED | LEVEL | ordinary, ordinary), "ordinary: {masked:#x}, {open:#x}");
    ensure!((read(LOW)?, read(HIGH)?) == before, "the entry is not what it was");
    let refused = refused() - refused_before;
    ensure!(refused == 2 * HOSTILE.len() as u64, "{refused} writes refused");
    Ok(())
}
