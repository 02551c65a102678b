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
