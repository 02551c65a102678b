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
pub mod tests {
    use super::*;
    use crate::pci::tests::Machine;

    pub const FCH: Chipset = Chipset {
        sleep: 0x804,
        dropped: [DATA..DATA + 1, 0..0],
        registers: REGISTERS..REGISTERS + PAGE_SIZE,
        watchdog: WATCHDOG..WATCHDOG + PAGE_SIZE,
    };

    /// A machine with an FCH's index and data ports, which byte-wise hold 0x0804 at 62h.
    struct WithFch(Machine, std::cell::Cell<u32>);

    impl Ports for WithFch {
        fn read(&self, port: u16, size: u8) -> u32 {
            match (port, size, self.1.get()) {
                (0xcd7, 1, 0x62) => 0x04,
                (0xcd7, 1, 0x63) => 0x08,
                (0xcd7, ..) => panic!("another register"),
                _ => self.0.read(port, size),
            }
        }
        fn write(&self, port: u16, size: u8, value: u32) {
            match (port, size) {
                (0xcd6, 1) => self.1.set(value),
                (0xcd7, _) => panic!("the chipset is not changed"),
                _ => self.0.write(port, size, value),
            }
        }
    }

    fn machine(registers: &[(u32, u32)]) -> WithFch {
        let registers = registers.iter().copied().collect();
        WithFch(Machine { registers, ..Default::default() }, Default::default())
    }

    #[test]
    fn both_chipsets_and_no_other() {
        for maker in [0x790b_1022, 0x4385_1002] {
            assert_eq!(Chipset::find(&machine(&[(0x8000_a000, maker)])), Ok(FCH));
        }
        let ich9 = Chipset { sleep: 0x604, dropped: [0x660..0x680, 0x514..0x51c], ..Chipset::default() };
        let registers = [(0x8000_f800, 0x2918_8086), (0x8000_f840, 0x601)];
        assert_eq!(Chipset::find(&machine(&registers)), Ok(ich9));
        assert!(Chipset::find(&machine(&[])).is_err());
        assert!(Chipset::find(&machine(&[(0x8000_f800, 0x7000_8086)])).is_err());
    }
}
