//! The walker of the guest's page tables against [`crate::reference`], on arbitrary tables of four and five levels.
//!
//! Demanded: the same address or the same fault for every access; reads and writes that move exactly the bytes that go where the
//! reference says, page by page, and stop at its first fault; `peek` and `fetch` alike; not one byte of memory changed but what a
//! write names.

use std::cell::RefCell;

use hypervisor::addr::{Gva, Hpa};
use hypervisor::guest_memory::{self as production, Fault, GuestMemory, Peek, Space};

use crate::input::Input;
use crate::reference::{Access, Answer, READ, Registers, WRITE};
use crate::world::{self, Memory, PAGE, ROOT_4, ROOT_5, ram_map};

/// The registers, then changes of the tables, then accesses.
pub fn check(bytes: &[u8]) {
    world::with_memory(|memory| drive(memory, &mut Input::new(bytes)));
}

thread_local! {
    static MODEL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn drive(memory: &Memory, input: &mut Input) {
    let registers = registers(input);
    // Nobody asks outside long mode.
    if registers.cr0 >> 31 & 1 == 0 || registers.efer >> 10 & 1 == 0 {
        return;
    }
    let space = space(&registers);
    for _ in 0..input.u8() % 16 {
        world::change_table(&memory.map(), input);
    }
    MODEL.with_borrow_mut(|model| accesses(memory, model, &registers, space, input));
}

fn accesses(memory: &Memory, model: &mut Vec<u8>, registers: &Registers, space: Space, input: &mut Input) {
    let ram = ram_map();
    memory.copy(model);
    let guest = GuestMemory::new(memory.map(), ram, space);
    for _ in 0..16 {
        if input.is_empty() {
            break;
        }
        access(&guest, model, registers, input);
    }
    assert_eq!(memory.changed(model).next(), None, "memory differs");
}

fn registers(input: &mut Input) -> Registers {
    /// LA57 and PKE; LMA and NXE.
    const CR4: [u64; 4] = [0, 1 << 12, 1 << 22, 1 << 12 | 1 << 22];
    const EFER: [u64; 4] = [0xd01, 0x501, 0x801, 0x1d00];
    let cr4 = input.pick(&CR4);
    let root = if cr4 >> 12 & 1 != 0 { ROOT_5 } else { ROOT_4 };
    Registers {
        cr0: input.pick(&[0x8001_0001, 0x8000_0001, 0x1_0001]),
        cr3: match input.u8() {
            0..250 => root,
            250..253 => input.u64(),
            _ => (u64::from(input.u8()) * PAGE) | 0xfff,
        },
        cr4,
        efer: input.pick(&EFER),
        pkru: input.u32(),
        physical_bits: input.pick(&[40, 32, 48, 52, 0, 64]),
    }
}

/// The production code's view of the registers.
pub fn space(registers: &Registers) -> Space {
    let Registers { cr0, cr3, cr4, efer, pkru, physical_bits } = *registers;
    Space::new(cr0, cr3, cr4, efer, pkru, physical_bits)
}

fn access(guest: &GuestMemory, model: &mut [u8], registers: &Registers, input: &mut Input) {
    let gva = world::address(input);
    match input.u8() % 8 {
        0..3 => translate(guest, model, registers, gva, input),
        3 => read(guest, model, registers, gva, input.u16()),
        4 => write(guest, model, registers, gva, input),
        5 => peek(guest, model, registers, gva, input.u8()),
        6 => fetch(guest, model, registers, gva, input.bool()),
        _ => copy(guest, model, registers, gva, input),
    }
}

fn expected(gva: u64, answer: Answer) -> Result<Hpa, Fault> {
    match answer {
        Answer::At(at) => Ok(Hpa(at)),
        Answer::Fault(error_code) => Err(Fault { gva: Gva(gva), error_code: Some(error_code) }),
        Answer::Never => Err(Fault { gva: Gva(gva), error_code: None }),
    }
}

fn translate(guest: &GuestMemory, model: &[u8], registers: &Registers, gva: u64, input: &mut Input) {
    let user = input.bool();
    for (kind, write, fetch) in [
        (production::Access::Read, false, false),
        (production::Access::Write, true, false),
        (production::Access::Fetch, false, true),
    ] {
        let answer = registers.translate(model, gva, Access { write, fetch, user });
        let found = guest.translate(Gva(gva), kind, user);
        assert_eq!(found, expected(gva, answer), "{gva:#x} {kind:?} user {user} {registers:x?}");
    }
}

/// How a longer access ends.
fn end_of(result: Result<(), (u64, Answer)>) -> Result<(), Fault> {
    result.or_else(|(gva, answer)| expected(gva, answer).map(drop))
}

fn read(guest: &GuestMemory, model: &mut [u8], registers: &Registers, gva: u64, len: u16) {
    let len = usize::from(len % 10_000);
    let (mut got, mut wanted) = (vec![0xee; len], vec![0xee; len]);
    let end = end_of(registers.each_piece(model, gva, len, READ, |model, done, at| {
        wanted[done..done + at.len()].copy_from_slice(&model[at]);
    }));
    assert_eq!(guest.read(Gva(gva), &mut got), end);
    assert!(got == wanted, "read other bytes");
}

fn write(guest: &GuestMemory, model: &mut [u8], registers: &Registers, gva: u64, input: &mut Input) {
    let len = usize::from(input.u16() % 10_000);
    let data = pattern(input, len);
    let possible = end_of(registers.each_piece(model, gva, len, WRITE, |_, _, _| {}));
    assert_eq!(guest.check_writable(Gva(gva), len as u64), possible);
    let end = end_of(registers.each_piece(model, gva, len, WRITE, |model, done, at| {
        let piece = done..done + at.len();
        model[at].copy_from_slice(&data[piece]);
    }));
    assert_eq!(guest.write(Gva(gva), &data), end);
}

/// Bytes that are often table entries.
fn pattern(input: &mut Input, len: usize) -> Vec<u8> {
    let word = world::entry(input).to_le_bytes();
    word.into_iter().cycle().take(len).collect()
}

fn peek(guest: &GuestMemory, model: &[u8], registers: &Registers, gva: u64, len: u8) {
    let mut got = vec![0xee; usize::from(len)];
    let mut wanted = got.clone();
    let found = guest.peek(Gva(gva), &mut got);
    let crosses = gva % PAGE + u64::from(len) > PAGE;
    let answer = registers.peek(model, gva).filter(|_| !crosses);
    let expected = match answer {
        Some(Answer::At(at)) => {
            wanted.copy_from_slice(&model[at as usize..at as usize + usize::from(len)]);
            Peek::Read
        }
        Some(_) => Peek::Away,
        None => Peek::Nothing,
    };
    assert_eq!(found, expected);
    assert!(got == wanted, "peeked other bytes");
}

fn fetch(guest: &GuestMemory, model: &mut [u8], registers: &Registers, gva: u64, user: bool) {
    let (mut got, mut wanted, mut count) = ([0xee; 15], [0xee; 15], 0);
    let access = Access { write: false, fetch: true, user };
    let end = end_of(registers.each_piece(model, gva, got.len(), access, |model, done, at| {
        count += at.len();
        wanted[done..count].copy_from_slice(&model[at]);
    }));
    let expected = if count > 0 { Ok(count) } else { end.map(|()| 0) };
    assert_eq!(guest.fetch(Gva(gva), user, &mut got), expected);
    assert!(got == wanted, "fetched other bytes");
}

/// From the guest's memory into the reserve, which the model's copy has as well.
fn copy(guest: &GuestMemory, model: &mut [u8], registers: &Registers, gva: u64, input: &mut Input) {
    let to = 66 * PAGE as usize + usize::from(input.u16()) % (PAGE as usize);
    let len = usize::from(input.u16()) % (2 * PAGE as usize);
    let end = end_of(registers.each_piece(model, gva, len, READ, |model, done, at| {
        at.enumerate().for_each(|(n, from)| model[to + done + n] = model[from]);
    }));
    assert_eq!(guest.copy_in(Gva(gva), Hpa(to as u64), len as u64), end);
}
