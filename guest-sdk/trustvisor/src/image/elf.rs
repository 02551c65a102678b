//! From the ELF file that the linker makes of S (`guest-sdk/pal/pal.ld`, or another linker script with the
//! same names) to its image: each loadable segment becomes a section, the records of `.tv_entries` become
//! the entries.
//!
//! The result is checked by the rules of [`abi::image`]; nothing else of the ELF file reaches the image, so
//! the measurement does not depend on symbols, debug information or the order of the file.

use super::{header, header_bytes};
use abi::image::{Entry, Header, MAGIC, MAX_ARGS, MAX_ENTRIES, MAX_SECTIONS, PAGE_SIZE, Section, kind};
use object::elf::{FileHeader64, PF_R, PF_W, PF_X};
use object::read::elf::ElfFile;
use object::{LittleEndian, Object, ObjectSection, ObjectSegment, SegmentFlags};
use trustvisor_pal::entry::{Record, SECTION};

/// Why an ELF file is not a PAL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// It cannot be read.
    #[error("not a 64-bit ELF file: {0}")]
    Elf(#[from] object::Error),
    /// It has no table of entries.
    #[error("no table of entries ({SECTION}): does S have trustvisor_pal::entries! and its linker script?")]
    NoEntries,
    /// A segment may be read, written or executed in a way that no section of S may.
    #[error(
        "the segment at {0:#x} is neither read-execute nor read-write: does S's build.rs call Layout::emit?"
    )]
    Permissions(u64),
    /// More segments or entries than an image has room for.
    #[error("more than {MAX_SECTIONS} segments or {MAX_ENTRIES} entries")]
    TooMany,
    /// The image would break a rule.
    #[error("the image would break a rule: {0}")]
    Malformed(&'static str),
}

type Elf<'a> = ElfFile<'a, FileHeader64<LittleEndian>>;

/// The image of the PAL in an ELF file. `flags` are [`abi::image::FLAG_FPU`] or 0.
pub fn from_elf(file: &[u8], flags: u32) -> Result<Vec<u8>, ElfError> {
    let elf = Elf::parse(file)?;
    let mut parts = sections(&elf)?;
    parts.sort_by_key(|(section, _)| section.addr);
    let entries = entries(&elf)?;

    let mut header = Header {
        magic: MAGIC,
        flags,
        section_count: parts.len() as u16,
        entry_count: entries.len() as u16,
        sections: [Section::default(); MAX_SECTIONS],
        entries: [Entry::default(); MAX_ENTRIES],
    };
    let room = header.sections.get_mut(..parts.len()).ok_or(ElfError::TooMany)?;
    room.iter_mut().zip(&parts).for_each(|(to, (section, _))| *to = *section);
    header.entries.get_mut(..entries.len()).ok_or(ElfError::TooMany)?.copy_from_slice(&entries);

    let mut image = header_bytes(&header).to_vec();
    parts.iter().for_each(|(_, contents)| image.extend_from_slice(contents));
    self::header(&image).map_err(ElfError::Malformed)?;
    Ok(image)
}

fn sections<'a>(elf: &Elf<'a>) -> Result<Vec<(Section, &'a [u8])>, ElfError> {
    let named =
        |name, address| elf.section_by_name(name).is_some_and(|s| s.size() != 0 && s.address() == address);
    let mut sections = Vec::new();
    for segment in elf.segments().filter(|segment| segment.size() != 0) {
        let addr = segment.address();
        let SegmentFlags::Elf { p_flags } = segment.flags() else { return Err(ElfError::Permissions(addr)) };
        let kind = match p_flags {
            _ if p_flags == PF_R | PF_X => kind::CODE,
            _ if p_flags != PF_R | PF_W => return Err(ElfError::Permissions(addr)),
            _ if named(".tv_stack", addr) => kind::STACK,
            _ if named(".tv_param", addr) => kind::PARAM,
            _ => kind::DATA,
        };
        let contents = segment.data()?;
        let section = Section {
            kind,
            reserved: 0,
            addr,
            file_size: contents.len() as u64,
            mem_size: segment.size().next_multiple_of(PAGE_SIZE),
        };
        sections.push((section, contents));
    }
    Ok(sections)
}

fn entries(elf: &Elf<'_>) -> Result<Vec<Entry>, ElfError> {
    let table = elf.section_by_name(SECTION).ok_or(ElfError::NoEntries)?.data()?;
    let (records, rest) = table.as_chunks::<{ size_of::<Record>() }>();
    if records.is_empty() || !rest.is_empty() {
        return Err(ElfError::NoEntries);
    }
    Ok(records.iter().map(entry).collect())
}

fn entry(record: &[u8; size_of::<Record>()]) -> Entry {
    let mut addr = [0; 8];
    let mut args = [0; MAX_ARGS];
    addr.copy_from_slice(&record[..8]);
    args.copy_from_slice(&record[8..8 + MAX_ARGS]);
    Entry { addr: u64::from_le_bytes(addr), args, reserved: 0 }
}

#[cfg(test)]
mod tests;
