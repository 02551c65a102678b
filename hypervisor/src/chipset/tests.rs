use super::*;
use crate::pci::tests::Machine;

pub const FCH: Chipset = Chipset {
    sleep: 0x804,
    dropped: [DATA..DATA + 1, 0..0],
    registers: [0xfed8_0000..0xfed8_1000, 0xfec1_0000..0xfec1_1000],
    watchdog: 0xfeb0_0000..0xfeb0_1000,
};

/// A machine with an FCH's index and data ports, and which bytes are behind them.
struct WithFch(Machine, std::cell::Cell<u32>, Vec<(u32, u32)>);

impl Ports for WithFch {
    fn read(&self, port: u16, size: u8) -> u32 {
        if port != 0xcd7 {
            return self.0.read(port, size);
        }
        assert_eq!(size, 1);
        let (first, value) = self.2.iter().rfind(|(first, _)| *first <= self.1.get()).unwrap();
        value >> (8 * (self.1.get() - first)) & 0xff
    }
    fn write(&self, port: u16, size: u8, value: u32) {
        match (port, size) {
            (0xcd6, 1) => self.1.set(value),
            (0xcd7, _) => panic!("the chipset is not changed"),
            _ => self.0.write(port, size, value),
        }
    }
}

fn machine(registers: &[(u32, u32)], bytes: &[(u32, u32)]) -> WithFch {
    let registers = registers.iter().copied().collect();
    WithFch(Machine { registers, ..Default::default() }, Default::default(), bytes.to_vec())
}

/// With this SMBus controller, and its SPI controller at FEC1_0000.
fn fch(maker: u32, revision: u32, bytes: &[(u32, u32)]) -> Result<Chipset, &'static str> {
    let registers = [(0x8000_a000, maker), (0x8000_a008, 0x0c05_0000 | revision), (0x8000_a3a0, 0xfec1_0002)];
    Chipset::find(&machine(&registers, bytes))
}

#[test]
fn every_generation_of_amds() {
    let (old, new) = ([(0x22, 0x804), (0x6c, 0xfec0_00f1)], [(0x62, 0x804)]);
    assert_eq!(fch(0x790b_1022, 0x51, &new), Ok(FCH));
    assert_eq!(fch(0x780b_1022, 0x42, &new), Ok(FCH));
    let at = |page: u64| Ok(Chipset { watchdog: page..page + 0x1000, ..FCH });
    assert_eq!(fch(0x4385_1002, 0x3c, &old), at(0xfec0_0000));
    for (maker, revision) in [(0x4385_1002, 0x41), (0x780b_1022, 0x14), (0x790b_1022, 0x16)] {
        let find = |window| fch(maker, revision, &[(0x24, window), (0x48, 0xfec0_00f1), (0x62, 0x804)]);
        assert_eq!(find(0xfed8_0001), at(0xfec0_0000));
        assert_eq!(find(0xfed9_0000), at(0xfec0_0000), "there is none");
        for moved in [0xfed9_0001, 0xfed8_0003] {
            assert_eq!(find(moved), Err(MOVED), "{moved:#x}");
        }
    }
}

#[test]
fn both_makers_and_no_other() {
    let ich9 = Chipset { sleep: 0x604, dropped: [0x660..0x680, 0x514..0x51c], ..Chipset::default() };
    let registers = [(0x8000_f800, 0x2918_8086), (0x8000_f840, 0x601)];
    assert_eq!(Chipset::find(&machine(&registers, &[])), Ok(ich9));
    assert!(Chipset::find(&machine(&[], &[])).is_err());
    assert!(Chipset::find(&machine(&[(0x8000_f800, 0x7000_8086)], &[])).is_err());
}
