//! The platform configuration registers of one PAL.

use abi::Digests;
use sha2::{Digest, Sha256};

use crate::extended;

/// Eight registers in a SHA-1 and a SHA-256 bank. Register 0 is the PAL's measurement; 1 to 7 start at zero and belong to
/// the PAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pcrs([Digests; Pcrs::COUNT]);

impl Pcrs {
    /// Number of registers.
    pub const COUNT: usize = 8;

    /// The registers of a PAL that has just been registered.
    pub fn new(measurement: Digests) -> Self {
        let mut pcrs = Self::default();
        pcrs.0[0] = measurement;
        pcrs
    }

    /// What register 0 holds: the PAL's identity.
    pub fn measurement(&self) -> &Digests {
        &self.0[0]
    }

    /// What register `index` holds, if there is one.
    pub fn read(&self, index: u64) -> Option<&Digests> {
        self.0.get(usize::try_from(index).ok()?)
    }

    /// All registers' values in the SHA-256 bank.
    pub(crate) fn sha256(&self) -> [&[u8; 32]; Self::COUNT] {
        self.0.each_ref().map(|digests| &digests.sha256)
    }

    /// Extends register `index` (1 to 7; None for others): in each bank, the new value is the hash of the old one and the digest.
    pub fn extend(&mut self, index: u64, digests: &Digests) -> Option<()> {
        let index = usize::try_from(index).ok().filter(|index| *index != 0)?;
        let pcr = self.0.get_mut(index)?;
        *pcr = extended(pcr, digests);
        Some(())
    }
}

/// SHA-256 over those of these values that are selected: bit *i* for value *i*.
pub(crate) fn composite<'a>(values: impl IntoIterator<Item = &'a [u8; 32]>, select: u32) -> [u8; 32] {
    let selected = values.into_iter().enumerate().filter(|(i, _)| select >> i & 1 != 0);
    selected.fold(Sha256::new(), |hash, (_, value)| hash.chain_update(value)).finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{digest, tests::hex};

    const ZERO: Digests = Digests { sha1: [0; 20], sha256: [0; 32] };

    #[test]
    fn the_measurement_stands_in_register_0() {
        let pcrs = Pcrs::new(digest(b"S"));
        assert_eq!(pcrs.read(0), Some(&digest(b"S")));
        for index in 1..8 {
            assert_eq!(pcrs.read(index), Some(&ZERO));
        }
    }

    /// SHA-1 of 40 and SHA-256 of 64 zero bytes, computed with coreutils.
    #[test]
    fn extending_zero_by_zero() {
        let mut pcrs = Pcrs::new(ZERO);
        pcrs.extend(3, &ZERO).unwrap();
        let pcr = pcrs.read(3).unwrap();
        assert_eq!(hex(&pcr.sha1), "b80de5d138758541c5f05265ad144ab9fa86d1db");
        assert_eq!(hex(&pcr.sha256), "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b");
        assert_eq!(pcrs.read(2), Some(&ZERO));
        assert_eq!(pcrs.read(4), Some(&ZERO));
    }

    #[test]
    fn only_1_to_7_can_be_extended() {
        let before = Pcrs::new(digest(b"S"));
        let mut pcrs = before.clone();
        assert_eq!(pcrs.extend(0, &ZERO), None);
        for index in [8, 9, 1 << 32, (1 << 32) + 1, u64::MAX] {
            assert_eq!(pcrs.extend(index, &ZERO), None);
            assert_eq!(pcrs.read(index), None);
        }
        assert_eq!(pcrs, before);
    }

    proptest! {
        #[test]
        fn extending_is_hashing_old_and_new(data: Vec<Vec<u8>>, index in 1..8u64) {
            let mut pcrs = Pcrs::new(digest(b"S"));
            let mut expected = ZERO;
            for bytes in &data {
                let new = digest(bytes);
                pcrs.extend(index, &new).unwrap();
                expected = Digests {
                    sha1: digest(&[&expected.sha1[..], &new.sha1].concat()).sha1,
                    sha256: digest(&[&expected.sha256[..], &new.sha256].concat()).sha256,
                };
            }
            prop_assert_eq!(pcrs.read(index), Some(&expected));
        }
    }
}
