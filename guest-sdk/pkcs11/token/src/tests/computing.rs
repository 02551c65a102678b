//! What is computed: standards' vectors, and parts against the whole.

use super::*;
use aes::cipher::{BlockModeEncrypt, KeyIvInit, StreamCipher, block_padding::Pkcs7};
use proptest::collection;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn key_of(process: &mut Process, session: u64, value: &[u8]) -> u64 {
    process.create(session, aes(value)).unwrap()
}

/// NIST SP 800-38A, F.1.5, F.2.5, F.5.5.
#[test]
fn aes_by_the_book() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let key = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";
    let key = key_of(&mut process, session, &unhex(key));
    let plain_text = unhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
    let iv = unhex("000102030405060708090a0b0c0d0e0f");
    let block = unhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
    let cases = [
        (plain(m::AES_ECB), "f3eed1bdb5d2a03c064b5a7e3db181f8591ccb10d410ed26dc5ba74a31362870"),
        (
            Mechanism { mechanism: m::AES_CBC, parameter: Parameter::Bytes(iv) },
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
        ),
        (
            Mechanism { mechanism: m::AES_CTR, parameter: Parameter::Counter { bits: 128, block } },
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5",
        ),
    ];
    for (mechanism, wanted) in cases {
        let got = process.single(session, Operation::Encrypt, mechanism.clone(), key, &plain_text, &[]);
        assert_eq!(got, Ok(unhex(wanted)), "{mechanism:?}");
        let back = process.single(session, Operation::Decrypt, mechanism, key, &unhex(wanted), &[]);
        assert_eq!(back.as_deref(), Ok(&plain_text[..]));
    }
}

/// The Galois/Counter Mode of Operation (McGrew, Viega), test case 4; and SP 800-38B, D.1, example 2.
#[test]
fn gcm_and_cmac_by_the_book() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let key = key_of(&mut process, session, &unhex("feffe9928665731c6d6a8f9467308308"));
    let gcm = Mechanism {
        mechanism: m::AES_GCM,
        parameter: Parameter::Gcm {
            iv: unhex("cafebabefacedbaddecaf888"),
            aad: unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
            tag_bits: 128,
        },
    };
    let text = unhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    let wanted = unhex(
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
    );
    let sealed = process.single(session, Operation::Encrypt, gcm.clone(), key, &text, &[]);
    assert_eq!(sealed.as_ref(), Ok(&wanted));
    assert_eq!(process.single(session, Operation::Decrypt, gcm.clone(), key, &wanted, &[]), Ok(text));
    for at in [0, 40, 75] {
        let mut changed = wanted.clone();
        changed[at] ^= 1;
        let opened = process.single(session, Operation::Decrypt, gcm.clone(), key, &changed, &[]);
        assert_eq!(opened, Err(rv(rv::ENCRYPTED_DATA_INVALID)));
    }
    let key = [aes(&unhex("2b7e151628aed2a6abf7158809cf4f3c")), vec![flag(attribute::SIGN, true)]].concat();
    let key = process.create(session, key).unwrap();
    let message = unhex("6bc1bee22e409f96e93d7e117393172a");
    let mac = process.single(session, Operation::Sign, plain(m::AES_CMAC), key, &message, &[]);
    assert_eq!(mac, Ok(unhex("070a16b46b4d4144f79bdd9dd04a287c")));
}

/// RFC 4231, test case 2, and RFC 6979 and 8032 by verifying with the key pair of the token.
#[test]
fn macs_and_signatures_verify_and_no_others() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let template = vec![
        number(attribute::CLASS, class::SECRET_KEY),
        number(attribute::KEY_TYPE, key::GENERIC_SECRET),
        (attribute::VALUE, b"Jefe".to_vec()),
    ];
    let secret = process.create(session, template).unwrap();
    let wanted = unhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    let data = b"what do ya want for nothing?";
    let sha256 = || plain(m::SHA256_HMAC);
    assert_eq!(process.single(session, Operation::Sign, sha256(), secret, data, &[]), Ok(wanted.clone()));
    assert_eq!(process.single(session, Operation::Verify, sha256(), secret, data, &wanted), Ok(vec![]));

    let curves = [
        ("06082a8648ce3d030107", m::EC_KEY_PAIR_GEN, m::ECDSA_SHA256),
        ("06052b81040022", m::EC_KEY_PAIR_GEN, m::ECDSA_SHA384),
        ("06052b81040022", m::EC_KEY_PAIR_GEN, m::ECDSA),
        ("06032b6570", m::EC_EDWARDS_KEY_PAIR_GEN, m::EDDSA),
    ];
    for (params, generate, sign) in curves {
        let request = Request::GenerateKeyPair {
            session,
            mechanism: plain(generate),
            public: vec![(attribute::EC_PARAMS, unhex(params))],
            private: vec![],
        };
        let pair = handles(process.ask(request).unwrap());
        let data = &data[..20];
        let signature = process.single(session, Operation::Sign, plain(sign), pair[1], data, &[]).unwrap();
        let mut verify = |data: &[u8], signature: &[u8]| {
            process.single(session, Operation::Verify, plain(sign), pair[0], data, signature).map(drop)
        };
        assert_eq!(verify(data, &signature), Ok(()), "{sign:#x}");
        assert_eq!(verify(&data[1..], &signature), Err(rv(rv::SIGNATURE_INVALID)));
        assert_eq!(verify(data, &signature[1..]), Err(rv(rv::SIGNATURE_LEN_RANGE)));
        let mut changed = signature.clone();
        changed[9] ^= 1;
        assert_eq!(verify(data, &changed), Err(rv(rv::SIGNATURE_INVALID)));
    }
}

fn rsa_pair(process: &mut Process, session: u64) -> Vec<u64> {
    let request = Request::GenerateKeyPair {
        session,
        mechanism: plain(m::RSA_PKCS_KEY_PAIR_GEN),
        public: vec![number(attribute::MODULUS_BITS, 2048)],
        private: vec![],
    };
    handles(process.ask(request).unwrap())
}

#[test]
fn rsa_there_and_back() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let pair = rsa_pair(&mut process, session);
    let pss = |mechanism| Mechanism {
        mechanism,
        parameter: Parameter::Pss { hash: m::SHA256, mgf: crate::ck::mgf::MGF1_SHA256, salt: 32 },
    };
    let signing =
        [plain(m::RSA_PKCS), plain(m::SHA384_RSA_PKCS), pss(m::RSA_PKCS_PSS), pss(m::SHA256_RSA_PKCS_PSS)];
    for mechanism in signing {
        let data = [5; 32];
        let mechanism = || mechanism.clone();
        let signature = process.single(session, Operation::Sign, mechanism(), pair[1], &data, &[]).unwrap();
        assert_eq!(signature.len(), 256);
        let mut verify = |data, signature: &[u8]| {
            process.single(session, Operation::Verify, mechanism(), pair[0], data, signature)
        };
        assert_eq!(verify(&data, &signature), Ok(vec![]), "{:?}", mechanism());
        assert_eq!(verify(&[6; 32], &signature), Err(rv(rv::SIGNATURE_INVALID)));
    }
    let oaep = Mechanism {
        mechanism: m::RSA_PKCS_OAEP,
        parameter: Parameter::Oaep {
            hash: m::SHA_1,
            mgf: crate::ck::mgf::MGF1_SHA256,
            label: b"label".to_vec(),
        },
    };
    for mechanism in [plain(m::RSA_PKCS), oaep] {
        let sealed =
            process.single(session, Operation::Encrypt, mechanism.clone(), pair[0], b"text", &[]).unwrap();
        let opened = process.single(session, Operation::Decrypt, mechanism, pair[1], &sealed, &[]);
        assert_eq!(opened, Ok(b"text".to_vec()));
    }
    // A ciphertext that is none decrypts to something: nobody learns that it is none.
    let decrypted = process.single(session, Operation::Decrypt, plain(m::RSA_PKCS), pair[1], &[1; 256], &[]);
    assert!(decrypted.is_ok());
}

#[test]
fn evidence_says_what_the_key_is() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let pair = rsa_pair(&mut process, session);
    let modulus = process.get(session, pair[1], attribute::MODULUS).unwrap();
    let request = Request::Evidence { session, key: pair[1], nonce: b"nonce".to_vec() };
    let Ok(Answer::Evidence { report, statement }) = process.ask(request) else { panic!() };
    let said = statement::Statement::from_bytes(&statement).unwrap();
    assert_eq!((said.nonce.as_slice(), &said.parameter), (&b"nonce"[..], &modulus));
    assert!(said.local && said.always_sensitive && said.never_extractable);
    assert_eq!(report, said.digest());
    assert_eq!(said.to_bytes(), statement);
    for length in 0..statement.len() {
        assert_eq!(statement::Statement::from_bytes(&statement[..length]), None);
    }
}

/// Both sides come to one secret.
#[test]
fn ecdh_agrees() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let mut side = || {
        let request = Request::GenerateKeyPair {
            session,
            mechanism: plain(m::EC_KEY_PAIR_GEN),
            public: vec![(attribute::EC_PARAMS, unhex("06082a8648ce3d030107"))],
            private: vec![flag(attribute::DERIVE, true)],
        };
        let pair = handles(process.ask(request).unwrap());
        (pair[1], process.get(session, pair[0], attribute::EC_POINT).unwrap())
    };
    let (ours, theirs) = (side(), side());
    let mut derive = |key, public: &[u8]| {
        let mechanism = Mechanism {
            mechanism: m::ECDH1_DERIVE,
            parameter: Parameter::Ecdh { kdf: crate::ck::kdf::NULL, shared: vec![], public: public.to_vec() },
        };
        let template = vec![flag(attribute::SENSITIVE, false), flag(attribute::EXTRACTABLE, true)];
        let key = handle(process.ask(Request::DeriveKey { session, mechanism, key, template }).unwrap());
        process.get(session, key, attribute::VALUE).unwrap()
    };
    // With and without the octet string around the point.
    assert_eq!(derive(ours.0, &theirs.1), derive(theirs.0, &ours.1[2..]));
}

#[test]
fn a_result_that_does_not_fit_is_not_lost() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let key = key_of(&mut process, session, &[1; 16]);
    let init = Request::Init { session, operation: Operation::Encrypt, mechanism: plain(m::AES_ECB), key };
    process.ask(init.clone()).unwrap();
    assert_eq!(process.ask(init), Err(rv(rv::OPERATION_ACTIVE)));
    let single = |room| Request::Single {
        session,
        operation: Operation::Encrypt,
        data: vec![0; 32],
        signature: vec![],
        room,
    };
    assert_eq!(process.ask(single(None)), Err(Error::TooSmall(32)));
    assert_eq!(process.ask(single(Some(31))), Err(Error::TooSmall(32)));
    assert!(process.ask(single(Some(32))).is_ok());
    assert_eq!(process.ask(single(Some(32))), Err(rv(rv::OPERATION_NOT_INITIALIZED)));
}

/// A counter of few bits that came round would encrypt with the same stream again.
#[test]
fn a_counter_does_not_come_round() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let key = key_of(&mut process, session, &[1; 16]);
    let mechanism =
        Mechanism { mechanism: m::AES_CTR, parameter: Parameter::Counter { bits: 2, block: [0xfe; 16] } };
    let mut encrypt =
        |data: &[u8]| process.single(session, Operation::Encrypt, mechanism.clone(), key, data, &[]);
    assert!(encrypt(&[0; 32]).is_ok());
    assert_eq!(encrypt(&[0; 33]), Err(rv(rv::DATA_LEN_RANGE)));
}

/// However a message is cut, what comes out is what the crates `cbc` and `ctr` make of the whole.
#[test]
fn parts_are_the_whole() {
    let (mut process, _) = Machine::default().initialised();
    let session = process.user();
    let process = RefCell::new(process);
    let messages = collection::vec(collection::vec(any::<u8>(), 0..50), 0..6);
    let inputs = (any::<[u8; 16]>(), any::<[u8; 16]>(), messages);
    let result = TestRunner::default().run(&inputs, |(key, iv, parts)| {
        let mut process = process.borrow_mut();
        let handle = key_of(&mut process, session, &key);
        let whole = parts.concat();
        let padded = cbc::Encryptor::<aes::Aes128>::new(&key.into(), &iv.into());
        let mut stream = whole.clone();
        ctr::Ctr128BE::<aes::Aes128>::new(&key.into(), &iv.into()).apply_keystream(&mut stream);
        let cases = [
            (m::AES_CBC_PAD, Parameter::Bytes(iv.to_vec()), padded.encrypt_padded_vec::<Pkcs7>(&whole)),
            (m::AES_CTR, Parameter::Counter { bits: 128, block: iv }, stream),
        ];
        for (mechanism, parameter, wanted) in cases {
            let mechanism = Mechanism { mechanism, parameter };
            let mut go = |operation, parts: &[Vec<u8>]| {
                let mut out = Vec::new();
                let mut take = |request| match process.ask(request).unwrap() {
                    Answer::Bytes(bytes) => out.extend(bytes),
                    answer => assert_eq!(answer, Answer::Done),
                };
                take(Request::Init { session, operation, mechanism: mechanism.clone(), key: handle });
                for part in parts {
                    take(Request::Update { session, operation, data: part.clone(), room: Some(1 << 16) });
                }
                take(Request::Final { session, operation, signature: vec![], room: Some(1 << 16) });
                out
            };
            prop_assert_eq!(&go(Operation::Encrypt, &parts), &wanted);
            let cut: Vec<_> = wanted.chunks(13).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(&go(Operation::Decrypt, &cut), &whole);
        }
        process.ask(Request::DestroyObject { session, object: handle }).unwrap();
        Ok(())
    });
    result.unwrap();
}
