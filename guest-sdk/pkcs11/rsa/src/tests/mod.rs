//! The parts, against crypto-bigint's arithmetic and each other. tests/ has the whole, against the `rsa` crate.

mod arithmetic;
mod keys;
mod timing;

use rand_core::{TryCryptoRng, TryRng};

use crate::Kernel;

/// The kernels that this machine has.
pub(crate) fn kernels() -> &'static [Kernel] {
    extern crate std;
    if std::is_x86_feature_detected!("bmi2") && std::is_x86_feature_detected!("adx") {
        &[Kernel::Adx, Kernel::Portable]
    } else {
        &[Kernel::Portable]
    }
}

/// Numbers that are the same each time (SplitMix64).
pub(crate) struct Repeatable(pub(crate) u64);

impl TryRng for Repeatable {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|word| word as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58476d1ce4e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d049bb133111eb);
        Ok(word ^ word >> 31)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in out.chunks_mut(8) {
            let word = self.try_next_u64()?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Repeatable {}
