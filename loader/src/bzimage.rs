//! A Linux kernel as a file: what its setup header says (Linux, Documentation/arch/x86/boot.rst, "The Real-Mode Kernel
//! Header"). Guarantees that what it returns can be followed without further checks; the file may be anything.

use thiserror::Error;

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::plan::KernelNeeds;

/// Where the setup header begins, in the file and in `boot_params`.
pub const SETUP_HEADER: usize = 0x1f1;
/// It ends here at the latest (in `boot_params` the next field follows).
pub const SETUP_HEADER_END: usize = 0x290;
/// The 64-bit entry, counted from where the protected-mode part is loaded.
pub const ENTRY_64: u64 = 0x200;

mod offset {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const SYSSIZE: usize = 0x1f4;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const JUMP_DISTANCE: usize = 0x201;
    pub const MAGIC: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const LOADFLAGS: usize = 0x211;
    pub const INITRD_ADDR_MAX: usize = 0x22c;
    pub const KERNEL_ALIGNMENT: usize = 0x230;
    pub const RELOCATABLE: usize = 0x234;
    pub const XLOADFLAGS: usize = 0x236;
    pub const CMDLINE_SIZE: usize = 0x238;
    pub const PREF_ADDRESS: usize = 0x258;
    pub const INIT_SIZE: usize = 0x260;
}

const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: &[u8] = b"HdrS";
const LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;
/// Protocol 2.12 (Linux 3.8) brought `xloadflags`.
const OLDEST: u16 = 0x20c;
const SECTOR: usize = 512;

/// A kernel that can be started.
#[derive(Clone, Copy, Debug)]
pub struct BzImage<'a> {
    /// The setup header, to be copied to offset [`SETUP_HEADER`] of `boot_params`.
    pub setup_header: &'a [u8],
    /// The protected-mode part.
    pub payload: &'a [u8],
    /// Where it can be put.
    pub needs: KernelNeeds,
    /// The initrd's last byte lies here at most.
    pub initrd_max: u64,
    /// Most bytes of the command line, without its NUL.
    pub cmdline_max: usize,
}

/// Why a file is not a kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KernelError {
    /// Something else.
    #[error("module 2 is not a Linux bzImage")]
    NotBzImage,
    /// It ends too early.
    #[error("the kernel is truncated")]
    Truncated,
    /// No `xloadflags` yet.
    #[error("the kernel is too old (boot protocol {}.{:02}, needed is 2.12)", .0 >> 8, .0 & 0xff)]
    TooOld(u16),
    /// A 32-bit kernel.
    #[error("the kernel has no 64-bit entry")]
    Not64,
    /// A field contradicts the protocol.
    #[error("the kernel's setup header is damaged")]
    Damaged,
}

impl<'a> BzImage<'a> {
    /// Reads the setup header.
    pub fn parse(file: &'a [u8]) -> Result<Self, KernelError> {
        use KernelError::*;
        let byte = |at: usize| file.get(at).copied().ok_or(Truncated);
        let half = |at| u16_at(file, at).ok_or(Truncated);
        let word = |at| u32_at(file, at).ok_or(Truncated);

        if file.get(offset::MAGIC..offset::MAGIC + MAGIC.len()) != Some(MAGIC)
            || half(offset::BOOT_FLAG)? != BOOT_FLAG
        {
            return Err(NotBzImage);
        }
        let version = half(offset::VERSION)?;
        if version < OLDEST {
            return Err(TooOld(version));
        }
        if byte(offset::LOADFLAGS)? & LOADED_HIGH == 0 {
            return Err(NotBzImage);
        }
        if half(offset::XLOADFLAGS)? & XLF_KERNEL_64 == 0 {
            return Err(Not64);
        }

        let header_end = offset::MAGIC + usize::from(byte(offset::JUMP_DISTANCE)?);
        if header_end < offset::INIT_SIZE + size_of::<u32>() {
            return Err(Damaged);
        }
        let setup_header = file.get(SETUP_HEADER..header_end.min(SETUP_HEADER_END)).ok_or(Truncated)?;

        // 0 stands for 4, for the sake of very old kernels.
        let setup_sectors = match byte(offset::SETUP_SECTS)? {
            0 => 4,
            n => usize::from(n),
        };
        let payload = file.get((setup_sectors + 1) * SECTOR..).ok_or(Truncated)?;
        if (payload.len() as u64) < u64::from(word(offset::SYSSIZE)?) * 16 {
            return Err(Truncated);
        }

        let alignment = u64::from(word(offset::KERNEL_ALIGNMENT)?);
        let preferred = u64_at(file, offset::PREF_ADDRESS).ok_or(Truncated)?;
        if !alignment.is_power_of_two() || !preferred.is_multiple_of(alignment) {
            return Err(Damaged);
        }
        // A file may go on (signatures) where the kernel ends; it is copied whole.
        let size = u64::from(word(offset::INIT_SIZE)?).max(payload.len() as u64);
        Ok(Self {
            setup_header,
            payload,
            needs: KernelNeeds { preferred, alignment, size, relocatable: byte(offset::RELOCATABLE)? != 0 },
            initrd_max: u64::from(word(offset::INITRD_ADDR_MAX)?),
            cmdline_max: word(offset::CMDLINE_SIZE)? as usize,
        })
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of two setup sectors and a payload of 0x400 bytes.
    pub fn good() -> Vec<u8> {
        let mut file = vec![0; 3 * SECTOR];
        file.extend([0x5a; 0x400]);
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset::SETUP_SECTS, &[2]);
        put(offset::SYSSIZE, &0x40u32.to_le_bytes());
        put(offset::BOOT_FLAG, &BOOT_FLAG.to_le_bytes());
        put(0x200, &[0xeb, 0x6a]);
        put(offset::MAGIC, MAGIC);
        put(offset::VERSION, &0x20fu16.to_le_bytes());
        put(offset::LOADFLAGS, &[LOADED_HIGH]);
        put(offset::INITRD_ADDR_MAX, &0x7fff_ffffu32.to_le_bytes());
        put(offset::KERNEL_ALIGNMENT, &0x20_0000u32.to_le_bytes());
        put(offset::RELOCATABLE, &[1]);
        put(offset::XLOADFLAGS, &0x3fu16.to_le_bytes());
        put(offset::CMDLINE_SIZE, &2047u32.to_le_bytes());
        put(offset::PREF_ADDRESS, &0x100_0000u64.to_le_bytes());
        put(offset::INIT_SIZE, &0x2f0_0000u32.to_le_bytes());
        file
    }

    fn broken(at: usize, bytes: &[u8]) -> KernelError {
        let mut file = good();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        BzImage::parse(&file).unwrap_err()
    }

    #[test]
    fn a_good_one() {
        let file = good();
        let kernel = BzImage::parse(&file).unwrap();
        assert_eq!(kernel.payload, [0x5a; 0x400]);
        assert_eq!(kernel.setup_header.len(), 0x26c - 0x1f1);
        let needs =
            KernelNeeds { preferred: 0x100_0000, alignment: 0x20_0000, size: 0x2f0_0000, relocatable: true };
        assert_eq!(kernel.needs, needs);
        assert_eq!((kernel.initrd_max, kernel.cmdline_max), (0x7fff_ffff, 2047));
    }

    #[test]
    fn others_are_refused() {
        use KernelError::*;
        assert_eq!(broken(offset::MAGIC, b"h"), NotBzImage);
        assert_eq!(broken(offset::BOOT_FLAG, &[0]), NotBzImage);
        assert_eq!(broken(offset::LOADFLAGS, &[0]), NotBzImage);
        assert_eq!(broken(offset::VERSION, &[0x0b]), TooOld(0x20b));
        assert_eq!(broken(offset::XLOADFLAGS, &[0x3e]), Not64);
        assert_eq!(broken(offset::JUMP_DISTANCE, &[0x61]), Damaged);
        assert_eq!(broken(offset::KERNEL_ALIGNMENT, &[1]), Damaged);
        assert_eq!(broken(offset::KERNEL_ALIGNMENT, &[0; 4]), Damaged);
        assert_eq!(broken(offset::PREF_ADDRESS, &[1]), Damaged);
        assert_eq!(broken(offset::SYSSIZE, &[0x41]), Truncated);
        assert_eq!(broken(offset::SETUP_SECTS, &[200]), Truncated);
        assert_eq!(TooOld(0x20b).to_string(), "the kernel is too old (boot protocol 2.11, needed is 2.12)");
    }

    #[test]
    fn every_cut_is_noticed() {
        let file = good();
        for len in 0..file.len() {
            assert!(BzImage::parse(&file[..len]).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(header in prop::collection::vec(any::<u8>(), 0x9f), len in 0usize..0xa00) {
            let mut file = good();
            file[SETUP_HEADER..SETUP_HEADER_END].copy_from_slice(&header);
            let mut marked = good();
            marked[0x214..SETUP_HEADER_END].copy_from_slice(&header[0x23..]);
            for file in [&file, &marked] {
                if let Ok(kernel) = BzImage::parse(&file[..len.min(file.len())]) {
                    prop_assert!(kernel.needs.alignment.is_power_of_two());
                    prop_assert!(kernel.needs.size >= kernel.payload.len() as u64);
                }
            }
        }
    }
}
