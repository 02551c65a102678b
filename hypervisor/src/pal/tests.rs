//! The life cycle, driven on a host: a caller with page tables of its own, and an S that does what the test says.

use super::*;
use crate::addr::PAGE_SIZE;
use crate::launch::{MemoryRegion, region};
use crate::memory::TestMemory;
use crate::vmcb::{Vmcb, exit_code};
use abi::image::{self, Entry, HEADER_SIZE, Header, SENTINEL, Section, arg, kind};
use proptest::prelude::*;
use std::vec::Vec;

pub(crate) const OS_RAM: u64 = 0x10_0000;
pub(crate) const POOL: u64 = 0x20_0000;
pub(crate) const END: u64 = 0x60_0000;
/// User addresses of the test: an image, an owner page, buffers.
const IMAGE: u64 = 0x40_0000;
const OWNER: u64 = 0x50_0000;
const BUFFER: u64 = 0x60_0000;

/// What S does when it runs.
#[derive(Clone, Copy, Debug)]
enum Act {
    Return(u64),
    Interrupt,
    Fault,
}

struct Machine {
    memory: TestMemory,
    pals: &'static Pals,
    cr3: u64,
    next_table: u64,
    acts: Vec<Act>,
    runs: usize,
    now: u64,
    registers: Handle,
}

impl Hardware for (&mut Vec<Act>, &mut usize, u64, DirectMap, &Pals) {
    fn run_pal(&mut self, pal: Runnable, _: &mut Gprs) {
        *self.1 += 1;
        // SAFETY: the test's memory; the VMCB is the PAL's under test.
        let vmcb = unsafe { &mut *self.3.pointer(pal.vmcb, PAGE_SIZE).cast::<Vmcb>() };
        let act = if self.0.is_empty() { Act::Return(0) } else { self.0.remove(0) };
        let mut leave = |value| {
            vmcb.control.exit_code = exit_code::PAGE_FAULT.into();
            vmcb.control.exit_info_1 = 0x14;
            vmcb.control.exit_info_2 = SENTINEL;
            (vmcb.save.rip, vmcb.save.rax) = (SENTINEL, value);
            vmcb.save.rsp += 8;
        };
        match act {
            Act::Return(value) => leave(value),
            Act::Interrupt => vmcb.control.exit_code = exit_code::INTR.into(),
            Act::Fault => vmcb.control.exit_code = u64::from(exit_code::EXCEPTION_0) + 13,
        }
    }

    fn now_ms(&self) -> u64 {
        self.2
    }

    fn raise_machine_check(&mut self) {}
}

fn header() -> Header {
    let mut header = Header {
        magic: image::MAGIC,
        flags: 0,
        section_count: 4,
        entry_count: 2,
        sections: [Section::default(); image::MAX_SECTIONS],
        entries: [Entry::default(); image::MAX_ENTRIES],
    };
    let section = |kind, page: u64, file_size, pages: u64| Section {
        kind,
        reserved: 0,
        addr: image::WINDOW_BASE + page * PAGE_SIZE,
        file_size,
        mem_size: pages * PAGE_SIZE,
    };
    header.sections[0] = section(kind::CODE, 0, 5000, 2);
    header.sections[1] = section(kind::DATA, 2, 100, 1);
    header.sections[2] = section(kind::PARAM, 3, 0, 20);
    header.sections[3] = section(kind::STACK, 600, 0, 1);
    header.entries[0] = Entry { addr: image::WINDOW_BASE + 16, args: [arg::INT, 0, 0, 0, 0, 0], reserved: 0 };
    let args = [arg::IN, arg::LEN, arg::OUT, arg::LEN, 0, 0];
    header.entries[1] = Entry { addr: image::WINDOW_BASE + 4999, args, reserved: 0 };
    header
}

fn image_bytes(header: &Header) -> Vec<u8> {
    // SAFETY: `Header` has no padding.
    let bytes: [u8; HEADER_SIZE] = unsafe { core::mem::transmute_copy(header) };
    let contents: u64 = header.sections.iter().map(|s| s.file_size).sum();
    bytes.into_iter().chain((0..contents).map(|i| i as u8)).collect()
}

/// No PALs yet, over memory of at least [`END`] bytes.
pub(crate) fn pals(memory: &TestMemory) -> Pals {
    let regions = [MemoryRegion { base: OS_RAM, size: END - OS_RAM, kind: region::RAM, reserved: 0 }];
    let ram = RamMap::new(&regions, Hpa(POOL), END - POOL).unwrap();
    let frames = Frames::new(memory.map(), Hpa(POOL), Hpa(END));
    let mut seed = 0;
    let random = Random::seeded(|| {
        seed += 1;
        Some(seed)
    });
    let maps = Maps { nested_cr3: Hpa(0), msrpm: Hpa(0), iopm: Hpa(0) };
    let slots = Box::leak(Box::new(free_slots()));
    Pals::new(memory.map(), ram, frames, random.ok().unwrap(), maps, true, slots)
}

impl Machine {
    fn new() -> Self {
        let memory = TestMemory::new(END / PAGE_SIZE);
        let pals = pals(&memory);
        let mut machine = Self {
            memory,
            pals: Box::leak(Box::new(pals)),
            cr3: OS_RAM,
            next_table: OS_RAM + PAGE_SIZE,
            acts: Vec::new(),
            runs: 0,
            now: 5_000,
            registers: Handle { low: 0, high: 0 },
        };
        let bytes = image_bytes(&header());
        for page in 0..4 {
            machine.map(IMAGE + page * PAGE_SIZE, 0x18_0000 + page * PAGE_SIZE, 0x67);
            machine.map(BUFFER + page * PAGE_SIZE, 0x19_0000 + page * PAGE_SIZE, 0x67);
            machine.map(OWNER + page * PAGE_SIZE, 0x1a_0000 + page * PAGE_SIZE, 0x67);
        }
        machine.memory.map().copy_to(Hpa(0x18_0000), &bytes);
        machine
    }

    /// Maps a user page (flags 0: makes it absent again).
    fn map(&mut self, gva: u64, gpa: u64, flags: u64) {
        let mem = self.memory.map();
        let mut table = self.cr3;
        for shift in [39, 30, 21] {
            let entry = Hpa(table + (gva >> shift & 0x1ff) * 8);
            if mem.read_u64(entry) == 0 {
                mem.write_u64(entry, self.next_table | 0x67);
                self.next_table += PAGE_SIZE;
            }
            table = mem.read_u64(entry) & 0x000f_ffff_ffff_f000;
        }
        mem.write_u64(Hpa(table + (gva >> 12 & 0x1ff) * 8), gpa | flags);
    }

    fn with<T>(&mut self, f: impl FnOnce(&mut dyn FnMut(&mut Op) -> Outcome) -> T) -> T {
        let (memory, pals, cr3) = (self.memory.map(), self.pals, self.cr3);
        let registers = &mut self.registers;
        let mut hardware = (&mut self.acts, &mut self.runs, self.now, memory, pals);
        f(&mut |op| {
            let space = Space::new(1 << 31 | 1 << 16, cr3 + op.cr3_offset, 0x20, 0xd01, 0, 40).unwrap();
            let caller = Caller::new(memory, &pals.ram, space);
            // R10 and R11 stay as they are through a call's continuations.
            if let What::Call(handle, ..) = op.call {
                *registers = handle;
            }
            match op.call {
                What::Register(length) => {
                    pals.register(&mut hardware, &caller, Gva(IMAGE), length, Gva(op.owner))
                }
                What::Call(handle, entry, args) => pals.call(&mut hardware, &caller, handle, entry, args),
                What::Resume(token) => pals.resume(&mut hardware, &caller, *registers, token),
                What::Unregister(handle, abort) => pals.unregister(&caller, handle, abort),
                What::Collect => pals.collect(&mut hardware),
            }
        })
    }

    fn one(&mut self, call: What) -> Outcome {
        self.with(|run| run(&mut Op { call, owner: OWNER, cr3_offset: 0 }))
    }

    /// An operation with all its continuations.
    fn all(&mut self, call: What, owner: u64) -> Outcome {
        let mut outcome = self.with(|run| run(&mut Op { call, owner, cr3_offset: 0 }));
        for _ in 0..1000 {
            outcome = match outcome {
                Outcome::Again(token) => self.one(What::Resume(token)),
                Outcome::Restart => self.with(|run| run(&mut Op { call, owner, cr3_offset: 0 })),
                done => return done,
            };
        }
        panic!("the operation never ends");
    }

    fn register(&mut self, owner: u64) -> Handle {
        let length = image_bytes(&header()).len() as u64;
        assert_eq!(self.all(What::Register(length), owner), Outcome::status(Status::Ok));
        let page = Hpa(0x1a_0000 + owner - OWNER);
        let mem = self.memory.map();
        Handle { low: mem.read_u64(page), high: mem.read_u64(page + 8) }
    }

    fn free(&self) -> u32 {
        self.pals.pool.lock().free_count()
    }

    fn pool_is_zero(&self) -> bool {
        let pool = self.pals.pool.lock();
        let mut bytes = std::vec![0; pool.total() as usize * PAGE_SIZE as usize];
        self.memory.map().copy_from(pool.base(), &mut bytes);
        bytes.iter().all(|byte| *byte == 0)
    }
}

#[derive(Clone, Copy)]
enum What {
    Register(u64),
    Call(Handle, u16, [u64; 6]),
    Resume(u64),
    Unregister(Handle, bool),
    Collect,
}

struct Op {
    call: What,
    owner: u64,
    cr3_offset: u64,
}

const OK: Outcome = Outcome::Done(0, Status::Ok);

#[test]
fn register_call_unregister_leaves_nothing() {
    let mut m = Machine::new();
    let free = m.free();
    for _ in 0..3 {
        let handle = m.register(OWNER);
        assert_eq!(m.pals.count(), 1);
        assert_eq!(u64::from(free - m.free()), space::PalFrames::needed(&header()));
        m.acts = std::vec![Act::Return(42)];
        assert_eq!(m.all(What::Call(handle, 0, [1, 0, 0, 0, 0, 0]), OWNER), Outcome::Done(42, Status::Ok));
        assert_eq!(m.all(What::Unregister(handle, false), OWNER), OK);
        assert_eq!(m.free(), free);
        assert!(m.pool_is_zero());
        let refused = m.one(What::Call(handle, 0, [0; 6]));
        assert_eq!(refused, Outcome::status(Status::NoSuchPal), "the handle is dead");
    }
    assert_eq!(m.pals.count(), 0);
}

#[test]
fn the_measurement_is_the_images() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let space = Space::new(1 << 31, m.cr3, 0x20, 0xd01, 0, 40).unwrap();
    let caller = Caller::new(m.memory.map(), &m.pals.ram, space);
    let mut expected = utpm::Measurement::new();
    expected.update(&image_bytes(&header()));
    let info = m.pals.pal_info(&caller, handle).unwrap();
    assert_eq!(info.measurement, expected.finish());
    assert_eq!(info.pages, 24);
}

#[test]
fn an_interrupt_freezes_s_and_only_its_token_goes_on() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    m.acts = std::vec![Act::Interrupt, Act::Interrupt, Act::Return(7)];
    let Outcome::Again(first) = m.one(What::Call(handle, 0, [0; 6])) else { panic!("not frozen") };
    assert_eq!(m.one(What::Call(handle, 0, [0; 6])), Outcome::status(Status::Busy));
    assert_eq!(m.one(What::Unregister(handle, false)), Outcome::status(Status::Busy));
    let stranger =
        m.with(|run| run(&mut Op { call: What::Resume(first), owner: OWNER, cr3_offset: PAGE_SIZE }));
    assert_eq!(stranger, Outcome::status(Status::Lost));
    assert_eq!(m.one(What::Resume(first ^ 1 << 20)), Outcome::status(Status::Lost));
    let guess = core::mem::replace(&mut m.registers, Handle { low: handle.low, high: 1 });
    assert_eq!(m.one(What::Resume(first)), Outcome::status(Status::Lost), "a token without the handle");
    m.registers = guess;
    let Outcome::Again(second) = m.one(What::Resume(first)) else { panic!("not frozen") };
    assert_eq!(m.one(What::Resume(first)), Outcome::status(Status::Lost), "a token is good once");
    assert_eq!(m.one(What::Resume(second)), Outcome::Done(7, Status::Ok));
    assert_eq!(m.one(What::Resume(second)), Outcome::status(Status::Lost));
    assert_eq!(m.runs, 3);
}

#[test]
fn a_stranger_gets_nothing_even_with_the_handle_or_the_token() {
    let mut m = Machine::new();
    let length = image_bytes(&header()).len() as u64;
    let Outcome::Again(token) = m.one(What::Register(length)) else { panic!("registered in one stay") };
    let mut stranger = |call| m.with(|run| run(&mut Op { call, owner: OWNER, cr3_offset: PAGE_SIZE }));
    assert_eq!(stranger(What::Resume(token)), Outcome::status(Status::Lost));
    let mut outcome = m.one(What::Resume(token));
    while let Outcome::Again(token) = outcome {
        outcome = m.one(What::Resume(token));
    }
    assert_eq!(outcome, OK);
    let mem = m.memory.map();
    let handle = Handle { low: mem.read_u64(Hpa(0x1a_0000)), high: mem.read_u64(Hpa(0x1a_0008)) };
    let mut stranger = |call| m.with(|run| run(&mut Op { call, owner: OWNER, cr3_offset: PAGE_SIZE }));
    for call in
        [What::Call(handle, 0, [0; 6]), What::Unregister(handle, false), What::Unregister(handle, true)]
    {
        assert_eq!(stranger(call), Outcome::status(Status::NoSuchPal));
    }
    assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), OK);
}

#[test]
fn a_call_finds_nothing_of_the_last_ones_buffers() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let mem = m.memory.map();
    mem.copy_to(Hpa(0x19_0000), &[0xa5; PAGE_SIZE as usize]);
    assert_eq!(m.all(What::Call(handle, 1, [BUFFER, 2000, BUFFER, 0, 0, 0]), OWNER), OK);
    // The out buffer lies where the in buffer was, and S writes nothing.
    assert_eq!(m.all(What::Call(handle, 1, [BUFFER, 0, BUFFER + PAGE_SIZE, 2000, 0, 0]), OWNER), OK);
    let mut bytes = [0xff; 2000];
    mem.copy_from(Hpa(0x19_1000), &mut bytes);
    assert_eq!(bytes, [0; 2000]);
}

#[test]
fn abort_wipes_a_frozen_pal() {
    let mut m = Machine::new();
    let free = m.free();
    let handle = m.register(OWNER);
    m.acts = std::vec![Act::Interrupt];
    let Outcome::Again(token) = m.one(What::Call(handle, 0, [0; 6])) else { panic!("not frozen") };
    assert_eq!(m.all(What::Unregister(handle, true), OWNER), OK);
    assert_eq!(m.one(What::Resume(token)), Outcome::status(Status::Lost));
    assert_eq!(m.free(), free);
    assert!(m.pool_is_zero());
}

#[test]
fn a_fault_of_s_wipes_it_and_says_so() {
    let mut m = Machine::new();
    let free = m.free();
    let handle = m.register(OWNER);
    m.acts = std::vec![Act::Fault];
    assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), Outcome::Done(13, Status::Faulted));
    assert_eq!(m.free(), free);
    assert!(m.pool_is_zero());
}

#[test]
fn results_wait_for_their_page_and_s_runs_once() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let args = [BUFFER, 100, BUFFER + PAGE_SIZE, 50, 0, 0];
    // Not dirty: asked for before S runs, as a write fault on a present page.
    m.map(BUFFER + PAGE_SIZE, 0x19_1000, 0x27);
    let gva = Gva(BUFFER + PAGE_SIZE);
    let wanted = Outcome::Fault { gva, error_code: 7, token: None };
    assert_eq!(m.one(What::Call(handle, 1, args)), wanted);
    assert_eq!(m.runs, 0);
    m.map(BUFFER + PAGE_SIZE, 0x19_1000, 0x67);
    // Gone while S runs: the results are kept, and delivered when it is back.
    m.acts = std::vec![Act::Interrupt, Act::Return(3)];
    let Outcome::Again(token) = m.one(What::Call(handle, 1, args)) else { panic!("not frozen") };
    m.map(BUFFER + PAGE_SIZE, 0, 0);
    let Outcome::Fault { token: Some(token), error_code: 6, .. } = m.one(What::Resume(token)) else {
        panic!("no fault")
    };
    m.map(BUFFER + PAGE_SIZE, 0x19_1000, 0x67);
    assert_eq!(m.one(What::Resume(token)), Outcome::Done(3, Status::Ok));
    assert_eq!(m.runs, 2);
}

#[test]
fn a_result_page_that_never_comes_ends_the_call() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    m.acts = std::vec![Act::Interrupt, Act::Return(3)];
    let args = [BUFFER, 0, BUFFER + PAGE_SIZE, 50, 0, 0];
    let Outcome::Again(token) = m.one(What::Call(handle, 1, args)) else { panic!("not frozen") };
    m.map(BUFFER + PAGE_SIZE, 0, 0);
    let mut outcome = m.one(What::Resume(token));
    let mut faults = 0;
    while let Outcome::Fault { token: Some(token), .. } = outcome {
        faults += 1;
        outcome = m.one(What::Resume(token));
    }
    assert_eq!((faults, outcome), (3, Outcome::Done(BUFFER + PAGE_SIZE, Status::NoProgress)));
    assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), OK, "the PAL is idle again");
}

#[test]
fn buffers_that_do_not_fit_or_do_not_exist() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let mut status = |args| m.one(What::Call(handle, 1, args));
    assert_eq!(status([BUFFER, 20 * PAGE_SIZE + 1, 0, 0, 0, 0]), Outcome::status(Status::TooLarge));
    assert_eq!(status([BUFFER, u64::MAX, BUFFER, u64::MAX, 0, 0]), Outcome::status(Status::TooLarge));
    let high = 0xffff_8000_0000_0000;
    assert_eq!(status([high, 1, 0, 0, 0, 0]), Outcome::Done(high, Status::BadAddress));
    assert_eq!(status([1 << 47, 1, 0, 0, 0, 0]), Outcome::Done(1 << 47, Status::BadAddress));
    assert_eq!(status([0, 0, 0, 0, 0, 0]), OK, "empty buffers need no memory");
    assert_eq!(m.one(What::Call(handle, 2, [0; 6])), Outcome::status(Status::BadArgument));
    assert_eq!(m.one(What::Call(handle, 64, [0; 6])), Outcome::status(Status::BadArgument));
}

#[test]
fn a_broken_image_leaves_nothing() {
    let mut m = Machine::new();
    let free = m.free();
    let good = image_bytes(&header());
    for length in [0, HEADER_SIZE as u64 - 1, good.len() as u64 - 1, good.len() as u64 + 1, u64::MAX] {
        assert_eq!(m.all(What::Register(length), OWNER), Outcome::status(Status::BadImage));
    }
    let length = good.len() as u64;
    assert_eq!(m.all(What::Register(length), OWNER + 8), Outcome::status(Status::BadArgument));
    assert_eq!(m.all(What::Register(length), 1 << 48), Outcome::Done(1 << 48, Status::BadAddress));
    // The second page of the image turns into a device while it is read.
    m.map(IMAGE + PAGE_SIZE, 0xfee0_0000, 0x67);
    let device = m.all(What::Register(length), OWNER);
    assert!(matches!(device, Outcome::Done(_, Status::BadAddress)), "{device:?}");
    m.map(IMAGE + PAGE_SIZE, POOL, 0x67);
    let reserve = m.all(What::Register(length), OWNER);
    assert!(matches!(reserve, Outcome::Done(_, Status::BadAddress)), "{reserve:?}");
    assert_eq!(m.free(), free);
    assert_eq!(m.pals.count(), 0);
    assert!(m.pool_is_zero());
}

#[test]
fn an_image_page_is_paged_in_once() {
    let mut m = Machine::new();
    let length = image_bytes(&header()).len() as u64;
    m.map(IMAGE + PAGE_SIZE, 0, 0);
    let mut outcome = m.one(What::Register(length));
    while let Outcome::Again(token) = outcome {
        outcome = m.one(What::Resume(token));
    }
    let Outcome::Fault { gva, error_code: 4, token: Some(token) } = outcome else { panic!("{outcome:?}") };
    assert_eq!(gva, Gva(IMAGE + PAGE_SIZE));
    m.map(IMAGE + PAGE_SIZE, 0x18_1000, 0x67);
    let mut outcome = m.one(What::Resume(token));
    while let Outcome::Again(token) = outcome {
        outcome = m.one(What::Resume(token));
    }
    assert_eq!(outcome, OK);
}

#[test]
fn collect_takes_the_dead_and_spares_the_living() {
    let mut m = Machine::new();
    let free = m.free();
    let (dead, alive, swapped) =
        (m.register(OWNER), m.register(OWNER + PAGE_SIZE), m.register(OWNER + 2 * PAGE_SIZE));
    m.map(OWNER, 0, 0);
    m.map(OWNER + 2 * PAGE_SIZE, 0x1234_5000, 0x2);
    m.now += 2_000;
    assert_eq!(m.all(What::Collect, OWNER), OK, "one look condemns nobody");
    m.now += 9_999;
    assert_eq!(m.all(What::Collect, OWNER), OK, "nor do two that are too close");
    m.now += 1;
    assert_eq!(m.all(What::Collect, OWNER), Outcome::Done(1, Status::Ok));
    assert_eq!(m.one(What::Call(dead, 0, [0; 6])), Outcome::status(Status::NoSuchPal));
    m.now += 60_000;
    assert_eq!(m.all(What::Collect, OWNER), OK);
    for handle in [alive, swapped] {
        assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), OK);
        assert_eq!(m.all(What::Unregister(handle, false), OWNER), OK);
    }
    assert_eq!(m.free(), free);
    assert!(m.pool_is_zero());
}

#[test]
fn a_page_that_lost_its_handle_is_dead_and_a_call_clears_suspicion() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    m.memory.map().write_u64(Hpa(0x1a_0000), 0);
    m.now += 2_000;
    assert_eq!(m.all(What::Collect, OWNER), OK);
    m.now += 10_000;
    assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), OK);
    m.now += 2_000;
    assert_eq!(m.all(What::Collect, OWNER), OK, "the call made it alive again");
    m.now += 10_000;
    assert_eq!(m.all(What::Collect, OWNER), Outcome::Done(1, Status::Ok));
}

#[test]
fn a_full_pool_is_an_error_and_makes_room_from_the_dead() {
    let mut m = Machine::new();
    let needed = space::PalFrames::needed(&header()) as u32;
    let length = image_bytes(&header()).len() as u64;
    let mut registered = 0;
    while m.free() >= needed {
        m.register(OWNER);
        registered += 1;
    }
    assert!(registered > 10);
    assert_eq!(m.all(What::Register(length), OWNER + PAGE_SIZE), Outcome::status(Status::NoMemory));
    // All but the last handle were overwritten in the owner page: those PALs are dead. The first attempt took a look.
    m.now += 12_000;
    assert_eq!(m.all(What::Register(length), OWNER + PAGE_SIZE), Outcome::status(Status::NoMemory));
    m.now += 12_000;
    assert_eq!(m.all(What::Register(length), OWNER + PAGE_SIZE), OK);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Any sequence of operations keeps the pool's accounting: what is not free belongs to a registered PAL, and when all are gone
    /// everything is zero.
    #[test]
    fn the_pool_always_adds_up(ops in proptest::collection::vec((0u8..7, 0usize..4), 1..60)) {
        let mut m = Machine::new();
        let free = m.free();
        let needed = space::PalFrames::needed(&header()) as u32;
        let mut live: Vec<(Handle, Option<u64>)> = Vec::new();
        for (op, which) in ops {
            let pick = which % live.len().max(1);
            match op {
                0 | 1 if live.len() < 4 => live.push((m.register(OWNER + which as u64 * PAGE_SIZE), None)),
                2 if !live.is_empty() => {
                    m.acts = std::vec![Act::Interrupt, Act::Return(0)];
                    match m.one(What::Call(live[pick].0, 0, [0; 6])) {
                        Outcome::Again(token) => live[pick].1 = Some(token),
                        other => prop_assert_eq!(other, Outcome::status(Status::Busy)),
                    }
                }
                3 if !live.is_empty() => {
                    if let Some(token) = live[pick].1.take() {
                        m.acts.clear();
                        m.registers = live[pick].0;
                        prop_assert_eq!(m.one(What::Resume(token)), OK);
                    }
                }
                4 if !live.is_empty() => {
                    let (handle, token) = live.remove(pick);
                    prop_assert_eq!(m.all(What::Unregister(handle, true), OWNER), OK);
                    if let Some(token) = token {
                        prop_assert_eq!(m.one(What::Resume(token)), Outcome::status(Status::Lost));
                    }
                }
                5 if !live.is_empty() && live[pick].1.is_none() => {
                    m.acts = std::vec![Act::Fault];
                    let (handle, _) = live.remove(pick);
                    prop_assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), Outcome::Done(13, Status::Faulted));
                }
                _ => {}
            }
            prop_assert_eq!(free - m.free(), needed * live.len() as u32);
            prop_assert_eq!(m.pals.count(), live.len() as u64);
        }
        for (handle, _) in live {
            prop_assert_eq!(m.all(What::Unregister(handle, true), OWNER), OK);
        }
        prop_assert_eq!(m.free(), free);
        prop_assert!(m.pool_is_zero());
    }

    /// Results land where they belong, whatever the buffers' place and size, and nowhere else.
    #[test]
    fn bytes_go_in_and_out(at in 0u64..4096, length in 0u64..8192, out in 0u64..3000, out_length in 0u64..4096) {
        let mut m = Machine::new();
        let handle = m.register(OWNER);
        let mem = m.memory.map();
        for page in 0..4u64 {
            mem.copy_to(Hpa(0x19_0000 + page * PAGE_SIZE), &[0xa5; PAGE_SIZE as usize]);
        }
        let args = [BUFFER + at, length, BUFFER + 3 * PAGE_SIZE + out, out_length.min(PAGE_SIZE - out), 0, 0];
        prop_assert_eq!(m.all(What::Call(handle, 1, args), OWNER), OK);
        // S wrote nothing: the out buffer was zeroed before it ran, and that is what comes back.
        let mut bytes = [0; PAGE_SIZE as usize];
        mem.copy_from(Hpa(0x19_3000), &mut bytes);
        let range = out as usize..(out + args[3]) as usize;
        for (i, byte) in bytes.iter().enumerate() {
            prop_assert_eq!(*byte, if range.contains(&i) { 0 } else { 0xa5 });
        }
    }
}
