//! Enrolment: making sure that an attestation key lives in a certain TPM, before its Name is pinned in a policy.
//!
//! The operator takes the TPM's endorsement key from where it can be believed (its maker's certificate, or the machine before it
//! leaves the house) and the attestation key's Name from the machine. [`make`] wraps a secret so that only that TPM can unwrap it,
//! and only if it holds a key of that Name (TPM2_ActivateCredential). A machine that answers the secret has proved both; the Name goes
//! into the policy. This is TPM2_MakeCredential (TCG TPM 2.0 Library part 1, 24, and annexes B.10 and C.6), in software.

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use getrandom::SysRng;
use getrandom::rand_core::{TryRng, UnwrapErr};
use hmac::{Hmac, Mac};
use p256::ecdh::EphemeralSecret;
use p256::elliptic_curve::Generate;
use p256::elliptic_curve::sec1::ToSec1Point;
use rsa::oaep::EncryptingKey;
use rsa::traits::RandomizedEncryptor;
use sha2::Sha256;

use crate::hash::{hex, sha256};
use crate::key::{Key, Public, attribute};
use crate::wire::{Malformed, Reader};

/// What an endorsement key's digests have, and the secret at most.
const SIZE: usize = 32;
const AES_BITS: u16 = 128;

/// Why no credential was made.
///
/// ```
/// use trustvisor_verify::credential::{CredentialError, EndorsementKey};
///
/// assert!(matches!(EndorsementKey::parse(&[0, 9]), Err(CredentialError::Malformed(_))));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The key could not be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is no endorsement key by one of the two templates that are known here.
    #[error("it is no endorsement key (RSA-2048 or P-256, AES-128): {0}")]
    Kind(&'static str),
    /// No secret, or one that does not fit.
    #[error("a secret has 1 to 32 bytes, not {0}")]
    Secret(usize),
    /// No Name of a key.
    #[error("a Name has 34 bytes and begins with 000b, not {0}")]
    Name(String),
    /// No random numbers.
    #[error("no random numbers from the operating system")]
    Random,
    /// The key cannot encrypt.
    #[error("the endorsement key cannot encrypt")]
    Encryption,
}

/// A TPM's endorsement key, public part (TCG EK Credential Profile, templates L-1 and L-2).
///
/// ```
/// use trustvisor_verify::credential::{EndorsementKey, make};
///
/// # let file: &[u8] = include_bytes!("../tests/data/ek.pub");
/// let ek = EndorsementKey::parse(file)?;          // from `tpm2_createek -u`
/// let name = [&[0x00, 0x0b][..], &[0x55; 32]].concat();   // from `tpm2_createak -n`
/// let credential = make(&ek, &name, b"a secret of up to 32 bytes")?;
/// let file = credential.to_file();                // for `tpm2_activatecredential -i`
/// assert_eq!(file[..4], [0xba, 0xdc, 0xc0, 0xde]);
/// # Ok::<(), trustvisor_verify::credential::CredentialError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndorsementKey(Public);

/// A wrapped secret.
///
/// [`EndorsementKey`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// TPM2B_ID_OBJECT
    pub blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET
    pub secret: Vec<u8>,
}

impl EndorsementKey {
    /// From a TPM2B_PUBLIC.
    pub fn parse(file: &[u8]) -> Result<Self, CredentialError> {
        const FIELD: &str = "the endorsement key";
        let mut reader = Reader::new(FIELD, file);
        let public = Public::parse(FIELD, reader.sized(1024, "size")?)?;
        reader.end()?;
        let needed = [
            (attribute::RESTRICTED, "restricted"),
            (attribute::DECRYPT, "decrypt"),
            (attribute::FIXED_TPM, "fixedTPM"),
            (attribute::FIXED_PARENT, "fixedParent"),
            (attribute::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        ];
        if let Some((_, missing)) = needed.iter().find(|(attribute, _)| !public.has(*attribute)) {
            return Err(CredentialError::Kind(missing));
        }
        if public.has(attribute::SIGN) || public.scheme.is_some() {
            return Err(CredentialError::Kind("it signs"));
        }
        if public.symmetric != Some(AES_BITS) {
            return Err(CredentialError::Kind("symmetric"));
        }
        match &public.key {
            Key::Rsa { modulus, .. } if modulus.len() != 256 => Err(CredentialError::Kind("size")),
            _ => Ok(Self(public)),
        }
    }
}

impl Credential {
    /// The file that tpm2-tools read and write.
    pub fn to_file(&self) -> Vec<u8> {
        [&[0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1][..], &self.blob, &self.secret].concat()
    }
}

/// Wraps a secret for the TPM with this endorsement key, if it holds a key of this Name.
///
/// [`EndorsementKey`] has an example.
pub fn make(ek: &EndorsementKey, name: &[u8], secret: &[u8]) -> Result<Credential, CredentialError> {
    if !(1..=SIZE).contains(&secret.len()) {
        return Err(CredentialError::Secret(secret.len()));
    }
    if name.len() != 2 + SIZE || !name.starts_with(&[0, 0x0b]) {
        return Err(CredentialError::Name(hex(name)));
    }
    let (seed, encrypted_seed) = match &ek.0.key {
        Key::Rsa { .. } => rsa_seed(&ek.0.key)?,
        Key::P256 { .. } => p256_seed(&ek.0.key)?,
    };
    let key = kdfa(&seed, b"STORAGE\0", name, AES_BITS.into());
    let mut identity = sized(secret);
    encrypt(&key, &mut identity)?;
    let integrity = hmac(&kdfa(&seed, b"INTEGRITY\0", &[], 256), &[&identity, name]);
    Ok(Credential { blob: sized(&[sized(&integrity), identity].concat()), secret: sized(&encrypted_seed) })
}

/// A TPM2B.
fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

fn rsa_seed(key: &Key) -> Result<([u8; SIZE], Vec<u8>), CredentialError> {
    let mut seed = [0; SIZE];
    SysRng.try_fill_bytes(&mut seed).map_err(|_| CredentialError::Random)?;
    let key = key.rsa().ok_or(CredentialError::Encryption)?;
    let key = EncryptingKey::<Sha256>::new_with_label(key, *b"IDENTITY\0");
    let encrypted = key.encrypt_with_rng(&mut SysRng, &seed).map_err(|_| CredentialError::Encryption)?;
    Ok((seed, encrypted))
}

/// The seed comes from a Diffie-Hellman exchange; what is sent is our half.
fn p256_seed(key: &Key) -> Result<([u8; SIZE], Vec<u8>), CredentialError> {
    let theirs = key.point().ok_or(CredentialError::Encryption)?;
    let ours = EphemeralSecret::generate_from_rng(&mut UnwrapErr(SysRng));
    let shared = ours.diffie_hellman(&theirs);
    let point = |key: &p256::PublicKey| {
        let bytes = key.to_sec1_point(false).as_bytes().to_vec();
        (bytes[1..33].to_vec(), bytes[33..].to_vec())
    };
    let (our_x, our_y) = point(&ours.public_key());
    let (their_x, _) = point(&theirs);
    // KDFe (part 1, 11.4.10.3): one round gives all that is needed.
    let seed = sha256(&[&1u32.to_be_bytes(), shared.raw_secret_bytes(), b"IDENTITY\0", &our_x, &their_x]);
    Ok((seed, [sized(&our_x), sized(&our_y)].concat()))
}

/// KDFa (part 1, 11.4.10.2); one round of SHA-256 gives all that is needed.
fn kdfa(seed: &[u8; SIZE], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
    let round = hmac(seed, &[&1u32.to_be_bytes(), label, context, &bits.to_be_bytes()]);
    round[..bits as usize / 8].to_vec()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let hmac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().fold(hmac, |hmac, part| hmac.chain_update(part)).finalize().into_bytes().to_vec()
}

/// AES-128 in CFB mode; no initialisation vector, for the key is never used again.
fn encrypt(key: &[u8], bytes: &mut [u8]) -> Result<(), CredentialError> {
    let cipher = aes::Aes128::new_from_slice(key).map_err(|_| CredentialError::Encryption)?;
    let mut last = [0; 16].into();
    for piece in bytes.chunks_mut(16) {
        cipher.encrypt_block(&mut last);
        for (byte, mask) in piece.iter_mut().zip(&last) {
            *byte ^= mask;
        }
        last[..piece.len()].copy_from_slice(piece);
    }
    Ok(())
}
