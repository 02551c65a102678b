//! The root secret, and what is derived from it.

use hkdf::Hkdf;
use p256::SecretKey;
use sha2::Sha256;
use zeroize::Zeroizing;

/// The secret that everything the micro-TPM keeps depends on. Whoever has it opens every blob: not `Debug`.
pub struct Root(Hkdf<Sha256>);

/// The keys for what a PAL unseals.
pub(crate) type StorageKeys = Zeroizing<[u8; 64]>;

impl Root {
    /// Bytes of the secret.
    pub const SIZE: usize = 32;
    /// Names the purpose to the extraction (RFC 5869, 2.2).
    const SALT: &'static [u8] = b"TrustVisor root 1";

    /// From the secret.
    pub fn new(secret: &[u8; Self::SIZE]) -> Self {
        Self(Hkdf::new(Some(Self::SALT), secret))
    }

    /// What is derived for a purpose. Fails above 255 times 32 bytes only, and nothing would open.
    fn derive<const N: usize>(&self, purpose: &[&[u8]]) -> Zeroizing<[u8; N]> {
        let mut derived = Zeroizing::new([0; N]);
        let result = self.0.expand_multi_info(purpose, &mut *derived);
        debug_assert!(result.is_ok());
        derived
    }

    /// The keys for blobs that are for the PAL of this identity: encryption, then authentication.
    pub(crate) fn storage_keys(&self, pal: &[u8; 32]) -> StorageKeys {
        self.derive(&[b"storage", pal])
    }

    /// What opens the hardware TPM's memory for the counters.
    pub fn counters_auth(&self) -> Zeroizing<[u8; 32]> {
        self.derive(&[b"counters"])
    }

    /// The P-256 identity key. Of 2^32 roots one needs a second try: its first candidate is no scalar.
    pub(crate) fn p256_key(&self) -> SecretKey {
        let candidate = |count| SecretKey::from_slice(&*self.derive::<32>(&[b"P-256 identity", &[count]]));
        (0u8..).find_map(|count| candidate(count).ok()).expect("256 candidates")
    }
}
