//! The other processors: they are in INIT, where they take no interrupt, NMI or SMI, and stay there. Only a start-up message would bring
//! one out, and the guest can send none: its writes of commands are filtered ([`hypervisor::lapic`]), and so are, by an IOMMU, the messages of devices.
//! So none runs on what whoever was here before had left in its own registers.

use hypervisor::addr::Hpa;
use hypervisor::memory::DirectMap;
use hypervisor::{lapic, npt};

/// Sends INIT to all other processors. Not after SKINIT, which finds them there, and they must not get another one (APM vol. 2, 15.27.8).
pub fn hold_others(mem: DirectMap) {
    const COMMAND: Hpa = Hpa(npt::LAPIC.0 + lapic::COMMAND_LOW as u64);
    const PENDING: u32 = 1 << 12;
    const PATIENCE: u32 = 1_000_000;
    mem.write_u32(COMMAND, lapic::ICR_INIT_OTHERS);
    let _ = (0..PATIENCE).find(|_| mem.read_u32(COMMAND) & PENDING == 0);
}
