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

    /// The keys for blobs that are for the PAL of this identity: encryption, then authentication.
    pub(crate) fn storage_keys(&self, pal: &[u8; 32]) -> StorageKeys {
        let mut keys = Zeroizing::new([0; 64]);
        // Fails above 255 times 32 bytes only; without keys nothing that was sealed would open.
        let derived = self.0.expand_multi_info(&[b"storage", pal], &mut *keys);
        debug_assert!(derived.is_ok());
        keys
    }

    /// The P-256 identity key. Of 2^32 roots one needs a second try: its first candidate is no scalar.
    pub(crate) fn p256_key(&self) -> SecretKey {
        (0u8..)
            .find_map(|count| {
                let mut candidate = Zeroizing::new([0; 32]);
                let derived = self.0.expand_multi_info(&[b"P-256 identity", &[count]], &mut *candidate);
                debug_assert!(derived.is_ok());
                SecretKey::from_slice(&*candidate).ok()
            })
            .expect("256 candidates")
    }
}
