//! The hypervisor module: a secure loader block padded to 64 KiB, then the runtime's image.
//!
//! Nothing here is for security (the measurement is): a module that is cut off, or of something else, ends in a clear line
//! instead of a silent machine.

use hypervisor::launch::{
    RESERVE_VA, RUNTIME_END, RUNTIME_MAGIC, RUNTIME_OFFSET, RuntimeHeader, SLB_MAGIC, SLB_MAGIC_OFFSET,
    SLB_MAX_LENGTH, SLB_SIZE,
};
use thiserror::Error;

use crate::bytes::{u16_at, u64_at};

/// A module that looks right.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The secure loader block, all 64 KiB.
    pub slb: &'a [u8],
    /// The runtime's image.
    pub runtime: &'a [u8],
    /// Offset of the SLB's entry.
    pub entry: u16,
    /// Bytes of the SLB that SKINIT measures.
    pub length: u16,
}

/// Why a module is not a hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ImageError {
    /// No magic.
    #[error("module 1 is not a TrustVisor image")]
    NotOurs,
    /// It ends too early.
    #[error("the TrustVisor image is truncated")]
    Truncated,
    /// A field contradicts the layout.
    #[error("the TrustVisor image is damaged ({0})")]
    Damaged(&'static str),
}

impl<'a> Image<'a> {
    /// Takes a module apart.
    pub fn parse(module: &'a [u8]) -> Result<Self, ImageError> {
        use ImageError::*;
        let magic = module.get(SLB_MAGIC_OFFSET..SLB_MAGIC_OFFSET + SLB_MAGIC.len()).ok_or(NotOurs)?;
        ensure(magic == SLB_MAGIC, NotOurs)?;
        // AMD APM vol. 2, 15.27.2: entry offset in bytes 0-1, length in bytes 2-3.
        let entry = u16_at(module, 0).ok_or(Truncated)?;
        let length = u16_at(module, 2).ok_or(Truncated)?;
        ensure(u64::from(length) <= SLB_MAX_LENGTH, Damaged("SLB length"))?;
        ensure(entry < length, Damaged("SLB entry"))?;

        let (slb, runtime) = module.split_at_checked(SLB_SIZE as usize).ok_or(Truncated)?;
        let header = runtime_header(runtime).ok_or(Truncated)?;
        ensure(header.magic == RUNTIME_MAGIC, Damaged("runtime magic"))?;
        ensure(header.image_size >= size_of::<RuntimeHeader>() as u64, Damaged("runtime size"))?;
        ensure(header.mem_size >= header.image_size, Damaged("runtime size"))?;
        ensure(header.mem_size <= RUNTIME_END - RUNTIME_OFFSET, Damaged("runtime size"))?;
        let offset = header.entry.wrapping_sub(RESERVE_VA + RUNTIME_OFFSET);
        ensure(offset < header.image_size, Damaged("runtime entry"))?;
        let runtime = runtime.get(..header.image_size as usize).ok_or(Truncated)?;
        Ok(Self { slb, runtime, entry, length })
    }
}

fn runtime_header(bytes: &[u8]) -> Option<RuntimeHeader> {
    Some(RuntimeHeader {
        magic: bytes.first_chunk().copied()?,
        image_size: u64_at(bytes, core::mem::offset_of!(RuntimeHeader, image_size))?,
        mem_size: u64_at(bytes, core::mem::offset_of!(RuntimeHeader, mem_size))?,
        entry: u64_at(bytes, core::mem::offset_of!(RuntimeHeader, entry))?,
    })
}

fn ensure(condition: bool, error: ImageError) -> Result<(), ImageError> {
    if condition { Ok(()) } else { Err(error) }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A module with a runtime of 100 bytes.
    pub fn good() -> Vec<u8> {
        let mut module = vec![0; SLB_SIZE as usize];
        module[..4].copy_from_slice(&[0x10, 0, 0, 0x40]);
        module[8..16].copy_from_slice(&SLB_MAGIC);
        module.extend(RUNTIME_MAGIC);
        module.extend(100u64.to_le_bytes());
        module.extend(5000u64.to_le_bytes());
        module.extend((RESERVE_VA + RUNTIME_OFFSET + 32).to_le_bytes());
        module.extend([7; 68]);
        module
    }

    #[test]
    fn a_good_one() {
        let mut module = good();
        module.extend([1, 2, 3]);
        let image = Image::parse(&module).unwrap();
        assert_eq!(
            (image.entry, image.length, image.slb.len(), image.runtime.len()),
            (0x10, 0x4000, 65536, 100)
        );
    }

    #[test]
    fn every_cut_is_noticed() {
        let module = good();
        for len in [0, 15, 16, 65535, 65536, 65536 + 31, module.len() - 1] {
            let expected = if len < 16 { ImageError::NotOurs } else { ImageError::Truncated };
            assert_eq!(Image::parse(&module[..len]).unwrap_err(), expected, "{len}");
        }
    }

    #[test]
    fn every_field_is_checked() {
        let broken = |offset: usize, bytes: &[u8]| {
            let mut module = good();
            module[offset..offset + bytes.len()].copy_from_slice(bytes);
            Image::parse(&module).unwrap_err()
        };
        assert_eq!(broken(8, b"X"), ImageError::NotOurs);
        assert_eq!(broken(0, &[0, 0x40]), ImageError::Damaged("SLB entry"));
        assert_eq!(broken(2, &[1, 0x90]), ImageError::Damaged("SLB length"));
        assert_eq!(broken(65536, b"X"), ImageError::Damaged("runtime magic"));
        assert_eq!(broken(65544, &31u64.to_le_bytes()), ImageError::Damaged("runtime size"));
        assert_eq!(broken(65544, &5001u64.to_le_bytes()), ImageError::Damaged("runtime size"));
        assert_eq!(broken(65552, &0x1f_0000u64.to_le_bytes()), ImageError::Damaged("runtime size"));
        let outside = RESERVE_VA + RUNTIME_OFFSET + 100;
        assert_eq!(broken(65560, &outside.to_le_bytes()), ImageError::Damaged("runtime entry"));
        assert_eq!(broken(65560, &0u64.to_le_bytes()), ImageError::Damaged("runtime entry"));
    }

    proptest! {
        #[test]
        fn no_header_panics(head in prop::collection::vec(any::<u8>(), 32), slb in any::<[u8; 4]>()) {
            let mut module = good();
            module[..4].copy_from_slice(&slb);
            module[65544..65568].copy_from_slice(&head[..24]);
            if let Ok(image) = Image::parse(&module) {
                prop_assert!(image.runtime.len() <= module.len() - 65536);
            }
        }
    }
}
