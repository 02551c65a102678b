//! Nonsense at the hypercall boundary: a status each, SIGSEGV where an ordinary access would have it, nothing left behind, nothing
//! changed.

use crate::support::{
    IMAGE, Mapping, NO_HANDLE, PAGE, TestPal, call_entry, entry, expect, faulting, header, leaving_nothing,
    raw, register,
};
use anyhow::{Context, ensure};
use trustvisor::abi::image::{HEADER_SIZE, Header, MAX_ENTRIES, MAX_SECTIONS, WINDOW_END, arg, kind};
use trustvisor::abi::{Handle, Info, Status, TOKEN_BIT, number};
use trustvisor::image::header_bytes;

/// Addresses of no ordinary memory that no page fault could mend.
pub const HOPELESS: [u64; 8] = [
    1 << 47,
    0x0000_ffff_ffff_f000,
    0xdead_0000_0000_0000,
    1 << 63,
    // Linux: direct map, kernel text, vsyscall page.
    0xffff_8880_0000_0000,
    0xffff_ffff_8100_0000,
    0xffff_ffff_ff60_0000,
    u64::MAX - 7,
];

fn try_register(image: &[u8], length: u64) -> anyhow::Result<Status> {
    let owner_page = Mapping::anonymous(1)?;
    let (_, status) =
        raw(number::REGISTER.into(), NO_HANDLE, &[image.as_ptr() as u64, length, owner_page.address()]);
    if status != Status::Ok {
        ensure!(owner_page.bytes().iter().all(|b| *b == 0), "a refused registration writes a handle");
    }
    Ok(status)
}

fn with_header(header: &Header) -> Vec<u8> {
    [&header_bytes(header), &IMAGE[HEADER_SIZE..]].concat()
}

type Change = fn(&mut Header);

/// Sections of S: 0 code, 1 data, 2 parameters, 3 stack.
const CHANGES: &[(&str, Change)] = &[
    ("another magic number", |h| h.magic[7] = 2),
    ("unknown flags", |h| h.flags = 1 << 31),
    ("no sections", |h| h.section_count = 0),
    ("17 sections", |h| h.section_count = MAX_SECTIONS as u16 + 1),
    ("65535 sections", |h| h.section_count = u16::MAX),
    ("one section less than there are", |h| h.section_count -= 1),
    ("one section more than there are", |h| h.section_count += 1),
    ("no entries", |h| h.entry_count = 0),
    ("65 entries", |h| h.entry_count = MAX_ENTRIES as u16 + 1),
    ("65535 entries", |h| h.entry_count = u16::MAX),
    ("one entry less than there are", |h| h.entry_count -= 1),
    ("one entry more than there are", |h| h.entry_count += 1),
    ("sections at the same address", |h| h.sections[1].addr = h.sections[0].addr),
    ("overlapping sections", |h| h.sections[0].mem_size += 4096),
    ("sections in descending order", |h| h.sections.swap(0, 1)),
    ("an unaligned section", |h| h.sections[1].addr += 8),
    ("an unaligned size", |h| h.sections[3].mem_size += 8),
    ("no guard page", |h| h.sections[3].addr -= 4096),
    ("a section below the window", |h| h.sections[0].addr = 0x1000),
    ("a section that begins at the window's end", |h| h.sections[3].addr = WINDOW_END),
    ("a section that ends beyond the window", |h| h.sections[3].addr = WINDOW_END - 4096),
    ("a section at a non-canonical address", |h| h.sections[3].addr = 1 << 63),
    ("a section at a kernel address", |h| h.sections[3].addr = 0xffff_ffff_8000_0000),
    ("a section that wraps around", |h| h.sections[3].addr = !0xfff),
    ("an empty section", |h| h.sections[3].mem_size = 0),
    ("a section of 4097 pages", |h| h.sections[3].mem_size = 4097 << 12),
    ("a section of nearly all memory", |h| h.sections[3].mem_size = !0xfff),
    ("sections of too many pages together", |h| h.sections[3].mem_size = 4090 << 12),
    ("contents larger than the section", |h| h.sections[0].file_size = h.sections[0].mem_size + 1),
    ("contents of nearly all memory", |h| h.sections[0].file_size = u64::MAX),
    ("contents in the stack", |h| h.sections[3].file_size = 1),
    ("an unknown kind", |h| h.sections[1].kind = 5),
    ("kind 0", |h| h.sections[1].kind = 0),
    ("no stack", |h| h.sections[3].kind = kind::DATA),
    ("two stacks", |h| h.sections[1].kind = kind::STACK),
    ("two parameter sections", |h| h.sections[1].kind = kind::PARAM),
    ("buffers but no parameter section", |h| h.sections[2].kind = kind::DATA),
    ("no code", |h| h.sections[0].kind = kind::DATA),
    ("a reserved field of a section", |h| h.sections[1].reserved = 1),
    ("an unused section", |h| h.sections[15].addr = 1),
    ("an entry at address 0", |h| h.entries[0].addr = 0),
    ("an entry in data", |h| h.entries[0].addr = h.sections[1].addr),
    ("an entry on the stack", |h| h.entries[0].addr = h.sections[3].addr),
    ("an entry at a kernel address", |h| h.entries[0].addr = 0xffff_ffff_8100_0000),
    ("a reserved field of an entry", |h| h.entries[0].reserved = 1),
    ("an unused entry", |h| h.entries[63].args[0] = arg::INT),
    ("an unknown kind of argument", |h| h.entries[0].args[0] = 6),
    ("a length without a buffer", |h| h.entries[0].args[0] = arg::LEN),
    ("a buffer without a length", |h| h.entries[0].args = [arg::IN, arg::INT, 0, 0, 0, 0]),
    ("a buffer in the last register", |h| h.entries[0].args = [arg::INT, 1, 1, 1, 1, arg::OUT]),
    ("a gap between arguments", |h| h.entries[0].args = [arg::INT, 0, arg::INT, 0, 0, 0]),
];

pub fn images() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let kinds = [kind::CODE, kind::DATA, kind::PARAM, kind::STACK];
        ensure!(
            header().sections.iter().map(|s| s.kind).take(4).eq(kinds),
            "S has other sections than this test thinks"
        );
        for (what, change) in CHANGES {
            let mut header = header();
            change(&mut header);
            let status = try_register(&with_header(&header), IMAGE.len() as u64).context(*what)?;
            expect(what, status, Status::BadImage)?;
        }

        let length = IMAGE.len() as u64;
        for wrong in [0, 1, HEADER_SIZE as u64 - 1, length - 1, length + 1, 1 << 40, 1 << 47, u64::MAX] {
            expect(&format!("{wrong} bytes of image"), try_register(IMAGE, wrong)?, Status::BadImage)?;
        }
        Ok(())
    })
}

/// Every address that a call takes, with every address that is not ordinary memory.
fn attested(entry: u64) -> u64 {
    u64::from(number::CALL_ATTESTED) | entry << 16
}

pub fn addresses() -> anyhow::Result<()> {
    let s = register()?;
    let handle = s.pal().handle();
    leaving_nothing(|_| {
        let owner_page = Mapping::anonymous(1)?;
        let length = IMAGE.len() as u64;
        let image = IMAGE.as_ptr() as u64;
        for address in HOPELESS {
            let calls = [
                ("INFO", number::INFO.into(), vec![address, size_of::<Info>() as u64]),
                ("PAL_INFO", number::PAL_INFO.into(), vec![address, 72]),
                ("REGISTER (image)", number::REGISTER.into(), vec![address, length, owner_page.address()]),
                ("REGISTER (owner page)", number::REGISTER.into(), vec![image, length, address & !0xfff]),
                ("REGISTER_QUOTING", number::REGISTER_QUOTING.into(), vec![0, 0, address & !0xfff]),
                ("CALL (in)", call_entry(entry::SUM), vec![address, 64]),
                ("CALL_ATTESTED (in)", attested(entry::SUM), vec![address, 64]),
                ("CALL_ATTESTED (out)", attested(entry::FILL), vec![address, 64, 1]),
                ("CALL (out)", call_entry(entry::FILL), vec![address, 64, 1]),
            ];
            for (name, call, arguments) in calls {
                let (value, status) = raw(call, handle, &arguments);
                expect(&format!("{name} at {address:#x}"), status, Status::BadAddress)?;
                ensure!(value & !0xfff == address & !0xfff, "{name} at {address:#x}: blames {value:#x}");
            }
        }
        let unaligned = raw(number::REGISTER.into(), NO_HANDLE, &[image, length, owner_page.address() + 8]).1;
        expect("an unaligned owner page", unaligned, Status::BadArgument)?;

        let read_only = Mapping::anonymous(1)?;
        read_only.protect(0, 1, libc::PROT_READ)?;
        let arguments = [image, length, read_only.address()];
        let (_, fault) = faulting(|| raw(number::REGISTER.into(), NO_HANDLE, &arguments))?;
        ensure!(fault.is_some_and(|f| f.at_vmmcall), "no SIGSEGV for a read-only owner page");

        let away = Mapping::anonymous(2)?;
        away.unmap(0, 2)?;
        for address in [0, away.address(), away.address() + 4095] {
            let calls = [
                ("INFO", number::INFO.into(), vec![address, 64]),
                ("PAL_INFO", number::PAL_INFO.into(), vec![address, 64]),
                ("REGISTER (image)", number::REGISTER.into(), vec![address, length, owner_page.address()]),
                ("REGISTER (owner page)", number::REGISTER.into(), vec![image, length, address & !0xfff]),
                ("REGISTER_QUOTING", number::REGISTER_QUOTING.into(), vec![0, 0, address & !0xfff]),
                ("CALL (in)", call_entry(entry::SUM), vec![address, 64]),
                ("CALL_ATTESTED (in)", attested(entry::SUM), vec![address, 64]),
                ("CALL_ATTESTED (out)", attested(entry::FILL), vec![address, 64, 1]),
                ("CALL (out)", call_entry(entry::FILL), vec![address, 64, 1]),
            ];
            for (name, call, arguments) in calls {
                let (_, fault) = faulting(|| raw(call, handle, &arguments))?;
                // To TrustVisor the next call would be one more attempt of this one.
                expect("an empty INFO", raw(number::INFO.into(), NO_HANDLE, &[]).1, Status::Ok)?;
                let at = fault.with_context(|| format!("{name} at {address:#x}: no SIGSEGV"))?.address;
                ensure!((address & !0xfff..address + 64).contains(&at), "{name}: SIGSEGV at {at:#x}");
            }
        }
        lengths(&s, handle)
    })?;
    ensure!(s.count()? == 1, "S has run");
    Ok(())
}

fn lengths(s: &TestPal, handle: Handle) -> anyhow::Result<()> {
    let room = Mapping::anonymous(2)?;
    for length in [size_of::<Info>() as u64 + 1, 8192, 1 << 40, u64::MAX] {
        let (value, status) = raw(number::INFO.into(), NO_HANDLE, &[room.address(), length]);
        let written = if status == Status::Ok { value } else { 0 };
        ensure!(written <= size_of::<Info>() as u64, "INFO writes {written} bytes");
        ensure!(room.bytes()[written as usize..].iter().all(|b| *b == 0), "INFO writes more than it says");
    }
    let short = Mapping::anonymous(1)?;
    let (value, status) = raw(number::INFO.into(), NO_HANDLE, &[short.address() + PAGE as u64 - 4, 4]);
    ensure!((value, status) == (4, Status::Ok), "the first 4 bytes of INFO: {value}, {status:?}");
    for length in [161 << 10, 1 << 32, 1 << 63, u64::MAX] {
        for entry in [entry::SUM, entry::FILL] {
            let status = raw(call_entry(entry), handle, &[room.address(), length, 1]).1;
            expect(&format!("a buffer of {length:#x} bytes"), status, Status::TooLarge)?;
        }
    }
    let info = s.pal().info()?;
    ensure!(info.calls == 0, "TrustVisor counts {} calls", info.calls);
    Ok(())
}

pub fn handles() -> anyhow::Result<()> {
    let s = register()?;
    let right = s.pal().handle();
    let wrong = (0..128).map(|bit| match bit {
        0..64 => Handle { low: right.low ^ 1 << bit, ..right },
        _ => Handle { high: right.high ^ 1 << (bit - 64), ..right },
    });
    let special =
        [NO_HANDLE, Handle { low: right.high, high: right.low }, Handle { low: u64::MAX, high: u64::MAX }];
    for handle in wrong.chain(special) {
        for call in [
            call_entry(entry::NULL),
            number::UNREGISTER.into(),
            number::ABORT.into(),
            number::PAL_INFO.into(),
        ] {
            expect(
                &format!("call {call:#x} with a wrong handle"),
                raw(call, handle, &[]).1,
                Status::NoSuchPal,
            )?;
        }
    }
    ensure!(s.count()? == 1, "S has run, or is gone");
    s.unregister()?;
    expect("a handle after its PAL", raw(call_entry(entry::NULL), right, &[]).1, Status::NoSuchPal)
}

pub fn numbers() -> anyhow::Result<()> {
    let s = register()?;
    let handle = s.pal().handle();
    leaving_nothing(|_| {
        for call in [0, 13, 0x7f, 0x80, 0x81, 0x82, 0x87, 0xffff, 1 << 32, 1 << 62, 0xdead_beef] {
            expect(&format!("call {call:#x}"), raw(call, handle, &[]).1, Status::UnknownCall)?;
        }
        let (save, buffer) = (number::ROOT_SAVE.into(), [0u8; 8]);
        expect("a root without room", raw(save, handle, &[buffer.as_ptr() as u64, 8]).1, Status::TooLarge)?;
        expect("a root for the kernel", raw(save, handle, &[1 << 63 | 1 << 62, 4096]).1, Status::BadAddress)?;
        for call in [number::INFO, number::UNREGISTER, number::COLLECT].map(u64::from) {
            for bit in [16, 31, 32, 62] {
                let status = raw(call | 1 << bit, handle, &[]).1;
                ensure!(status != Status::Ok, "call {call} with bit {bit} set is done");
            }
        }
        for entry in [entry::COUNT, 63, 64, 0x7fff, 0xffff] {
            expect(&format!("entry {entry}"), raw(call_entry(entry), handle, &[]).1, Status::BadArgument)?;
            let status = raw(attested(entry), handle, &[]).1;
            expect(&format!("entry {entry}, attested"), status, Status::BadArgument)?;
        }
        let made_up = (0..63)
            .map(|bit| 1 << bit)
            .chain([0, u64::MAX >> 1])
            .chain((0..2_000).map(|n| (n << 9) | (n % 512)));
        for token in made_up {
            expect(&format!("token {token:#x}"), raw(TOKEN_BIT | token, handle, &[]).1, Status::Lost)?;
        }
        Ok(())
    })?;
    ensure!(s.count()? == 1, "S has run, or is gone");
    Ok(())
}
