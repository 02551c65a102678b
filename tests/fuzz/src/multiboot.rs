//! The boot loader's information, both versions of multiboot, in a memory that holds nothing else.
//!
//! Demanded: what is accepted is what the type promises (at most four modules, those of an empty file at no address; lines without NUL that stand in memory; a
//! map in order, without overlaps, neighbours of different kinds); the map says of every address what the entries say that a second,
//! plainer reader finds, and RAM only where nothing says otherwise; and however the information is made, reading it takes a
//! bounded number of looks at memory.

use std::cell::Cell;

use loader::bytes::Memory;
use loader::multiboot::{BootInfo, MAGIC_1, MAGIC_2, MAX_MODULES};
use loader::range::Range;

use crate::input::Input;

/// Where memory begins.
const BASE: u64 = 0x1000;
/// A text's length, for each of the lines, and the rest.
const MOST_LOOKS: u64 = 5 * 4096;
const RAM: u32 = 1;

/// The first byte chooses the version; the others are memory, the information at its start.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let magic = input.pick(&[MAGIC_1, MAGIC_2, 0]);
    let memory = Watched { bytes: input.rest(), looks: Cell::new(0) };
    let read = BootInfo::read(&memory, magic, BASE as u32);
    assert!(memory.looks.get() <= MOST_LOOKS, "{} looks", memory.looks.get());
    match read {
        Ok(info) => {
            assert_ne!(magic, 0, "neither version");
            accepted(memory.bytes, &info);
            has_entries(&info, &entries(memory.bytes, magic));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

struct Watched<'a> {
    bytes: &'a [u8],
    looks: Cell<u64>,
}

impl Memory for Watched<'_> {
    fn bytes(&self, addr: u64, len: u64) -> Option<&[u8]> {
        self.looks.set(self.looks.get() + 1);
        let from = usize::try_from(addr.checked_sub(BASE)?).ok()?;
        self.bytes.get(from..from.checked_add(usize::try_from(len).ok()?)?)
    }
}

fn accepted(memory: &[u8], info: &BootInfo) {
    let stands_there =
        |line: &[u8]| line.is_empty() || memory.windows(line.len()).any(|window| window == line);
    assert!(stands_there(info.cmdline.as_bytes()) && !info.cmdline.as_bytes().contains(&0));
    assert!(info.modules().len() <= MAX_MODULES);
    for module in info.modules() {
        let range = module.range;
        assert!(range.end <= 1 << 32 && (range.start < range.end || range == Range { start: 0, end: 0 }));
        let line = module.line.as_bytes();
        assert!(stands_there(line) && !line.contains(&0), "a line that is nowhere");
    }
    let regions = info.map.regions();
    assert!(regions.iter().all(|region| region.size > 0 && region.kind != 0));
    for pair in regions.windows(2) {
        let end = pair[0].base + pair[0].size;
        assert!(end < pair[1].base || (end == pair[1].base && pair[0].kind != pair[1].kind), "{pair:x?}");
    }
}

/// An entry of the firmware's map.
struct Entry {
    base: u64,
    /// The first address behind it.
    end: u64,
    kind: u64,
}

/// All entries of well-formed information. Multiboot Specification 0.6.96, 3.3; Multiboot2 Specification 2.0, 3.6.8.
fn entries(memory: &[u8], magic: u32) -> Vec<Entry> {
    let field =
        |at: usize, size: usize| memory[at..at + size].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    let entry = |at: usize| {
        let (base, length) = (field(at, 8), field(at + 8, 8));
        Entry { base, end: base.saturating_add(length), kind: field(at + 16, 4) }
    };
    let mut found = Vec::new();
    if magic == MAGIC_1 {
        let length = field(44, 4) as usize;
        let start = (field(48, 4) - BASE) as usize;
        let mut at = start;
        while at < start + length {
            found.push(entry(at + 4));
            at += 4 + field(at, 4) as usize;
        }
        return found;
    }
    let mut at = 8;
    while field(at, 4) != 0 {
        let (kind, size) = (field(at, 4), field(at + 4, 4) as usize);
        if kind == 6 {
            let each = field(at + 8, 4) as usize;
            let count = (size - 16) / each;
            found.extend((0..count).map(|n| entry(at + 16 + n * each)));
        }
        at += size.next_multiple_of(8);
    }
    found
}

/// Kinds change at the ends of entries only, so it is enough to look there.
fn has_entries(info: &BootInfo, entries: &[Entry]) {
    for at in entries.iter().flat_map(|entry| [entry.base, entry.end, entry.base.wrapping_sub(1)]) {
        let region = info.map.regions().iter().find(|r| r.base <= at && at - r.base < r.size);
        let mut claims = entries.iter().filter(|entry| (entry.base..entry.end).contains(&at)).peekable();
        assert_eq!(region.is_some(), claims.peek().is_some(), "{at:#x} is in the map, or an entry, only");
        let ram = claims.peek().is_some() && claims.all(|entry| entry.kind == u64::from(RAM));
        assert_eq!(region.is_some_and(|region| region.kind == RAM), ram, "{at:#x} is RAM, or not");
    }
}
