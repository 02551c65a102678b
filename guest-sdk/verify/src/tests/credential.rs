//! Credentials, unwrapped as a TPM would. A real TPM's answer is in `swtpm.rs`.

use aes::cipher::{BlockCipherEncrypt, KeyInit};

use crate::credential::{CredentialError, EndorsementKey, make};
use crate::hash::Hash;
use crate::key::attribute;
use crate::tests::keys::TestKey;

const NAME: [u8; 34] = {
    let mut name = [0x55; 34];
    (name[0], name[1]) = (0, 0x0b);
    name
};

/// By the templates L-1 and L-2, as TPM2B_PUBLIC.
pub(crate) fn endorsement_key(key: TestKey) -> Vec<u8> {
    let signing = key.public_with(attribute::IDENTITY, Hash::Sha256);
    let mut public = signing[..4].to_vec();
    public.extend([0, 3, 0, 0xb2]);
    // PolicySecret(endorsement), its digest not checked here; AES-128 in CFB mode, no scheme.
    public.extend([&[0, 32][..], &[0x83; 32], &[0, 6, 0, 128, 0, 0x43, 0, 0x10]].concat());
    public.extend(&signing[16..]);
    [&(public.len() as u16).to_be_bytes()[..], &public].concat()
}

#[test]
fn a_p256_credential_opens_with_the_key_and_name_alone() {
    let ek = EndorsementKey::parse(&endorsement_key(TestKey::P256(4))).unwrap();
    let credential = make(&ek, &NAME, b"the secret").unwrap();
    // Part 1, annex C.6.4, and 24.
    let (x, y) = (&credential.secret[4..36], &credential.secret[38..]);
    let point = crate::key::Key::P256 { x: x.try_into().unwrap(), y: y.try_into().unwrap() }.point().unwrap();
    let ours = p256::SecretKey::from_slice(&[4; 32]).unwrap();
    let shared = p256::ecdh::diffie_hellman(ours.to_nonzero_scalar(), point.as_affine());
    let crate::key::Key::P256 { x: our_x, .. } = TestKey::P256(4).key() else { panic!("no P-256 key") };
    let z = shared.raw_secret_bytes();
    let seed = Hash::Sha256.of(&[&[0, 0, 0, 1], z, b"IDENTITY\0", x, &our_x]);
    assert_eq!(unwrap(&seed, &credential.blob, &NAME), Some(b"the secret".to_vec()));
    assert_eq!(unwrap(&seed, &credential.blob, &[0x55; 34]), None);
    // Never twice the same.
    assert_ne!(make(&ek, &NAME, b"the secret").unwrap().blob, credential.blob);
}

/// What a TPM does with the seed: nothing is decrypted before the integrity is right.
fn unwrap(seed: &[u8], blob: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let kdf = |label: &[u8], context: &[u8], bits: u32| {
        hmac(seed, &[&[0, 0, 0, 1], label, &[0], context, &bits.to_be_bytes()])
    };
    let (integrity, encrypted) = (&blob[4..36], &blob[36..]);
    if hmac(&kdf(b"INTEGRITY", &[], 256), &[encrypted, name]) != integrity {
        return None;
    }
    let cipher = aes::Aes128::new_from_slice(&kdf(b"STORAGE", name, 128)[..16]).unwrap();
    let mut mask = [0; 16].into();
    cipher.encrypt_block(&mut mask);
    let plain: Vec<u8> = encrypted.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    let size = u16::from_be_bytes([plain[0], plain[1]]);
    assert_eq!(usize::from(size), plain.len() - 2);
    Some(plain[2..].to_vec())
}

/// RFC 2104, for keys of up to a block.
fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(block, key)| *block ^= key);
        block
    };
    let inner = Hash::Sha256.of(&[&pad(0x36)[..], &parts.concat()]);
    Hash::Sha256.of(&[&pad(0x5c), &inner])
}

#[test]
fn what_is_no_endorsement_key_is_refused() {
    let good = endorsement_key(TestKey::Rsa(0));
    EndorsementKey::parse(&good).unwrap();
    let kind = |at: usize, value: u8| {
        let mut key = good.clone();
        key[at] = value;
        match EndorsementKey::parse(&key) {
            Err(CredentialError::Kind(kind)) => kind.to_owned(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(kind(7, 0), "restricted");
    assert_eq!(kind(7, 1), "decrypt");
    assert_eq!(kind(7, 7), "it signs");
    assert_eq!(kind(9, 0xb0), "fixedTPM");
    assert_eq!(kind(47, 0), "symmetric");
    for end in 0..good.len() {
        assert!(EndorsementKey::parse(&good[..end]).is_err());
    }
    assert!(EndorsementKey::parse(&[&good[..], &[0]].concat()).is_err());
}

#[test]
fn secrets_and_names_have_their_sizes() {
    let ek = EndorsementKey::parse(&endorsement_key(TestKey::Rsa(0))).unwrap();
    assert_eq!(make(&ek, &NAME, &[]), Err(CredentialError::Secret(0)));
    assert_eq!(make(&ek, &NAME, &[1; 33]), Err(CredentialError::Secret(33)));
    assert!(matches!(make(&ek, &NAME[1..], &[1]), Err(CredentialError::Name(_))));
    assert_eq!(make(&ek, &NAME, &[1; 32]).unwrap().secret.len(), 258);
}
