//! The root secret, and what is derived from it: one half is what storage depends on, and goes from a release to the next; the other,
//! the identity's, is new in every release, so that none can speak in the name of another.

use hkdf::Hkdf;
use p256::SecretKey;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The secret that everything the micro-TPM keeps depends on. Whoever has it opens every blob: not `Debug`.
pub struct Root {
    storage: Hkdf<Sha256>,
    identity: Hkdf<Sha256>,
    quoting: [u8; 32],
}

/// The keys for what a PAL unseals.
pub(crate) type StorageKeys = Zeroizing<[u8; 64]>;

impl Root {
    /// Bytes of the secret: [`Self::STORAGE`], and as many for the identity.
    pub const SIZE: usize = 64;
    /// Bytes of the half that storage depends on.
    pub const STORAGE: usize = 32;
    /// Names the purpose to the extraction (RFC 5869, 2.2).
    const SALT: &'static [u8] = b"TrustVisor root 1";

    /// From the secret, and the identity of the quoting PAL: what it keeps is the identity's.
    pub fn new(secret: &[u8; Self::SIZE], quoting: [u8; 32]) -> Self {
        let (storage, identity) = secret.split_at(Self::STORAGE);
        let extract = |half| Hkdf::new(Some(Self::SALT), half);
        Self { storage: extract(storage), identity: extract(identity), quoting }
    }

    /// What is derived for a purpose. Fails above 255 times 32 bytes only, and nothing would open.
    /// The keys for blobs that are for the PAL of this identity: encryption, then authentication.
    pub(crate) fn storage_keys(&self, pal: &[u8; 32]) -> StorageKeys {
        let half = if *pal == self.quoting { &self.identity } else { &self.storage };
        derive(half, &[b"storage", pal])
    }

    /// What opens the hardware TPM's memory for the counters.
    pub fn counters_auth(&self) -> Zeroizing<[u8; 32]> {
        derive(&self.storage, &[b"counters"])
    }

    /// The P-256 identity key. Of 2^32 roots one needs a second try: its first candidate is no scalar.
    pub(crate) fn p256_key(&self) -> SecretKey {
        let candidate =
            |count| SecretKey::from_slice(&*derive::<32>(&self.identity, &[b"P-256 identity", &[count]]));
        (0u8..).find_map(|count| candidate(count).ok()).expect("256 candidates")
    }
}

/// What is derived for a purpose. Fails above 255 times 32 bytes only, and nothing would open.
fn derive<const N: usize>(half: &Hkdf<Sha256>, purpose: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut derived = Zeroizing::new([0; N]);
    let result = half.expand_multi_info(purpose, &mut *derived);
    debug_assert!(result.is_ok());
    derived
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTING: [u8; 32] = [3; 32];

    fn root(storage: u8, identity: u8) -> Root {
        let mut secret = [storage; Root::SIZE];
        secret[Root::STORAGE..].fill(identity);
        Root::new(&secret, QUOTING)
    }

    /// What a release that takes over the storage of another has in common with it, and what not.
    #[test]
    fn the_identity_is_no_matter_of_storage() {
        let (old, new) = (root(1, 2), root(1, 9));
        assert_eq!(old.storage_keys(&[5; 32]), new.storage_keys(&[5; 32]));
        assert_eq!(old.counters_auth(), new.counters_auth());
        assert_ne!(old.storage_keys(&QUOTING), new.storage_keys(&QUOTING));
        assert_ne!(old.p256_key(), new.p256_key());
        let other = root(7, 2);
        assert_ne!(old.storage_keys(&[5; 32]), other.storage_keys(&[5; 32]));
        assert_ne!(old.counters_auth(), other.counters_auth());
        assert_eq!(old.p256_key(), other.p256_key());
    }
}
