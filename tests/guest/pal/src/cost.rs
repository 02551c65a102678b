//! What the micro-TPM's commands cost, for the benchmark.

use core::arch::x86_64::_rdtsc;
use trustvisor_pal::seal::{MAX_DATA, OVERHEAD, Policy, seal, unseal};
use trustvisor_pal::{Digests, Status, pcr, quote, random};

/// The least of some tries, in TSC ticks, for a command of so many bytes; all ones if it fails.
pub fn cost(command: u32, length: u64) -> u64 {
    try_cost(command, length as usize).unwrap_or(u64::MAX)
}

fn try_cost(command: u32, length: usize) -> Result<u64, Status> {
    let mut data = [3; MAX_DATA];
    let mut blob = [0; MAX_DATA + OVERHEAD];
    let policy = Policy::this_pal()?;
    let plain = data.get(..length).ok_or(Status::TooLarge)?;
    let sealed = seal(plain, &policy, &mut blob)?;
    let mut best = u64::MAX;
    for _ in 0..20 {
        // SAFETY: every processor has a TSC, and TrustVisor lets S read it.
        let start = unsafe { _rdtsc() };
        match command {
            0 => drop(pcr::read(0)?),
            1 => pcr::extend(7, &Digests { sha1: [1; 20], sha256: [2; 32] })?,
            2 => drop(seal(&data[..length], &policy, &mut blob)?),
            3 => drop(unseal(&blob[..sealed], &mut data)?),
            4 => random::fill(&mut data[..length])?,
            5 => drop(quote::report(quote::IDENTITY, quote::key::P256, &[7; 32], &mut data)?),
            _ => return Err(Status::BadArgument),
        }
        // SAFETY: the same.
        best = best.min(unsafe { _rdtsc() } - start);
    }
    Ok(best)
}
