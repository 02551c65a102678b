//! The chipset's ways to take the machine away from the hypervisor, sleep and watchdogs, and what it has that goes past an IOMMU. Where they are, the chipset itself is asked, not
//! the firmware's tables, which whoever ran before can have changed.

use crate::addr::PAGE_SIZE;
use crate::ioports::Ports;
use crate::pci;
use core::ops::Range;

/// What must be guarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chipset {
    /// PM1 control: sleep (ACPI Specification 6.5, 4.8.3.2.1).
    pub sleep: u16,
    /// Ports to which writes do nothing.
    pub dropped: [Range<u16>; 2],
    /// A page of registers to which writes do nothing.
    pub registers: Range<u64>,
    /// The watchdog's, which nobody sees.
    pub watchdog: Range<u64>,
}

/// AMD's FCH is where its SMBus controller is (PPRs, "FCH"), whoever of the two made it.
const SMBUS: u32 = 0x14 << 3;
const AMD: u32 = 0x1022;
const ATI: u32 = 0x1002;
/// Its index and data ports of power management registers, and the number of AcpiPm1CntBlk, a port.
const INDEX: u16 = 0xcd6;
const DATA: u16 = 0xcd7;
const PM1_CONTROL: u32 = 0x62;
/// Its registers, those of power management, SMI and the watchdog among them, in memory; and the watchdog's other place.
const REGISTERS: u64 = 0xfed8_0000;
const WATCHDOG: u64 = 0xfeb0_0000;

/// The bridge of Intel's ICH9, which QEMU puts under AMD processors as well (ICH9 data sheet, 13.1.13: PMBASE).
const LPC: u32 = 0x1f << 3;
const ICH9: u32 = 0x2918_8086;
const PMBASE: u32 = 0x40;
/// PM1_CNT, and the watchdog's registers (TCO), from there.
const PM1_CNT: u16 = 0x04;
const TCO: Range<u16> = 0x60..0x80;
/// Where QEMU, which is the only one to put this bridge beside such a processor, is told an address to transfer to or from, past every IOMMU
/// (QEMU, docs/specs/fw_cfg.rst: DMA).
const FW_CFG_DMA: Range<u16> = 0x514..0x51c;

impl Chipset {
    /// Looks which it is.
    pub fn find(ports: &impl Ports) -> Result<Self, &'static str> {
        if matches!(pci::read(ports, SMBUS, 0) & 0xffff, AMD | ATI) {
            let byte = |number| {
                ports.write(INDEX, 1, number);
                ports.read(DATA, 1) as u16 & 0xff
            };
            let page = |base| base..base + PAGE_SIZE;
            return Ok(Self {
                sleep: byte(PM1_CONTROL) | byte(PM1_CONTROL + 1) << 8,
                dropped: [DATA..DATA + 1, 0..0],
                registers: page(REGISTERS),
                watchdog: page(WATCHDOG),
            });
        }
        if pci::read(ports, LPC, 0) == ICH9 {
            let base = pci::read(ports, LPC, PMBASE) as u16 & 0xff80;
            let dropped = [base + TCO.start..base + TCO.end, FW_CFG_DMA];
            return Ok(Self { sleep: base + PM1_CNT, dropped, ..Self::default() });
        }
        Err("this chipset is not known: nobody could keep it from sleeping with secrets in memory")
    }
}

#[cfg(test)]
pub mod tests;
