//! What other processors do between two looks of this one, and what they leave behind when they stop in the middle.

use super::super::*;
use super::failed;
use super::machine::*;
use super::{CONFIG_SPACE, END, POOL, facts, pals, program};
use crate::addr::{Hpa, PAGE_SIZE};
use crate::dma::Faults;
use crate::hypervisor::Hypervisor;
use crate::memory::TestMemory;
use crate::tpm::root::Blob;
use abi::Info;

/// The slot's words are those of the PAL that was there when this processor read them; under the lock it finds another.
#[test]
fn a_slot_that_has_changed_hands_before_it_was_locked_is_not_the_callers() {
    let mut m = Machine::new();
    let first = m.register(OWNER);
    let slot = &m.pals.slots[first.low as usize % MAX_PALS];
    let words = [&slot.handle[0], &slot.handle[1], &slot.incarnation];
    let read = || words.map(|word| word.load(Ordering::Relaxed));
    let show = |values: [u64; 3]| {
        for (word, value) in words.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    };
    let of_first = read();
    assert_eq!(m.all(What::Unregister(first, false), OWNER), OK);
    let second = m.register(OWNER);
    let of_second = read();
    assert_eq!(first.low as usize % MAX_PALS, second.low as usize % MAX_PALS);
    show(of_first);
    for late in [What::Call(first, 0, [0; 6]), What::Unregister(first, false), What::Unregister(first, true)]
    {
        assert_eq!(m.one(late), failed(Status::NoSuchPal));
    }
    show(of_second);
    assert_eq!(m.all(What::Call(second, 0, [0; 6]), OWNER), OK);
    assert_eq!(m.runs, 1);
}

/// A processor on which others take all frames but `left` as soon as it has counted them and looks at the clock.
struct Late<'a> {
    pals: &'a Pals,
    left: u32,
}

/// The slot that the frames go to.
const OTHER: usize = MAX_PALS - 1;

impl Hardware for Late<'_> {
    fn run_pal(&mut self, _: &PalFrames, _: Incarnation, _: &mut Gprs) {
        panic!("no PAL is registered");
    }
    fn now_ms(&self) -> u64 {
        let mut pool = self.pals.pool.lock();
        while pool.free_count() > self.left {
            pool.take(OTHER as u16).unwrap();
        }
        5_000
    }
    fn pkru(&self) -> u32 {
        0
    }
    fn tpm(&mut self) -> Tis<impl Registers, TscClock> {
        super::no_tpm()
    }
}

#[test]
fn a_registration_whose_first_frames_are_taken_by_others_leaves_nothing() {
    let length = image_bytes(&header()).len() as u64;
    for left in 0..7 {
        let m = Machine::new();
        let cpu = program(m.cr3, Handle { low: 0, high: 0 }, &Gprs::default());
        let mut hardware = Late { pals: m.pals, left };
        let mut caller = Caller { cpu: &cpu, hardware: &mut hardware };
        let outcome = m.pals.register(&mut caller, Some((Gva(IMAGE), length)), Gva(OWNER));
        assert_eq!(outcome, failed(Status::NoMemory), "{left} left");
        assert_eq!((m.free(), m.pals.count()), (left, 0));
        assert!(m.pool_is_zero());
    }
}

/// Whoever has a lock will not run again.
#[test]
fn before_control_is_lost_the_pool_is_zeroed_whatever_is_locked() {
    let memory = TestMemory::new(END / PAGE_SIZE);
    let pals = pals(&memory);
    let base = pals.pool.lock().base();
    let total = (END - base.0) / PAGE_SIZE;
    memory.map().copy_to(base, &std::vec![0xa5; (total * PAGE_SIZE) as usize]);
    memory.map().write_u64(Hpa(POOL - 8), 0xa5);
    let facts = Info { pool_base: base.0, frames_total: total, ..facts() };
    let hv =
        Hypervisor::new(pals, facts, [CONFIG_SPACE, 0..0, 0..0], Faults::default(), Blob::new(), Blob::new());
    let _locked = (hv.pals.pool.lock(), hv.pals.slots[0].pal.lock(), hv.pals.tpm.random.lock());
    hv.wipe();
    let mut bytes = std::vec![0xff; (total * PAGE_SIZE) as usize];
    memory.map().copy_from(base, &mut bytes);
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert_eq!(memory.map().read_u64(Hpa(POOL - 8)), 0xa5, "the OS's");
}
