//! Sealing, unsealing and random numbers, as S asks for them.

use super::super::*;
use super::gaps::s_sees;
use super::machine::*;
use crate::addr::{Hpa, PAGE_SIZE};
use crate::vmcb::exit_code;
use abi::MAX_RANDOM;
use abi::image;
use abi::number::{RANDOM, SEAL, UNSEAL};
use abi::seal::{MAX_DATA, OVERHEAD};

/// S's parameter section, 20 pages, which tests use as S's memory; and its code, which it cannot write.
pub const AT: u64 = image::WINDOW_BASE + 3 * PAGE_SIZE;
pub const CODE: u64 = image::WINDOW_BASE;
const POLICY: u64 = AT;
const DATA: u64 = AT + PAGE_SIZE - 5;
const BLOB: u64 = AT + 4 * PAGE_SIZE - 100;
const CREATOR: u64 = AT + 9 * PAGE_SIZE - 77;
const BACK: u64 = AT + 12 * PAGE_SIZE - 1;

/// What S sees of itself.
pub struct Memory<'a>(&'a dyn Fn(u64) -> (DirectMap, Hpa));

impl Memory<'_> {
    pub fn put(&self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let (mem, place) = (self.0)(at);
            mem.copy_to(place, &[*byte]);
        }
    }

    pub fn get(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (at, byte) in (at..).zip(&mut bytes) {
            let (mem, place) = (self.0)(at);
            mem.copy_from(place, core::slice::from_mut(byte));
        }
        bytes
    }
}

pub type Ask<'a> = (u16, [u64; 5], &'a dyn Fn(&Memory<'_>), (Status, u64), &'a dyn Fn(&Memory<'_>));

/// Has S ask, with something done before and looked at after each.
pub fn ask(m: &mut Machine, handle: Handle, asks: &[Ask<'_>]) {
    let mem = m.memory.map();
    let mut next = asks.iter();
    let mut asked: Option<&Ask<'_>> = None;
    let outcome = m.run(handle, 0, [0; 6], |vmcb, regs| {
        let (rax, rdx) = (vmcb.save.rax, regs.rdx);
        let place = |at: u64| (mem, s_sees(mem, vmcb, at).expect("S's memory").0);
        let memory = Memory(&place);
        if let Some((number, _, _, (status, value), after)) = asked {
            assert_eq!((trustvisor_pal::status(rdx), rax), (Some(*status), *value), "{number:#x}");
            after(&memory);
        }
        asked = next.next();
        let Some((number, arguments, before, ..)) = asked else { return };
        before(&memory);
        let [rdi, rsi, rdx, rcx, r8] = *arguments;
        *regs = Gprs::with_arguments([rdi, rsi, rdx, rcx, r8, 0]);
        vmcb.control.exit_code = exit_code::VMMCALL.into();
        vmcb.save.rax = (*number).into();
    });
    assert!(outcome.is_ok(), "{outcome:?}");
    assert!(asked.is_none(), "S was asked everything");
}

fn nothing(_: &Memory<'_>) {}

fn identity(m: &Machine, handle: Handle) -> [u8; 32] {
    let slot = &m.pals.slots[handle.low as usize % MAX_PALS];
    slot.pal.lock().pcrs.measurement().sha256
}

fn policy(select: u32, identity: &[u8; 32]) -> Vec<u8> {
    let mut bytes = vec![0; 264];
    bytes[..4].copy_from_slice(&select.to_le_bytes());
    bytes[8..40].copy_from_slice(identity);
    bytes
}

#[test]
fn what_s_seals_it_gets_back() {
    for length in [0, 1, 5, MAX_DATA] {
        let mut m = Machine::new();
        let handle = m.register(OWNER);
        let identity = identity(&m, handle);
        let data: Vec<u8> = (0..length).map(|i| (i * 7) as u8 ^ 0x5a).collect();
        let size = (length + OVERHEAD) as u64;
        let length = length as u64;
        ask(
            &mut m,
            handle,
            &[
                (
                    SEAL,
                    [POLICY, DATA, length, BLOB, size],
                    &|m| {
                        m.put(POLICY, &policy(1, &identity));
                        m.put(DATA, &data);
                        m.put(BLOB + size, &[0xee]);
                    },
                    (Status::Ok, size),
                    &|m| {
                        assert_eq!(m.get(BLOB, 6), b"TVSEAL");
                        assert_eq!(m.get(BLOB + size, 1), [0xee]);
                        let sealed = m.get(BLOB + 320, data.len());
                        assert!(data.len() < 5 || sealed != data);
                    },
                ),
                (
                    UNSEAL,
                    [BLOB, size, BACK, length, CREATOR],
                    &|m| m.put(BACK + length, &[0xdd]),
                    (Status::Ok, length),
                    &|m| {
                        assert_eq!(m.get(BACK, data.len()), data);
                        assert_eq!(m.get(BACK + length, 1), [0xdd]);
                        assert_eq!(m.get(CREATOR, 32), identity);
                        assert_eq!(m.get(CREATOR + 32, 224), [0; 224]);
                    },
                ),
            ],
        );
    }
}

#[test]
fn two_blobs_of_the_same_data_differ() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let identity = identity(&m, handle);
    let second = BLOB + 2 * PAGE_SIZE;
    let size = (OVERHEAD + 32) as u64;
    let before = |m: &Memory<'_>| m.put(POLICY, &policy(1, &identity));
    let differ = |m: &Memory<'_>| {
        assert_ne!(m.get(BLOB + 48, 16), m.get(second + 48, 16), "the IV");
        assert_ne!(m.get(BLOB + 320, 32), m.get(second + 320, 32));
    };
    ask(
        &mut m,
        handle,
        &[
            (SEAL, [POLICY, DATA, 32, BLOB, size], &before, (Status::Ok, size), &nothing),
            (SEAL, [POLICY, DATA, 32, second, size], &before, (Status::Ok, size), &differ),
        ],
    );
}

#[test]
fn what_is_for_another_does_not_open_nor_does_what_was_changed() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let identity = identity(&m, handle);
    let size = (OVERHEAD + 16) as u64;
    let seal = [POLICY, DATA, 16, BLOB, size];
    let unseal = [BLOB, size, BACK, 16, CREATOR];
    let untouched = |m: &Memory<'_>| {
        assert_eq!(m.get(BACK, 16), [0xcc; 16]);
        assert_eq!(m.get(CREATOR, 256), [0xcc; 256]);
    };
    let mark = |m: &Memory<'_>| {
        m.put(BACK, &[0xcc; 16]);
        m.put(CREATOR, &[0xcc; 256]);
    };
    let no = (Status::DoesNotOpen, 0);
    ask(
        &mut m,
        handle,
        &[
            (SEAL, seal, &|m| m.put(POLICY, &policy(1, &[9; 32])), (Status::Ok, size), &nothing),
            (UNSEAL, unseal, &mark, no, &untouched),
            // A PCR of another value than it has.
            (
                SEAL,
                seal,
                &|m| m.put(POLICY, &[policy(3, &identity)[..40].to_vec(), vec![1; 32]].concat()),
                (Status::Ok, size),
                &nothing,
            ),
            (UNSEAL, unseal, &mark, no, &untouched),
            (SEAL, seal, &|m| m.put(POLICY, &policy(1, &identity)), (Status::Ok, size), &nothing),
            (UNSEAL, [BLOB, size - 1, BACK, 16, CREATOR], &mark, no, &untouched),
            (UNSEAL, [BLOB, size + 1, BACK, 16, CREATOR], &mark, no, &untouched),
            (UNSEAL, [BLOB, u64::MAX, BACK, 16, CREATOR], &mark, no, &untouched),
            (UNSEAL, [BLOB, 0, BACK, 16, CREATOR], &mark, no, &untouched),
            (UNSEAL, [BLOB, size, BACK, 15, CREATOR], &mark, (Status::TooLarge, 0), &untouched),
            (UNSEAL, unseal, &mark, (Status::Ok, 16), &nothing),
            (UNSEAL, unseal, &|m| (mark(m), m.put(BLOB, b"t")).0, no, &untouched),
        ],
    );
}

#[test]
fn sealing_reaches_s_alone_and_stays_in_its_bounds() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let identity = identity(&m, handle);
    let size = (OVERHEAD + 16) as u64;
    let outside = [0, 0x1000, CODE - 1, image::WINDOW_BASE + 599 * PAGE_SIZE, u64::MAX - 3, u64::MAX];
    let prepare = |m: &Memory<'_>| m.put(POLICY, &policy(1, &identity));
    let without_identity = |m: &Memory<'_>| m.put(POLICY, &policy(2, &identity));
    let reserved = |m: &Memory<'_>| m.put(POLICY + 4, &[1]);
    let mut asks: Vec<Ask<'_>> = Vec::new();
    for at in outside {
        asks.push((SEAL, [at, DATA, 16, BLOB, size], &prepare, (Status::BadAddress, 0), &nothing));
        asks.push((SEAL, [POLICY, at, 16, BLOB, size], &prepare, (Status::BadAddress, 0), &nothing));
        asks.push((SEAL, [POLICY, DATA, 16, at, size], &prepare, (Status::BadAddress, 0), &nothing));
        asks.push((RANDOM, [at, 8, 0, 0, 0], &nothing, (Status::BadAddress, 0), &nothing));
    }
    let bad = (Status::BadArgument, 0);
    let room = (MAX_DATA + OVERHEAD) as u64;
    let more: [Ask<'_>; 10] = [
        (SEAL, [POLICY, DATA, 16, CODE, size], &prepare, (Status::BadAddress, 0), &nothing),
        (SEAL, [POLICY, DATA, 16, BLOB, size - 1], &prepare, bad, &nothing),
        (SEAL, [POLICY, DATA, MAX_DATA as u64 + 1, BLOB, room + 1], &prepare, bad, &nothing),
        (SEAL, [POLICY, DATA, u64::MAX, BLOB, u64::MAX], &prepare, bad, &nothing),
        (SEAL, [POLICY, DATA, 16, BLOB, size], &without_identity, bad, &nothing),
        (SEAL, [POLICY, DATA, 16, BLOB, size], &reserved, bad, &nothing),
        (RANDOM, [CODE, 8, 0, 0, 0], &nothing, (Status::BadAddress, 0), &nothing),
        (RANDOM, [DATA, MAX_RANDOM as u64 + 1, 0, 0, 0], &nothing, bad, &nothing),
        (RANDOM, [DATA, u64::MAX, 0, 0, 0], &nothing, bad, &nothing),
        (SEAL, [POLICY, DATA, 16, BLOB, size], &prepare, (Status::Ok, size), &nothing),
    ];
    asks.extend(more);
    for at in outside {
        asks.push((UNSEAL, [at, size, BACK, 16, CREATOR], &nothing, (Status::BadAddress, 0), &nothing));
        asks.push((UNSEAL, [BLOB, size, at, 16, CREATOR], &nothing, (Status::BadAddress, 0), &nothing));
        asks.push((UNSEAL, [BLOB, size, BACK, 16, at], &nothing, (Status::BadAddress, 0), &nothing));
    }
    asks.push((UNSEAL, [BLOB, size, CODE, 16, CREATOR], &nothing, (Status::BadAddress, 0), &nothing));
    asks.push((UNSEAL, [BLOB, size, BACK, 16, CODE], &nothing, (Status::BadAddress, 0), &nothing));
    ask(&mut m, handle, &asks);
}

#[test]
fn random_numbers_fill_what_was_asked_for() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let all = |m: &Memory<'_>| {
        let bytes = m.get(DATA, MAX_RANDOM + 1);
        let zeros = bytes[..MAX_RANDOM].iter().filter(|byte| **byte == 0).count();
        assert!(zeros < 16, "{zeros} zeros in {MAX_RANDOM} bytes");
        assert_eq!(bytes[MAX_RANDOM], 0, "one byte too many");
    };
    ask(&mut m, handle, &[(RANDOM, [DATA, MAX_RANDOM as u64, 0, 0, 0], &nothing, (Status::Ok, 0), &all)]);
}
