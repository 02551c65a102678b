//! Sealed storage, as S asks for it by [`crate::number::SEAL`] and [`crate::number::UNSEAL`].

use zerocopy::{FromBytes, IntoBytes};

/// First bytes of a blob.
pub const MAGIC: [u8; 8] = *b"TVSEAL\0\x01";
/// Number of micro-PCRs.
pub const PCRS: usize = 8;
/// Most bytes that can be sealed: keys. What is longer S encrypts itself, with a key that it seals.
pub const MAX_DATA: usize = 1024;
/// How much longer a blob is than its data.
pub const OVERHEAD: usize = 352;

/// Whom data is sealed for: a PAL with these values in its micro-PCRs (SHA-256 bank) when it unseals.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes)]
pub struct Policy {
    /// Which PCRs count: bit *i* for PCR *i*. Bit 0 must be set.
    pub select: u32,
    /// 0.
    pub reserved: u32,
    /// Their values; `values[0]` is the identity of the PAL that can unseal. Those that do not count are ignored.
    pub values: [[u8; 32]; PCRS],
}

/// Who sealed a blob.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creator {
    /// Its micro-PCRs (SHA-256 bank) when it sealed; `pcrs[0]` is its identity.
    pub pcrs: [[u8; 32]; PCRS],
}

const _: () = assert!(size_of::<Policy>() == 264 && size_of::<Creator>() == 256);
