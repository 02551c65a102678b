//! Stores into the range that devices write their interrupts to (AMD APM vol. 2, 16.4; PCI 3.0, 6.8): on some machines, QEMU
//! among them, such a store of a processor sends what is stored, an INIT too.

use crate::attack::{GP, Kernel, Mmio};
use crate::bait::Bait;
use crate::ipi::{ASSERT, INIT, STARTUP};
use crate::support::register;
use anyhow::ensure;
use std::thread::sleep;
use std::time::Duration;

/// Address bits 19:12 are the destination, bit 2 makes it a logical one, bit 3 lets it be redirected.
const PLACES: [u64; 8] = [
    // The second processor, with all that the other bits can say; the first APIC ids after it.
    0xfee0_1000,
    0xfee0_1004,
    0xfee0_1008,
    0xfee0_100c,
    0xfee0_2000,
    0xfee0_f00c,
    0xfeef_fffc,
    // All processors. Last: without TrustVisor it is the end.
    0xfeef_f000,
];

/// Without TrustVisor the machine starts again here.
pub fn run() -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    let bait = Bait::lay(&kernel)?;
    let (mut stores, mut started) = (Vec::new(), false);
    for address in PLACES {
        for value in [STARTUP | bait.vector(), INIT | ASSERT, INIT, STARTUP | bait.vector()] {
            let store = kernel.ask(Mmio { address, value, write: 1, ..Default::default() })?;
            stores.push((address, value, store.vector));
        }
        sleep(Duration::from_millis(5));
        started |= bait.taken()?;
    }
    bait.clear()?;
    ensure!(!started, "the second processor runs the guest's code outside SVM");
    for (address, value, vector) in stores {
        ensure!(vector == GP, "a store of {value:#x} at {address:#x}: vector {}", vector as i32);
    }
    for address in PLACES {
        let read = kernel.ask(Mmio { address, ..Default::default() })?.value;
        ensure!(read == u32::MAX, "{address:#x} reads {read:#x}");
    }
    ensure!(register()?.count()? == 1, "S does not run after it");
    Ok(())
}
