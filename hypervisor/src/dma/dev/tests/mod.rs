//! The driver against northbridges of the manual's registers, behind which a device attacks after every single write.

use super::*;
use crate::launch::{DEVICE_TABLE_OFFSET, HANDOVER_OFFSET, SLB_DEVICE_TABLE, SLB_SIZE, TABLES_OFFSET};
use crate::pci::ConfigSpace;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where SKINIT's block and the reserve are: far enough up for the bitmap to begin pages below its bits.
const RESERVE: u64 = 0x2540_0000;
const RESERVE_END: u64 = RESERVE + (16 << 20);
/// What the SLB closes, and its block.
const START: Range<u64> = RESERVE..RESERVE + TABLES_OFFSET;
const SLB: Range<u64> = RESERVE..RESERVE + SLB_SIZE;
/// The page of the block for the first bitmap's bits, and where the runtime makes the second.
const PAGE: Hpa = Hpa(RESERVE + SLB_DEVICE_TABLE);
const BITMAP: Hpa = Hpa(RESERVE + DEVICE_TABLE_OFFSET);
/// Where the GART's aperture is, were it on.
const APERTURE: u64 = 0xd000_0000;
/// What memory holds that nobody wrote.
const GARBAGE: u8 = 0x5a;
/// Bus and unit of devices: one that no map knows, and those that the loader put into domains 1 and 3.
const DEVICES: [(u32, u32); 3] = [(0, 1), (0, 5), (2, 9)];

/// One northbridge.
#[derive(Clone, Default)]
pub struct Node {
    /// Its plain registers.
    pub config: BTreeMap<u32, u32>,
    op: u32,
    base: Vec<(u32, u32)>,
    map: Vec<u32>,
    cr: u32,
    /// By domain: bytes of the bitmap that it remembers.
    cache: BTreeMap<(usize, u64), u8>,
    /// Reads until an invalidation is over; never, if it is endless.
    turns: u32,
    endless: bool,
    /// Registers that do not change when written: function and index.
    stuck: Vec<u32>,
    turns_left: u32,
}

impl Node {
    /// As a hostile loader leaves it: maps, a DEV that is on and shows an open bitmap, the GART on; and SL_DEV by SKINIT.
    pub fn hostile() -> Self {
        let map = |bus: u32, unit: u32, domain: u32| 1 << 5 | unit | bus << 12 | domain << 20;
        let config = [
            (0x00, 0x1203_1022),
            (0x04, 0x0010_0000),
            (0x08, 0x0600_0000),
            (0x34, 0x40),
            (0x40, 0x0000_5008),
            (0x50, 0x0003_f00f),
            (0xf0, 0x0000_000f),
            (0x90, 0x0000_0001),
        ];
        Self {
            config: config.into(),
            base: vec![(0x0800_0001, 1); 4],
            map: vec![map(0, 5, 1), map(2, 9, 3), 0],
            cr: 0x6b,
            turns: 3,
            ..Self::default()
        }
    }

    /// A function with these registers and no more.
    pub fn plain(config: impl Into<BTreeMap<u32, u32>>) -> Self {
        Self { config: config.into(), ..Self::default() }
    }

    /// What Families 15h and 16h have.
    pub fn remnant() -> Self {
        Self { base: vec![], map: vec![], cr: SL_DEV, ..Self::hostile() }
    }

    pub fn cr(&self) -> u32 {
        self.cr
    }

    fn register(&mut self) -> Option<&mut u32> {
        let index = (self.op & 0xff) as usize;
        match self.op >> 8 {
            BASE_LO => self.base.get_mut(index).map(|(low, _)| low),
            BASE_HI => self.base.get_mut(index).map(|(_, high)| high),
            MAP => self.map.get_mut(index),
            CR => Some(&mut self.cr),
            _ => None,
        }
    }

    fn read(&mut self, register: u32) -> u32 {
        match register {
            0xf4 => self.op,
            0xf8 if self.op >> 8 == CAP => (self.base.len() << 8 | self.map.len() << 16) as u32,
            0xf8 => {
                if self.op >> 8 == CR && self.cr & INVALIDATE != 0 && !self.endless {
                    if self.turns_left == 0 {
                        self.cr &= !INVALIDATE;
                        self.cache.clear();
                    }
                    self.turns_left = self.turns_left.saturating_sub(1);
                }
                self.register().map_or(0, |value| *value)
            }
            _ => self.config.get(&register).copied().unwrap_or(0),
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        let stuck = self.stuck.contains(if register == 0xf8 { &self.op } else { &register });
        match register {
            0xf4 => self.op = value,
            _ if stuck => {}
            0xf8 => {
                let is_cr = self.op >> 8 == CR;
                if is_cr && value & INVALIDATE != 0 {
                    self.turns_left = self.turns;
                }
                if let Some(target) = self.register() {
                    assert!(!is_cr || value & SL_DEV <= *target & SL_DEV, "software can only clear SL_DEV");
                    *target = value;
                }
            }
            _ => self.config.extend([(register, value)]),
        }
    }

    fn domain(&self, (bus, unit): (u32, u32)) -> usize {
        let of_unit = |map: &u32| {
            let is = |at: u32| map >> 12 & 0xff == bus && map >> at & 0x3f == 0x20 | unit;
            (is(0).then_some(map >> 20 & 0x3f)).or(is(6).then_some(map >> 26))
        };
        self.map.iter().find_map(of_unit).unwrap_or(0) as usize
    }
}

/// A machine with several, and what stands in its memory.
#[derive(Default)]
pub struct Machine {
    address: Cell<u32>,
    /// By function number.
    pub functions: RefCell<BTreeMap<u32, Node>>,
    memory: RefCell<BTreeMap<u64, [u8; 4096]>>,
    /// What must be closed from now on.
    watched: RefCell<Vec<Range<u64>>>,
    attacked: Cell<bool>,
    writes: Cell<u32>,
    /// The two readings of the manual: SL_DEV keeps the northbridge's own reads out; while it is on, bitmaps do not count.
    blocks_walks: bool,
    counts_alone: bool,
}

impl Ports for Machine {
    fn read(&self, port: u16, size: u8) -> u32 {
        assert_eq!((port, size), (0xcfc, 4));
        let address = self.address.get();
        let function =
            self.functions.borrow_mut().get_mut(&(address >> 8 & 0xffff)).map(|f| f.read(address & 0xff));
        function.unwrap_or(u32::MAX)
    }

    fn write(&self, port: u16, size: u8, value: u32) {
        assert_eq!(size, 4);
        match port {
            0xcf8 => self.address.set(value),
            0xcfc => {
                let address = self.address.get();
                assert_eq!(address >> 16, 0x8000);
                let mut functions = self.functions.borrow_mut();
                functions.get_mut(&(address >> 8 & 0xffff)).unwrap().write(address & 0xff, value);
                drop(functions);
                self.writes.set(self.writes.get() + 1);
                self.check();
            }
            _ => panic!("port {port:#x}"),
        }
    }
}

impl Machine {
    pub fn new(nodes: impl IntoIterator<Item = (u32, Node)>) -> Self {
        let functions: BTreeMap<_, _> =
            nodes.into_iter().map(|(node, function)| ((0x18 + node) << 3 | 3, function)).collect();
        Self { functions: functions.into(), ..Self::default() }
    }

    fn node<R>(&self, node: u32, f: impl FnOnce(&mut Node) -> R) -> R {
        f(self.functions.borrow_mut().get_mut(&((0x18 + node) << 3 | 3)).unwrap())
    }

    fn exclude(&self, bitmap: Hpa, memory: Range<u64>) {
        for (byte, bit) in memory.step_by(4096).map(bit) {
            let at = bitmap.0 + byte;
            self.memory.borrow_mut().entry(at >> 12).or_insert([GARBAGE; 4096])[(at & 0xfff) as usize] |= bit;
        }
    }

    fn fill(&self, bytes: Range<u64>, value: u8) {
        for at in bytes {
            let mut memory = self.memory.borrow_mut();
            memory.entry(at >> 12).or_insert([GARBAGE; 4096])[(at & 0xfff) as usize] = value;
        }
    }

    /// Whether the northbridge lets this access of a device pass (15.24.3, figure 15-6).
    fn passes(&self, node: &mut Node, device: (u32, u32), address: u64) -> bool {
        let in_slb = |at: u64| SLB.contains(&at);
        let sl_dev = node.cr & SL_DEV != 0;
        if sl_dev && in_slb(address) {
            return false;
        }
        let domain = node.domain(device);
        let Some((low, high)) = node.base.get(domain).copied().filter(|(low, _)| low & 1 == 1) else {
            return true;
        };
        if node.cr & ENABLE == 0 || sl_dev && self.counts_alone {
            return true;
        }
        if address >= (4 << 30) << (low >> 2 & 0x1f) {
            return low & 2 == 0;
        }
        let at = (u64::from(high) << 32 | u64::from(low & 0xffff_f000)) + (address >> 15);
        let memory = self.memory.borrow();
        let byte =
            *node.cache.entry((domain, address >> 15)).or_insert_with(|| match memory.get(&(at >> 12)) {
                _ if sl_dev && self.blocks_walks && in_slb(at) => 0xff,
                Some(page) => page[(at & 0xfff) as usize],
                None => GARBAGE,
            });
        byte >> (address >> 12 & 7) & 1 == 0
    }

    /// Whether it reaches this page, directly or by the GART, whose table shows all of memory.
    fn reaches(&self, node: &mut Node, device: (u32, u32), address: u64) -> bool {
        let gart = node.config.get(&0x90).is_some_and(|control| control & 1 == 1)
            && !(node.cr & SL_DEV != 0 && SLB.contains(&address))
            && (0..8).any(|page| self.passes(node, device, APERTURE + page * 4096));
        gart || self.passes(node, device, address)
    }

    /// Whether some device reaches this page.
    fn is_open(&self, page: u64) -> bool {
        let mut nodes = self.functions.borrow_mut();
        nodes.values_mut().any(|node| DEVICES.iter().any(|device| self.reaches(node, *device, page)))
    }

    /// Whether every device, behind every node, reaches it.
    fn is_open_to_all(&self, page: u64) -> bool {
        let mut nodes = self.functions.borrow_mut();
        nodes.values_mut().all(|node| DEVICES.iter().all(|device| self.reaches(node, *device, page)))
    }

    /// Devices zero all that they reach around the block: bits of bitmaps become "open".
    fn check(&self) {
        for page in (RESERVE - 0x2_0000..START.end + 0x2_0000).step_by(4096) {
            if self.is_open(page) {
                assert!(
                    !self.watched.borrow().iter().any(|range| range.contains(&page)),
                    "{page:#x} is open"
                );
                if self.attacked.get() {
                    self.memory.borrow_mut().insert(page >> 12, [0; 4096]);
                }
            }
        }
        for page in [RESERVE + (6 << 20), RESERVE_END - 4096] {
            assert!(!self.watched.borrow().iter().any(|range| range.contains(&page) && self.is_open(page)));
        }
    }

    fn watch(&self, range: Range<u64>) {
        self.watched.borrow_mut().push(range);
        self.check();
    }

    /// What a launch does, in the order of the module's documentation.
    fn launch(&self) -> Result<(), &'static str> {
        self.attacked.set(true);
        self.watch(SLB);
        let devs = find(self);
        devs.iter().try_for_each(|dev| dev.turn_gart_off(self))?;
        let bitmap = window(PAGE, Hpa(RESERVE));
        self.exclude(bitmap, START);
        devs.iter().try_for_each(|dev| dev.protect(self, bitmap))?;
        if !self.counts_alone {
            self.watch(START);
        }
        devs.iter().try_for_each(|dev| dev.release_skinit(self))?;
        self.watch(START);

        self.fill(BITMAP.0..BITMAP.0 + BITMAP_SIZE, 0);
        self.exclude(BITMAP, RESERVE..RESERVE_END);
        devs.iter().try_for_each(|dev| dev.protect(self, BITMAP))?;
        self.watch(RESERVE..RESERVE_END);
        // The first bitmap is no longer needed.
        self.fill(PAGE.0..PAGE.0 + 4096, 0);
        self.check();
        Ok(())
    }
}

#[test]
fn a_launch_is_closed_at_every_step_and_ends_with_the_reserve_closed_alone() {
    for (blocks_walks, counts_alone, turns) in
        [(false, false, 0), (true, false, 60), (false, true, 1), (true, true, 3)]
    {
        let nodes = [0, 7].map(|node| (node, Node { turns, ..Node::hostile() }));
        let machine = Machine { blocks_walks, counts_alone, ..Machine::new(nodes) };
        assert_eq!(find(&machine).len(), 2);
        machine.launch().unwrap();
        assert!(machine.writes.get() > 80);
        for page in (0..1u64 << 32)
            .step_by(32 << 10)
            .chain((RESERVE - (1 << 20)..RESERVE_END + (1 << 20)).step_by(4096))
        {
            let closed = (RESERVE..RESERVE_END).contains(&page);
            assert_eq!(
                (machine.is_open(page), machine.is_open_to_all(page)),
                (!closed, !closed),
                "{page:#x}"
            );
        }
        for above in [1 << 32, (1 << 32) + RESERVE, (1 << 40) - 4096] {
            assert!(machine.is_open_to_all(above), "the guest's, {above:#x}");
        }
        for node in [0, 7] {
            machine.node(node, |node| {
                assert_eq!(
                    (node.cr, &node.map[..]),
                    (ENABLE | REFUSES_IO | KEEPS_MEMORY_AT_RESET, &[0; 3][..])
                );
                assert_eq!(node.base, [(BITMAP.0 as u32 | 1, 0); 4]);
                assert_eq!(node.config[&0x90], 0, "the GART");
            });
        }
    }
}

/// The attack is one: against the same bitmap, made where SL_DEV does not reach, it succeeds.
#[test]
fn a_bitmap_that_is_made_outside_of_the_block_is_opened() {
    let machine = Machine::new([(0, Node::hostile())]);
    machine.attacked.set(true);
    machine.fill(BITMAP.0..BITMAP.0 + BITMAP_SIZE, 0xff);
    find(&machine)[0].protect(&machine, BITMAP).unwrap();
    assert!(machine.is_open(RESERVE + (1 << 20)));
}

#[test]
fn skinits_protection_stays_until_it_is_released_and_nothing_else_goes_with_it() {
    let machine = Machine::new([(0, Node::hostile()), (1, Node { cr: 0, ..Node::hostile() })]);
    machine.watch(RESERVE..RESERVE);
    let devs = find(&machine);
    let cr = |node| machine.node(node, |node| node.cr);
    devs.iter().for_each(|dev| dev.protect(&machine, BITMAP).unwrap());
    assert_eq!((cr(0), cr(1)), (ENABLE | REFUSES_IO | SL_DEV | KEEPS_MEMORY_AT_RESET, ENABLE | REFUSES_IO));
    devs.iter().for_each(|dev| dev.release_skinit(&machine).unwrap());
    assert_eq!((cr(0), cr(1)), (ENABLE | REFUSES_IO | KEEPS_MEMORY_AT_RESET, ENABLE | REFUSES_IO));
}

#[test]
fn what_is_not_there_or_is_something_else_is_not_found() {
    let found = |changes: &[(u32, u32)]| {
        let mut node = Node::hostile();
        node.config.extend(changes.iter().copied());
        find(&Machine::new([(3, node)])).into_iter().collect::<Vec<_>>()
    };
    let dev = Dev { function: 0xdb, capability: 0xf0 };
    assert_eq!(found(&[]), [dev], "behind HyperTransport's and an IOMMU's");
    assert_eq!(found(&[(0xf0, 0x0038_000f)]), [dev], "it can report");
    for changes in [
        &[(0x00, 0x1203_8086)][..],
        &[(0x34, 0)],
        &[(0x04, 0)],
        &[(0x50, 0x0003_000f)],
        &[(0x50, 0x0003_400f)],
        &[(0xf0, 0x0001_000f)],
    ] {
        assert_eq!(found(changes), [], "{changes:x?}");
    }
    assert!(find(&Machine::default()).is_empty());
    let everywhere = Machine::new((0..8).map(|node| (node, Node::hostile())));
    assert_eq!(find(&everywhere).len(), 8);
}

#[test]
fn a_northbridge_that_does_not_do_it_is_an_error() {
    let endless = "the DEV does not forget what it has cached";
    let deaf = "the DEV does not take what it is told";
    let gart = "the GART cannot be turned off";
    let register = |function: u32, index: u32| function << 8 | index;
    for (node, rule) in [
        (Node { endless: true, ..Node::hostile() }, endless),
        (Node { turns: TURNS, ..Node::hostile() }, endless),
        (Node { stuck: vec![register(BASE_LO, 3)], ..Node::hostile() }, deaf),
        (Node { stuck: vec![register(MAP, 1)], ..Node::hostile() }, deaf),
        (Node { stuck: vec![register(CR, 0)], ..Node::hostile() }, endless),
        (Node::remnant(), NOTHING),
    ] {
        let machine = Machine::new([(0, node)]);
        assert_eq!(find(&machine)[0].protect(&machine, BITMAP), Err(rule));
    }
    let machine = |stuck| Machine::new([(0, Node { stuck: vec![stuck], ..Node::hostile() })]);
    let cr = machine(register(CR, 0));
    assert_eq!(find(&cr)[0].release_skinit(&cr), Err(deaf));
    let on = machine(0x90);
    assert_eq!(find(&on)[0].turn_gart_off(&on), Err(gart));
}

#[test]
fn where_the_bits_are() {
    assert_eq!(BITMAP_SIZE, 128 << 10);
    assert_eq!([0, 0x1000, 0x7000, 0x8000].map(bit), [(0, 1), (0, 2), (0, 0x80), (1, 1)]);
    assert_eq!([RESERVE, 0xffff_f000].map(bit), [(0x4a80, 1), (BITMAP_SIZE - 1, 0x80)]);
    assert_eq!(window(PAGE, Hpa(RESERVE)), Hpa(PAGE.0 - 0x4000));
    for block in (2 << 20..1 << 32).step_by(2 << 20) {
        let base = window(Hpa(block + SLB_DEVICE_TABLE), Hpa(block)).0;
        let [(first, _), (last, _)] = [block, block + TABLES_OFFSET - 4096].map(bit);
        assert!(base.is_multiple_of(4096));
        // The page that follows is free up to what is handed on.
        let free = block + SLB_DEVICE_TABLE..block + HANDOVER_OFFSET;
        assert!(free.start <= base + first && base + last < free.end, "{block:#x}");
    }
}

/// The DEV's registers, and the one of Family 17h, are out of the guest's reach: the functions are host bridges.
#[test]
fn the_guest_cannot_write_the_registers() {
    let mut machine = pci::tests::Machine::default();
    for function in [0xc0, 0xc3, 0xfb_u32] {
        let at = 1 << 31 | function << 8;
        machine.registers.extend([(at, 0x1203_1022), (at | 8, 0x0600_0000)]);
    }
    // A disk, which is the guest's.
    machine.registers.extend([(0x8000_8800, 0x4390_1002), (0x8000_8808, 0x0106_0100)]);
    machine.registers.insert(0x8000_f800, 0x1200_1022);
    for (address, dropped) in [
        (0x8000_c3f0, true),
        (0x8000_c3f4, true),
        (0x8000_c3f8, true),
        (0x8000_c3fb, true),
        (0x8000_c390, true),
        (0x8000_fbf8, true),
        (0x8300_c084, true),
        (0x8000_88f8, false),
    ] {
        machine.address.set(address);
        assert_eq!(pci::drops_write(&machine), dropped, "{address:#x}");
    }
    let mut space = ConfigSpace::none();
    space.find(&machine, 0xe000_0000 | 8 << 2 | 1).unwrap();
    for (page, guarded) in
        [(0xe00c_3000, true), (0xe00f_b000, true), (0xe00c_0000, true), (0xe008_8000, false)]
    {
        assert_eq!(space.guards(page, 4096), guarded, "{page:#x}");
    }
}
