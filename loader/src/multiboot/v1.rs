//! Multiboot 1: a structure with flags that say which of its pointers hold (Multiboot Specification 0.6.96, 3.3).

use super::{BootInfo, BootInfoError, Builder, MAX_MODULE_LINE, Part};
use crate::bytes::{Memory, u32_at, u64_at};

mod flag {
    pub const CMDLINE: u32 = 1 << 2;
    pub const MODULES: u32 = 1 << 3;
    pub const MAP: u32 = 1 << 6;
}

mod offset {
    pub const FLAGS: usize = 0;
    pub const CMDLINE: usize = 16;
    pub const MODULE_COUNT: usize = 20;
    pub const MODULES: usize = 24;
    pub const MAP_LENGTH: usize = 44;
    pub const MAP: usize = 48;
}

/// The structure up to the last field read here.
const INFO_SIZE: u64 = 52;
const MODULE_SIZE: u64 = 16;
/// Of a map entry, without the size in front of it, which does not count itself.
const ENTRY_SIZE: u64 = 20;
/// Longest text looked at for its NUL: a line and the name of its file.
const MAX_TEXT: u64 = 2 * MAX_MODULE_LINE as u64;

pub(super) fn read(memory: &impl Memory, info: u64) -> Result<BootInfo, BootInfoError> {
    use BootInfoError::Malformed;
    let info = memory.bytes(info, INFO_SIZE).ok_or(Malformed(Part::Header))?;
    let field = |offset| u32_at(info, offset).ok_or(Malformed(Part::Header));
    let flags = field(offset::FLAGS)?;
    let mut builder = Builder::default();

    if flags & flag::CMDLINE != 0 {
        let text =
            text(memory, field(offset::CMDLINE)?).ok_or(BootInfoError::LineTooLong(Part::CommandLine))?;
        builder.cmdline(text)?;
    }
    if flags & flag::MODULES != 0 {
        for n in 0..u64::from(field(offset::MODULE_COUNT)?) {
            let at = u64::from(field(offset::MODULES)?) + n * MODULE_SIZE;
            let module = memory.bytes(at, MODULE_SIZE).ok_or(Malformed(Part::Module))?;
            let field = |offset| u32_at(module, offset).ok_or(Malformed(Part::Module));
            let text = text(memory, field(8)?).ok_or(BootInfoError::LineTooLong(Part::ModuleLine))?;
            builder.module(field(0)?, field(4)?, text)?;
        }
    }
    if flags & flag::MAP != 0 {
        let start = u64::from(field(offset::MAP)?);
        let length = u64::from(field(offset::MAP_LENGTH)?);
        let map = memory.bytes(start, length).ok_or(Malformed(Part::Map))?;
        read_map(map, &mut builder)?;
    }
    builder.finish()
}

fn read_map(mut map: &[u8], builder: &mut Builder) -> Result<(), BootInfoError> {
    let malformed = BootInfoError::Malformed(Part::Map);
    while !map.is_empty() {
        let size = u32_at(map, 0).ok_or(malformed)?;
        let (entry, rest) = map[4..].split_at_checked(size as usize).ok_or(malformed)?;
        if u64::from(size) < ENTRY_SIZE {
            return Err(malformed);
        }
        let base = u64_at(entry, 0).ok_or(malformed)?;
        let length = u64_at(entry, 8).ok_or(malformed)?;
        builder.region(base, length, u32_at(entry, 16).ok_or(malformed)?)?;
        map = rest;
    }
    Ok(())
}

/// The NUL-terminated text at an address, none at 0; `None` if no NUL comes in time.
fn text(memory: &impl Memory, addr: u32) -> Option<&[u8]> {
    if addr == 0 {
        return Some(&[]);
    }
    let is_nul = |len: &u64| memory.bytes(u64::from(addr) + len, 1) == Some(&[0]);
    let len = (0..=MAX_TEXT).find(is_nul)?;
    memory.bytes(addr.into(), len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bytes::tests::Pieces;
    use crate::multiboot::MAGIC_1;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    fn info(flags: u32, count: u32, map_len: u32) -> Vec<u8> {
        let mut info = vec![0; INFO_SIZE as usize];
        for (at, value) in [(0, flags), (16, 0x2000), (20, count), (24, 0x3000), (44, map_len), (48, 0x5000)]
        {
            info[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        info
    }

    fn machine() -> Pieces {
        let mut map = words(&[20, 0, 0, 0x9fc00, 0, 1]);
        map.extend(words(&[24, 0x10_0000, 0, 0x10_0000, 1, 1, 0]));
        Pieces(vec![
            (0x1000, info(0x4c, 2, map.len() as u32)),
            (0x2000, b"/loader dma=unprotected\0".to_vec()),
            (0x3000, words(&[0x20_0000, 0x20_0001, 0, 0, 0x30_0000, 0x40_0000, 0x4000, 0])),
            (0x4000, b"console=ttyS0\0".to_vec()),
            (0x5000, map),
        ])
    }

    fn read(memory: &Pieces) -> Result<BootInfo, BootInfoError> {
        BootInfo::read(memory, MAGIC_1, 0x1000)
    }

    #[test]
    fn everything_is_found() {
        let info = read(&machine()).unwrap();
        assert_eq!(info.cmdline.as_bytes(), b"dma=unprotected");
        let [hypervisor, kernel] = info.modules() else { panic!("two modules") };
        assert_eq!((hypervisor.range.start, hypervisor.range.end), (0x20_0000, 0x20_0001));
        assert_eq!(kernel.line.as_bytes(), b"console=ttyS0");
        let regions: Vec<_> = info.map.regions().iter().map(|r| (r.base, r.size)).collect();
        assert_eq!(regions, [(0, 0x9fc00), (0x10_0000, 0x1_0010_0000)]);
    }

    #[test]
    fn what_the_flags_deny_is_not_read() {
        let mut memory = machine();
        memory.0[0].1 = info(0x40, u32::MAX, 24);
        let info = read(&memory).unwrap();
        assert!(info.modules().is_empty() && info.cmdline.as_bytes().is_empty());
    }

    #[test]
    fn errors_name_the_part() {
        let with = |piece: usize, bytes: Vec<u8>| {
            let mut memory = machine();
            memory.0[piece].1 = bytes;
            read(&memory).err()
        };
        use BootInfoError::*;
        assert_eq!(with(0, vec![0; 51]), Some(Malformed(Part::Header)));
        assert_eq!(with(0, info(0x0c, 2, 0)), Some(NoMap));
        assert_eq!(with(1, vec![b'a'; 100]), Some(LineTooLong(Part::CommandLine)));
        assert_eq!(with(1, [vec![b'a'; 1025], vec![0]].concat()), Some(LineTooLong(Part::CommandLine)));
        assert_eq!(with(2, words(&[6, 5, 0, 0, 6, 7, 0, 0])), Some(Malformed(Part::Module)));
        assert_eq!(with(0, info(0x48, 3, 0)), Some(Malformed(Part::Module)));
        assert_eq!(with(4, words(&[20, 0])), Some(Malformed(Part::Map)));
        assert_eq!(with(4, words(&[19, 0, 0, 0, 0, 1, 20, 0, 0, 0, 0, 1, 0])), Some(Malformed(Part::Map)));
        let mut five = machine();
        five.0[0].1 = info(0x48, u32::MAX, 0);
        five.0[2].1 = words(&[5, 6, 0, 0].repeat(5));
        assert_eq!(read(&five).err(), Some(TooManyModules));
    }

    proptest! {
        #[test]
        fn nothing_panics(piece in 0usize..5, at in 0usize..60, value: u32) {
            let mut memory = machine();
            let bytes = &mut memory.0[piece].1;
            let at = at % (bytes.len() - 3);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = read(&memory);
        }
    }
}
