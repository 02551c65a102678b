//! The TPM's side of a salted session (TPM 2.0 part 1, 19, 21 and C.6.1): written from the specification, and not from the other side.

use aes::Aes128;
use cfb_mode::Encryptor;
use cfb_mode::cipher::KeyIvInit;
use hmac::{Hmac, KeyInit, Mac};
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::{PublicKey, SecretKey};
use sha2::{Digest, Sha256};

/// The storage key's.
fn key() -> SecretKey {
    SecretKey::from_slice(&[0x33; 32]).unwrap()
}

/// TPMT_PUBLIC of the storage key.
pub fn storage_key() -> Vec<u8> {
    let template = [0, 0x23, 0, 0x0b, 0, 3, 4, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10];
    let [x, y] = coordinates(&key().public_key());
    [&template[..], &[0, 32], &x, &[0, 32], &y].concat()
}

fn coordinates(point: &PublicKey) -> [[u8; 32]; 2] {
    let bytes = point.to_sec1_point(false);
    [bytes.as_bytes()[1..33].try_into().unwrap(), bytes.as_bytes()[33..].try_into().unwrap()]
}

/// The nonce that a session begins with, and the one of an answer.
const FIRST: [u8; 32] = [0x44; 32];
const SECOND: [u8; 32] = [0x55; 32];

pub struct Session {
    caller: Vec<u8>,
    key: Vec<u8>,
}

impl Session {
    /// TPM2_StartAuthSession: the session, and the parameters of the answer; None: no such command.
    pub fn start(command: &[u8]) -> Option<(Self, Vec<u8>)> {
        let caller = command.get(20..52)?.to_vec();
        let point =
            PublicKey::from_sec1_bytes(&[&[4], command.get(56..88)?, command.get(90..122)?].concat()).ok()?;
        let shared = p256::ecdh::diffie_hellman(key().to_nonzero_scalar(), point.as_affine());
        let [own, _] = coordinates(&key().public_key());
        let [theirs, _] = coordinates(&point);
        let mut salt = Sha256::new();
        for part in [&[0, 0, 0, 1][..], shared.raw_secret_bytes(), b"SECRET\0", &theirs, &own] {
            salt.update(part);
        }
        let key = kdf(&salt.finalize(), b"ATH\0", &FIRST, &caller);
        Some((Self { caller, key }, [&[3, 0, 0, 0, 0, 32][..], &FIRST].concat()))
    }

    /// An answer to a command with these parameters, the first of them encrypted if that was asked for.
    pub fn answer(&self, command: &[u8], parameters: &[u8]) -> Vec<u8> {
        let mut parameters = parameters.to_vec();
        // The attributes stand behind the caller's nonce, that behind the session's handle; a command has one handle or none.
        let authorisation = command.windows(4).position(|bytes| bytes == [3, 0, 0, 0]).unwrap_or(0);
        let attributes = command.get(authorisation + 38).copied().unwrap_or_default();
        if attributes & 0x40 != 0 && parameters.len() >= 2 {
            let end = 2 + usize::from(u16::from_be_bytes([parameters[0], parameters[1]]));
            let end = end.min(parameters.len());
            let both = kdf(&self.key, b"CFB\0", &SECOND, &self.caller);
            let cipher = Encryptor::<Aes128>::new_from_slices(&both[..16], &both[16..]).unwrap();
            cipher.encrypt(&mut parameters[2..end]);
        }
        let digest =
            Sha256::new().chain_update([0; 4]).chain_update(&command[6..10]).chain_update(&parameters);
        let proof = mac(&self.key, &[&digest.finalize(), &SECOND, &self.caller, &[attributes]]);
        let size = (parameters.len() as u32).to_be_bytes();
        [&size[..], &parameters, &[0, 32], &SECOND, &[attributes], &[0, 32], &proof].concat()
    }
}

fn kdf(key: &[u8], label: &[u8], newer: &[u8], older: &[u8]) -> Vec<u8> {
    mac(key, &[&[0, 0, 0, 1], label, newer, older, &[0, 0, 1, 0]])
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}
