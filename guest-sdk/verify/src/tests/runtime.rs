//! What TrustVisor itself writes is what this crate reads: its structures, keys and event log, against those that the other tests
//! make on their own.

use abi::quote::{AttestedCall, TAG_QUOTE, key};
use abi::{Extend, Info, info_flag};
use utpm::quote::{Report, Subject, call_digest, p256_public, rsa_public};
use utpm::{Pcrs, digest};

use crate::event_log::EventLog;
use crate::evidence::CallClaim;
use crate::hash::{Family, sha256};
use crate::key::Key;
use crate::tests::keys::TestKey;
use crate::tests::world::{COUNTER, FIRMWARE, NONCE, World};

#[test]
fn identity_keys() {
    let Key::Rsa { modulus, .. } = TestKey::Rsa(0).key() else { panic!("no RSA key") };
    assert_eq!(rsa_public(&modulus.try_into().unwrap())[..], TestKey::Rsa(0).public());
    let Key::P256 { x, y } = TestKey::P256(1).key() else { panic!("no P-256 key") };
    assert_eq!(p256_public(&x, &y)[..], TestKey::P256(1).public());
}

#[test]
fn micro_quotes() {
    let pcrs = Pcrs::new(digest(COUNTER));
    let (clock, boot, release) = (1234, 3, FIRMWARE);
    for (family, kind) in [(Family::V20, key::P256), (Family::V12, key::RSA_SHA1)] {
        let mut world = World::quote(family);
        let value = |number: u8| match family {
            Family::V12 => pcrs.read(number.into()).unwrap().sha1.to_vec(),
            Family::V20 => pcrs.read(number.into()).unwrap().sha256.to_vec(),
        };
        world.pcrs = [0, 2, 7].map(|number| (number, value(number))).into();
        let signer = sha256(&[&world.signer.public()]);
        let subject =
            Subject { pcrs: &pcrs, select: 0x85, tag: TAG_QUOTE, data: &NONCE, clock, boot, release };
        let report = Report::new(&[0; 32], kind, &signer, &subject).unwrap();
        assert_eq!(report.bytes()[33..], world.evidence().quote.quoted);
    }
}

#[test]
fn calls() {
    let claim = World::call().call.unwrap();
    let (input_hash, output_hash) = (claim.input_hash, claim.output_hash);
    for number in [1, 0x0102_0304_0506_0708] {
        let claim = CallClaim { entry: 0x0203, number, chain: [8; 32], ..claim.clone() };
        let call = AttestedCall { input_hash, output_hash, number, chain: [8; 32] };
        assert_eq!(call_digest(0x0203, &claim.signature, &NONCE, &call), claim.digest());
    }
}

#[test]
fn event_logs() {
    for (family, flags) in [(Family::V20, 0), (Family::V12, info_flag::TPM_12)] {
        let mut info = Info { flags: flags | info_flag::DYNAMIC_LAUNCH, ..Info::default() };
        info.extends.banks[..3].copy_from_slice(&[4, 0x0c, 0x0b]);
        let world = World::quote(family);
        for (extend, event) in info.extends.list.iter_mut().zip(&world.events) {
            *extend = Extend { pcr: event.pcr.into(), digests: digest(&event.measured) };
        }
        let (theirs, ours) = (trustvisor::event_log::format(&info), world.evidence().event_log);
        let theirs = EventLog::parse(&theirs, family).unwrap();
        assert_eq!(theirs.launch().unwrap(), EventLog::parse(&ours, family).unwrap().launch().unwrap());
    }
}
