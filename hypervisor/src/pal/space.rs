//! S's memory: an address space of its own in frames of the pool, by two layers of tables that nobody changes once S can run.
//!
//! S's guest-physical memory is compact: pages `0..n`, first S's own page tables (PML4, PDPT, PD, one PT for each 2 MiB of the window
//! in use), then the pages of its sections in the header's order. The nested tables map page `i` to its frame. Which frames a PAL has
//! only the pool records.

use crate::addr::{Hpa, PAGE_SIZE};
use crate::frames::{Frames, Owner};
use crate::memory::DirectMap;
use crate::tables::{ACCESSED, ADDRESS, DIRTY, NO_EXECUTE, PRESENT, USER, WRITABLE};
use abi::image::{FLAG_FPU, Header, Section, WINDOW_BASE, kind};

/// S's PML4, PDPT and PD come first.
const FIRST_PT: u64 = 3;
const ENTRIES: u64 = 512;
const REGION: u64 = ENTRIES * PAGE_SIZE;

/// What every entry has, and what those of S's contents have besides: S sets neither bit.
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
const PAGE: u64 = PRESENT | USER | ACCESSED | DIRTY;

/// The frames of a PAL (by default: none yet), and what the call path needs to know of its header.
#[derive(Clone, Copy, Default)]
pub struct PalFrames {
    /// Whose they are.
    owner: Owner,
    pub vmcb: Hpa,
    /// Holds the image's header.
    pub header: Hpa,
    /// XSAVE area of a PAL that uses the FPU; 0 for the others.
    pub fpu: Hpa,
    pub nested_root: Hpa,
    nested_pd: Hpa,
    /// Guest-physical pages: tables and sections.
    pages: u64,
    /// The first page of the first section.
    first_section_page: u64,
    pub stack_top: u64,
    /// The frame of the stack's highest page.
    pub stack_frame: Hpa,
    /// The parameter section: address, bytes, first guest-physical page.
    pub param_addr: u64,
    pub param_size: u64,
    param_page: u64,
}

/// Frames besides the guest-physical pages and the nested PTs.
const CONTROL_FRAMES: u64 = 5;

impl PalFrames {
    /// Pages of S's sections.
    pub fn section_pages(&self) -> u64 {
        self.pages - self.first_section_page
    }

    /// Guest-physical pages.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many frames a PAL with this (checked) header takes.
    pub fn needed(header: &Header) -> u64 {
        let pages = FIRST_PT + regions(header).count() as u64 + header.pages();
        let fpu = u64::from(header.flags & FLAG_FPU != 0);
        CONTROL_FRAMES + fpu + pages.div_ceil(ENTRIES) + pages
    }

    /// Takes the control frames and links the upper nested tables. None: the pool is empty.
    pub fn begin(&mut self, mem: DirectMap, pool: &mut Frames, owner: Owner, header: &Header) -> Option<()> {
        self.owner = owner;
        self.vmcb = pool.take(owner)?;
        self.header = pool.take(owner)?;
        if header.flags & FLAG_FPU != 0 {
            self.fpu = pool.take(owner)?;
        }
        self.nested_root = pool.take(owner)?;
        let nested_pdpt = pool.take(owner)?;
        self.nested_pd = pool.take(owner)?;
        mem.write_u64(self.nested_root, nested_pdpt.0 | TABLE);
        mem.write_u64(nested_pdpt, self.nested_pd.0 | TABLE);
        self.first_section_page = FIRST_PT + regions(header).count() as u64;
        self.pages = self.first_section_page + header.pages();
        if let Some(stack) = header.section(kind::STACK) {
            self.stack_top = stack.addr + stack.mem_size;
        }
        if let Some(param) = header.section(kind::PARAM) {
            self.param_addr = param.addr;
            self.param_size = param.mem_size;
            self.param_page = self.page_of(header, param.addr)?;
        }
        Some(())
    }

    /// The frame of guest-physical page `page`. If it has none yet (in ascending order): takes one, maps it, and fills it if it is one
    /// of S's page tables.
    pub fn add_page(&self, mem: DirectMap, pool: &mut Frames, header: &Header, page: u64) -> Option<Hpa> {
        if let Some(frame) = self.frame(mem, page) {
            return Some(frame);
        }
        let slot = self.nested_pd + page / ENTRIES * 8;
        if mem.read_u64(slot) & PRESENT == 0 {
            let table = pool.take(self.owner)?;
            mem.write_u64(slot, table.0 | TABLE);
        }
        let frame = pool.take(self.owner)?;
        mem.write_u64(self.nested_entry(mem, page), frame.0 | PAGE | self.rights(header, page));
        if page < self.first_section_page {
            self.fill_table(mem, header, page, frame);
        }
        Some(frame)
    }

    /// The frame of a guest-physical page, if it was added.
    pub fn frame(&self, mem: DirectMap, page: u64) -> Option<Hpa> {
        if page >= self.pages || mem.read_u64(self.nested_pd + page / ENTRIES * 8) & PRESENT == 0 {
            return None;
        }
        let entry = mem.read_u64(self.nested_entry(mem, page));
        (entry & PRESENT != 0).then_some(Hpa(entry & ADDRESS))
    }

    /// The frame that holds byte `offset` of the parameter section.
    pub fn param_frame(&self, mem: DirectMap, offset: u64) -> Option<Hpa> {
        if offset >= self.param_size {
            return None;
        }
        self.frame(mem, self.param_page + offset / PAGE_SIZE)
    }

    /// The frame that holds S's address `addr`, and whether S may write there.
    pub fn resolve(&self, mem: DirectMap, header: &Header, addr: u64) -> Option<(Hpa, bool)> {
        let page = self.page_of(header, addr)?;
        let writable = self.rights(header, page) & WRITABLE != 0;
        Some((self.frame(mem, page)?, writable))
    }

    /// Whether nothing was ever taken, or all has been given back.
    pub fn is_none(&self) -> bool {
        self.vmcb == Hpa(0)
    }

    fn nested_entry(&self, mem: DirectMap, page: u64) -> Hpa {
        let table = Hpa(mem.read_u64(self.nested_pd + page / ENTRIES * 8) & ADDRESS);
        table + page % ENTRIES * 8
    }

    /// The sections, each with its first guest-physical page.
    fn sections<'a>(&self, header: &'a Header) -> impl Iterator<Item = (u64, &'a Section)> {
        header.sections.iter().scan(self.first_section_page, |next, section| {
            let first = *next;
            *next += section.mem_size / PAGE_SIZE;
            Some((first, section))
        })
    }

    /// The guest-physical page that S's address lies in.
    fn page_of(&self, header: &Header, addr: u64) -> Option<u64> {
        let holds = |section: &Section| (section.addr..section.addr + section.mem_size).contains(&addr);
        let (first, section) = self.sections(header).find(|(_, section)| holds(section))?;
        Some(first + (addr - section.addr) / PAGE_SIZE)
    }

    /// The section that a guest-physical page belongs to, and which page of it that is.
    pub fn section_of<'a>(&self, header: &'a Header, page: u64) -> Option<(&'a Section, u64)> {
        self.sections(header).find_map(|(first, section)| {
            let number = page.checked_sub(first)?;
            (number < section.mem_size / PAGE_SIZE).then_some((section, number))
        })
    }

    /// Code is executed, all else is written: never both.
    fn rights(&self, header: &Header, page: u64) -> u64 {
        let code = self.section_of(header, page).is_some_and(|(section, _)| section.kind == kind::CODE);
        if code { 0 } else { WRITABLE | NO_EXECUTE }
    }

    /// Writes S's own page table number `page`.
    fn fill_table(&self, mem: DirectMap, header: &Header, page: u64, frame: Hpa) {
        let link = |index: u64, target: u64| {
            mem.write_u64(frame + index % ENTRIES * 8, (target * PAGE_SIZE) | TABLE);
        };
        match page {
            0 => link(WINDOW_BASE >> 39, 1),
            1 => link(WINDOW_BASE >> 30, 2),
            2 => {
                for (number, region) in regions(header).enumerate() {
                    link(region >> 21, FIRST_PT + number as u64);
                }
            }
            _ => {
                let Some(region) = regions(header).nth((page - FIRST_PT) as usize) else { return };
                for index in 0..ENTRIES {
                    if let Some(page) = self.page_of(header, region + index * PAGE_SIZE) {
                        let entry = (page * PAGE_SIZE) | PAGE | self.rights(header, page);
                        mem.write_u64(frame + index * 8, entry);
                    }
                }
            }
        }
    }
}

/// The 2 MiB regions of the window that hold a section, in ascending order.
fn regions(header: &Header) -> impl Iterator<Item = u64> {
    let mut next = 0;
    header.sections.iter().filter(|s| s.mem_size != 0).flat_map(move |section| {
        let first = (section.addr & !(REGION - 1)).max(next);
        let end = (section.addr + section.mem_size).next_multiple_of(REGION);
        next = next.max(end);
        (first..end.max(first)).step_by(REGION as usize)
    })
}
