//! What a true machine says is believed, in all its variants; and the files that the documentation shows are such.

use std::path::Path;

use crate::hash::{Family, sha256};
use crate::tests::credential::endorsement_key;
use crate::tests::keys::TestKey;
use crate::tests::world::{World, challenge, policy, policy_text, to_json};
use crate::verify::Proof;
use crate::{Challenge, Earlier, Evidence, verify};

#[test]
fn every_kind_of_key_signs() {
    for hardware in [TestKey::Rsa(1), TestKey::P256(2)] {
        for signer in [TestKey::Rsa(0), TestKey::P256(1)] {
            for world in [World::quote(Family::V20), World::call()] {
                let verified = World { hardware, signer, ..world }.verify().unwrap();
                let machine = if hardware == TestKey::P256(2) { "rack 1" } else { "rack 2" };
                assert_eq!(verified.machine, machine);
                assert_eq!(verified.signer[2..], sha256(&[&signer.public()]));
                assert_eq!((verified.release.as_str(), verified.age), ("0.1.0", None));
            }
        }
    }
}

#[test]
fn what_is_proved_is_told() {
    let verified = World::quote(Family::V20).verify().unwrap();
    assert_eq!((verified.pal.as_str(), verified.proof), ("counter", Proof::Quote));
    let world = World::call();
    let claim = world.call.clone().unwrap();
    let Proof::Call(call) = world.verify().unwrap().proof else { panic!("a quote") };
    assert_eq!((call.entry.as_str(), call.number), ("add", 1));
    assert_eq!(call.output, claim.output);
    assert_eq!(call.next_chain, sha256(&[&[0; 32], &claim.digest()]));
}

#[test]
fn both_forms_beside_a_tpm_1_2() {
    let old = World::quote(Family::V12);
    let newer = World::quote(Family::V20);
    let mixed = World { form: Family::V20, pcrs: newer.pcrs, signer: TestKey::P256(1), ..old };
    assert_eq!(mixed.verify().unwrap().pal, "counter");
}

#[test]
fn other_banks_and_one_identity_key() {
    let several = World { banks: vec![4, 0x0b, 0x0c], ..World::quote(Family::V20) };
    several.verify().unwrap();
    let identity = vec![TestKey::P256(1).public()];
    let events = crate::tests::world::launch(&identity);
    World { identity, events, ..World::quote(Family::V20) }.verify().unwrap();
}

#[test]
fn an_older_hardware_quote_if_the_policy_says_so() {
    let first = World { nonce: vec![1; 20], ..World::quote(Family::V20) }.evidence();
    let mut evidence = World::quote(Family::V20).evidence();
    evidence.hardware = first.hardware.clone();
    let believing =
        |more: &str| crate::Policy::parse(&(more.to_owned() + &policy_text(Family::V20))).unwrap();
    let mut challenge = challenge();
    challenge.earlier = Some(Earlier::new([1; 20], &first, 1000));
    let step =
        |policy, challenge: &Challenge| verify(&policy, &evidence, challenge).map(|verified| verified.age);
    let failed = |result: Result<_, crate::Failure>| result.unwrap_err().to_string();
    challenge.time = Some(1060);
    assert_eq!(step(believing("max_age = 60\n"), &challenge), Ok(Some(60)));
    assert!(failed(step(believing(""), &challenge)).contains("no max_age"));
    assert!(failed(step(believing("max_age = 59\n"), &challenge)).contains("60 seconds old"));
    challenge.time = Some(999);
    assert!(failed(step(believing("max_age = 60\n"), &challenge)).contains("-1 seconds old"));
    challenge.time = None;
    assert!(failed(step(believing("max_age = 60\n"), &challenge)).contains("what time it is"));
    challenge.time = Some(1060);
    challenge.earlier = Some(Earlier::new([2; 20], &first, 1000));
    assert!(failed(step(believing("max_age = 60\n"), &challenge)).contains("not fresh"));
}

#[test]
fn a_fresh_one_has_no_age() {
    let evidence = World::quote(Family::V20).evidence();
    assert_eq!(verify(&policy(Family::V20), &evidence, &challenge()).unwrap().age, None);
}

/// With `TRUSTVISOR_BLESS` set they are written anew.
#[test]
fn the_files_of_the_documentation() {
    let files: [(&str, Vec<u8>); 4] = [
        ("policy.toml", policy_text(Family::V20).into()),
        ("quote.json", to_json(&World::quote(Family::V20).evidence()).into()),
        ("call.json", to_json(&World::call().evidence()).into()),
        ("ek.pub", endorsement_key(TestKey::P256(4))),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for (name, text) in files {
        if std::env::var_os("TRUSTVISOR_BLESS").is_some() {
            std::fs::write(folder.join(name), &text).unwrap();
        }
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), text, "{name}");
    }
}

#[test]
fn the_file_is_read_as_it_was_written() {
    for world in [World::quote(Family::V20), World::quote(Family::V12), World::call()] {
        let evidence = world.evidence();
        assert_eq!(Evidence::parse(to_json(&evidence).as_bytes()).as_ref(), Ok(&evidence));
        assert!(evidence.explain().contains("event log"));
    }
}
