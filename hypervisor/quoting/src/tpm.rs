//! The hypercalls that the quoting PAL makes.

use abi::seal::{Creator, PCRS, Policy};
use abi::{Digests, MAX_RANDOM, number};
use alloc::vec::Vec;
use core::convert::Infallible;
use rand_core::{TryCryptoRng, TryRng};
use utpm::QuotingKeys;
use zeroize::Zeroizing;

/// RAX, if the status is 0.
///
/// # Safety
/// The addresses among the arguments are those of memory that the hypercall may read or write as the ABI says.
unsafe fn hypercall(number: u16, [rdi, rsi, rdx, rcx, r8]: [u64; 5]) -> Option<usize> {
    let (value, status): (u64, u64);
    // SAFETY: VMMCALL changes RAX and RDX, and memory as the caller answers for.
    unsafe {
        core::arch::asm!(
            "vmmcall",
            inlateout("rax") u64::from(number) => value,
            inlateout("rdx") rdx => status,
            in("rdi") rdi,
            in("rsi") rsi,
            in("rcx") rcx,
            in("r8") r8,
            options(nostack),
        );
    }
    (status == 0).then_some(value as usize)
}

/// The keys of this launch.
pub fn quoting_keys() -> Option<QuotingKeys> {
    let mut keys = Zeroizing::new([0u8; 64]);
    // SAFETY: QUOTING_KEYS writes 64 bytes.
    unsafe { hypercall(number::QUOTING_KEYS, [keys.as_mut_ptr() as u64, 0, 0, 0, 0])? };
    Some(keys)
}

/// SHA-256 of this PAL's measurement.
fn identity() -> Option<[u8; 32]> {
    let mut digests = Digests { sha1: [0; 20], sha256: [0; 32] };
    // SAFETY: PCR_READ writes the digests.
    unsafe { hypercall(number::PCR_READ, [0, &raw mut digests as u64, 0, 0, 0])? };
    Some(digests.sha256)
}

/// Seals for this PAL: the blob's length.
pub fn seal(data: &[u8], blob: &mut [u8]) -> Option<usize> {
    let mut policy = Policy { select: 1, reserved: 0, values: [[0; 32]; PCRS] };
    policy.values[0] = identity()?;
    let (data, length) = (data.as_ptr() as u64, data.len() as u64);
    let arguments = [&raw const policy as u64, data, length, blob.as_mut_ptr() as u64, blob.len() as u64];
    // SAFETY: SEAL reads policy and data and writes the blob, no further than it is long.
    unsafe { hypercall(number::SEAL, arguments) }
}

/// Unseals what this PAL sealed: the data's length.
pub fn unseal(blob: &[u8], data: &mut [u8]) -> Option<usize> {
    let mut creator = Creator { pcrs: [[0; 32]; PCRS] };
    let (at, room) = (data.as_mut_ptr() as u64, data.len() as u64);
    let arguments = [blob.as_ptr() as u64, blob.len() as u64, at, room, &raw mut creator as u64];
    // SAFETY: UNSEAL reads the blob and writes the creator and the data, no further than there is room.
    let length = unsafe { hypercall(number::UNSEAL, arguments)? };
    (creator.pcrs[0] == identity()?).then_some(length)
}

/// The micro-TPM's random numbers.
pub struct Random;

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|value| value as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes).map(|()| u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(MAX_RANDOM) {
            let arguments = [part.as_mut_ptr() as u64, part.len() as u64, 0, 0, 0];
            // SAFETY: RANDOM writes so many bytes there.
            let filled = unsafe { hypercall(number::RANDOM, arguments) };
            assert!(filled.is_some(), "no key without random numbers");
        }
        Ok(())
    }
}

impl TryCryptoRng for Random {}

/// These bytes with their length before (TPM2B).
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}
