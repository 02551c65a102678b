//! The chipset's ways to take the machine away from the hypervisor, sleep and watchdogs, and what it has that goes past an IOMMU. Where they are, the chipset itself is asked, not
//! the firmware's tables, which whoever ran before can have changed.

use crate::addr::{Hpa, PAGE_SIZE};
use crate::ioports::Ports;
use crate::launch::ensure;
use crate::npt::IO_APIC;
use crate::pci;
use core::ops::Range;

/// What must be guarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chipset {
    /// PM1 control: sleep (ACPI Specification 6.5, 4.8.3.2.1).
    pub sleep: u16,
    /// Ports to which writes do nothing.
    pub dropped: [Range<u16>; 2],
    /// Pages of registers to which writes do nothing.
    pub registers: [Range<u64>; 2],
    /// The watchdog's, which nobody sees.
    pub watchdog: Range<u64>,
}

/// AMD's FCH is where its SMBus controller is (PPRs, "FCH"), whoever of the two made it.
const SMBUS: u32 = 0x14 << 3;
const REVISION: u32 = 0x08;
const AMD: u32 = 0x1022;
const ATI: u32 = 0x1002;
/// Its index and data ports of power management registers.
const INDEX: u16 = 0xcd6;
const DATA: u16 = 0xcd7;
/// Its registers, those of power management, SMI and the watchdog among them, in memory; and the watchdog's other place.
const REGISTERS: u32 = 0xfed8_0000;
const WATCHDOG: u32 = 0xfeb0_0000;
/// Where (in the bridge to LPC) its SPI controller is, which may speak to the TPM past the localities.
const LPC_BRIDGE: u32 = SMBUS | 3;
const SPI_BASE: u32 = 0xa0;

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

const MOVED: &str = "the chipset's registers are at an unusual address";

impl Chipset {
    /// Looks which it is. `register` reads one in memory.
    pub fn find(ports: &impl Ports, register: impl Fn(u32) -> u32) -> Result<Self, &'static str> {
        let maker = pci::read(ports, SMBUS, 0);
        if matches!(maker & 0xffff, AMD | ATI) {
            let word = |first: u32| {
                [first + 1, first].into_iter().fold(0, |word, number| {
                    ports.write(INDEX, 1, number);
                    word << 8 | ports.read(DATA, 1) & 0xff
                })
            };
            let address = |first| word(first + 2) << 16 | word(first);
            // AcpiPm1CntBlk, a port, and where the watchdog is, by generation: SB600 and SB700; what came after Bolton, whose index port may be off;
            // SB800 to Bolton.
            let (sleep, watchdog) = match (maker >> 16, pci::read(ports, SMBUS, REVISION) & 0xff) {
                (0x4385, ..0x40) => (word(0x22), address(0x6c)),
                (0x780b, 0x41..) | (0x790b, 0x49..) => (register(REGISTERS + 0x360) >> 16, WATCHDOG),
                _ => {
                    let moved = address(0x24);
                    ensure(moved & 1 == 0 || moved & !0xffc == REGISTERS | 1, MOVED)?;
                    (word(0x62), address(0x48))
                }
            };
            ensure((1..0xfffe).contains(&sleep), MOVED)?;
            let spi = pci::read(ports, LPC_BRIDGE, SPI_BASE);
            // Nothing is there; or what is written to the I/O APIC is looked at anyway.
            let page = |base: u32| match Hpa(base.into()).page() {
                Hpa(0) | IO_APIC => 0..0,
                Hpa(start) => start..start + PAGE_SIZE,
            };
            return Ok(Self {
                sleep: sleep as u16,
                dropped: [DATA..DATA + 1, 0..0],
                registers: [page(REGISTERS), page(spi)],
                watchdog: page(watchdog),
            });
        }
        if pci::read(ports, LPC, 0) == ICH9 {
            let base = pci::read(ports, LPC, PMBASE) as u16 & 0xff80;
            ensure(base < 0xff80, MOVED)?;
            let dropped = [base + TCO.start..base + TCO.end, FW_CFG_DMA];
            return Ok(Self { sleep: base + PM1_CNT, dropped, ..Self::default() });
        }
        Err("this chipset is not known: nobody could keep it from sleeping with secrets in memory")
    }
}

#[cfg(test)]
pub mod tests;
