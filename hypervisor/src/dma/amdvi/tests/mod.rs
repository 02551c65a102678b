//! The driver against a model of an IOMMU's registers, and of what it remembers.

use super::*;
use crate::dma::tables::{CLOSED, fill, open};
use crate::memory::TestMemory;
use crate::pci::tests::Machine;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::vec::Vec;

const TABLE: Hpa = Hpa(0);
const PAGES: u64 = 512;
const WORK: Hpa = Hpa(PAGES * PAGE_SIZE + 0x1000);
const EVENTS: Hpa = Hpa(PAGES * PAGE_SIZE + 0x2000);

/// An IOMMU. Entries are remembered when a device has used them, until a command ends that.
struct Model {
    mem: DirectMap,
    registers: RefCell<BTreeMap<u64, u64>>,
    features: u64,
    remembered: RefCell<BTreeMap<u64, [u64; 4]>>,
    /// Devices of which it remembers interrupts.
    interrupts: RefCell<BTreeSet<u64>>,
    /// It has stopped answering.
    silent: Cell<bool>,
    /// It has translated at some time, and has stopped to.
    stopped: Cell<bool>,
}

impl Model {
    fn get(&self, register: u64) -> u64 {
        *self.registers.borrow().get(&register).unwrap_or(&0)
    }

    fn put(&self, register: u64, value: u64) {
        self.registers.borrow_mut().insert(register, value);
    }

    /// The entry that a device's access goes by. None: there is no translation, or no entry, which hardware refuses.
    fn entry(&self, device: u64) -> Option<[u64; 4]> {
        let table = self.get(DEVICE_TABLE);
        let there = self.get(CONTROL) & TRANSLATE != 0 && device * 32 < ((table & 0x1ff) + 1) * PAGE_SIZE;
        there.then(|| {
            *self.remembered.borrow_mut().entry(device).or_insert_with(|| {
                let at = Hpa((table & !0xfff) + device * 32);
                [0, 8, 16, 24].map(|offset| self.mem.read_u64(at + offset))
            })
        })
    }

    fn run(&self) {
        let on = self.get(CONTROL) & (TRANSLATE | COMMANDS) == TRANSLATE | COMMANDS;
        while on && !self.silent.get() && self.get(COMMAND_HEAD) != self.get(COMMAND_TAIL) {
            let head = self.get(COMMAND_HEAD);
            let at = Hpa((self.get(COMMAND_BUFFER) & 0x000f_ffff_ffff_f000) + head);
            let (first, second) = (self.mem.read_u64(at), self.mem.read_u64(at + 8));
            match first >> 60 {
                1 if first & 1 != 0 => self.mem.write_u64(Hpa(first & 0x000f_ffff_ffff_fff8), second),
                2 => drop(self.remembered.borrow_mut().remove(&(first & 0xffff))),
                3 => assert_eq!((first & 0xffff, second), (0, 0x7fff_ffff_ffff_f003)),
                5 => drop(self.interrupts.borrow_mut().remove(&(first & 0xffff))),
                8 if self.features & 1 << 6 != 0 => {
                    self.remembered.borrow_mut().clear();
                    self.interrupts.borrow_mut().clear();
                }
                _ => panic!("command {first:#x} {second:#x}"),
            }
            self.put(COMMAND_HEAD, (head + 16) % PAGE_SIZE);
        }
    }
}

impl Registers for Rc<Model> {
    fn read(&self, offset: u64) -> u64 {
        match offset {
            FEATURES => self.features,
            STATUS => self.get(STATUS) | if self.get(CONTROL) & COMMANDS != 0 { COMMANDS_RUN } else { 0 },
            _ => self.get(offset),
        }
    }

    fn write(&self, offset: u64, value: u64) {
        let on = self.get(CONTROL);
        match offset {
            CONTROL => {
                self.stopped.set(self.stopped.get() || on & !value & TRANSLATE != 0);
                self.put(CONTROL, value);
            }
            COMMAND_BUFFER => {
                assert_eq!(on & COMMANDS, 0, "the buffer is moved while it is used");
                for (register, value) in [(COMMAND_BUFFER, value), (COMMAND_HEAD, 0), (COMMAND_TAIL, 0)] {
                    self.put(register, value);
                }
            }
            STATUS => self.put(STATUS, self.get(STATUS) & !value),
            _ => self.put(offset, value),
        }
        self.run();
    }
}

fn machine(memory: &TestMemory, features: u64) -> (Rc<Model>, AmdVi<Rc<Model>>) {
    let model = Rc::new(Model {
        mem: memory.map(),
        registers: RefCell::default(),
        features,
        remembered: RefCell::default(),
        interrupts: RefCell::default(),
        silent: Cell::new(false),
        stopped: Cell::new(false),
    });
    (model.clone(), AmdVi { registers: model, log: Some(EVENTS) })
}

/// Whoever had it before left it as he liked; afterwards it goes by the new table alone, for every device.
#[test]
fn nothing_is_left_of_what_it_knew() {
    for (features, before) in
        [(1 << 6, 0), (1 << 6, 1), (1 << 6, TRANSLATE), (0, TRANSLATE | COMMANDS | 1 << 13)]
    {
        let memory = TestMemory::new(PAGES + 8);
        let (model, iommu) = machine(&memory, features);
        model.put(CONTROL, before);
        model.put(EXCLUSION_BASE, 3);
        model.put(EXCLUSION_LIMIT, 0xffff_f000);
        let theirs = open(Hpa(0x1000), Hpa(0x2000));
        for device in 0..1 << 16 {
            model.remembered.borrow_mut().insert(device, theirs);
            model.interrupts.borrow_mut().insert(device);
        }
        fill(memory.map(), TABLE, PAGES * PAGE_SIZE, CLOSED);
        iommu.set(memory.map(), WORK, TABLE, PAGES).unwrap();
        assert!(!model.stopped.get(), "what it stopped before it let through meanwhile");
        assert!((0..1 << 16).all(|device| model.entry(device) == Some(CLOSED)));
        assert!(model.interrupts.borrow().is_empty());
        assert_eq!((model.get(EXCLUSION_BASE), model.get(EXCLUSION_LIMIT)), (0, 0));
        assert_eq!(model.get(CONTROL), 3 | COHERENT | LOG, "tunnels as well; no commands, nothing else");
        // And so once more, when all have been used.
        fill(memory.map(), TABLE, PAGES * PAGE_SIZE, theirs);
        iommu.set(memory.map(), WORK, TABLE, PAGES).unwrap();
        assert!(!model.stopped.get());
        assert!((0..1 << 16).all(|device| model.entry(device) == Some(theirs)));
    }
}

/// A small table leaves out most devices, which reach nothing then.
#[test]
fn a_small_table() {
    let memory = TestMemory::new(PAGES + 8);
    let (model, iommu) = machine(&memory, 1 << 6);
    fill(memory.map(), TABLE, PAGE_SIZE, CLOSED);
    iommu.set(memory.map(), WORK, TABLE, 1).unwrap();
    let entries: Vec<_> = (0..1 << 16).map(|device| model.entry(device)).collect();
    assert!(entries[..128].iter().all(|entry| *entry == Some(CLOSED)));
    assert!(entries[128..].iter().all(Option::is_none));
}

#[test]
fn a_silent_one_is_an_error() {
    let memory = TestMemory::new(PAGES + 8);
    let (model, iommu) = machine(&memory, 1 << 6);
    model.silent.set(true);
    memory.map().write_u64(WORK + 32, DONE);
    assert_eq!(iommu.set(memory.map(), WORK, TABLE, PAGES), Err("an IOMMU does not answer"));
    // One that says for ever that it is busy.
    model.silent.set(false);
    model.put(STATUS, COMMANDS_RUN);
    assert_eq!(iommu.set(memory.map(), WORK, TABLE, PAGES), Err("an IOMMU does not answer"));
}

#[test]
fn events_are_counted_and_taken() {
    let memory = TestMemory::new(PAGES + 8);
    let (model, iommu) = machine(&memory, 1 << 6);
    iommu.set(memory.map(), WORK, TABLE, PAGES).unwrap();
    assert_eq!(iommu.take_events(memory.map()).0, 0);
    let mut number = 0;
    for count in [1, 200, 55, 255, 3] {
        for _ in 0..count {
            number += 1;
            let tail = model.get(EVENT_TAIL);
            memory.map().write_u64(EVENTS + tail, number);
            memory.map().write_u64(EVENTS + tail + 8, !number);
            model.put(EVENT_TAIL, (tail + 16) % PAGE_SIZE);
        }
        assert_eq!(iommu.take_events(memory.map()), (count, [number, !number]));
        assert_eq!(iommu.take_events(memory.map()).0, 0);
    }
    model.put(STATUS, OVERFLOW);
    iommu.take_events(memory.map());
    assert_eq!((model.get(STATUS), model.get(CONTROL) & LOG), (0, LOG), "it goes on");
    let unlogged = AmdVi { log: None, ..iommu };
    assert_eq!(unlogged.take_events(memory.map()), (0, [0, 0]));
}

#[test]
fn the_size_of_the_registers() {
    let memory = TestMemory::new(1);
    assert_eq!(machine(&memory, 1 << 6).1.size(), 0x4000);
    assert_eq!(machine(&memory, 1 << 9).1.size(), 0x8_0000);
}

/// PCI functions with an IOMMU each, at 00:00.2 (behind another capability) and 40:00.2.
fn pci_machine(enabled: u32) -> Machine {
    let mut registers = BTreeMap::new();
    for (function, base) in [(0x2u32, 0xfeb8_0000u32), (0x4002, 0xfd20_0000)] {
        let at = 1 << 31 | function << 8;
        let mut put = |register, value| registers.insert(at + register, value);
        put(0x00, 0x1481_1022);
        put(0x04, 0x0010_0000);
        put(0x08, 0x0806_0000);
        put(0x34, 0x40);
        put(0x40, 0x0000_6405);
        put(0x64, 0x190b_000f);
        put(0x68, base | enabled);
        put(0x6c, 0);
        registers.insert(at & !0xff00, 0x1480_1022);
    }
    Machine { registers, ..Default::default() }
}

#[test]
fn firmware_and_pci_must_agree() {
    let right = [Iommu { function: 0x4002, base: 0xfd20_0000 }, Iommu { function: 2, base: 0xfeb8_0000 }];
    assert_eq!(check(&pci_machine(1), &right), Ok(()));
    assert!(check(&pci_machine(1), &right[..1]).is_err(), "one that the list has not");
    assert!(check(&pci_machine(1), &[]).is_err());
    assert!(check(&Machine::default(), &right).is_err(), "none that PCI shows");
    assert_eq!(check(&Machine::default(), &[]), Ok(()));
    for wrong in [Iommu { function: 2, base: 0xfeb8_4000 }, Iommu { function: 3, base: 0xfeb8_0000 }] {
        assert!(check(&pci_machine(1), &[right[0], wrong]).is_err());
    }
    let (elsewhere, off) = (Iommu { function: 2, base: 0xfed8_0000 }, pci_machine(0));
    assert_eq!(check(&off, &[right[0], elsewhere]), Ok(()), "firmware has not fixed where");
    let written = off.writes.borrow().clone();
    let all = [(0x8000_026c, 0), (0x8000_0268, 0xfed8_0001), (0x8040_026c, 0), (0x8040_0268, 0xfd20_0001)];
    assert_eq!(written, all, "now it is");
    // A DEV, whose capability has the same number; and a list that is a ring.
    let mut machine = pci_machine(1);
    machine.registers.insert(1 << 31 | 0x200 | 0x64, 0x1908_000f);
    assert!(check(&machine, &right).is_err());
    machine.registers.insert(1 << 31 | 0x200 | 0x64, 0x0000_4005);
    assert!(check(&machine, &right).is_err());
}
