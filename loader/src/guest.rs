//! The boot area: what a Linux kernel needs besides itself and its initrd to start at its 64-bit entry (Linux,
//! Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"). It lies in memory of the OS, so the trusted runtime neither builds nor
//! looks at it; the kernel copies what it wants and reuses the memory.

use core::mem::offset_of;

use hypervisor::addr::{LARGE_PAGE, PAGE_SIZE};
use hypervisor::launch::GuestStart;

use crate::boot_params::{self, Told};
use crate::bzimage::{BzImage, ENTRY_64};
use crate::map::MemoryMap;
use crate::multiboot::MAX_MODULE_LINE;
use crate::plan::Plan;

/// A page table.
type Table = [u64; 512];

/// A boot area. Any bytes are one.
#[repr(C, align(4096))]
pub struct BootArea {
    params: [u8; boot_params::SIZE],
    cmdline: [u8; PAGE_SIZE as usize],
    pml4: Table,
    pdpt: Table,
    directories: [Table; 4],
    gdt: [u64; 4],
    stack: [u64; 508],
}

const _: () = {
    assert!(size_of::<BootArea>() as u64 == 9 * PAGE_SIZE, "no padding");
    assert!((offset_of!(BootArea, pml4) as u64).is_multiple_of(PAGE_SIZE));
    assert!(MAX_MODULE_LINE < PAGE_SIZE as usize);
};

/// AMD APM vol. 2, 5.4.1: present, writable.
const TABLE: u64 = 0x3;
/// The same, for a 2 MiB page.
const LARGE: u64 = 0x83;

/// AMD APM vol. 2, 4.8: 0x10 is 64-bit code, 0x18 flat data, both for CPL 0 and accessed.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// What goes into the boot area.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    /// The kernel.
    pub kernel: &'a BzImage<'a>,
    /// Where everything lies.
    pub plan: &'a Plan,
    /// The kernel's command line.
    pub cmdline: &'a [u8],
    /// The guest's memory map.
    pub map: &'a MemoryMap,
    /// The RSDP's address, 0 if not known.
    pub rsdp: u64,
    /// The screen shows VGA text.
    pub vga_text: bool,
}

impl BootArea {
    /// Builds everything for use at `base` (below 4 GiB), and says how the guest starts with it.
    pub fn build(&mut self, base: u64, contents: &Contents<'_>) -> GuestStart {
        let at = |offset: usize| base + offset as u64;
        let told = Told {
            cmdline: at(offset_of!(Self, cmdline)) as u32,
            initrd: contents.plan.initrd,
            rsdp: contents.rsdp,
            vga_text: contents.vga_text,
            map: contents.map,
        };
        boot_params::fill(&mut self.params, contents.kernel, &told);

        self.cmdline.fill(0);
        let len = contents.cmdline.len().min(MAX_MODULE_LINE);
        self.cmdline[..len].copy_from_slice(&contents.cmdline[..len]);

        self.pml4.fill(0);
        self.pml4[0] = at(offset_of!(Self, pdpt)) | TABLE;
        self.pdpt.fill(0);
        for n in 0..self.directories.len() {
            self.pdpt[n] = at(offset_of!(Self, directories) + n * size_of::<Table>()) | TABLE;
        }
        for (n, entry) in self.directories.as_flattened_mut().iter_mut().enumerate() {
            *entry = (n as u64 * LARGE_PAGE) | LARGE;
        }
        self.gdt = DESCRIPTORS;
        self.stack.fill(0);

        GuestStart {
            rip: contents.plan.kernel.start + ENTRY_64,
            rsp: at(size_of::<Self>()),
            rsi: at(offset_of!(Self, params)),
            cr3: at(offset_of!(Self, pml4)),
            gdt_base: at(offset_of!(Self, gdt)),
            gdt_limit: (size_of_val(&self.gdt) - 1) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::u32_at;
    use crate::bzimage;
    use crate::map::RawMap;
    use crate::range::Range;

    const BASE: u64 = 0x1ffd_6000;

    /// Follows the tables as the CPU would.
    fn translate(area: &BootArea, start: &GuestStart, addr: u64) -> u64 {
        let index = |shift: u32| (addr >> shift & 0x1ff) as usize;
        assert_eq!(start.cr3 - BASE, offset_of!(BootArea, pml4) as u64);
        let pdpt = area.pml4[index(39)];
        assert_eq!(pdpt - BASE, offset_of!(BootArea, pdpt) as u64 + 3);
        let directory = area.pdpt[index(30)] - BASE - offset_of!(BootArea, directories) as u64;
        assert_eq!(directory % PAGE_SIZE, 3);
        let page = area.directories[(directory / PAGE_SIZE) as usize][index(21)];
        assert_eq!(page % PAGE_SIZE, 0x83);
        (page & !0xfff) + addr % LARGE_PAGE
    }

    #[test]
    fn a_kernel_can_start_there() {
        let file = bzimage::tests::good();
        let kernel = BzImage::parse(&file).unwrap();
        let map = MemoryMap::new(&RawMap::default()).unwrap();
        let boot_area = Range { start: BASE, end: BASE + size_of::<BootArea>() as u64 };
        let plan = Plan {
            reserve: Range { start: 0x1000_0000, end: 0x1400_0000 },
            kernel: Range { start: 0x100_0000, end: 0x3f0_0000 },
            initrd: Range::default(),
            boot_area,
        };
        let dirty = [u64::MAX; 512];
        let mut area = Box::new(BootArea {
            params: [0xff; boot_params::SIZE],
            cmdline: [0xff; PAGE_SIZE as usize],
            pml4: dirty,
            pdpt: dirty,
            directories: [dirty; 4],
            gdt: [u64::MAX; 4],
            stack: [u64::MAX; 508],
        });
        let contents =
            Contents { kernel: &kernel, plan: &plan, cmdline: b"quiet", map: &map, rsdp: 0, vga_text: false };
        let start = area.build(BASE, &contents);

        for addr in (0..1 << 32).step_by(0x1f_f123) {
            assert_eq!(translate(&area, &start, addr), addr);
        }
        assert!(area.pml4[1..].iter().chain(&area.pdpt[4..]).all(|entry| *entry == 0));
        assert_eq!(u32_at(&area.params, 0x228), Some(BASE as u32 + 0x1000));
        assert_eq!(area.cmdline[..6], *b"quiet\0");
        assert_eq!((start.rip, start.rsi, start.rsp), (0x100_0200, BASE, boot_area.end));
        assert_eq!((start.gdt_base, start.gdt_limit), (BASE + 0x8000, 0x1f));
        assert_eq!(area.gdt[2..], [0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
    }
}
