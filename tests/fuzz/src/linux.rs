//! A Linux kernel's setup header, and what the loader makes of it: a place in memory, and `boot_params`.
//!
//! Demanded: what is accepted can be followed without a further check (the payload is the file's end, the alignment a power of two, the
//! preferred address a multiple of it, the size no less than the payload); a plan made for it lies in RAM between 1 MiB and 4 GiB, as
//! the kernel asks, overlapping neither itself nor what is taken; and the page that the kernel reads says the same.

use loader::boot_params::{self, Told};
use loader::bzimage::{BzImage, SETUP_HEADER, SETUP_HEADER_END};
use loader::map::{MemoryMap, RawMap};
use loader::plan::{Needs, Plan, plan};
use loader::range::Range;

use crate::input::Input;

const MIB: u64 = 1 << 20;
/// A PC with 3 GiB below 4 GiB, a hole, and more above.
const MEMORY: [(u64, u64, u32); 4] =
    [(0, 0x9_f000, 1), (MIB, 0x3000_0000 - MIB, 1), (0x3000_0000, MIB, 2), (0x3010_0000, 0x8fef_0000, 1)];
const TAKEN: [Range; 2] =
    [Range { start: MIB, end: 2 * MIB }, Range { start: 0x1000_0000, end: 0x1400_0000 }];

/// Sizes for the plan, then the file.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (reserve, initrd) = (2 * MIB * (8 + u64::from(input.u8())), u64::from(input.u16()) << 8);
    let file = input.rest();
    let Ok(kernel) = BzImage::parse(file) else { return };
    accepted(file, &kernel);
    let Some(map) = map() else { return };
    let needs =
        Needs { reserve, kernel: kernel.needs, initrd, initrd_max: kernel.initrd_max, boot_area: 16 * 4096 };
    if let Ok(plan) = plan(&map, &TAKEN, &needs) {
        planned(&map, &needs, &plan);
        told(&map, &kernel, &plan);
    }
}

fn accepted(file: &[u8], kernel: &BzImage) {
    let needs = &kernel.needs;
    assert!(needs.alignment.is_power_of_two() && needs.preferred.is_multiple_of(needs.alignment));
    assert!(needs.size >= kernel.payload.len() as u64);
    assert!(kernel.setup_header.len() <= SETUP_HEADER_END - SETUP_HEADER);
    assert!(file.ends_with(kernel.payload) && file[SETUP_HEADER..].starts_with(kernel.setup_header));
    let sectors = if file[SETUP_HEADER] == 0 { 4 } else { usize::from(file[SETUP_HEADER]) };
    assert_eq!(file.len() - kernel.payload.len(), 512 * (sectors + 1));
    assert!(&file[0x202..0x206] == b"HdrS" && file[0x236] & 1 == 1, "no 64-bit kernel");
}

fn map() -> Option<MemoryMap> {
    let mut raw = RawMap::default();
    MEMORY.iter().try_for_each(|(base, size, kind)| raw.push(*base, *size, *kind)).ok()?;
    MemoryMap::new(&raw).ok()
}

fn planned(map: &MemoryMap, needs: &Needs, plan: &Plan) {
    let mut ranges = vec![plan.reserve, plan.kernel, plan.boot_area];
    ranges.extend((needs.initrd > 0).then_some(plan.initrd));
    let inside = |range: &Range| map.ram().any(|ram| ram.start <= range.start && range.end <= ram.end);
    assert!(ranges.iter().all(|r| inside(r) && r.start >= MIB && r.end <= 1 << 32), "{plan:x?}");
    let all: Vec<Range> = ranges.into_iter().chain(TAKEN).filter(|range| range.start < range.end).collect();
    for (n, one) in all.iter().enumerate() {
        let apart = |other: &Range| one.end <= other.start || other.end <= one.start;
        assert!(all[n + 1..].iter().all(apart), "{plan:x?}");
    }
    let Needs { kernel, reserve, initrd, initrd_max, .. } = *needs;
    assert_eq!((plan.reserve.end - plan.reserve.start, plan.reserve.start % (2 * MIB)), (reserve, 0));
    assert_eq!((plan.kernel.end - plan.kernel.start, plan.kernel.start % kernel.alignment), (kernel.size, 0));
    assert!(plan.kernel.start >= kernel.preferred);
    assert!(kernel.relocatable || plan.kernel.start == kernel.preferred);
    assert_eq!(plan.initrd.end - plan.initrd.start, initrd);
    assert!(initrd == 0 || plan.initrd.end - 1 <= initrd_max);
}

fn told(map: &MemoryMap, kernel: &BzImage, plan: &Plan) {
    let Ok(map) = map.with_reserved(plan.reserve) else { return };
    let told = Told { cmdline: 0x1234_5678, initrd: plan.initrd, rsdp: 0xe_0000, vga_text: true, map: &map };
    let mut page = [0xcc; boot_params::SIZE];
    boot_params::fill(&mut page, kernel, &told);
    let word =
        |at: usize| u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]));
    assert_eq!((word(0x228), word(0x218)), (0x1234_5678, plan.initrd.start));
    assert_eq!(word(0x21c), plan.initrd.end - plan.initrd.start);
    let entries: Vec<_> = (0..usize::from(page[0x1e8])).map(|n| 0x2d0 + 20 * n).collect();
    let reserved = |at: &usize| {
        let (base, size) = (word(*at) | word(at + 4) << 32, word(at + 8) | word(at + 12) << 32);
        word(at + 16) != 1 && base <= plan.reserve.start && plan.reserve.end <= base + size
    };
    assert!(entries.iter().any(reserved), "the kernel is not told of the reserve");
}
