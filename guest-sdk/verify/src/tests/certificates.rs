//! Certificates of hardware keys, made here byte by byte: what makes one believed, and everything that does not.

use crate::hash::{Family, Hash};
use crate::key::Key;
use crate::tests::keys::TestKey;
use crate::tests::world::{World, challenge, policy_text};
use crate::{CertificateError, Failure, HardwareKeyError, Policy, verify};

const NOW: u64 = 1_750_000_000;
const AUTHORITY: TestKey = TestKey::P256(5);
/// The key that is certified; the policy pins another.
const HARDWARE: TestKey = TestKey::P256(6);

fn tlv(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    let length = match contents.len() {
        short @ 0..128 => vec![short as u8],
        medium @ 128..256 => vec![0x81, medium as u8],
        long => [&[0x82][..], &(long as u16).to_be_bytes()].concat(),
    };
    [&[tag], &length[..], &contents].concat()
}

fn sequence(contents: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, contents)
}

fn oid(contents: &[u8]) -> Vec<u8> {
    tlv(6, &[contents])
}

/// 2.23.133.8.3
const ATTESTATION: &[u8] = &[0x67, 0x81, 5, 8, 3];
/// 1.3.6.1.5.5.7.3.2
const TLS_CLIENT: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

fn name(text: &str) -> Vec<u8> {
    let common_name = sequence(&[&oid(&[0x55, 4, 3]), &tlv(12, &[text.as_bytes()])]);
    sequence(&[&tlv(0x31, &[&common_name])])
}

fn public_key(key: TestKey) -> Vec<u8> {
    match key.key() {
        Key::P256 { x, y } => {
            let curve = oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]);
            let algorithm = sequence(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), &curve]);
            sequence(&[&algorithm, &tlv(3, &[&[0, 4], &x, &y])])
        }
        Key::Rsa { modulus, .. } => {
            let algorithm = sequence(&[&oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0xd, 1, 1, 1]), &[5, 0]]);
            let key = sequence(&[&tlv(2, &[&[0], &modulus]), &tlv(2, &[&[1, 0, 1]])]);
            sequence(&[&algorithm, &tlv(3, &[&[0], &key])])
        }
    }
}

fn extension(id: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    sequence(&[&oid(&[0x55, 0x1d, id]), critical, &tlv(4, &[value])])
}

fn purpose(purpose: &[u8]) -> Vec<u8> {
    extension(37, false, &sequence(&[&oid(purpose)]))
}

fn algorithm(signer: TestKey) -> Vec<u8> {
    match signer {
        TestKey::P256(_) => sequence(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])]),
        TestKey::Rsa(_) => sequence(&[&oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0xd, 1, 1, 11]), &[5, 0]]),
    }
}

#[derive(Clone)]
struct Certificate {
    issuer: &'static str,
    subject: &'static str,
    signer: TestKey,
    key: TestKey,
    valid: (&'static str, &'static str),
    extensions: Vec<Vec<u8>>,
}

impl Certificate {
    fn good() -> Self {
        Self {
            issuer: "authority",
            subject: "machine",
            signer: AUTHORITY,
            key: HARDWARE,
            valid: ("250101000000Z", "260101000000Z"),
            extensions: vec![extension(15, true, &[3, 2, 7, 0x80]), purpose(ATTESTATION)],
        }
    }

    fn der(&self) -> Vec<u8> {
        let validity =
            sequence(&[&tlv(0x17, &[self.valid.0.as_bytes()]), &tlv(0x17, &[self.valid.1.as_bytes()])]);
        let extensions = sequence(&[&self.extensions.concat()]);
        let tbs = sequence(&[
            &tlv(0xa0, &[&[2, 1, 2]]),
            &[2, 1, 7],
            &algorithm(self.signer),
            &name(self.issuer),
            &validity,
            &name(self.subject),
            &public_key(self.key),
            &tlv(0xa3, &[&extensions]),
        ]);
        let signature = self.signer.sign_raw(Hash::Sha256, &Hash::Sha256.of(&[&tbs]));
        let signature = match self.signer {
            TestKey::Rsa(_) => signature,
            TestKey::P256(_) => {
                p256::ecdsa::Signature::from_slice(&signature).unwrap().to_der().as_bytes().to_vec()
            }
        };
        sequence(&[&tbs, &algorithm(self.signer), &tlv(3, &[&[0], &signature])])
    }
}

/// The policy knows this authority, and pins no key that is used here.
fn policy(authority: TestKey) -> Policy {
    Policy::parse(&text(authority, Family::V20)).unwrap()
}

fn text(authority: TestKey, family: Family) -> String {
    use base64ct::{Base64, Encoding};
    let root = Certificate {
        issuer: "root",
        subject: "authority",
        signer: authority,
        key: authority,
        extensions: vec![extension(19, true, &sequence(&[&[1, 1, 0xff]]))],
        ..Certificate::good()
    };
    let lines: Vec<_> =
        Base64::encode_string(&root.der()).as_bytes().chunks(64).map(<[u8]>::to_vec).collect();
    let pem = String::from_utf8(lines.join(&b'\n')).unwrap();
    format!(
        "{}\n[[authority]]\nname = \"our authority\"\ncertificate = \"\"\"\n-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n\"\"\"\n",
        policy_text(family)
    )
}

/// A certificate does not tell whether its key is a TPM 1.2's, and a TPM 2.0's signs what looks like a quote of one.
#[test]
fn no_authority_vouches_for_a_tpm_1_2() {
    let error = Policy::parse(&text(TestKey::P256(3), Family::V12)).unwrap_err();
    assert_eq!(error, crate::PolicyError::Authority);
}

fn machine_of(
    der: Vec<u8>,
    authority: TestKey,
    hardware: TestKey,
    time: Option<u64>,
) -> Result<String, CertificateError> {
    let world = World { hardware, certificate: Some(der), ..World::quote(Family::V20) };
    let mut challenge = challenge();
    challenge.time = time;
    match verify(&policy(authority), &world.evidence(), &challenge) {
        Ok(verified) => Ok(verified.machine),
        Err(Failure::HardwareKey(HardwareKeyError::Certificate { error, .. })) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

fn refused(certificate: Certificate) -> String {
    machine_of(certificate.der(), AUTHORITY, HARDWARE, Some(NOW)).unwrap_err().to_string()
}

#[test]
fn a_certified_key_is_believed() {
    let certified = "certified by our authority";
    let good = Certificate::good();
    assert_eq!(machine_of(good.der(), AUTHORITY, HARDWARE, Some(NOW)).unwrap(), certified);
    // With RSA on both sides.
    let rsa = Certificate { signer: TestKey::Rsa(1), key: TestKey::Rsa(0), ..good };
    assert_eq!(machine_of(rsa.der(), TestKey::Rsa(1), TestKey::Rsa(0), Some(NOW)).unwrap(), certified);
}

#[test]
fn everything_else_is_refused() {
    let good = Certificate::good();
    let with = |extensions: Vec<Vec<u8>>| Certificate { extensions, ..Certificate::good() };
    let cases = [
        (Certificate { issuer: "somebody", ..good.clone() }, "none of the policy's authorities"),
        (Certificate { signer: TestKey::P256(9), ..good.clone() }, "signature is wrong"),
        (Certificate { signer: TestKey::Rsa(0), ..good.clone() }, "signature is wrong"),
        (Certificate { key: TestKey::P256(9), ..good.clone() }, "for another key"),
        (Certificate { valid: ("250101000000Z", "250102000000Z"), ..good.clone() }, "valid from"),
        (Certificate { valid: ("260101000000Z", "270101000000Z"), ..good.clone() }, "valid from"),
        (with(vec![]), "lacks tcg-kp-AIKCertificate"),
        (with(vec![purpose(TLS_CLIENT)]), "lacks tcg-kp-AIKCertificate"),
        (with(vec![purpose(ATTESTATION), purpose(ATTESTATION)]), "there twice"),
        (with(vec![purpose(ATTESTATION), extension(15, true, &[3, 2, 2, 4])]), "no digital signatures"),
        (
            with(vec![purpose(ATTESTATION), extension(19, true, &sequence(&[&[1, 1, 0xff]]))]),
            "an authority's",
        ),
        (with(vec![purpose(ATTESTATION), extension(30, true, &[5, 0])]), "critical and unknown"),
    ];
    for (certificate, reason) in cases {
        let text = refused(certificate);
        assert!(text.contains(reason), "{text}");
    }
    assert_eq!(machine_of(good.der(), AUTHORITY, HARDWARE, None), Err(CertificateError::NoTime));
}

#[test]
fn every_byte_of_a_certificate() {
    let good = Certificate::good().der();
    for at in 0..good.len() {
        let mut der = good.clone();
        der[at] ^= 1;
        assert!(machine_of(der, AUTHORITY, HARDWARE, Some(NOW)).is_err(), "byte {at}");
    }
    for end in [0, 1, good.len() - 1] {
        assert!(machine_of(good[..end].to_vec(), AUTHORITY, HARDWARE, Some(NOW)).is_err());
    }
    assert!(machine_of([&good[..], &[0]].concat(), AUTHORITY, HARDWARE, Some(NOW)).is_err());
}
