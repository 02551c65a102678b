//! The boot loader's information, both versions of multiboot, in a memory that holds nothing else.
//!
//! Demanded: what is accepted is what the type promises (at most three modules, none empty; lines without NUL that stand in memory; a
//! map in order, without overlaps, neighbours of different kinds); memory is RAM only if an entry for RAM stands there; and however
//! the information is made, reading it takes a bounded number of looks at memory.

use std::cell::Cell;

use loader::bytes::Memory;
use loader::multiboot::{BootInfo, MAGIC_1, MAGIC_2, MAX_MODULES};

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
        assert!(module.range.start < module.range.end && module.range.end <= 1 << 32);
        let line = module.line.as_bytes();
        assert!(stands_there(line) && !line.contains(&0), "a line that is nowhere");
    }
    let regions = info.map.regions();
    assert!(regions.iter().all(|region| region.size > 0 && region.kind != 0));
    for pair in regions.windows(2) {
        let end = pair[0].base + pair[0].size;
        assert!(end < pair[1].base || (end == pair[1].base && pair[0].kind != pair[1].kind), "{pair:x?}");
    }
    for region in regions.iter().filter(|region| region.kind == RAM) {
        assert!(somebody_says_ram(memory, region.base), "no entry makes {:#x} RAM", region.base);
    }
}

/// Whether an entry for RAM that holds this address stands anywhere: base, length, type.
fn somebody_says_ram(memory: &[u8], addr: u64) -> bool {
    memory.windows(20).any(|entry| {
        let word = |at: usize| entry[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (base, length) = (word(0), word(8));
        entry[16..20] == RAM.to_le_bytes() && base <= addr && addr - base < length
    })
}
