//! What the token needs of the machine it runs on: in S, TrustVisor's micro-TPM.

use crate::protocol::Error;
use alloc::vec::Vec;
use core::convert::Infallible;
use rand_core::{TryCryptoRng, TryRng};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A monotonic counter of this token's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// Kept by the hardware TPM: never goes back. An increment takes long and wears the TPM.
    Lasting(u64),
    /// Begins at 0 with each launch, and is nobody's to take back until the next. Cheap.
    Launch(u64),
}

/// The machine.
pub trait Platform {
    /// Fills the buffer with what nobody else knows.
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), Error>;
    /// Seals a key for this very program.
    fn seal(&mut self, key: &[u8; 32]) -> Result<Vec<u8>, Error>;
    /// Opens what this very program has sealed.
    fn unseal(&mut self, blob: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error>;
    /// What the counter has come to.
    fn counter(&mut self, counter: Counter) -> Result<u64, Error>;
    /// One more, kept before it is answered: what it has come to.
    fn increment(&mut self, counter: Counter) -> Result<u64, Error>;
    /// A report on this program and a nonce, for the quoting PAL.
    fn report(&mut self, nonce: &[u8; 32]) -> Result<Vec<u8>, Error>;
}

/// The machine's random numbers for libraries that cannot be told that there are none: then they get some, and what they make of them is
/// thrown away ([`Rng::finish`]).
pub struct Rng<'a, P> {
    platform: &'a mut P,
    /// Why there are none, and how many were asked for since.
    failed: Option<(Error, u64)>,
}

impl<'a, P: Platform> Rng<'a, P> {
    /// Those of this machine.
    pub fn new(platform: &'a mut P) -> Self {
        Self { platform, failed: None }
    }

    /// The result, if all random numbers were random.
    pub fn finish<T>(self, result: T) -> Result<T, Error> {
        self.failed.map_or(Ok(result), |(error, _)| Err(error))
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        if self.failed.is_none() {
            self.failed = self.platform.random(bytes).err().map(|error| (error, 0));
        }
        let Some((_, count)) = &mut self.failed else { return };
        // Different each time, so that whoever tries until something fits comes to an end.
        for part in bytes.chunks_mut(32) {
            *count += 1;
            let digest = Sha256::digest(count.to_be_bytes());
            part.copy_from_slice(&digest[..part.len()]);
        }
    }
}

impl<P: Platform> TryRng for Rng<'_, P> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

impl<P: Platform> TryCryptoRng for Rng<'_, P> {}
