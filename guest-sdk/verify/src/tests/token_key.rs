//! What the token's S says of a key, against certificates that openssl makes.

use crate::token_key::{KeyError, nonce};
use statement::Statement;
use std::process::Command;

const NONCE: [u8; 32] = [7; 32];

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).output().expect("openssl runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A certificate for a new key, and the public key's last bytes in DER: of a curve the point, of RSA modulus and exponent.
fn certificate(new_key: &[&str]) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, pem) = (file("key"), file("pem"));
    let request = ["req", "-new", "-x509", "-subj", "/CN=x", "-noenc", "-keyout", &key, "-out", &pem];
    openssl(&[&request[..], new_key].concat());
    (std::fs::read(&pem).unwrap(), openssl(&["pkey", "-in", &key, "-pubout", "-outform", "DER"]))
}

/// What S says of the key, all good, with its public parts taken from the end of the SubjectPublicKeyInfo.
fn said(key_type: u64, info: &[u8]) -> Statement {
    let (parameter, public) = match key_type {
        // ... 02 82 01 01 00 modulus (256 bytes) 02 03 exponent
        0 => (info[info.len() - 261..info.len() - 5].to_vec(), info[info.len() - 3..].to_vec()),
        3 => {
            let point = &info[info.len() - 65..];
            (b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07".to_vec(), [&[4, 65], point].concat())
        }
        _ => (b"\x06\x03\x2b\x65\x70".to_vec(), [&[4, 32], &info[info.len() - 32..]].concat()),
    };
    let good = true;
    Statement {
        nonce: NONCE.to_vec(),
        key_type,
        parameter,
        public,
        local: good,
        always_sensitive: good,
        never_extractable: good,
    }
}

#[test]
fn a_statement_is_for_its_key_and_no_other() {
    let kinds: [(u64, &[&str]); 3] = [
        (0, &["-newkey", "rsa:2048"]),
        (3, &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        (0x40, &["-newkey", "ed25519"]),
    ];
    let certificates = kinds.map(|(kind, new_key)| (kind, certificate(new_key)));
    for (kind, (pem, info)) in &certificates {
        let good = said(*kind, info);
        assert_eq!(nonce(&good.to_bytes(), pem, &NONCE), Ok(good.digest()), "key type {kind}");
        for (other, (pem, _)) in certificates.iter().filter(|(other, _)| other != kind) {
            assert_eq!(nonce(&good.to_bytes(), pem, &NONCE), Err(KeyError::Key), "{kind} for {other}");
        }
        for at in [0, good.public.len() / 2, good.public.len() - 1] {
            let mut changed = good.clone();
            changed.public[at] ^= 1;
            assert_eq!(nonce(&changed.to_bytes(), pem, &NONCE), Err(KeyError::Key), "byte {at}");
        }
        let mut changed = good.clone();
        *changed.parameter.last_mut().unwrap() ^= 1;
        assert_eq!(nonce(&changed.to_bytes(), pem, &NONCE), Err(KeyError::Key));
    }
}

#[test]
fn a_key_that_was_elsewhere_is_refused() {
    let (pem, info) = certificate(&["-newkey", "ed25519"]);
    let good = said(0x40, &info);
    let with = |change: fn(&mut Statement)| {
        let mut statement = good.clone();
        change(&mut statement);
        nonce(&statement.to_bytes(), &pem, &NONCE)
    };
    assert_eq!(with(|said| said.local = false), Err(KeyError::Imported));
    assert_eq!(with(|said| said.always_sensitive = false), Err(KeyError::Extractable));
    assert_eq!(with(|said| said.never_extractable = false), Err(KeyError::Extractable));
    assert_eq!(with(|said| said.nonce[31] ^= 1), Err(KeyError::Nonce));
    assert!(matches!(nonce(&good.to_bytes(), &pem, &NONCE[..8]), Err(KeyError::Weak(_))));
    let bytes = good.to_bytes();
    assert_eq!(nonce(&bytes[..bytes.len() - 1], &pem, &NONCE), Err(KeyError::Malformed));
    assert!(matches!(nonce(&bytes, b"no certificate", &NONCE), Err(KeyError::Certificate(_))));
}
