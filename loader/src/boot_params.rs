//! `boot_params`, the page in which a Linux kernel finds out about the machine (Linux,
//! Documentation/arch/x86/zero-page.rst and boot.rst).

use crate::bzimage::{BzImage, SETUP_HEADER, SETUP_HEADER_END};
use crate::map::{MAX_REGIONS, MemoryMap};
use crate::range::Range;

/// Bytes of the page.
pub const SIZE: usize = 4096;

mod offset {
    pub const VIDEO_MODE: usize = 0x006;
    pub const VIDEO_COLUMNS: usize = 0x007;
    pub const VIDEO_LINES: usize = 0x00e;
    pub const VIDEO_IS_VGA: usize = 0x00f;
    pub const VIDEO_POINTS: usize = 0x010;
    pub const ACPI_RSDP: usize = 0x070;
    pub const E820_ENTRIES: usize = 0x1e8;
    pub const TYPE_OF_LOADER: usize = 0x210;
    pub const RAMDISK_IMAGE: usize = 0x218;
    pub const RAMDISK_SIZE: usize = 0x21c;
    pub const CMD_LINE_PTR: usize = 0x228;
    pub const E820_TABLE: usize = 0x2d0;
}

/// "Undefined": none of the registered boot loaders.
const LOADER_UNDEFINED: u8 = 0xff;
/// Base, size, type, packed.
const E820_ENTRY: usize = 20;
const E820_MAX: usize = 128;

const _: () = {
    assert!(MAX_REGIONS <= E820_MAX);
    assert!(offset::E820_TABLE + E820_MAX * E820_ENTRY <= SIZE);
    assert!(SETUP_HEADER_END <= offset::E820_TABLE);
};

/// What the kernel is told besides what it says itself.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    /// Address of its command line (below 4 GiB, ends with NUL).
    pub cmdline: u32,
    /// Where the initrd lies (below 4 GiB); empty if there is none.
    pub initrd: Range,
    /// The RSDP's address, 0 if not known.
    pub rsdp: u64,
    /// The screen shows VGA text, as a BIOS leaves it.
    pub vga_text: bool,
    /// The guest's memory map.
    pub map: &'a MemoryMap,
}

/// Fills the page.
pub fn fill(page: &mut [u8; SIZE], kernel: &BzImage<'_>, told: &Told<'_>) {
    page.fill(0);
    page[SETUP_HEADER..SETUP_HEADER + kernel.setup_header.len()].copy_from_slice(kernel.setup_header);
    page[offset::TYPE_OF_LOADER] = LOADER_UNDEFINED;
    put(page, offset::CMD_LINE_PTR, &told.cmdline.to_le_bytes());
    put(page, offset::RAMDISK_IMAGE, &(told.initrd.start as u32).to_le_bytes());
    put(page, offset::RAMDISK_SIZE, &(told.initrd.len() as u32).to_le_bytes());
    put(page, offset::ACPI_RSDP, &told.rsdp.to_le_bytes());
    if told.vga_text {
        for (at, value) in [
            (offset::VIDEO_MODE, 3),
            (offset::VIDEO_COLUMNS, 80),
            (offset::VIDEO_LINES, 25),
            (offset::VIDEO_IS_VGA, 1),
            (offset::VIDEO_POINTS, 16),
        ] {
            page[at] = value;
        }
    }
    let regions = told.map.regions();
    page[offset::E820_ENTRIES] = regions.len() as u8;
    for (region, entry) in regions.iter().zip(page[offset::E820_TABLE..].chunks_exact_mut(E820_ENTRY)) {
        entry[..8].copy_from_slice(&region.base.to_le_bytes());
        entry[8..16].copy_from_slice(&region.size.to_le_bytes());
        entry[16..].copy_from_slice(&region.kind.to_le_bytes());
    }
}

fn put(page: &mut [u8; SIZE], offset: usize, bytes: &[u8]) {
    page[offset..offset + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{u32_at, u64_at};
    use crate::bzimage;
    use crate::map::RawMap;

    #[test]
    fn what_the_kernel_reads() {
        let file = bzimage::tests::good();
        let kernel = BzImage::parse(&file).unwrap();
        let mut raw = RawMap::default();
        raw.push(0, 0x9fc00, 1).unwrap();
        raw.push(0x10_0000, 0x1_0000_0000, 1).unwrap();
        let map = MemoryMap::new(&raw).unwrap();
        let map = map.with_reserved(Range { start: 0x4000_0000, end: 0x4400_0000 }).unwrap();
        let initrd = Range { start: 0x3000_0000, end: 0x3000_1234 };
        let told = Told { cmdline: 0x1234_5000, initrd, rsdp: 0xf_5b50, vga_text: true, map: &map };
        let mut page = [0xcc; SIZE];
        fill(&mut page, &kernel, &told);

        assert_eq!(page[0x1ef], 0, "the sentinel");
        assert_eq!(page[0x1f1..0x210], file[0x1f1..0x210]);
        assert_eq!(page[0x210], 0xff);
        assert_eq!(page[0x22c..0x26c], file[0x22c..0x26c]);
        assert!(page[0x26c..0x2d0].iter().all(|b| *b == 0));
        assert_eq!(u32_at(&page, 0x218), Some(0x3000_0000));
        assert_eq!(u32_at(&page, 0x21c), Some(0x1234));
        assert_eq!(u32_at(&page, 0x228), Some(0x1234_5000));
        assert_eq!(u64_at(&page, 0x070), Some(0xf_5b50));
        assert_eq!((page[6], page[7], page[0xe], page[0xf], page[0x10]), (3, 80, 25, 1, 16));
        assert_eq!(page[0x1e8], 4);
        let entry = |n: usize| {
            let at = 0x2d0 + 20 * n;
            (u64_at(&page, at).unwrap(), u64_at(&page, at + 8).unwrap(), u32_at(&page, at + 16).unwrap())
        };
        assert_eq!(entry(1), (0x10_0000, 0x3ff0_0000, 1));
        assert_eq!(entry(2), (0x4000_0000, 0x400_0000, 2));
        assert_eq!(entry(3), (0x4400_0000, 0x1_0010_0000 - 0x4400_0000, 1));
        assert_eq!(entry(4), (0, 0, 0));
    }
}
