//! ELF files made byte by byte (System V ABI, chapter 4), so that they can be wrong as well.

use super::*;
use abi::image::{HEADER_SIZE, arg};
use object::elf::{PT_LOAD, SHT_NOBITS, SHT_PROGBITS, SHT_STRTAB};

struct Segment {
    flags: u32,
    addr: u64,
    contents: &'static [u8],
    mem_size: u64,
}

struct Named {
    name: &'static str,
    addr: u64,
    contents: Vec<u8>,
    size: u64,
}

struct Builder {
    segments: Vec<Segment>,
    sections: Vec<Named>,
}

fn record(addr: u64, args: [u8; 6], name: &str) -> Vec<u8> {
    let mut bytes = [&addr.to_le_bytes()[..], &args, &[0; 2], name.as_bytes()].concat();
    bytes.resize(size_of::<Record>(), 0);
    bytes
}

const ENTRIES: usize = 0;
const CODE: usize = 0;
const DATA: usize = 1;

impl Builder {
    /// Code, data, parameters and stack, as `pal.ld` lays them out, and two entries.
    fn new() -> Self {
        let segment = |flags, addr, contents, mem_size| Segment { flags, addr, contents, mem_size };
        let entries = [
            record(0x4000_0000, [arg::INT, 0, 0, 0, 0, 0], "first"),
            record(0x4000_0010, [arg::OUT, arg::LEN, 0, 0, 0, 0], "second"),
        ];
        let bare = |name, addr, size| Named { name, addr, contents: Vec::new(), size };
        Self {
            segments: vec![
                segment(PF_R | PF_X, 0x4000_0000, b"some code", 9),
                segment(PF_R | PF_W, 0x4000_1000, b"data", 5_000),
                segment(PF_R | PF_W, 0x4000_3000, b"", 8192),
                segment(PF_R | PF_W, 0x4000_6000, b"", 4096),
            ],
            sections: vec![
                Named { name: SECTION, addr: 0, size: 128, contents: entries.concat() },
                bare(".tv_param", 0x4000_3000, 8192),
                bare(".tv_stack", 0x4000_6000, 4096),
            ],
        }
    }

    fn finish(&self) -> Vec<u8> {
        const HEADER: usize = 64;
        let program = HEADER + 56 * self.segments.len();
        let (mut contents, mut names) = (Vec::new(), b"\0.shstrtab\0".to_vec());
        let mut programs = Vec::new();
        let words = |to: &mut Vec<u8>, words: &[u64]| words.iter().for_each(|w| to.extend(w.to_le_bytes()));
        for s in &self.segments {
            let (offset, size) = ((program + contents.len()) as u64, s.contents.len() as u64);
            programs.extend(PT_LOAD.to_le_bytes());
            programs.extend(s.flags.to_le_bytes());
            words(&mut programs, &[offset, s.addr, s.addr, size, s.mem_size, 4096]);
            contents.extend(s.contents);
        }
        let mut sections = vec![0; 64];
        let mut section = |name: u32, kind: u32, addr: u64, offset: u64, size: u64| {
            sections.extend(name.to_le_bytes());
            sections.extend(kind.to_le_bytes());
            words(&mut sections, &[2, addr, offset, size, 0, 1, 0]);
        };
        for s in &self.sections {
            let kind = if s.contents.is_empty() { SHT_NOBITS } else { SHT_PROGBITS };
            section(names.len() as u32, kind, s.addr, (program + contents.len()) as u64, s.size);
            names.extend([s.name.as_bytes(), &[0]].concat());
            contents.extend(&s.contents);
        }
        section(1, SHT_STRTAB, 0, (program + contents.len()) as u64, names.len() as u64);
        contents.extend(names);
        let count = self.sections.len() as u16 + 2;

        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        words(&mut file, &[0x4000_0000, HEADER as u64, (program + contents.len()) as u64]);
        file.extend(0u32.to_le_bytes());
        for half in [64, 56, self.segments.len() as u16, 64, count, count - 1] {
            file.extend(half.to_le_bytes());
        }
        [file, programs, contents, sections].concat()
    }

    fn image(&self) -> Result<Vec<u8>, ElfError> {
        from_elf(&self.finish(), 0)
    }
}

fn rule(result: Result<Vec<u8>, ElfError>) -> &'static str {
    match result {
        Err(ElfError::Malformed(rule)) => rule,
        other => panic!("{other:?}"),
    }
}

#[test]
fn segments_become_sections_and_records_become_entries() {
    let image = Builder::new().image().unwrap();
    assert_eq!(&image[HEADER_SIZE..], b"some codedata");
    let header = header(&image).unwrap();
    let sections = header.sections[..header.section_count.into()].iter();
    let sections: Vec<_> = sections.map(|s| (s.kind, s.addr, s.file_size, s.mem_size)).collect();
    let expected = [
        (kind::CODE, 0x4000_0000, 9, 4096),
        (kind::DATA, 0x4000_1000, 4, 8192),
        (kind::PARAM, 0x4000_3000, 0, 8192),
        (kind::STACK, 0x4000_6000, 0, 4096),
    ];
    assert_eq!(sections, expected);
    assert_eq!(header.entry_count, 2);
    assert_eq!(header.entries[0].addr, 0x4000_0000);
    assert_eq!(header.entries[1].args, [arg::OUT, arg::LEN, 0, 0, 0, 0]);
}

#[test]
fn the_order_in_the_file_and_names_do_not_matter() {
    let mut other = Builder::new();
    other.segments.swap(0, 3);
    other.sections[ENTRIES].contents[16] = b'F';
    other.sections.push(Named { name: ".comment", addr: 0, size: 4, contents: b"more".to_vec() });
    assert_eq!(other.image().unwrap(), Builder::new().image().unwrap());
}

#[test]
fn an_empty_segment_is_left_out() {
    let mut elf = Builder::new();
    (elf.segments[DATA].contents, elf.segments[DATA].mem_size) = (b"", 0);
    let image = elf.image().unwrap();
    assert_eq!(header(&image).unwrap().section_count, 3);
}

#[test]
fn what_is_no_pal_is_refused() {
    let mut elf = Builder::new();
    elf.segments[CODE].flags |= PF_W;
    assert!(matches!(elf.image(), Err(ElfError::Permissions(0x4000_0000))));

    let mut elf = Builder::new();
    elf.sections.remove(ENTRIES);
    assert!(matches!(elf.image(), Err(ElfError::NoEntries)));

    let mut elf = Builder::new();
    elf.sections[ENTRIES].contents.push(0);
    elf.sections[ENTRIES].size += 1;
    assert!(matches!(elf.image(), Err(ElfError::NoEntries)));

    let mut elf = Builder::new();
    elf.sections[ENTRIES].contents = record(0x4000_0000, [0; 6], "many").repeat(65);
    elf.sections[ENTRIES].size = 65 * 64;
    assert!(matches!(elf.image(), Err(ElfError::TooMany)));

    let mut elf = Builder::new();
    elf.segments[CODE].addr += 0x3000_0000 * 2;
    assert_eq!(rule(elf.image()), "outside the window");

    let mut elf = Builder::new();
    elf.sections.truncate(2);
    assert_eq!(rule(elf.image()), "number of stacks or parameter sections");

    assert!(matches!(from_elf(b"\x7fELF", 0), Err(ElfError::Elf(_))));
}

#[test]
fn truncated_files_are_errors() {
    let whole = Builder::new().finish();
    for length in 0..whole.len() {
        assert!(from_elf(&whole[..length], 0).is_err(), "{length} bytes");
    }
}
