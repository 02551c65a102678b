//! What `tests/mutations.toml` found that no other test misses.

use super::super::*;
use super::failed;
use super::machine::*;
use super::program;
use crate::addr::{Hpa, PAGE_SIZE};
use crate::vmcb::{Vmcb, exit_code};
use abi::image::{self, Entry, Header, SENTINEL, arg, kind};
use abi::number;
use zerocopy::IntoBytes;

/// A processor with an S that is a function of the test.
struct Driver<'a> {
    mem: DirectMap,
    s: &'a mut dyn FnMut(&mut Vmcb, &mut Gprs),
}

impl Hardware for Driver<'_> {
    fn run_pal(&mut self, pal: &PalFrames, _: Incarnation, regs: &mut Gprs) {
        // SAFETY: the test's memory; the VMCB is the PAL's under test.
        let vmcb = unsafe { &mut *self.mem.pointer(pal.vmcb, PAGE_SIZE).cast::<Vmcb>() };
        vmcb.control.exit_code = 0;
        (self.s)(vmcb, regs);
        if vmcb.control.exit_code != 0 {
            return;
        }
        vmcb.control.exit_code = exit_code::PAGE_FAULT.into();
        (vmcb.control.exit_info_1, vmcb.control.exit_info_2) = (0x14, SENTINEL);
        vmcb.save.rip = SENTINEL;
        vmcb.save.rsp += 8;
    }
    fn now_ms(&self) -> u64 {
        5_000
    }
    fn pkru(&self) -> u32 {
        0
    }
    fn tpm(&mut self) -> Tis<impl Registers, TscClock> {
        super::no_tpm()
    }
}

impl Machine {
    /// A call whose S returns when `s` does, unless it left another exit code.
    pub(super) fn run(
        &mut self,
        handle: Handle,
        entry: u16,
        args: [u64; 6],
        mut s: impl FnMut(&mut Vmcb, &mut Gprs),
    ) -> Outcome {
        let cpu = program(self.cr3, handle, &Gprs::with_arguments(args));
        let mut driver = Driver { mem: self.memory.map(), s: &mut s };
        self.pals.call(&mut Caller { cpu: &cpu, hardware: &mut driver }, entry)
    }

    /// The same as an attested call.
    pub(super) fn run_attested(
        &mut self,
        handle: Handle,
        (entry, args): (u16, [u64; 6]),
        nonce: [u8; 32],
        mut s: impl FnMut(&mut Vmcb, &mut Gprs),
    ) -> Outcome {
        let cpu = program(self.cr3, handle, &with_nonce(args, nonce));
        let mut driver = Driver { mem: self.memory.map(), s: &mut s };
        self.pals.call_attested(&mut Caller { cpu: &cpu, hardware: &mut driver }, entry)
    }

    /// Its report.
    pub(super) fn report(&mut self, handle: Handle, what: u64) -> Result<(Vec<u8>, Vec<u8>), Status> {
        let cpu = program(self.cr3, handle, &Gprs::default());
        let mem = self.memory.map();
        let mut driver = Driver { mem, s: &mut |_, _| {} };
        let (call, report) = self.pals.call_report(&Caller { cpu: &cpu, hardware: &mut driver }, what)?;
        Ok((call.as_bytes().to_vec(), report.bytes().to_vec()))
    }

    /// Registers an image with these entries.
    pub(super) fn register_with(&mut self, entries: &[[u8; 6]]) -> Handle {
        let mut header: Header = header();
        header.entries = [Entry::default(); image::MAX_ENTRIES];
        header.entry_count = entries.len() as u16;
        for (entry, args) in header.entries.iter_mut().zip(entries) {
            *entry = Entry { addr: image::WINDOW_BASE + 16, args: *args, reserved: 0 };
        }
        self.memory.map().copy_to(Hpa(0x18_0000), &image_bytes(&header));
        self.register(OWNER)
    }
}

/// Follows S's tables: the frame's address, writable, executable.
pub(super) fn s_sees(mem: DirectMap, vmcb: &Vmcb, addr: u64) -> Option<(Hpa, bool, bool)> {
    let (mut table, mut writable, mut executable) = (vmcb.save.cr3, true, true);
    for shift in [39, 30, 21, 12] {
        let entry = mem.read_u64(Hpa(table + (addr >> shift & 0x1ff) * 8));
        if entry & 1 == 0 {
            return None;
        }
        writable &= entry & 2 != 0;
        executable &= entry >> 63 == 0;
        table = entry & 0x000f_ffff_ffff_f000;
    }
    Some((Hpa(table | addr & 0xfff), writable, executable))
}

#[test]
fn code_is_read_only_and_the_rest_not_executable() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let mem = m.memory.map();
    let mut looked = 0;
    let outcome = m.run(handle, 0, [0; 6], |vmcb, _| {
        for section in &header().sections[..4] {
            let code = section.kind == image::kind::CODE;
            for addr in (section.addr..section.addr + section.mem_size).step_by(PAGE_SIZE as usize) {
                let (_, writable, executable) = s_sees(mem, vmcb, addr).unwrap();
                assert_eq!((writable, executable), (!code, code), "{addr:#x}");
                looked += 1;
            }
            assert!(s_sees(mem, vmcb, image::WINDOW_BASE + 599 * PAGE_SIZE).is_none(), "the stack's guard");
        }
        assert_eq!(vmcb.save.rsp % 16, 8);
        let (top, ..) = s_sees(mem, vmcb, vmcb.save.rsp).unwrap();
        assert_eq!(mem.read_u64(top), SENTINEL);
    });
    assert_eq!((outcome, looked), (OK, 24));
}

/// Neither pages of the caller nor frames of S that follow one another lie side by side.
#[test]
fn every_byte_goes_where_it_belongs() {
    let mut m = Machine::new();
    let first = m.register(OWNER);
    assert_eq!(m.all(What::Unregister(first, false), OWNER), OK);
    let handle = m.register(OWNER);
    let mem = m.memory.map();
    for page in 0..4 {
        m.map(BUFFER + page * PAGE_SIZE, 0x19_0000 + (3 - page) * PAGE_SIZE, 0x67);
    }
    let place = |at: u64| Hpa(0x19_0000 + (3 - at / PAGE_SIZE) * PAGE_SIZE + at % PAGE_SIZE);
    let pattern = |at: u64| (at * 7 + at / 251) as u8;
    let (from, to, length) = (100, 2 * PAGE_SIZE + 300, 6_000);
    for at in 0..length {
        mem.copy_to(place(from + at), &[pattern(at)]);
    }
    let args = [BUFFER + from, length, BUFFER + to, length, 0, 0];
    let outcome = m.run(handle, 1, args, |vmcb, regs| {
        for at in 0..length {
            let mut byte = [0];
            mem.copy_from(s_sees(mem, vmcb, regs.rdi + at).unwrap().0, &mut byte);
            assert_eq!(byte[0], pattern(at), "byte {at} in");
            mem.copy_to(s_sees(mem, vmcb, regs.rdx + at).unwrap().0, &[!byte[0]]);
        }
    });
    assert_eq!(outcome, OK);
    for at in 0..length {
        let mut byte = [0];
        mem.copy_from(place(to + at), &mut byte);
        assert_eq!(byte[0], !pattern(at), "byte {at} out");
    }
}

#[test]
fn no_result_is_written_before_all_can_be() {
    let mut m = Machine::new();
    let handle = m.register_with(&[[arg::OUT, arg::LEN, arg::OUT, arg::LEN, 0, 0]]);
    let mem = m.memory.map();
    mem.copy_to(Hpa(0x19_0000), &[0xa5; 8]);
    m.acts = std::vec![Act::Interrupt, Act::Return(0)];
    let args = [BUFFER, 8, BUFFER + PAGE_SIZE, 8, 0, 0];
    let Err(Stop::Again(token)) = m.one(What::Call(handle, 0, args)) else { panic!("not frozen") };
    m.map(BUFFER + PAGE_SIZE, 0, 0);
    let Err(Stop::Fault { token: Some(token), .. }) = m.one(What::Resume(token)) else { panic!("no fault") };
    assert_eq!(mem.read_u64(Hpa(0x19_0000)), 0xa5a5_a5a5_a5a5_a5a5);
    m.map(BUFFER + PAGE_SIZE, 0x19_1000, 0x67);
    assert_eq!(m.one(What::Resume(token)), OK);
    assert_eq!(mem.read_u64(Hpa(0x19_0000)), 0);
}

/// What a call has to go through decides whether its first fault leaves it open: with it, the last call's rest and buffers that
/// go in and out.
#[test]
fn a_call_that_fits_one_stay_is_not_left_open_by_a_fault() {
    let mut m = Machine::new();
    let entries = [[arg::IN, arg::LEN, 0, 0, 0, 0], [arg::IN_OUT, arg::LEN, 0, 0, 0, 0]];
    let handle = m.register_with(&entries);
    for page in (BUFFER..BUFFER + 2 * SLICE).step_by(PAGE_SIZE as usize) {
        m.map(page, 0x19_0000, 0x67);
    }
    let mut stays_open = |used: u64, entry: u16, length: u64| {
        assert_eq!(m.all(What::Call(handle, 0, [BUFFER, used, 0, 0, 0, 0]), OWNER), OK);
        let page = BUFFER + (length - 1) / PAGE_SIZE * PAGE_SIZE;
        m.map(page, 0, 0);
        let mut outcome = m.one(What::Call(handle, entry, [BUFFER, length, 0, 0, 0, 0]));
        while let Err(Stop::Again(token)) = outcome {
            outcome = m.one(What::Resume(token));
        }
        let Err(Stop::Fault { gva: Gva(at), token, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(at, page);
        m.map(page, 0x19_0000, 0x67);
        if let Some(token) = token {
            let _ = m.all(What::Resume(token), OWNER);
        }
        assert_eq!(m.all(What::Call(handle, 0, [0; 6]), OWNER), OK, "idle again");
        token.is_some()
    };
    assert!(!stays_open(0, 0, SLICE));
    assert!(stays_open(0, 0, SLICE + 1));
    assert!(!stays_open(0, 1, SLICE / 2));
    assert!(stays_open(0, 1, SLICE / 2 + 1));
    // Zeroing goes by whole pages.
    assert!(!stays_open(8 * PAGE_SIZE, 0, 8 * PAGE_SIZE));
    assert!(stays_open(8 * PAGE_SIZE + 1, 0, 8 * PAGE_SIZE - 1));
}

#[test]
fn s_finds_its_arguments_in_its_registers_and_nothing_else() {
    let mut m = Machine::new();
    let handle = m.register_with(&[[arg::INT; 6], [arg::NONE; 6]]);
    for (entry, expected) in [(0, [1, 2, 3, 4, 5, 6]), (1, [0; 6])] {
        let outcome = m.run(handle, entry, [1, 2, 3, 4, 5, 6], |vmcb, regs| {
            assert_eq!(super::s::words(regs), super::s::words(&Gprs::with_arguments(expected)));
            assert_eq!((vmcb.save.rax, vmcb.save.rflags), (0, 0x202));
            (regs.rbx, regs.r15, regs.rdi) = (7, 7, 7);
            (vmcb.save.rax, vmcb.save.rflags) = (7, 0x4_0fd7);
        });
        assert_eq!(outcome, Ok(7));
    }
}

#[test]
fn long_buffers_make_way_for_interrupts() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    for page in 0..20 {
        m.map(BUFFER + page * PAGE_SIZE, 0x19_0000, 0x67);
    }
    let args = [BUFFER, 20 * PAGE_SIZE, BUFFER, 0, 0, 0];
    let mut stays = 1;
    let mut outcome = m.one(What::Call(handle, 1, args));
    while let Err(Stop::Again(token)) = outcome {
        (outcome, stays) = (m.one(What::Resume(token)), stays + 1);
    }
    assert_eq!((outcome, stays), (OK, 2));
    // What was used is zeroed in slices as well.
    assert!(matches!(m.one(What::Call(handle, 0, [0; 6])), Err(Stop::Again(_))));
}

#[test]
fn half_a_handle_is_none() {
    let mut m = Machine::new();
    let (pals, mem) = (m.pals, m.memory.map());
    let finds = |root, low, high| {
        let cpu = program(root, Handle { low, high }, &Gprs::default());
        let caller = Caller { cpu: &cpu, hardware: &mut Driver { mem, s: &mut |_, _| {} } };
        assert_eq!(pals.find(&caller).is_ok(), pals.pal_info(&caller).is_ok());
        pals.find(&caller).is_ok()
    };
    assert!(!finds(0, 0, 0), "a free slot has no handle, not even this");
    let handle = m.register(OWNER);
    assert!(finds(m.cr3, handle.low, handle.high));
    assert!(!finds(m.cr3, handle.low ^ MAX_PALS as u64, handle.high));
    assert!(!finds(m.cr3, handle.low, handle.high ^ 1));
    assert!(!finds(m.cr3 + PAGE_SIZE, handle.low, handle.high));
}

/// Collects now; PALs freed.
fn collected(m: &mut Machine) -> u64 {
    let Ok(freed) = m.all(What::Collect, OWNER) else { panic!("no collect") };
    freed
}

#[test]
fn an_owner_that_was_seen_again_is_suspected_anew() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let mem = m.memory.map();
    // Half of the handle is none of it.
    mem.write_u64(Hpa(0x1a_0008), !handle.high);
    m.now += 2_000;
    assert_eq!(collected(&mut m), 0);
    mem.write_u64(Hpa(0x1a_0008), handle.high);
    m.now += 5_000;
    assert_eq!(collected(&mut m), 0);
    mem.write_u64(Hpa(0x1a_0008), !handle.high);
    m.now += 10_000;
    assert_eq!(collected(&mut m), 0, "the first look since it was seen");
    m.now += 10_000;
    assert_eq!(collected(&mut m), 1);
}

#[test]
fn a_registration_that_does_not_go_on_is_collected() {
    let mut m = Machine::new();
    let free = m.free();
    let length = image_bytes(&header()).len() as u64;
    let Err(Stop::Again(token)) = m.one(What::Register(length)) else { panic!("registered in one stay") };
    m.now += 2_000;
    assert_eq!(collected(&mut m), 0);
    // It goes on, and is spared.
    m.now += 9_999;
    let Err(Stop::Again(_)) = m.one(What::Resume(token)) else { panic!("registered in two stays") };
    m.now += 1;
    assert_eq!(collected(&mut m), 0);
    m.now += 2_000;
    assert_eq!(collected(&mut m), 0);
    m.now += 10_000;
    assert_eq!(collected(&mut m), 1);
    assert_eq!(m.free(), free);
    assert!(m.pool_is_zero());
}

/// With so many pages that a wipe takes several stays.
fn register_large(m: &mut Machine) -> Handle {
    let mut large = header();
    large.sections[2] = section(kind::PARAM, 3, 0, 80);
    m.memory.map().copy_to(Hpa(0x18_0000), &image_bytes(&large));
    m.register(OWNER)
}

/// Others may need the frames; the result is the caller's even then.
#[test]
fn the_result_of_a_wipe_waits_for_its_caller_for_a_while() {
    let mut m = Machine::new();
    let free = m.free();
    for comes_back in [true, false] {
        let handle = register_large(&mut m);
        m.now += 60_000;
        let Err(Stop::Again(token)) = m.one(What::Unregister(handle, false)) else { panic!("in one stay") };
        m.now += 999;
        let Err(Stop::Again(token)) = m.one(What::Resume(token)) else { panic!("in two stays") };
        m.now += 999;
        assert_eq!(collected(&mut m), 0);
        assert_eq!((m.free(), m.pals.count()), (free, 1));
        if comes_back {
            assert_eq!(m.one(What::Resume(token)), OK);
        } else {
            m.now += 1;
            assert_eq!(collected(&mut m), 1);
            assert_eq!(m.one(What::Resume(token)), failed(Status::Lost));
        }
        assert_eq!((m.free(), m.pals.count()), (free, 0));
        assert!(m.pool_is_zero());
    }
}

/// Aborted while another processor had it for the last time: the call's next stay is the first to see it.
#[test]
fn the_result_of_a_wipe_that_a_continuation_begins_waits_as_well() {
    let mut m = Machine::new();
    let handle = register_large(&mut m);
    m.acts = std::vec![Act::Interrupt];
    let Err(Stop::Again(token)) = m.one(What::Call(handle, 0, [0; 6])) else { panic!("not frozen") };
    let pals = m.pals;
    let held = pals.slots[handle.low as usize % MAX_PALS].pal.lock();
    assert_eq!(m.one(What::Unregister(handle, true)), OK);
    drop(held);
    m.now += 60_000;
    let Err(Stop::Again(token)) = m.one(What::Resume(token)) else { panic!("wiped in one stay") };
    assert_eq!((collected(&mut m), m.pals.count()), (0, 1));
    assert_eq!(m.all(What::Resume(token), OWNER), failed(Status::Lost));
    assert_eq!(m.pals.count(), 0);
}

#[test]
fn a_pass_over_all_slots_takes_several_stays_of_whoever_calls() {
    let mut m = Machine::new();
    for _ in 0..2 {
        let stays = (1..).find(|_| m.one(What::Collect) != Err(Stop::Restart));
        assert_eq!(stays, Some(1 + MAX_PALS / 64));
    }
}

#[test]
fn the_hypercalls_of_s_reach_its_own_memory_only() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let mem = m.memory.map();
    let (code, data) = (image::WINDOW_BASE, image::WINDOW_BASE + 2 * PAGE_SIZE);
    let outside = [0, 0x1000, code - 1, image::WINDOW_BASE + 599 * PAGE_SIZE, u64::MAX];
    let read = number::PCR_READ;
    let mut asked = std::vec![
        (read, 0, code, Status::BadAddress),
        (read, 8, data, Status::BadArgument),
        (number::PCR_EXTEND, 0, data, Status::BadArgument),
        (number::PCR_EXTEND, 8, data, Status::BadArgument),
        (number::PCR_EXTEND, 1, code, Status::Ok),
        (number::REGISTER, 0, data, Status::UnknownCall),
        (read, 0, data, Status::Ok),
    ];
    for pointer in outside {
        asked.push((read, 0, pointer, Status::BadAddress));
        asked.push((number::PCR_EXTEND, 1, pointer, Status::BadAddress));
    }
    // The last bytes of a digest lie in the guard page.
    let end = image::WINDOW_BASE + 601 * PAGE_SIZE;
    asked.push((read, 0, end - 51, Status::BadAddress));
    let mut next = asked.iter();
    let mut expected = None;
    let outcome = m.run(handle, 0, [0; 6], |vmcb, regs| {
        if let Some(status) = expected {
            assert_eq!((trustvisor_pal::status(regs.rdx), vmcb.save.rax), (Some(status), 0));
        }
        let Some(&(number, index, pointer, status)) = next.next() else { return };
        vmcb.control.exit_code = exit_code::VMMCALL.into();
        vmcb.save.rax = number.into();
        (regs.rdi, regs.rsi) = (index, pointer);
        expected = Some(status);
        if pointer == end - 51 {
            let mut measured = [0; 20];
            mem.copy_from(s_sees(mem, vmcb, data).unwrap().0, &mut measured);
            assert_ne!(measured, [0; 20]);
        }
    });
    assert_eq!(outcome, OK);
}
