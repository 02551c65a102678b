//! Random numbers: a ChaCha20 generator, seeded by the processor's RDRAND at launch.

use chacha20::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// The generator. Not `Debug`: its state is secret.
pub struct Random(ChaCha20Rng);

/// Why there is no generator.
#[derive(Debug, PartialEq, Eq)]
pub struct NoEntropy;

impl Random {
    /// Seeds from a source of 64-bit words, which answers None where it failed. A source that repeats itself (known-bad
    /// processors answer all ones, or the same value again) is refused.
    pub fn seeded(mut word: impl FnMut() -> Option<u64>) -> Result<Self, NoEntropy> {
        let mut seed = [0; 32];
        let mut last = u64::MAX;
        for part in seed.chunks_exact_mut(8) {
            let value = (0..10).find_map(|_| word()).ok_or(NoEntropy)?;
            if value == last || value == 0 || value == u64::MAX {
                return Err(NoEntropy);
            }
            last = value;
            part.copy_from_slice(&value.to_le_bytes());
        }
        Ok(Self(ChaCha20Rng::from_seed(seed)))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_source_is_refused() {
        assert!(Random::seeded(|| Some(5)).is_err());
        assert!(Random::seeded(|| None).is_err());
        assert!(Random::seeded(|| Some(u64::MAX)).is_err());
        let mut n = 0;
        let mut counted = Random::seeded(|| {
            n += 1;
            Some(n)
        })
        .unwrap_or_else(|_| panic!("a source that differs"));
        assert_ne!(counted.next_u64(), counted.next_u64());
    }
}
