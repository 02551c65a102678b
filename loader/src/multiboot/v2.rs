//! Multiboot 2: one block of tags (Multiboot2 Specification 2.0, 3.4 and 3.6).

use super::{BootInfo, BootInfoError, Builder, Part};
use crate::bytes::{Memory, u32_at, u64_at};

mod tag {
    pub const END: u32 = 0;
    pub const CMDLINE: u32 = 1;
    pub const MODULE: u32 = 3;
    pub const MAP: u32 = 6;
    pub const EFI64: u32 = 12;
}

/// Size of the block, a reserved word.
const HEADER: usize = 8;
/// Type and size.
const TAG_HEADER: usize = 8;
const TAG_ALIGNMENT: usize = 8;
/// Far more than the memory map of the largest machine.
const MAX_SIZE: u32 = 1 << 20;
const MIN_ENTRY_SIZE: u32 = 20;

pub(super) fn read(memory: &impl Memory, info: u64) -> Result<BootInfo, BootInfoError> {
    let malformed = BootInfoError::Malformed(Part::Header);
    let size = memory.bytes(info, 4).and_then(|b| u32_at(b, 0)).filter(|size| *size <= MAX_SIZE);
    let block = memory.bytes(info, size.ok_or(malformed)?.into()).ok_or(malformed)?;

    let mut builder = Builder::default();
    let mut tags = block.get(HEADER..).ok_or(malformed)?;
    loop {
        let kind = u32_at(tags, 0).ok_or(malformed)?;
        let size = u32_at(tags, 4).ok_or(malformed)? as usize;
        let body = tags.get(TAG_HEADER..size).ok_or(malformed)?;
        match kind {
            tag::END => return builder.finish(),
            tag::CMDLINE => builder.cmdline(body)?,
            tag::MODULE => {
                let field = |offset| u32_at(body, offset).ok_or(BootInfoError::Malformed(Part::Module));
                builder.module(field(0)?, field(4)?, &body[8..])?;
            }
            tag::MAP => read_map(body, &mut builder)?,
            tag::EFI64 => {
                builder.efi_system_table = u64_at(body, 0).ok_or(BootInfoError::Malformed(Part::Efi))?;
            }
            _ => {}
        }
        tags = tags.get(size.next_multiple_of(TAG_ALIGNMENT)..).ok_or(malformed)?;
    }
}

fn read_map(body: &[u8], builder: &mut Builder) -> Result<(), BootInfoError> {
    let malformed = BootInfoError::Malformed(Part::Map);
    let entry_size = u32_at(body, 0).filter(|size| *size >= MIN_ENTRY_SIZE).ok_or(malformed)?;
    let entries = body.get(8..).ok_or(malformed)?;
    for entry in entries.chunks_exact(entry_size as usize) {
        let base = u64_at(entry, 0).ok_or(malformed)?;
        let length = u64_at(entry, 8).ok_or(malformed)?;
        builder.region(base, length, u32_at(entry, 16).ok_or(malformed)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bytes::tests::Pieces;
    use crate::multiboot::MAGIC_2;

    fn tag(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut tag = [kind.to_le_bytes(), (8 + body.len() as u32).to_le_bytes()].concat();
        tag.extend(body);
        tag.resize(tag.len().next_multiple_of(8), 0xee);
        tag
    }

    fn module(start: u32, end: u32, text: &[u8]) -> Vec<u8> {
        tag(tag::MODULE, &[&start.to_le_bytes(), &end.to_le_bytes(), text].concat())
    }

    fn map() -> Vec<u8> {
        let mut body = [24u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
        for (base, size, kind) in
            [(0u64, 0x9fc00u64, 1u64), (0x10_0000, 0x1ff0_0000, 1), (0xfffc_0000, 0x4_0000, 2)]
        {
            body.extend([base.to_le_bytes(), size.to_le_bytes(), kind.to_le_bytes()].concat());
        }
        tag(tag::MAP, &body)
    }

    fn block(tags: &[Vec<u8>]) -> Vec<u8> {
        let mut block = vec![0; 8];
        block.extend(tags.concat());
        let size = block.len() as u32;
        block[..4].copy_from_slice(&size.to_le_bytes());
        block
    }

    fn machine() -> Vec<Vec<u8>> {
        vec![
            tag(tag::CMDLINE, b"dma=unprotected\0"),
            tag(2, b"GRUB 2.06\0"),
            module(0x20_0000, 0x24_0000, b"\0"),
            module(0x30_0000, 0x40_0000, b"console=ttyS0 quiet\0"),
            map(),
            tag(tag::EFI64, &0x7f00_0018u64.to_le_bytes()),
            tag(tag::END, &[]),
        ]
    }

    fn read(block: Vec<u8>) -> Result<BootInfo, BootInfoError> {
        BootInfo::read(&Pieces(vec![(0x9000, block)]), MAGIC_2, 0x9000)
    }

    #[test]
    fn everything_is_found() {
        let info = read(block(&machine())).unwrap();
        assert_eq!(info.cmdline.as_bytes(), b"dma=unprotected");
        let [hypervisor, kernel] = info.modules() else { panic!("two modules") };
        assert_eq!((hypervisor.range.start, hypervisor.range.end), (0x20_0000, 0x24_0000));
        assert_eq!(kernel.line.as_bytes(), b"console=ttyS0 quiet");
        assert_eq!(info.map.regions().len(), 3);
        assert_eq!(info.efi_system_table, 0x7f00_0018);
    }

    #[test]
    fn errors_name_the_part() {
        use BootInfoError::*;
        let with = |at: usize, tag: Vec<u8>| {
            let mut tags = machine();
            tags[at] = tag;
            read(block(&tags)).err()
        };
        assert_eq!(with(4, tag(2, b"")), Some(NoMap));
        assert_eq!(with(4, tag(tag::MAP, &[19, 0, 0, 0, 0, 0, 0, 0])), Some(Malformed(Part::Map)));
        assert_eq!(with(4, tag(tag::MAP, &[24, 0, 0, 0])), Some(Malformed(Part::Map)));
        assert_eq!(with(2, tag(tag::MODULE, &[0; 7])), Some(Malformed(Part::Module)));
        assert_eq!(with(2, module(8, 7, b"\0")), Some(Malformed(Part::Module)));
        assert_eq!(with(2, module(0, 7, b"\0")), Some(Malformed(Part::Module)));
        assert_eq!(with(2, module(7, 7, b"\0")), None, "an empty file");
        assert_eq!(with(5, tag(tag::EFI64, &[0; 4])), Some(Malformed(Part::Efi)));
        assert_eq!(with(0, tag(tag::CMDLINE, &[b'a'; 1025])), Some(LineTooLong(Part::CommandLine)));
        assert_eq!(with(3, module(1, 2, &[b'a'; 2048])), Some(LineTooLong(Part::ModuleLine)));
        assert_eq!(with(6, tag(2, b"")), Some(Malformed(Part::Header)));
        let more = [module(1, 2, b"\0"), module(1, 2, b"\0"), module(1, 2, b"\0")].concat();
        assert_eq!(with(5, more), Some(TooManyModules));
        assert_eq!(read(vec![0xff; 64]).err(), Some(Malformed(Part::Header)));
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = block(&machine());
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            if let Some(size) = cut.get_mut(..4) {
                size.copy_from_slice(&(len as u32).to_le_bytes());
            }
            assert!(read(cut).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(at in 0usize..300, value: u32, junk in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut whole = block(&machine());
            let at = at % (whole.len() - 3);
            whole[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = read(whole);
            let _ = read(block(&[junk]));
        }
    }
}
