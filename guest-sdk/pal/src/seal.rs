//! Sealed storage: S hands data out of its memory in a form that only the PALs it is meant for get back, as long as the root of this
//! TrustVisor lives.
//!
//! ```ignore
//! let mut blob = [0; 32 + OVERHEAD];
//! seal(&key, &Policy::this_pal()?, &mut blob)?;           // the application keeps the blob
//!
//! let mut key = [0; 32];
//! let (length, creator) = unseal(&blob, &mut key)?;       // later, in the same PAL
//! ```
//! Anybody can seal for anybody: who must know that a blob is its own work looks at [`Creator::identity`].

use crate::hypercall::hypercall;
use crate::pcr;
use abi::{Status, number, seal as raw};

pub use abi::seal::{MAX_DATA, OVERHEAD};

/// Who can unseal: a PAL of one identity, with PCRs as they must be. PCRs are meant in their SHA-256 bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy(raw::Policy);

impl Policy {
    /// This PAL (the same image), in any state.
    pub fn this_pal() -> Result<Self, Status> {
        Ok(Self::pal(&pcr::read(0)?.sha256))
    }

    /// The PAL of this identity (SHA-256 of its measurement), in any state.
    pub fn pal(identity: &[u8; 32]) -> Self {
        let mut values = [[0; 32]; raw::PCRS];
        values[0] = *identity;
        Self(raw::Policy { select: 1, reserved: 0, values })
    }

    /// And with this value in PCR `index`, 1 to 7.
    ///
    /// # Panics
    /// If there is no such PCR.
    pub fn with_pcr(mut self, index: u32, value: &[u8; 32]) -> Self {
        assert!(index != 0, "PCR 0 is the identity");
        self.0.values[index as usize] = *value;
        self.0.select |= 1 << index;
        self
    }
}

/// Who sealed a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creator(raw::Creator);

impl Creator {
    /// Its identity.
    pub fn identity(&self) -> &[u8; 32] {
        &self.0.pcrs[0]
    }

    /// All its PCRs (SHA-256 bank) when it sealed.
    pub fn pcrs(&self) -> &[[u8; 32]; 8] {
        &self.0.pcrs
    }
}

/// Seals `data` ([`MAX_DATA`] bytes at most) into `blob`, which needs room for [`OVERHEAD`] bytes more; returns the blob's length.
pub fn seal(data: &[u8], policy: &Policy, blob: &mut [u8]) -> Result<usize, Status> {
    let arguments = [
        &raw const policy.0 as u64,
        data.as_ptr() as u64,
        data.len() as u64,
        blob.as_mut_ptr() as u64,
        blob.len() as u64,
    ];
    // SAFETY: SEAL reads the policy and the data and writes the blob, no further than it is long.
    Ok(unsafe { hypercall(number::SEAL, arguments)? } as usize)
}

/// Unseals a blob into `data`: the data's length, and who sealed it. If it does not open, [`Status::DoesNotOpen`], whatever the reason.
pub fn unseal(blob: &[u8], data: &mut [u8]) -> Result<(usize, Creator), Status> {
    let mut creator = raw::Creator { pcrs: [[0; 32]; raw::PCRS] };
    let arguments = [
        blob.as_ptr() as u64,
        blob.len() as u64,
        data.as_mut_ptr() as u64,
        data.len() as u64,
        &raw mut creator as u64,
    ];
    // SAFETY: UNSEAL reads the blob and writes the data, no further than there is room, and the creator.
    let length = unsafe { hypercall(number::UNSEAL, arguments)? } as usize;
    Ok((length, Creator(creator)))
}
