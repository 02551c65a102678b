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
    Chipset::find(&machine(&registers, bytes), |_| panic!("a register in memory"))
}

#[test]
fn every_generation_of_amds() {
    for (maker, revision) in [(0x790b_1022, 0x51), (0x780b_1022, 0x42)] {
        let registers = [(0x8000_a000, maker), (0x8000_a008, revision), (0x8000_a3a0, 0xfec1_0002)];
        let find =
            |value| Chipset::find(&machine(&registers, &[]), |at| if at == 0xfed8_0360 { value } else { 0 });
        assert_eq!(find(0x0804_1234), Ok(FCH));
        for nowhere in [0, 0xfffe_0000, 0xffff_ffff] {
            assert_eq!(find(nowhere), Err(MOVED), "{nowhere:#x}");
        }
    }
    let at = |page: u64| Ok(Chipset { watchdog: page..page + 0x1000, ..FCH });
    let none = Ok(Chipset { watchdog: 0..0, ..FCH });
    let old = |watchdog| fch(0x4385_1002, 0x3c, &[(0x22, 0x804), (0x6c, watchdog)]);
    assert_eq!(old(0xfeb1_00f1), at(0xfeb1_0000));
    assert_eq!((old(0), old(0xfec0_00f0)), (none.clone(), none));
    for (maker, revision) in [(0x4385_1002, 0x41), (0x780b_1022, 0x14), (0x790b_1022, 0x16)] {
        let find = |window| fch(maker, revision, &[(0x24, window), (0x48, 0xfeb1_00f1), (0x62, 0x804)]);
        assert_eq!(find(0xfed8_0001), at(0xfeb1_0000));
        assert_eq!(find(0xfed9_0000), at(0xfeb1_0000), "there is none");
        for moved in [0xfed9_0001, 0xfed8_0003] {
            assert_eq!(find(moved), Err(MOVED), "{moved:#x}");
        }
    }
}

#[test]
fn both_makers_and_no_other() {
    let ich9 = Chipset { sleep: 0x604, dropped: [0x660..0x680, 0x514..0x51c], ..Chipset::default() };
    let registers = [(0x8000_f800, 0x2918_8086), (0x8000_f840, 0x601)];
    let find = |registers: &[(u32, u32)]| Chipset::find(&machine(registers, &[]), |_| panic!("in memory"));
    assert_eq!(find(&registers), Ok(ich9));
    assert_eq!(find(&[registers[0], (0x8000_f840, 0xff81)]), Err(MOVED));
    assert!(find(&[]).is_err());
    assert!(find(&[(0x8000_f800, 0x7000_8086)]).is_err());
}
