//! NIST's CAVP vectors through what the micro-TPM, and the quoting PAL that signs for it, compute with: where a function is public, through
//! it; else through the types that it uses, built with the same features.

#[path = "cavp/rsp.rs"]
mod rsp;

use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher};
use ctr::Ctr128BE;
use hmac::{Hmac, KeyInit, Mac};
use rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PrivateKeyParts;
use rsa::{BoxedUint, Pkcs1v15Sign, PrivateKey};
use rsp::{Vector, vectors};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use utpm::random::Random;

/// The file's vectors, of which there are this many.
macro_rules! vectors {
    ($file:literal, $last:literal, $count:literal) => {{
        let all = vectors(include_str!(concat!("cavp/", $file)), $last);
        assert_eq!(all.len(), $count, $file);
        all
    }};
}

fn number(vector: &Vector, name: &str) -> usize {
    vector.text(name).parse().unwrap()
}

fn sha1(message: &[u8]) -> Vec<u8> {
    utpm::digest(message).sha1.to_vec()
}

fn sha256(message: &[u8]) -> Vec<u8> {
    utpm::digest(message).sha256.to_vec()
}

type Hash = fn(&[u8]) -> Vec<u8>;

fn messages(hash: Hash, vectors: Vec<Vector>) {
    for vector in vectors {
        let mut message = vector.bytes("Msg");
        // That of no bytes is written 00.
        message.truncate(number(&vector, "Len") / 8);
        assert_eq!(message.len() * 8, number(&vector, "Len"));
        assert_eq!(hash(&message), vector.bytes("MD"), "{} bits", vector.text("Len"));
    }
}

#[test]
fn messages_are_hashed() {
    messages(sha1, vectors!("SHA1ShortMsg.rsp", "MD", 65));
    messages(sha1, vectors!("SHA1LongMsg.rsp", "MD", 8));
    messages(sha256, vectors!("SHA256ShortMsg.rsp", "MD", 65));
    messages(sha256, vectors!("SHA256LongMsg.rsp", "MD", 8));
}

/// The Secure Hash Algorithm Validation System, 6.4: of the last three digests, a thousand times; the last one is the next seed.
fn chain(hash: Hash, vectors: Vec<Vector>) {
    let mut seed = vectors[0].bytes("Seed");
    for vector in vectors {
        let mut last = [seed.clone(), seed.clone(), seed];
        for _ in 0..1000 {
            let next = hash(&last.concat());
            last.rotate_left(1);
            last[2] = next;
        }
        let [_, _, result] = last;
        assert_eq!(result, vector.bytes("MD"), "COUNT {}", vector.text("COUNT"));
        seed = result;
    }
}

#[test]
fn digests_of_digests_are_hashed() {
    chain(sha1, vectors!("SHA1Monte.rsp", "MD", 100));
    chain(sha256, vectors!("SHA256Monte.rsp", "MD", 100));
}

/// As [`mod@utpm::seal`] encrypts: the first block of the key stream is the cipher of the IV itself, so that vectors of single blocks say
/// what it is.
#[test]
fn blocks_are_encrypted() {
    let files = [
        vectors!("ECBGFSbox256.rsp", "CIPHERTEXT", 5),
        vectors!("ECBKeySbox256.rsp", "CIPHERTEXT", 16),
        vectors!("ECBVarTxt256.rsp", "CIPHERTEXT", 32),
        vectors!("ECBVarKey256.rsp", "CIPHERTEXT", 32),
        vectors!("ECBMMT256.rsp", "CIPHERTEXT", 10),
    ];
    for vector in files.iter().flatten() {
        let (text, expected) = (vector.bytes("PLAINTEXT"), vector.bytes("CIPHERTEXT"));
        assert_eq!(text.len(), expected.len());
        for (iv, expected) in text.chunks(16).zip(expected.chunks(16)) {
            let mut stream = [0; 16];
            Ctr128BE::<Aes256>::new_from_slices(&vector.bytes("KEY"), iv)
                .unwrap()
                .apply_keystream(&mut stream);
            assert_eq!(stream, expected, "COUNT {}", vector.text("COUNT"));
        }
    }
}

/// As [`mod@utpm::seal`] authenticates; here the tags are cut.
#[test]
fn messages_are_authenticated() {
    for vector in vectors!("HMAC.rsp", "Mac", 6) {
        let (key, length) = (vector.bytes("Key"), number(&vector, "Tlen"));
        assert_eq!(key.len(), number(&vector, "Klen"));
        let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(vector.bytes("Msg"));
        assert_eq!(mac.clone().finalize().into_bytes()[..length], vector.bytes("Mac"));
        assert!(mac.verify_truncated_left(&vector.bytes("Mac")).is_ok());
    }
}

/// A source of these bytes, little-endian as the generator puts them together.
fn source(bytes: Vec<u8>) -> impl FnMut() -> Option<u64> {
    let mut words = bytes.as_chunks::<8>().0.to_vec().into_iter();
    move || words.next().map(u64::from_le_bytes)
}

/// What is returned is the second of two requests.
#[test]
fn random_numbers_are_those_of_the_seed() {
    let vectors = vectors!("HMAC_DRBG.rsp", "ReturnedBits", 30);
    let personal = |vector: &&Vector| number(vector, "PersonalizationStringLen") == 256;
    assert_eq!(vectors.iter().filter(personal).count(), 15);
    for vector in vectors {
        assert_eq!(vector.text("AdditionalInput"), "");
        let seed = [vector.bytes("EntropyInput"), vector.bytes("Nonce")].concat();
        let mut random = Random::seeded(source(seed), &vector.bytes("PersonalizationString")).unwrap();
        let mut bits = [0; 128];
        random.fill(&mut bits);
        random.fill(&mut bits);
        assert_eq!(bits[..], vector.bytes("ReturnedBits"), "COUNT {}", vector.text("COUNT"));
    }
}

/// Blinds, as the micro-TPM's numbers do for the quoting PAL.
struct Blinding<S>(Random<S>);

impl<S: FnMut() -> Option<u64>> TryRng for Blinding<S> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|value| value as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl<S: FnMut() -> Option<u64>> TryCryptoRng for Blinding<S> {}

/// As the quoting PAL signs: the key of its two primes, which the private exponent gives away.
#[test]
fn messages_are_signed() {
    let vectors = vectors!("SigGen15.rsp", "S", 20);
    let part = |name| BoxedUint::from_be_slice(&vectors[0].bytes(name), 2048).unwrap();
    let given = PrivateKey::from_components(part("n"), part("e"), part("d"), vec![]).unwrap();
    let [p, q] = given.primes() else { panic!("two primes") };
    let key = PrivateKey::from_p_q(p.as_ref().clone(), q.as_ref().clone(), part("e")).unwrap();
    let mut words = 0..;
    let mut blinding = Blinding(Random::seeded(move || words.next().map(|n: u64| n + 1), &[]).unwrap());
    let mut signed = [0, 0];
    for vector in &vectors {
        let message = vector.bytes("Msg");
        let (kind, scheme, digest) = match vector.text("SHAAlg") {
            "SHA1" => (0, Pkcs1v15Sign::new::<Sha1>(), Sha1::digest(&message).to_vec()),
            "SHA256" => (1, Pkcs1v15Sign::new::<Sha256>(), Sha256::digest(&message).to_vec()),
            other => panic!("{other}"),
        };
        let signature = key.sign_with_rng(&mut blinding, scheme, &digest).unwrap();
        assert_eq!(signature, vector.bytes("S"), "{}", vector.text("SHAAlg"));
        signed[kind] += 1;
    }
    assert_eq!(signed, [10, 10]);
}
