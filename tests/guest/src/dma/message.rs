//! Interrupt messages (PCI 3.0, 6.8) that devices send as their own interrupt, whose address and data software says. (A transfer to such
//! an address is a message as well.)

use super::edu::Edu;
use anyhow::ensure;
use std::thread::sleep;
use std::time::Duration;

const MSI: u8 = 5;
const MSI_CONTROL: u64 = 2;
const MSI_ENABLE: u8 = 1;
/// Of a capability with 64-bit addresses, which this device has.
const MSI_ADDRESS: u64 = 4;
const MSI_DATA: u64 = 12;

/// A message as the device's interrupt.
pub fn by_capability(address: u64, data: u32) -> anyhow::Result<()> {
    let edu = Edu::open()?;
    let places = edu.function.capabilities(MSI)?;
    ensure!(!places.is_empty(), "the device sends no messages");
    for at in places {
        edu.function.write(at + MSI_ADDRESS, &address.to_le_bytes())?;
        edu.function.write(at + MSI_DATA, &data.to_le_bytes()[..2])?;
        edu.function.write(at + MSI_CONTROL, &[MSI_ENABLE])?;
        edu.interrupt();
        sleep(Duration::from_millis(20));
        edu.function.write(at + MSI_CONTROL, &[0])?;
    }
    Ok(())
}
