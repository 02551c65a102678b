use super::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::vec::Vec;

/// Configuration space behind its ports.
#[derive(Default)]
pub struct Machine {
    pub address: Cell<u32>,
    pub registers: BTreeMap<u32, u32>,
    /// What was written to registers, which keep what they have.
    pub writes: RefCell<Vec<(u32, u32)>>,
}

impl Ports for Machine {
    fn read(&self, port: u16, size: u8) -> u32 {
        assert_eq!(size, 4);
        match port {
            0xcf8 => self.address.get(),
            0xcfc => *self.registers.get(&self.address.get()).unwrap_or(&u32::MAX),
            _ => panic!("port {port:#x}"),
        }
    }
    fn write(&self, port: u16, size: u8, value: u32) {
        assert_eq!(size, 4);
        match port {
            0xcf8 => self.address.set(value),
            0xcfc => self.writes.borrow_mut().push((self.address.get(), value)),
            _ => panic!("port {port:#x}"),
        }
    }
}

/// A host bridge, an ISA bridge with two more functions, a bridge to bus 2 with a disk, AMD's fabric, a second root with an IOMMU and a security
/// processor.
pub fn machine() -> Machine {
    let mut registers = BTreeMap::new();
    let mut add = |bus: u32, device: u32, function: u32, class: u32| {
        let at = 1 << 31 | bus << 16 | device << 11 | function << 8;
        registers.insert(at, 0x1480_1022);
        registers.insert(at + 8, class << 8 | 0x51);
    };
    add(0, 0, 0, 0x06_0000);
    add(0, 0x14, 0, 0x0c_0500);
    add(0, 0x14, 3, 0x06_0100);
    add(0, 0x18, 0, 0x06_0000);
    add(0, 0x18, 7, 0x06_0000);
    add(0, 1, 1, 0x06_0400);
    add(0, 1, 0, 0x06_0400);
    add(2, 0, 0, 0x01_0802);
    add(0x40, 0, 0, 0x06_0000);
    add(0x40, 0, 2, 0x08_0600);
    add(0x40, 1, 0, 0x10_8000);
    Machine { registers, ..Default::default() }
}

/// A host bridge on every bus.
pub fn full_machine() -> Machine {
    let bridge = |bus: u32| [(1 << 31 | bus << 16, 0), (1 << 31 | bus << 16 | 8, HOST_BRIDGE << 16)];
    Machine { registers: (0..256).flat_map(bridge).collect(), ..Default::default() }
}

#[test]
fn writes_to_bridges_that_route_are_dropped_and_no_others() {
    let machine = machine();
    for (address, dropped) in [
        (0x8000_0064, true),
        (0x8000_0065, true),
        (0x8f00_0060, true),
        (0x8000_a304, true),
        (0x8000_c744, true),
        (0x8040_00b8, true),
        (0x8040_0244, true),
        (0x8040_0804, true),
        (0x8000_a004, false),
        (0x8000_0804, false),
        (0x8002_0010, false),
        (0x8003_0010, false),
        (0x0000_0060, false),
    ] {
        machine.address.set(address);
        assert_eq!(drops_write(&machine), dropped, "{address:#x}");
        assert_eq!(machine.address.get(), address);
        assert!(machine.writes.borrow().is_empty());
    }
    let mut others = machine;
    others.registers.insert(0x8040_0800, 0x8086_8086);
    others.address.set(0x8040_0804);
    assert!(!drops_write(&others), "somebody else's encryption controller");
}

/// Bus mastering alone, and the security processor whole; bridges that route and IOMMUs go on.
#[test]
fn devices_are_stopped() {
    let mut machine = machine();
    let at = |address: u32| address & !0xff | COMMAND;
    let there: Vec<u32> = machine.registers.keys().map(|address| at(*address)).collect();
    machine.registers.extend(there.into_iter().map(|address| (address, 0x0290_0547)));
    // Without a function 0.
    machine.registers.extend([(0x8000_9200, 0x4396_1002), (0x8000_9204, 7), (0x8000_9208, 0x0c03_2000)]);
    stop_devices(&machine);
    let stopped = [
        (0x8000_9204, 3),
        (0x8000_0804, 0x543),
        (0x8000_0904, 0x543),
        (0x8000_a004, 0x543),
        (0x8002_0004, 0x543),
    ];
    let all: BTreeMap<_, _> = stopped.into_iter().chain([(0x8040_0804, 0x540)]).collect();
    assert_eq!(machine.writes.borrow().iter().copied().collect::<BTreeMap<_, _>>(), all);
    assert_eq!(machine.writes.borrow().len(), all.len());
}

#[test]
fn their_pages_are_guarded_wherever_configuration_space_is() {
    let mut space = ConfigSpace::none();
    space.find(&machine(), 0xe000_0000 | 8 << 2 | 1).unwrap();
    assert_eq!(space.range, 0xe000_0000..0xf000_0000);
    let guarded: Vec<_> =
        (0..1u64 << 32).step_by(4096).filter(|page| space.guards(*page, 4096)).map(|p| p >> 12).collect();
    assert_eq!(guarded, [0xe_0000, 0xe_00a3, 0xe_00c0, 0xe_00c7, 0xe_4000, 0xe_4002, 0xe_4008]);
    assert!(space.guards(0xe000_0000, 2 << 20) && space.guards(0xc000_0000, 1 << 30));
    assert!(!space.guards(0xe020_0000, 2 << 20) && !space.guards(0x8000_0000, 1 << 30));
}

#[test]
fn where_configuration_space_is() {
    let mut machine = machine();
    assert_eq!(q35(&machine), Ok(None));
    assert_eq!(processors(0xf800_0000 | 6 << 2 | 1), Ok(Some(0xf800_0000..0xfc00_0000)));
    assert_eq!(processors(0xf800_0000 | 6 << 2), Ok(None));
    for misplaced in [0xe000_0000 | 9 << 2 | 1, 0xf800_0000 | 8 << 2 | 1, 0xe010_0000 | 8 << 2 | 1] {
        assert_eq!(processors(misplaced), Err(MISPLACED));
    }
    let over_the_devices = ConfigSpace::none().find(&machine, 0xf000_0000 | 8 << 2 | 1);
    assert_eq!(over_the_devices, Err(MISPLACED));
    assert_eq!(ConfigSpace::none().find(&machine, 0x10_f000_0000 | 8 << 2 | 1), Ok(()));

    machine.registers.insert(1 << 31, 0x29c0_8086);
    for (high, low, range) in [
        (0, 0xb000_0001, Ok(Some(0xb000_0000..0xc000_0000))),
        (0, 0xb000_0000, Ok(None)),
        (0, 0xb800_0001, Err(MISPLACED)),
        (0, 0xb800_0003, Err(MISPLACED)),
        (0, 0xb000_0007, Err(MISPLACED)),
        (0x10, 0xb000_0001, Err(MISPLACED)),
        (u32::MAX, 0xf000_0001, Err(MISPLACED)),
    ] {
        machine.registers.insert(1 << 31 | 0x60, low);
        machine.registers.insert(1 << 31 | 0x64, high);
        assert_eq!(q35(&machine), range, "{high:#x} {low:#x}");
    }
}

#[test]
fn amds_index_register_is_writable_and_what_it_shows_is_not() {
    let mut machine = machine();
    let drops = |machine: &Machine, address| {
        machine.address.set(address);
        drops_write(machine)
    };
    for (address, dropped) in [
        (0x8000_0060, false),
        (0x8000_0063, false),
        (0x8040_0060, false),
        (0x8000_0064, true),
        (0x8000_c060, true),
        (0x8100_0060, true),
    ] {
        assert_eq!(drops(&machine, address), dropped, "{address:#x}");
    }
    machine.registers.insert(1 << 31, 0x29c0_8086);
    assert!(drops(&machine, 0x8000_0060), "another maker's");
}
