//! Random numbers: HMAC_DRBG with SHA-256 (NIST SP 800-90A, 10.1.2), seeded and from time to time seeded again.
//!
//! Guarantees: without 48 bytes of good seed there is no generator; who learns its state learns nothing of what came before, and
//! after the next reseeding nothing of what comes.

use hmacdrbg::HmacDrbg;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The generator, with a source of random words, which answers None where it failed. It need not be perfect: it is mixed with others. Not
/// `Debug`: its state is secret.
pub struct Random<S> {
    drbg: HmacDrbg<Sha256>,
    source: S,
    requests: u32,
}

/// Bytes of seed from the source: 256 bits of entropy and 128 of nonce (SP 800-90A, 10.1.2 and 8.6.7).
const SEED: usize = 48;
/// Requests between two reseedings; SP 800-90A allows 2^48.
const RESEED_INTERVAL: u32 = 4096;
/// Most bytes of one request to the DRBG (2^19 bits).
const REQUEST: usize = 1 << 16;

impl<S: FnMut() -> Option<u64>> Random<S> {
    /// Seeds from the source and whatever else is at hand (the hardware TPM's numbers), which need not be secret. None: the source
    /// is no good.
    pub fn seeded(mut source: S, more: &[u8]) -> Option<Self> {
        let seed = seed(&mut source)?;
        let (entropy, nonce) = seed.split_at(32);
        Some(Self { drbg: HmacDrbg::new(entropy, nonce, more), source, requests: 0 })
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(REQUEST) {
            if self.requests == RESEED_INTERVAL {
                self.reseed();
            }
            self.requests += 1;
            self.drbg.fill_bytes(part);
        }
    }

    /// A new instance, of the old one's output and fresh words. A source that fails now takes nothing away: the old one's output
    /// alone is as good as going on.
    fn reseed(&mut self) {
        let mut old = Zeroizing::new([0; SEED]);
        self.drbg.fill_bytes(&mut *old);
        let (entropy, nonce) = old.split_at(32);
        let fresh = seed(&mut self.source).unwrap_or(Zeroizing::new([0; SEED]));
        self.drbg = HmacDrbg::new(entropy, nonce, &*fresh);
        self.requests = 0;
    }
}

/// A source that repeats itself (known-bad processors answer all ones, or the same value again) is refused.
fn seed(source: &mut impl FnMut() -> Option<u64>) -> Option<Zeroizing<[u8; SEED]>> {
    let mut seed = Zeroizing::new([0; SEED]);
    let mut last = u64::MAX;
    for part in seed.as_chunks_mut::<8>().0 {
        let value = (0..10).find_map(|_| source())?;
        if value == last || value == 0 || value == u64::MAX {
            return None;
        }
        last = value;
        *part = value.to_le_bytes();
    }
    Some(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{bytes, hex};

    fn next_u64(random: &mut Random<impl FnMut() -> Option<u64>>) -> u64 {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A source of these bytes, little-endian as the generator puts them together.
    fn source(words: Vec<u8>) -> impl FnMut() -> Option<u64> {
        let mut words = words.as_chunks::<8>().0.to_vec().into_iter();
        move || words.next().map(u64::from_le_bytes)
    }

    /// NIST CAVP, HMAC_DRBG.rsp of CAVS 14.3, [SHA-256] without prediction resistance and without reseeding, empty personalization
    /// string and additional input, COUNT 0 and 1: the second of two requests.
    #[test]
    fn cavp_vectors() {
        for (entropy, nonce, expected) in [
            (
                "ca851911349384bffe89de1cbdc46e6831e44d34a4fb935ee285dd14b71a7488",
                "659ba96c601dc69fc902940805ec0ca8",
                "e528e9abf2dece54d47c7e75e5fe302149f817ea9fb4bee6f4199697d04d5b89\
                 d54fbb978a15b5c443c9ec21036d2460b6f73ebad0dc2aba6e624abf07745bc1\
                 07694bb7547bb0995f70de25d6b29e2d3011bb19d27676c07162c8b5ccde0668\
                 961df86803482cb37ed6d5c0bb8d50cf1f50d476aa0458bdaba806f48be9dcb8",
            ),
            (
                "79737479ba4e7642a221fcfd1b820b134e9e3540a35bb48ffae29c20f5418ea3",
                "3593259c092bef4129bc2c6c9e19f343",
                "cf5ad5984f9e43917aa9087380dac46e410ddc8a7731859c84e9d0f31bd43655\
                 b924159413e2293b17610f211e09f770f172b8fb693a35b85d3b9e5e63b1dc25\
                 2ac0e115002e9bedfb4b5b6fd43f33b8e0eafb2d072e1a6fee1f159df9b51e6c\
                 8da737e60d5032dd30544ec51558c6f080bdbdab1de8a939e961e06b5f1aca37",
            ),
        ] {
            let seed = [bytes(entropy), bytes(nonce)].concat();
            let mut random = Random::seeded(source(seed), &[]).unwrap();
            let mut out = [0; 128];
            random.fill(&mut out);
            random.fill(&mut out);
            assert_eq!(hex(&out), expected);
        }
    }

    #[test]
    fn a_stuck_source_is_refused() {
        assert!(Random::seeded(|| Some(5), &[]).is_none());
        assert!(Random::seeded(|| None, &[]).is_none());
        assert!(Random::seeded(|| Some(u64::MAX), &[]).is_none());
        assert!(Random::seeded(|| Some(0), &[]).is_none());
        let mut n = 0;
        let mut failing_now_and_then = || {
            n += 1;
            (n % 10 == 0).then_some(n)
        };
        assert!(Random::seeded(&mut failing_now_and_then, &[]).is_some());
        let short = source(vec![7; 40].into_iter().zip(0..).map(|(a, b): (u8, u8)| a ^ b).collect());
        assert!(Random::seeded(short, &[]).is_none(), "40 bytes are not 48");
    }

    fn counting() -> impl FnMut() -> Option<u64> {
        let mut n = 0;
        move || {
            n += 1;
            Some(n)
        }
    }

    #[test]
    fn all_of_the_seed_counts() {
        let mut seen = std::collections::BTreeSet::new();
        let plain = |more: &[u8]| next_u64(&mut Random::seeded(counting(), more).unwrap());
        seen.insert(plain(&[]));
        seen.insert(plain(&[0]));
        for changed in 1..=6u64 {
            let mut n = 0;
            let source = move || {
                n += 1;
                Some(if n == changed { n + 100 } else { n })
            };
            seen.insert(next_u64(&mut Random::seeded(source, &[]).unwrap()));
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn fresh_words_come_in_after_the_interval_and_a_failing_source_does_no_harm() {
        let run_from = |first: u64, later: Option<u64>| {
            let mut n = 0;
            let source = move || {
                n += 1;
                if n <= 6 { Some(first + n) } else { later.map(|later| later + n) }
            };
            let mut random = Random::seeded(source, &[]).unwrap();
            (0..RESEED_INTERVAL + 10).map(|_| next_u64(&mut random)).collect::<Vec<_>>()
        };
        let run = |later| run_from(0, later);
        let (a, b, failed) = (run(Some(1000)), run(Some(2000)), run(None));
        let interval = RESEED_INTERVAL as usize;
        assert_eq!(a[..interval], b[..interval]);
        assert_ne!(a[interval..], b[interval..]);
        assert_ne!(failed[interval..], run_from(100, None)[interval..], "what was before counts");
        let all: std::collections::BTreeSet<_> = failed.iter().chain(&a[interval..]).collect();
        assert_eq!(all.len(), failed.len() + 10, "nothing repeats");
    }
}
