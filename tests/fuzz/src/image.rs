//! Images of PALs: the header's check, and registration of whatever bytes.
//!
//! Demanded: [`Header::check`] accepts exactly what the rules of `abi::image` allow, which [`rules`] reads out of the bytes a
//! second time; a registration succeeds exactly if they are kept and the pool has room; then S can reach its sections' pages and no
//! others, code never writable, all else never executable, with the image's bytes and zeroes behind them, and its
//! identity is the digest of the image. A registration that fails leaves every frame zero and free, and so does the end of one that succeeds.

use abi::image::{HEADER_SIZE, Header};
use abi::{Handle, PalInfo, Status, number};
use hypervisor::addr::Hpa;
use sha2::{Digest, Sha256};

use crate::input::Input;
use crate::machine::{Answer, Machine, with_machine};
use crate::pal::{self, IMAGE, OWNER};
use crate::software::pages;
use crate::world::{PAGE, RESERVE};

/// The image lies in the OS's pages from [`IMAGE_AT`] on.
const IMAGE_AT: u64 = 8 * PAGE;
const ROOM: u64 = 50 * PAGE;
const MAGIC: &[u8; 8] = b"TVPAL\0\0\x01";
const PREFIX: &[u8; 16] = b"TrustVisor PAL 1";
const WINDOW: core::ops::Range<u64> = 0x4000_0000..0x8000_0000;
const CODE: u64 = 1;
const STACK: u64 = 3;
const PARAM: u64 = 4;
/// Frames of a PAL besides its pages and page tables: VMCB, header, three upper tables.
const CONTROL: u64 = 5;

/// The first byte says whether the others are an image, or how to make one.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let image = if input.bool() { made(&mut input) } else { input.rest().to_vec() };
    let image = &image[..image.len().min(ROOM as usize)];
    let good = image.len() >= HEADER_SIZE && rules(image).is_some();
    if let Some(header) = image.first_chunk::<HEADER_SIZE>() {
        // SAFETY: a header is made of integers without padding (abi asserts its size): any bytes are one.
        let header: Header = unsafe { core::mem::transmute_copy(header) };
        assert_eq!(header.check(image.len() as u64).is_ok(), good, "{:?}", header.check(image.len() as u64));
    }
    with_machine(|machine| register(machine, image, good));
}

/// An image that breaks the rules in few places: sections in order, then some bytes changed.
fn made(input: &mut Input) -> Vec<u8> {
    let mut image = vec![0; HEADER_SIZE];
    image[..8].copy_from_slice(MAGIC);
    image[8] = input.u8() & 1;
    let sections = 2 + input.u8() % 6;
    let entries = 1 + input.u8() % 4;
    (image[12], image[14]) = (sections, entries);
    let (mut page, mut contents) = (WINDOW.start / PAGE, 0);
    for n in 0..usize::from(sections) {
        let kind = match n {
            0 => 1,
            1 => 3,
            _ => 1 + input.u8() % 4,
        };
        page += u64::from(input.u8() / 2) * u64::from(input.u8() % 8);
        let pages = 1 + u64::from(input.u8() % 16);
        let size = if kind >= 3 { 0 } else { u64::from(input.u16()) % (pages * PAGE + 1) };
        let fields = [u64::from(kind), page * PAGE, size, pages * PAGE];
        for (word, value) in fields.into_iter().enumerate() {
            let at = 16 + 32 * n + 8 * word;
            image[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        page += pages;
        contents += size;
    }
    for n in 0..usize::from(entries) {
        let at = 16 + 32 * 16 + 16 * n;
        let code = field(&image, 16 + 8, 8);
        image[at..at + 8].copy_from_slice(&(code + u64::from(input.u16() & 0x1fff)).to_le_bytes());
        image[at + 8..at + 14].copy_from_slice(&input.bytes::<6>().map(|arg| arg % 7));
    }
    for _ in 0..input.u8() % 4 {
        let at = usize::from(input.u16()) % HEADER_SIZE;
        image[at] ^= input.u8();
    }
    let contents = contents.min(ROOM) as usize + usize::from(input.u8() % 16 == 1);
    image.extend((0..contents).map(|n| n as u8 | 1));
    image
}

/// A little-endian field.
fn field(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// A section, as its bytes say.
#[derive(Clone, Copy)]
struct Section {
    kind: u64,
    addr: u64,
    file_size: u64,
    mem_size: u64,
}

impl Section {
    fn end(&self) -> u128 {
        u128::from(self.addr) + u128::from(self.mem_size)
    }

    fn holds(&self, addr: u64) -> bool {
        self.addr <= addr && u128::from(addr) < self.end()
    }
}

/// The rules of `abi::image`, one after the other as they stand there. The sections, if all are kept.
fn rules(image: &[u8]) -> Option<Vec<Section>> {
    let (flags, sections, entries) = (field(image, 8, 4), field(image, 12, 2), field(image, 14, 2));
    let good = image.starts_with(MAGIC) && flags <= 1;
    let good = good && (1..=16).contains(&sections) && (1..=64).contains(&entries);
    let unused = |from: usize, size: usize, used: u64, all: usize| {
        image
            .get(from + size * used as usize..from + size * all)
            .is_some_and(|rest| rest.iter().all(|b| *b == 0))
    };
    if !good || !unused(16, 32, sections, 16) || !unused(528, 16, entries, 64) {
        return None;
    }
    let list: Vec<Section> = (0..sections as usize)
        .map(|n| 16 + 32 * n)
        .map(|at| Section {
            kind: field(image, at, 8),
            addr: field(image, at + 8, 8),
            file_size: field(image, at + 16, 8),
            mem_size: field(image, at + 24, 8),
        })
        .collect();
    let aligned =
        |s: &Section| s.addr.is_multiple_of(PAGE) && s.mem_size.is_multiple_of(PAGE) && s.mem_size > 0;
    let inside = |s: &Section| WINDOW.contains(&s.addr) && s.end() <= u128::from(WINDOW.end);
    // A kind of 64 bits holds the reserved field as well.
    let plain = |s: &Section| (1..=4).contains(&s.kind) && s.file_size <= s.mem_size;
    let bare = |s: &Section| s.kind < STACK || s.file_size == 0;
    let count = |kind: u64| list.iter().filter(|s| s.kind == kind).count();
    let good = list.iter().all(|s| aligned(s) && inside(s) && plain(s) && bare(s))
        && list.windows(2).all(|pair| pair[0].end() <= u128::from(pair[1].addr))
        && list.iter().map(|s| s.mem_size / PAGE).sum::<u64>() <= 4096
        && count(CODE) >= 1
        && (count(STACK), count(PARAM) <= 1) == (1, true);
    let guard = |stack: &Section| {
        let below = stack.addr.checked_sub(PAGE).filter(|below| *below >= WINDOW.start);
        below.is_some_and(|below| !list.iter().any(|s| s.holds(below)))
    };
    let good = good && list.iter().filter(|s| s.kind == STACK).all(guard);
    let contents: u128 = list.iter().map(|s| u128::from(s.file_size)).sum();
    if !good || contents + HEADER_SIZE as u128 != image.len() as u128 {
        return None;
    }
    let entry = |n: usize| {
        let at = 528 + 16 * n;
        let addr = field(image, at, 8);
        let in_code = list.iter().any(|s| s.kind == CODE && s.holds(addr));
        let args = &image[at + 8..at + 14];
        let buffers = args.iter().any(|arg| (2..=4).contains(arg));
        in_code && signature(args) && image[at + 14..at + 16] == [0, 0] && (!buffers || count(PARAM) == 1)
    };
    (0..entries as usize).all(entry).then_some(list)
}

/// Integers, buffers each followed by its length, then nothing.
fn signature(args: &[u8]) -> bool {
    match args {
        [] => true,
        [0, rest @ ..] => rest.iter().all(|arg| *arg == 0),
        [1, rest @ ..] | [2..=4, 5, rest @ ..] => signature(rest),
        _ => false,
    }
}

fn register(machine: &mut Machine, image: &[u8], good: bool) {
    let mem = machine.mem();
    mem.copy_to(Hpa(IMAGE_AT), image);
    machine.cpu.os.save.rax = number::REGISTER.into();
    (machine.cpu.regs.rdi, machine.cpu.regs.rsi, machine.cpu.regs.rdx) =
        (IMAGE_AT, image.len() as u64, OWNER);
    let answer = pal::settle(machine);
    let frames = u64::from(machine.hv.pals.pool.lock().total());
    let sections = if good { rules(image) } else { None };
    let needed = sections.as_ref().map(|sections| needed(sections, field(image, 8, 4) == 1));
    let expected = match needed {
        None => Status::BadImage,
        Some(needed) if needed > frames => Status::NoMemory,
        Some(_) => Status::Ok,
    };
    assert_eq!(answer, Answer::Done(0, expected));
    if let (Status::Ok, Some(sections), Some(needed)) = (expected, sections, needed) {
        assert_eq!(frames - u64::from(machine.hv.pals.pool.lock().free_count()), needed, "frames taken");
        let handle = Handle { low: mem.read_u64(Hpa(OWNER)), high: mem.read_u64(Hpa(OWNER + 8)) };
        machine.set_handle(handle);
        has_identity(machine, image);
        has_memory(machine, image, &sections);
        machine.cpu.os.save.rax = number::UNREGISTER.into();
        assert_eq!(pal::settle(machine), Answer::Done(0, Status::Ok));
    }
    assert!(machine.is_empty(), "something is left of the PAL");
}

fn needed(sections: &[Section], fpu: bool) -> u64 {
    const REGION: u64 = 512 * PAGE;
    let regions: std::collections::BTreeSet<u64> =
        sections.iter().flat_map(|s| s.addr / REGION..=(s.addr + s.mem_size - 1) / REGION).collect();
    let pages = sections.iter().map(|s| s.mem_size / PAGE).sum::<u64>();
    CONTROL + u64::from(fpu) + regions.len() as u64 + pages
}

fn has_identity(machine: &mut Machine, image: &[u8]) {
    machine.cpu.os.save.rax = number::PAL_INFO.into();
    (machine.cpu.regs.rdi, machine.cpu.regs.rsi) = (IMAGE, size_of::<PalInfo>() as u64);
    assert_eq!(pal::settle(machine), Answer::Done(size_of::<PalInfo>() as u64, Status::Ok));
    let page = machine.memory.page(IMAGE);
    let expected = Sha256::new().chain_update(PREFIX).chain_update(image).finalize();
    assert_eq!(page[20..52], expected[..], "identity");
}

/// The VMCB is the pool's first frame: nothing else was registered.
fn has_memory(machine: &Machine, image: &[u8], sections: &[Section]) {
    let mem = machine.mem();
    let vmcb = machine.hv.pals.pool.lock().base();
    assert!(RESERVE.contains(&vmcb.0));
    // CR3 (APM vol. 2, appendix B).
    let mut pages = pages(&mem, mem.read_u64(vmcb + 0x550));
    let mut contents = &image[HEADER_SIZE..];
    for section in sections {
        let (mut here, rest) = contents.split_at(section.file_size as usize);
        contents = rest;
        for addr in (section.addr..section.addr + section.mem_size).step_by(PAGE as usize) {
            let Some(page) = pages.remove(&addr) else { panic!("{addr:#x} is not mapped") };
            let code = section.kind == CODE;
            assert_eq!((page.writable, page.executable), (!code, code), "{addr:#x}");
            let (part, later) = here.split_at(here.len().min(PAGE as usize));
            here = later;
            let mut expected = [0; PAGE as usize];
            expected[..part.len()].copy_from_slice(part);
            assert!(machine.memory.page(page.frame) == expected, "contents of {addr:#x}");
        }
    }
    assert!(pages.is_empty(), "mapped besides: {pages:x?}");
}
