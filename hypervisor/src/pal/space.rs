//! S's memory: an address space of its own in frames of the pool, by page tables that nobody changes once S can run.
//!
//! There are no nested tables below them: what S's tables name are frames. They map its sections and nothing else, themselves least of all,
//! and at CPL 3 S has no way to others. All of the window is one page directory's.

use crate::addr::{Gva, HUGE_PAGE, Hpa, LARGE_PAGE, PAGE_SIZE};
use crate::frames::{Frames, Owner};
use crate::memory::DirectMap;
use crate::tables::{ACCESSED, ADDRESS, DIRTY, NO_EXECUTE, PRESENT, USER, WRITABLE};
use abi::image::{FLAG_FPU, Header, Section, WINDOW_BASE, WINDOW_END, kind};

const ENTRIES: u64 = 512;
const _: () = assert!(WINDOW_BASE.is_multiple_of(HUGE_PAGE) && WINDOW_END - WINDOW_BASE == HUGE_PAGE);

/// What every entry has, and what those of S's contents have besides: S sets neither bit.
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
const PAGE: u64 = PRESENT | USER | ACCESSED | DIRTY;

/// The frames of a PAL (by default: none yet), and what the call path needs to know of its header.
#[derive(Clone, Copy, Default)]
pub struct PalFrames {
    /// 0 while nothing is taken.
    pub vmcb: Hpa,
    /// Holds the image's header.
    pub header: Hpa,
    /// XSAVE area of a PAL that uses the FPU; 0 for the others.
    pub fpu: Hpa,
    /// S's PML4.
    pub root: Hpa,
    /// S's page directory.
    directory: Hpa,
    /// RSP at the entry: the return address is on the stack, which is aligned as the System V ABI wants it.
    pub rsp: u64,
    /// Where RSP points at the entry.
    pub stack_top: Hpa,
    /// The parameter section: address, bytes.
    pub param_addr: u64,
    pub param_size: u64,
}

/// VMCB, header and S's tables above its page tables.
const CONTROL_FRAMES: u64 = 5;

impl PalFrames {
    /// How many frames a PAL with this (checked) header takes.
    pub fn needed(header: &Header) -> u64 {
        let fpu = u64::from(header.flags & FLAG_FPU != 0);
        CONTROL_FRAMES + fpu + regions(header).count() as u64 + header.pages()
    }

    /// Takes all frames but those of the sections, and links the tables. None: the pool is empty.
    pub fn begin(&mut self, mem: DirectMap, pool: &mut Frames, owner: Owner, header: &Header) -> Option<()> {
        let link = |table: Hpa, index: u64, next: Hpa| {
            mem.write_u64(table + index % ENTRIES * 8, next.0 | TABLE);
        };
        self.vmcb = pool.take(owner)?;
        self.header = pool.take(owner)?;
        if header.flags & FLAG_FPU != 0 {
            self.fpu = pool.take(owner)?;
        }
        self.root = pool.take(owner)?;
        let pointers = pool.take(owner)?;
        self.directory = pool.take(owner)?;
        link(self.root, WINDOW_BASE >> 39, pointers);
        link(pointers, WINDOW_BASE >> 30, self.directory);
        for region in regions(header) {
            link(self.directory, region >> 21, pool.take(owner)?);
        }
        if let Some(stack) = header.section(kind::STACK) {
            self.rsp = stack.addr + stack.mem_size - 8;
        }
        if let Some(param) = header.section(kind::PARAM) {
            (self.param_addr, self.param_size) = (param.addr, param.mem_size);
        }
        Some(())
    }

    /// The frame of a page of this section. If it has none yet: takes one and maps it, code to be executed, all else to be written:
    /// never both.
    pub fn add_page(
        &self,
        mem: DirectMap,
        pool: &mut Frames,
        owner: Owner,
        section: &Section,
        addr: u64,
    ) -> Option<Hpa> {
        if let Some((frame, _)) = self.resolve(mem, Gva(addr)) {
            return Some(frame);
        }
        let entry = self.entry(mem, addr)?;
        let frame = pool.take(owner)?;
        let rights = if section.kind == kind::CODE { 0 } else { WRITABLE | NO_EXECUTE };
        mem.write_u64(entry, frame.0 | PAGE | rights);
        Some(frame)
    }

    /// Where the byte at S's address `addr` lies, and whether S may write there.
    pub fn resolve(&self, mem: DirectMap, Gva(addr): Gva) -> Option<(Hpa, bool)> {
        let entry = mem.read_u64(self.entry(mem, addr)?);
        let place = Hpa(entry & ADDRESS) + addr % PAGE_SIZE;
        (entry & PRESENT != 0).then_some((place, entry & WRITABLE != 0))
    }

    /// Where byte `offset` of the parameter section lies.
    pub fn param(&self, mem: DirectMap, offset: u64) -> Option<Hpa> {
        if offset >= self.param_size {
            return None;
        }
        self.resolve(mem, Gva(self.param_addr + offset)).map(|(place, _)| place)
    }

    /// The entry for this address in its page table, if there is one.
    fn entry(&self, mem: DirectMap, addr: u64) -> Option<Hpa> {
        if !(WINDOW_BASE..WINDOW_END).contains(&addr) {
            return None;
        }
        let link = mem.read_u64(self.directory + (addr >> 21) % ENTRIES * 8);
        (link & PRESENT != 0).then_some(Hpa(link & ADDRESS) + (addr >> 12) % ENTRIES * 8)
    }
}

/// The 2 MiB regions of the window that hold a section, in ascending order.
fn regions(header: &Header) -> impl Iterator<Item = u64> {
    let mut next = 0;
    header.sections.iter().filter(|s| s.mem_size != 0).flat_map(move |section| {
        let first = (section.addr & !(LARGE_PAGE - 1)).max(next);
        next = (section.addr + section.mem_size).next_multiple_of(LARGE_PAGE);
        (first..next).step_by(LARGE_PAGE as usize)
    })
}
