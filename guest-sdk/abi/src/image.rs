//! The image of a PAL, as a file and as what [`crate::number::REGISTER`] reads from the application's memory:
//! a [`Header`], then the contents of its sections one after the other, without gaps, in the header's order.
//! The image's length is exactly the header's size plus the sum of the sections' `file_size`.
//!
//! # Rules (anything else is [`crate::Status::BadImage`])
//! - Unused sections, entries and reserved fields are zero. 1 to [`MAX_SECTIONS`] sections, 1 to [`MAX_ENTRIES`] entries.
//! - Sections lie page aligned in [`WINDOW_BASE`]`..`[`WINDOW_END`], in ascending order, do not overlap,
//!   `mem_size` is a positive multiple of the page size, `file_size <= mem_size` (the rest is zero), all together at
//!   most [`MAX_PAGES`] pages.
//! - At least one [`kind::CODE`], exactly one [`kind::STACK`] and at most one [`kind::PARAM`] section; stack and parameters
//!   have no contents (`file_size` 0). The page below the stack belongs to no section (guard).
//! - Every entry's address lies in a code section.
//!
//! # What S finds when it is called
//! CPL 3, 64-bit, interrupts cannot be held off, no system call, no FPU unless [`FLAG_FPU`]. Arguments are in RDI, RSI, RDX,
//! RCX, R8, R9 as its signature says: integers by value, a buffer as its address in the parameter section and, in the
//! next register, its length. All other registers are 0, RSP holds the return address [`SENTINEL`] (so the ordinary
//! `RET` ends the call), and S's value is RAX. Data and stack keep their contents between calls, what a call used of the parameter
//! section is zeroed before the next.
//!
//! # Measurement
//! SHA-1 and SHA-256 over [`MEASUREMENT_PREFIX`] followed by the image as it stands: the rules leave one encoding of an image.
//! The result is the value of micro-PCR 0.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// First bytes of an image.
pub const MAGIC: [u8; 8] = *b"TVPAL\0\0\x01";
/// What is hashed before the image.
pub const MEASUREMENT_PREFIX: &[u8; 16] = b"TrustVisor PAL 1";
/// Size of a page.
pub const PAGE_SIZE: u64 = 4096;
/// Lowest address of S.
pub const WINDOW_BASE: u64 = 0x4000_0000;
/// One past the highest address of S.
pub const WINDOW_END: u64 = 0x8000_0000;
/// The return address of every entry: canonical and never mapped.
pub const SENTINEL: u64 = 0x0000_7fff_ffff_f000;
/// Most sections of an image.
pub const MAX_SECTIONS: usize = 16;
/// Most entries of an image.
pub const MAX_ENTRIES: usize = 64;
/// Most pages of all sections together.
pub const MAX_PAGES: u64 = 4096;
/// Most arguments of an entry (a buffer takes two: address and length).
pub const MAX_ARGS: usize = 6;

/// Set in [`Header::flags`] if S uses the FPU, SSE or AVX.
pub const FLAG_FPU: u32 = 1;

/// Kinds of sections.
pub mod kind {
    /// Read and execute (constants live here as well).
    pub const CODE: u32 = 1;
    /// Read and write.
    pub const DATA: u32 = 2;
    /// Read and write, above a guard page.
    pub const STACK: u32 = 3;
    /// Read and write, where TrustVisor puts arguments.
    pub const PARAM: u32 = 4;
}

/// Kinds of arguments, one for each register.
pub mod arg {
    /// Register not used; only after the last argument.
    pub const NONE: u8 = 0;
    /// An integer.
    pub const INT: u8 = 1;
    /// Address of a buffer that S reads; the next register is its [`LEN`].
    pub const IN: u8 = 2;
    /// Address of a buffer that S writes; the next register is its [`LEN`]. S finds it zeroed.
    pub const OUT: u8 = 3;
    /// Address of a buffer that S reads and writes; the next register is its [`LEN`].
    pub const IN_OUT: u8 = 4;
    /// Length in bytes of the buffer of the register before.
    pub const LEN: u8 = 5;
}

/// The start of an image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`FLAG_FPU`] or 0.
    pub flags: u32,
    /// Sections in use.
    pub section_count: u16,
    /// Entries in use.
    pub entry_count: u16,
    /// The sections.
    pub sections: [Section; MAX_SECTIONS],
    /// The entries, which an application calls by index.
    pub entries: [Entry; MAX_ENTRIES],
}

/// A section of S.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Section {
    /// A [`kind`].
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// First address.
    pub addr: u64,
    /// Bytes of contents in the image.
    pub file_size: u64,
    /// Bytes in memory.
    pub mem_size: u64,
}

/// An entry point of S.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Entry {
    /// Its address.
    pub addr: u64,
    /// What each register holds, an [`arg`] each.
    pub args: [u8; MAX_ARGS],
    /// 0.
    pub reserved: u16,
}

/// Bytes of a [`Header`].
pub const HEADER_SIZE: usize = size_of::<Header>();

impl Header {
    /// Checks every rule that can be checked without the contents. `image_len` is the length of the whole image. An error is the rule that
    /// is broken.
    pub fn check(&self, image_len: u64) -> Result<(), &'static str> {
        let ensure = |ok: bool, rule: &'static str| if ok { Ok(()) } else { Err(rule) };
        ensure(self.magic == MAGIC, "magic")?;
        ensure(self.flags & !FLAG_FPU == 0, "flags")?;
        let sections = self.sections.get(..usize::from(self.section_count)).ok_or("section count")?;
        let entries = self.entries.get(..usize::from(self.entry_count)).ok_or("entry count")?;
        ensure(!sections.is_empty() && !entries.is_empty(), "no section or no entry")?;
        ensure(self.sections[sections.len()..].iter().all(|s| *s == Section::default()), "unused section")?;
        ensure(self.entries[entries.len()..].iter().all(|e| *e == Entry::default()), "unused entry")?;

        let mut free_from = WINDOW_BASE;
        let mut length = HEADER_SIZE as u64;
        for section in sections {
            let guard = if section.kind == kind::STACK { PAGE_SIZE } else { 0 };
            ensure(section.reserved == 0, "reserved field")?;
            ensure(section.addr.is_multiple_of(PAGE_SIZE), "alignment")?;
            ensure(section.mem_size != 0 && section.mem_size.is_multiple_of(PAGE_SIZE), "size")?;
            ensure(section.mem_size <= MAX_PAGES * PAGE_SIZE, "too many pages")?;
            ensure(section.file_size <= section.mem_size, "contents larger than the section")?;
            ensure(
                section.addr < WINDOW_END && section.mem_size <= WINDOW_END - section.addr,
                "outside the window",
            )?;
            ensure(section.addr >= free_from + guard, "order, overlap or guard page")?;
            ensure((kind::CODE..=kind::PARAM).contains(&section.kind), "section kind")?;
            let bare = matches!(section.kind, kind::STACK | kind::PARAM);
            ensure(!bare || section.file_size == 0, "contents in stack or parameters")?;
            free_from = section.addr + section.mem_size;
            length += section.file_size;
        }
        let count = |kind| sections.iter().filter(|s| s.kind == kind).count();
        let (stacks, params) = (count(kind::STACK), count(kind::PARAM));
        ensure(stacks == 1 && params <= 1, "number of stacks or parameter sections")?;
        ensure(self.pages() <= MAX_PAGES, "too many pages")?;
        ensure(length == image_len, "length")?;

        for entry in entries {
            ensure(entry.reserved == 0, "reserved field")?;
            let in_code =
                |s: &Section| s.kind == kind::CODE && (s.addr..s.addr + s.mem_size).contains(&entry.addr);
            ensure(sections.iter().any(in_code), "entry outside code")?;
            entry.check_args()?;
            let buffers = entry.args.iter().any(|a| matches!(*a, arg::IN | arg::OUT | arg::IN_OUT));
            ensure(!buffers || params == 1, "buffers without a parameter section")?;
        }
        Ok(())
    }

    /// The section of this kind.
    pub fn section(&self, kind: u32) -> Option<&Section> {
        self.sections.iter().find(|s| s.kind == kind)
    }

    /// Pages of all sections together.
    pub fn pages(&self) -> u64 {
        self.sections.iter().map(|s| s.mem_size / PAGE_SIZE).sum()
    }
}

impl Entry {
    fn check_args(&self) -> Result<(), &'static str> {
        let mut args = self.args.iter();
        while let Some(kind) = args.next() {
            let ok = match *kind {
                arg::NONE => args.all(|a| *a == arg::NONE),
                arg::INT => true,
                arg::IN | arg::OUT | arg::IN_OUT => args.next() == Some(&arg::LEN),
                _ => false,
            };
            if !ok {
                return Err("signature");
            }
        }
        Ok(())
    }
}

const _: () = {
    assert!(size_of::<Section>() == 32);
    assert!(size_of::<Entry>() == 16);
    assert!(HEADER_SIZE == 16 + 32 * MAX_SECTIONS + 16 * MAX_ENTRIES);
};
