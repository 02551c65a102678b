//! Signatures that the `rsa` crate verifies, and ciphertexts that it makes.

mod common;

use common::*;
use proptest::prelude::*;
use rsa::{Oaep, Pkcs1v15Encrypt, Pkcs1v15Sign, Pss, PublicKey, hazmat, traits::PublicKeyParts};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use trustvisor_rsa::{Error, Hash, Key, oaep, pkcs1, pss};

const HASHES: [Hash; 5] = [Hash::Sha1, Hash::Sha224, Hash::Sha256, Hash::Sha384, Hash::Sha512];

/// The same with each hash as a type, for the `rsa` crate.
macro_rules! with_hash {
    ($hash:expr, $name:ident => $what:expr) => {
        match $hash {
            Hash::Sha1 => {
                type $name = Sha1;
                $what
            }
            Hash::Sha224 => {
                type $name = Sha224;
                $what
            }
            Hash::Sha256 => {
                type $name = Sha256;
                $what
            }
            Hash::Sha384 => {
                type $name = Sha384;
                $what
            }
            Hash::Sha512 => {
                type $name = Sha512;
                $what
            }
        }
    };
}

fn all() -> Vec<(PublicKey, Key)> {
    PEMS.iter()
        .map(|pem| read(pem))
        .flat_map(|theirs| {
            keys(&theirs).into_iter().map(move |key| (theirs.to_public_key(), key)).collect::<Vec<_>>()
        })
        .collect()
}

/// A ciphertext of exactly these bytes.
fn raw(public: &PublicKey, encoded: &[u8]) -> Vec<u8> {
    let n = public.n();
    let encoded = rsa::BoxedUint::from_be_slice(encoded, n.bits_precision()).unwrap();
    hazmat::rsa_encrypt(public, &encoded).unwrap().to_be_bytes().to_vec()
}

#[test]
fn digests_are_those_of_the_hash() {
    for hash in HASHES {
        let expected = with_hash!(hash, H => H::digest(b"one, two").to_vec());
        assert_eq!(hash.digest(&[b"one", b"", b", two"]), expected);
        assert_eq!(hash.size(), expected.len());
    }
}

#[test]
fn pkcs1_signatures_are_verified() {
    for (public, mut key) in all() {
        for hash in HASHES {
            let digest = hash.digest(&[b"message"]);
            let signature = pkcs1::sign(&mut key, &mut rng(), hash, &digest).unwrap();
            let scheme = with_hash!(hash, H => Pkcs1v15Sign::new::<H>());
            public.verify(scheme, &digest, &signature).unwrap();
            assert_eq!(pkcs1::sign(&mut key, &mut rng(), hash, &digest[1..]), Err(Error::Digest));
        }
        let size = key.size();
        for len in [0, 1, 36, size - 12, size - 11] {
            let info = vec![0x5a; len];
            let signature = pkcs1::sign_raw(&mut key, &mut rng(), &info).unwrap();
            public.verify(Pkcs1v15Sign::new_unprefixed(), &info, &signature).unwrap();
        }
        for len in [size - 10, size, size + 1, 10 * size] {
            assert_eq!(pkcs1::sign_raw(&mut key, &mut rng(), &vec![1; len]), Err(Error::TooLong));
        }
    }
}

#[test]
fn pss_signatures_are_verified() {
    for (public, mut key) in all() {
        for hash in HASHES {
            let digest = hash.digest(&[b"message"]);
            let longest = key.size() - hash.size() - 2;
            for salt in [0, 1, hash.size(), longest] {
                let signature = pss::sign(&mut key, &mut rng(), hash, hash, salt, &digest).unwrap();
                let verified = with_hash!(hash, H => {
                    public.verify(Pss::<H>::new_with_salt(salt), &digest, &signature)
                });
                verified.unwrap();
            }
            for salt in [longest + 1, key.size(), usize::MAX] {
                let refused = pss::sign(&mut key, &mut rng(), hash, hash, salt, &digest);
                assert_eq!(refused, Err(Error::TooLong));
            }
            assert_eq!(pss::sign(&mut key, &mut rng(), hash, hash, 0, &[]), Err(Error::Digest));
        }
    }
}

/// The `rsa` crate has one hash for both; so the other is taken apart here.
#[test]
fn pss_with_another_hash_for_the_mask() {
    let theirs = read(PEMS[0]);
    for mut key in keys(&theirs) {
        let digest = Hash::Sha256.digest(&[b"message"]);
        let signature = pss::sign(&mut key, &mut rng(), Hash::Sha256, Hash::Sha1, 20, &digest).unwrap();
        let encoded = raw(&theirs.to_public_key(), &signature);
        let (db, rest) = encoded.split_at(256 - 33);
        let (h, trailer) = rest.split_at(32);
        let mask = (0u32..12).flat_map(|i| Sha1::digest([h, &i.to_be_bytes()].concat()));
        let mut db: Vec<u8> = db.iter().zip(mask).map(|(a, b)| a ^ b).collect();
        db[0] &= 0x7f;
        let (zeros, salt) = db.split_at(db.len() - 20);
        assert_eq!((zeros.last(), trailer), (Some(&1), &[0xbc][..]));
        assert!(zeros[..zeros.len() - 1].iter().all(|byte| *byte == 0));
        assert_eq!(Sha256::digest([&[0; 8], &digest[..], salt].concat()).to_vec(), h);
    }
}

#[test]
fn oaep_ciphertexts_are_decrypted() {
    for (public, mut key) in all() {
        for (hash, mgf) in HASHES.into_iter().flat_map(|hash| [(hash, hash), (hash, Hash::Sha1)]) {
            let longest = key.size() - 2 * hash.size() - 2;
            for (len, label) in [(0, &b""[..]), (1, b"label"), (longest, b"another")] {
                let message = vec![0; len];
                let padding = with_hash!(hash, H => with_hash!(mgf, M => {
                    let mut padding = Oaep::<H, M>::new_with_mgf_hash();
                    padding.label = Some(label.into());
                    public.encrypt(&mut rng(), padding, &message).unwrap()
                }));
                let decrypted = oaep::decrypt(&mut key, &mut rng(), hash, mgf, label, &padding).unwrap();
                assert_eq!(decrypted.to_vec(), message);
                let wrong = oaep::decrypt(&mut key, &mut rng(), hash, mgf, b"wrong", &padding);
                assert_eq!(wrong.err(), Some(Error::Decryption));
                if mgf != Hash::Sha384 {
                    let wrong = oaep::decrypt(&mut key, &mut rng(), hash, Hash::Sha384, label, &padding);
                    assert_eq!(wrong.err(), Some(Error::Decryption));
                }
                let short = oaep::decrypt(&mut key, &mut rng(), hash, mgf, label, &padding[1..]);
                assert_eq!(short.err(), Some(Error::Input));
            }
        }
    }
}

/// OAEP's encoding with anything in the place of zeros, 1 and message.
fn oaep_encoded(first: u8, label: &[u8], rest: &[u8]) -> Vec<u8> {
    let mask = |seed: &[u8], data: &mut [u8]| {
        let mask = (0u32..16).flat_map(|i| Sha256::digest([seed, &i.to_be_bytes()].concat()));
        data.iter_mut().zip(mask).for_each(|(a, b)| *a ^= b);
    };
    let mut seed = [9; 32];
    let mut db = [&Sha256::digest(label), rest].concat();
    mask(&seed, &mut db);
    mask(&db, &mut seed);
    [&[first], &seed[..], &db].concat()
}

#[test]
fn oaep_padding_of_every_wrong_kind_is_one_error() {
    let theirs = read(PEMS[0]);
    let public = theirs.to_public_key();
    let rest = |at: usize, byte: u8, fill: u8| {
        let mut rest = vec![0; 256 - 65];
        rest[at] = byte;
        rest[at + 1..].fill(fill);
        rest
    };
    let end = 256 - 66;
    for mut key in keys(&theirs) {
        let mut decrypt = |encoded: Vec<u8>| {
            let decrypted =
                oaep::decrypt(&mut key, &mut rng(), Hash::Sha256, Hash::Sha256, b"", &raw(&public, &encoded));
            decrypted.map(|message| message.to_vec())
        };
        assert_eq!(decrypt(oaep_encoded(0, b"", &rest(0, 1, 7))).unwrap(), vec![7; end]);
        assert_eq!(decrypt(oaep_encoded(0, b"", &rest(0, 1, 0))).unwrap(), vec![0; end]);
        assert_eq!(decrypt(oaep_encoded(0, b"", &rest(end, 1, 0))).unwrap(), vec![]);
        assert_eq!(decrypt(oaep_encoded(0, b"", &rest(end - 1, 1, 1))).unwrap(), vec![1]);
        for bad in [
            oaep_encoded(1, b"", &rest(0, 1, 7)),
            oaep_encoded(0, b"x", &rest(0, 1, 7)),
            oaep_encoded(0, b"", &rest(0, 2, 1)),
            oaep_encoded(0, b"", &rest(0, 0xff, 1)),
            oaep_encoded(0, b"", &rest(3, 3, 1)),
            oaep_encoded(0, b"", &rest(end, 0, 0)),
            oaep_encoded(0, b"", &rest(end, 3, 0)),
            vec![0; 256],
        ] {
            assert_eq!(decrypt(bad), Err(Error::Decryption));
        }
    }
}

#[test]
fn pkcs1_ciphertexts_are_decrypted() {
    for (public, mut key) in all() {
        for len in [0, 1, 48, key.size() - 12, key.size() - 11] {
            let message = vec![0; len];
            let ciphertext = public.encrypt(&mut rng(), Pkcs1v15Encrypt, &message).unwrap();
            assert_eq!(pkcs1::decrypt(&mut key, &mut rng(), &ciphertext).unwrap().to_vec(), message);
            let short = pkcs1::decrypt(&mut key, &mut rng(), &ciphertext[1..]);
            assert_eq!(short.err(), Some(Error::Input));
        }
    }
}

#[test]
fn rejection_is_that_of_openssl() {
    let data = include_str!("data/implicit_rejection.txt");
    let hex = |line: &str| -> Vec<u8> {
        line.as_bytes()
            .as_chunks::<2>()
            .0
            .iter()
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    let lines: Vec<_> = data.lines().filter(|line| !line.starts_with('#')).map(hex).collect();
    let [n, d, p, q, vectors @ ..] = &lines[..] else { panic!() };
    assert_eq!(vectors.len(), 20);
    let components = trustvisor_rsa::Components {
        n: n.clone(),
        e: 65537,
        d: d.clone().into(),
        p: p.clone().into(),
        q: q.clone().into(),
    };
    for kernel in kernels() {
        let mut key = Key::from_components(*kernel, &mut rng(), &components).unwrap();
        for [ciphertext, message] in vectors.as_chunks().0 {
            assert_eq!(&pkcs1::decrypt(&mut key, &mut rng(), ciphertext).unwrap().to_vec(), message);
        }
    }
}

#[test]
fn pkcs1_padding_of_every_wrong_kind_is_rejected_without_an_error() {
    let theirs = read(PEMS[0]);
    let public = theirs.to_public_key();
    let encoded = |change: &dyn Fn(&mut [u8])| {
        let mut encoded = vec![0xaa; 256];
        encoded[..2].copy_from_slice(&[0, 2]);
        encoded[200] = 0;
        change(&mut encoded);
        encoded
    };
    for mut key in keys(&theirs) {
        let mut decrypt = |encoded: &[u8]| {
            let ciphertext = raw(&public, encoded);
            let once = pkcs1::decrypt(&mut key, &mut rng(), &ciphertext).unwrap();
            assert_eq!(once, pkcs1::decrypt(&mut key, &mut rng(), &ciphertext).unwrap());
            once.to_vec()
        };
        assert_eq!(decrypt(&encoded(&|_| ())), [0xaa; 55]);
        assert_eq!(decrypt(&encoded(&|x| x[10] = 0)), encoded(&|_| ())[11..]);
        assert_eq!(decrypt(&encoded(&|x| (x[200], x[255]) = (1, 0))), []);
        type Change = dyn Fn(&mut [u8]);
        let changes: [&Change; 8] = [
            &|x| x[0] = 1,
            &|x| x[1] = 1,
            &|x| x[1] = 0,
            &|x| x[2] = 0,
            &|x| x[9] = 0,
            &|x| x[200] = 1,
            &|x| x[2..].fill(0),
            &|x| x.fill(0),
        ];
        for change in changes {
            let encoded = encoded(change);
            let message = decrypt(&encoded);
            assert!(message.len() <= 245);
            assert!(message.len() < 8 || !encoded.ends_with(&message));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_ciphertext_has_some_message(mut ciphertext in prop::collection::vec(any::<u8>(), 250..260)) {
        if let Some(first) = ciphertext.first_mut() {
            *first &= 0x7f;
        }
        for mut key in keys(&read(PEMS[0])) {
            let result = pkcs1::decrypt(&mut key, &mut rng(), &ciphertext);
            match ciphertext.len() {
                256 => prop_assert!(result.unwrap().len() <= 245),
                _ => prop_assert_eq!(result.err(), Some(Error::Input)),
            }
            let result = oaep::decrypt(&mut key, &mut rng(), Hash::Sha512, Hash::Sha512, b"", &ciphertext);
            prop_assert!(matches!(result.err(), Some(Error::Input | Error::Decryption)));
        }
    }
}
