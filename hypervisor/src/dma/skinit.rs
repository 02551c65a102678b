//! What SKINIT leaves on: devices cannot reach the block of 64 KiB that it measured (AMD APM vol. 2, 15.27). It stays on as long as the
//! launch goes on, and is released, here, when something else keeps devices out: the IOMMU's tables may lie in the block, and the
//! northbridge takes an IOMMU for one more device.
//!
//! Up to Family 16h it is a bit of the DEV, also where nothing else is left of that. From Family 17h on it is a register of the data
//! fabric that AMD does not document; its address and its one bit are what TrenchBoot's secure kernel loader clears on such machines.

use super::dev::{self, Dev};
use crate::addr::Hpa;
use crate::ioports::Ports;
use crate::launch::ensure;
use crate::memory::DirectMap;
use crate::pci;
use core::ops::Range;

/// D18F0x384, beyond what the ports reach: bit 0 enables.
const MEMORY_PROTECTION: u64 = 0x384;
const ENABLE: u32 = 1 << 0;

/// Releases it, on every node. `config` is where configuration space is in memory.
pub fn release(
    ports: &impl Ports,
    mem: DirectMap,
    devs: &[Dev],
    config: Range<u64>,
) -> Result<(), &'static str> {
    devs.iter().try_for_each(|dev| dev.release_skinit(ports))?;
    let fabrics = dev::nodes().filter(|function| devs.is_empty() && pci::is_amds(ports, *function));
    for function in fabrics {
        let has_bus_0 = config.end <= 4 << 30 && config.end - config.start >= 1 << 20;
        ensure(has_bus_0, "SKINIT's protection is out of reach: no configuration space in memory")?;
        let register = Hpa(config.start + (u64::from(function) << 12) + MEMORY_PROTECTION);
        mem.write_u32(register, mem.read_u32(register) & !ENABLE);
        ensure(mem.read_u32(register) & ENABLE == 0, "SKINIT's protection cannot be released")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
