//! Whatever byte is changed that carries a claim: the change is found, and where it is made is named.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::evidence::Evidence;
use crate::hash::Family;
use crate::tests::keys::TestKey;
use crate::tests::world::{World, challenge, policy, to_json};
use crate::{Step, verify};

type Field = fn(&mut Evidence) -> &mut Vec<u8>;

/// Binary fields, and the steps at which a change can come out.
const FIELDS: [(&str, Field, &[Step]); 9] = [
    ("hardware.quoted", |e| &mut e.hardware.quoted, &[Step::HardwareSignature]),
    ("hardware.signature", |e| &mut e.hardware.signature, &[Step::HardwareSignature]),
    ("hardware.key", |e| &mut e.hardware.key, &[Step::HardwareKey]),
    ("identity 0", |e| &mut e.identity[0], &[Step::Identity]),
    ("identity 1", |e| &mut e.identity[1], &[Step::Identity]),
    // The hardware quote is over its hash.
    ("quote.quoted", |e| &mut e.quote.quoted, &[Step::HardwareQuote]),
    ("quote.signature", |e| &mut e.quote.signature, &[Step::MicroQuote]),
    ("pcrs 0", |e| &mut e.pcrs[0].1, &[Step::MicroQuote]),
    ("pcrs last", |e| &mut e.pcrs.last_mut().unwrap().1, &[Step::MicroQuote]),
];

fn worlds() -> Vec<World> {
    let rsa = World { hardware: TestKey::Rsa(1), signer: TestKey::Rsa(0), ..World::quote(Family::V20) };
    vec![World::quote(Family::V20), rsa, World::call(), World::quote(Family::V12)]
}

fn failed(evidence: &Evidence) -> Option<Step> {
    verify(&policy(evidence.tpm), evidence, &challenge()).err().map(|failure| failure.step())
}

#[test]
fn every_byte_of_every_binary_field() {
    for world in worlds() {
        let mut evidence = world.evidence();
        assert_eq!(failed(&evidence), None);
        for (name, field, steps) in FIELDS {
            for at in 0..field(&mut evidence).len() {
                let change = [1, 0x80, 0xff][at % 3];
                field(&mut evidence)[at] ^= change;
                let step = failed(&evidence);
                assert!(step.is_some_and(|step| steps.contains(&step)), "byte {at} of {name}: {step:?}");
                field(&mut evidence)[at] ^= change;
            }
        }
    }
}

#[test]
fn every_length_of_every_binary_field() {
    for world in worlds() {
        let whole = world.evidence();
        for (name, field, steps) in FIELDS {
            let mut longer = whole.clone();
            field(&mut longer).push(0);
            let mut shorter = whole.clone();
            field(&mut shorter).pop();
            let mut none = whole.clone();
            field(&mut none).clear();
            for changed in [longer, shorter, none] {
                let step = failed(&changed);
                assert!(step.is_some_and(|step| steps.contains(&step)), "{name}: {step:?}");
            }
        }
    }
}

/// Names of events and most of their types are not extended: nobody vouches for them, so nothing depends on them.
#[test]
fn every_byte_of_the_event_log() {
    for world in worlds() {
        let mut evidence = world.evidence();
        let verified = verify(&policy(evidence.tpm), &evidence, &challenge()).unwrap();
        let mut without_claim = BTreeSet::new();
        for at in 0..evidence.event_log.len() {
            evidence.event_log[at] ^= 0x10;
            match verify(&policy(evidence.tpm), &evidence, &challenge()) {
                Err(failure) => assert_eq!(failure.step(), Step::EventLog, "byte {at}"),
                Ok(changed) => {
                    assert_eq!(changed, verified);
                    without_claim.insert(at);
                }
            }
            evidence.event_log[at] ^= 0x10;
        }
        let names = ["TrustVisor SLB", "TrustVisor runtime", "identity key", "identity key"];
        let types = names.len() + 1;
        assert_eq!(without_claim.len(), names.concat().len() + 4 * types);
    }
}

#[test]
fn every_part_of_a_call() {
    type Change = fn(&mut crate::evidence::CallClaim);
    let changes: [(&str, Change); 10] = [
        ("abi", |call| call.abi += 1),
        ("entry", |call| call.entry = 1),
        ("signature", |call| call.signature[5] = 1),
        ("nonce", |call| call.nonce[31] ^= 1),
        ("input_hash", |call| call.input_hash[0] ^= 0x80),
        ("output_hash", |call| call.output_hash[0] ^= 1),
        ("number", |call| call.number = 2),
        ("chain", |call| call.chain[9] = 1),
        ("input", |call| call.input.as_mut().unwrap()[0] ^= 1),
        ("output", |call| call.output.as_mut().unwrap().push(0)),
    ];
    for (name, change) in changes {
        let mut evidence = World::call().evidence();
        change(evidence.call.as_mut().unwrap());
        assert_eq!(failed(&evidence), Some(Step::Binding), "{name}");
    }
}

#[test]
fn the_fields_that_are_words() {
    let mut other = World::quote(Family::V20).evidence();
    other.tpm = Family::V12;
    let step = |evidence: &Evidence| {
        verify(&policy(Family::V20), evidence, &challenge()).err().map(|failure| failure.step())
    };
    assert_eq!(step(&other), Some(Step::HardwareKey));
    let mut other = World::quote(Family::V20).evidence();
    other.quote.form = Family::V12;
    assert_eq!(step(&other), Some(Step::MicroQuote));
    let mut other = World::quote(Family::V20).evidence();
    other.identity.swap(0, 1);
    assert_eq!(step(&other), Some(Step::Identity));
    let mut other = World::quote(Family::V20).evidence();
    other.identity.pop();
    assert_eq!(step(&other), Some(Step::Identity));
    let mut other = World::quote(Family::V20).evidence();
    other.pcrs[2].0 = 6;
    assert_eq!(step(&other), Some(Step::MicroQuote));
    let mut other = World::quote(Family::V20).evidence();
    other.call = World::call().call;
    assert_eq!(step(&other), Some(Step::Binding));
    let mut other = World::call().evidence();
    other.call = None;
    assert_eq!(step(&other), Some(Step::Binding));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// A character of the file replaced: it is found, unless it is white space or a name in the log.
    #[test]
    fn every_character_of_the_file(at in 0..5000usize, with in 0..256u16) {
        let text = include_bytes!("../../tests/data/call.json");
        let (at, with) = (at % text.len(), with as u8);
        let mut changed = text.to_vec();
        changed[at] = with;
        if let Ok(evidence) = Evidence::parse(&changed) {
            let original = Evidence::parse(text).unwrap();
            let same = Evidence { event_log: original.event_log.clone(), ..evidence.clone() } == original;
            let holds = verify(&policy(Family::V20), &evidence, &challenge()).is_ok();
            prop_assert!(same || !holds);
            // What was read is written as it was, white space aside.
            let words = |text: &str| text.split_ascii_whitespace().collect::<String>();
            prop_assert_eq!(words(&to_json(&evidence)), words(std::str::from_utf8(&changed).unwrap()));
        }
    }
}
