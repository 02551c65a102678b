//! What somebody could try who has true keys to sign with, or no keys at all. Each is refused, and the refusal names it.

use crate::evidence::{CallClaim, Evidence};
use crate::hash::{Family, Hash, sha256};
use crate::key::attribute;
use crate::tests::keys::TestKey;
use crate::tests::world::{
    ADDER, COUNTER, EVENT_ACTION, Event, NONCE, World, challenge, launch, policy, policy_text,
};
use crate::{Challenge, Failure, Policy, Step, verify};

fn truth() -> World {
    World::quote(Family::V20)
}

/// The step that refuses, and why.
fn refused(world: &World) -> (Step, String) {
    let failure = world.verify().unwrap_err();
    (failure.step(), failure.to_string())
}

fn expect(world: &World, step: Step, reason: &str) {
    let (found, text) = refused(world);
    assert!(found == step && text.contains(reason), "{found}: {text}");
}

fn called(change: fn(&mut CallClaim)) -> World {
    let mut world = World::call();
    change(world.call.as_mut().unwrap());
    world
}

fn check(world: &World, policy: &Policy, challenge: &Challenge) -> Failure {
    verify(policy, &world.evidence(), challenge).unwrap_err()
}

#[test]
fn hardware_keys() {
    let key = |hardware| World { hardware, ..truth() };
    expect(&key(TestKey::P256(3)), Step::HardwareKey, "no key with the Name");
    let pinned = |attributes: u32| {
        let world = World { attributes, ..truth() };
        let name = [&[0, 0x0b][..], &sha256(&[&world.evidence().hardware.key])].concat();
        let text = policy_text(Family::V20);
        let old = text.lines().find(|line| line.starts_with("name = \"000b")).unwrap().to_owned();
        let policy = Policy::parse(&text.replace(&old, &format!("name = \"{}\"", crate::hash::hex(name))));
        verify(&policy.unwrap(), &world.evidence(), &challenge()).map(drop)
    };
    assert_eq!(pinned(attribute::IDENTITY | 1 << 6), Ok(()));
    for (bit, name) in
        [(1, "fixedTPM"), (4, "fixedParent"), (5, "OriginA"), (16, "restricted"), (18, "signing")]
    {
        let failure = pinned(attribute::IDENTITY & !(1 << bit)).unwrap_err();
        let name = if bit == 5 { "made by the TPM" } else { name };
        assert!(failure.step() == Step::HardwareKey && failure.to_string().contains(name), "{failure}");
    }
    assert!(pinned(attribute::IDENTITY | attribute::DECRYPT).unwrap_err().to_string().contains("decrypt"));
}

#[test]
fn hardware_quotes() {
    let mut evidence = truth().evidence();
    evidence.hardware.signature = TestKey::P256(3).sign(Hash::Sha256, &evidence.hardware.quoted);
    let step = |evidence: &Evidence| verify(&policy(Family::V20), evidence, &challenge()).unwrap_err();
    assert_eq!(step(&evidence).step(), Step::HardwareSignature);
    evidence.hardware.signature = TestKey::P256(2).sign(Hash::Sha1, &evidence.hardware.quoted);
    assert!(step(&evidence).to_string().contains("hash function"));
    let other = World { nonce: vec![9; 32], ..truth() };
    expect(
        &World { hardware_extra: Some(other.evidence().hardware.quoted[42..74].into()), ..truth() },
        Step::HardwareQuote,
        "not fresh",
    );
    let bits = crate::event_log::LAUNCH_PCRS;
    for selections in [
        vec![(0x0b, bits | 1)],
        vec![(0x0b, bits & !(1 << 19))],
        vec![(0x04, bits)],
        vec![(0x0b, bits), (0x04, bits)],
        vec![],
    ] {
        expect(&World { selections, ..truth() }, Step::HardwareQuote, "not PCR 17, 18 and 19");
    }
    // Signed by the TPM, but no quote: TPM2_Certify, and something that only looks like the TPM's.
    for (at, reason) in [(5, "type"), (0, "magic")] {
        let mut evidence = truth().evidence();
        evidence.hardware.quoted[at] ^= 1;
        evidence.hardware.signature = TestKey::P256(2).sign(Hash::Sha256, &evidence.hardware.quoted);
        let failure = step(&evidence);
        assert!(failure.step() == Step::HardwareQuote && failure.to_string().contains(reason), "{failure}");
    }
}

#[test]
fn replays() {
    let world = World { nonce: vec![9; 32], ..truth() };
    expect(&world, Step::HardwareQuote, "not fresh");
    // The hardware quote is fresh, the micro-quote is not.
    expect(&World { extra: Some([&[1][..], &[9; 32]].concat()), ..truth() }, Step::Binding, "this nonce");
    let world = called(|call| call.nonce = [9; 32]);
    expect(&world, Step::Binding, "nonce");
}

#[test]
fn event_logs() {
    let event =
        |pcr, measured: &[u8]| Event { pcr, kind: EVENT_ACTION, measured: measured.into(), data: vec![] };
    let with = |change: fn(&mut Vec<Event>)| {
        let mut world = truth();
        change(&mut world.events);
        world
    };
    // All of these are signed as they stand: the TPM really was extended like that.
    expect(&with(|events| events.swap(1, 2)), Step::EventLog, "event 1 is of PCR 18");
    expect(&with(|events| drop(events.remove(2))), Step::EventLog, "event 2 is of PCR 19");
    expect(&with(|events| drop(events.pop())), Step::EventLog, "separator");
    expect(&with(|events| events.swap(4, 5)), Step::EventLog, "separator");
    expect(&with(|events| drop(events.drain(3..5))), Step::EventLog, "4 events");
    expect(&with(|events| events[0].kind = 3), Step::EventLog, "not extended");
    expect(
        &with(|events| events[2].data = b"dma=protected\ntpm=required\n".into()),
        Step::EventLog,
        "options shown",
    );
    for at in 0..=6 {
        for pcr in [0, 10, 17, 18, 19] {
            let mut world = truth();
            world.events.insert(at, event(pcr, b"one more"));
            let (step, text) = refused(&world);
            assert!(step == Step::EventLog, "{pcr} at {at}: {step} {text}");
        }
    }
    // These are not what the TPM was extended with.
    let told = truth().events;
    let hidden = [&told[..], &[event(19, b"the OS's key")]].concat();
    expect(&World { extended: Some(hidden), ..truth() }, Step::EventLog, "other values");
    let mut swapped = told.clone();
    swapped.swap(0, 1);
    expect(&World { events: swapped, extended: Some(told), ..truth() }, Step::EventLog, "other values");
    expect(&World { banks: vec![4], ..truth() }, Step::EventLog, "SHA-1 is not accepted");
}

#[test]
fn releases() {
    let launched = |index: usize, bytes: &[u8]| {
        let mut world = truth();
        world.events[index].measured = bytes.into();
        world
    };
    expect(&launched(0, b"another SLB"), Step::Release, "no release");
    expect(&launched(1, b"another runtime"), Step::Release, "no release");
    expect(&launched(1, b"a runtime with a hole"), Step::Release, "revoked");
    // By its other digest as well.
    let hole = crate::hash::hex(sha256(&[b"a runtime with a hole"]));
    let by_sha1 =
        policy_text(Family::V20).replace(&hole, &crate::hash::hex(Hash::Sha1.of(&[b"the runtime"])));
    let failure = check(&truth(), &Policy::parse(&by_sha1).unwrap(), &challenge());
    assert!(failure.step() == Step::Release && failure.to_string().contains("revoked"), "{failure}");
    let mut world = launched(2, b"dma=none\n");
    world.events[2].data = b"dma=none\n".into();
    expect(&world, Step::Release, "dma=none\\n are not accepted");
    let text =
        policy_text(Family::V20).replace("minimum_security_version = 1", "minimum_security_version = 2");
    let failure = check(&truth(), &Policy::parse(&text).unwrap(), &challenge());
    assert!(failure.step() == Step::Release && failure.to_string().contains("at least 2"), "{failure}");
}

#[test]
fn identity_keys() {
    // Right in the file, not in PCR 19.
    let theirs = vec![TestKey::Rsa(0).public(), TestKey::P256(9).public()];
    expect(
        &World { identity: theirs.clone(), signer: TestKey::P256(9), ..truth() },
        Step::Identity,
        "key 1 is not",
    );
    expect(&World { identity: vec![theirs[0].clone()], ..truth() }, Step::Identity, "1 keys are given");
    // In PCR 19, but no identity keys.
    let measured = |identity: Vec<Vec<u8>>| World { events: launch(&identity), identity, ..truth() };
    let p256 = TestKey::P256(1).public();
    let unrestricted =
        TestKey::P256(1).public_with(attribute::IDENTITY & !attribute::RESTRICTED, Hash::Sha256);
    expect(&measured(vec![unrestricted]), Step::Identity, "attributes");
    expect(&measured(vec![p256.clone(), p256.clone()]), Step::Identity, "place");
    expect(&measured(vec![TestKey::Rsa(0).public()]), Step::Identity, "place");
    expect(
        &measured(vec![TestKey::P256(1).public_with(attribute::IDENTITY, Hash::Sha1)]),
        Step::Identity,
        "scheme",
    );
    let changed = |mut key: Vec<u8>, at: usize, value: u8| {
        key[at] = value;
        measured(vec![key])
    };
    let last = p256.len() - 1;
    expect(&changed(p256.clone(), last, p256[last] ^ 1), Step::Identity, "curve");
    let rsa = TestKey::Rsa(0).public();
    expect(&changed(rsa.clone(), rsa.len() - 1, 2), Step::Identity, "odd");
    expect(&changed(rsa.clone(), 24, 1), Step::Identity, "modulus");
    let mut exponent = rsa.clone();
    exponent[18..22].copy_from_slice(&65537u32.to_be_bytes());
    expect(&measured(vec![exponent, p256.clone()]), Step::Identity, "exponent");
    expect(&measured(vec![[p256, vec![0]].concat()]), Step::Identity, "followed by 1");
}

#[test]
fn micro_quotes() {
    expect(&World { signer: TestKey::P256(9), ..truth() }, Step::MicroQuote, "not this key's");
    let name = [&[0, 0x0b][..], &sha256(&[&TestKey::Rsa(0).public()])].concat();
    expect(&World { signer_name: Some(name), ..truth() }, Step::MicroQuote, "names the signer");
    expect(&World { firmware: 2, ..truth() }, Step::MicroQuote, "firmware version");
    for selections in [vec![], vec![(0x04, 0x23)], vec![(0x0b, 0x21)], vec![(0x0b, 0x23), (0x0b, 0x23)]] {
        expect(&World { micro_selections: Some(selections), ..truth() }, Step::MicroQuote, "not those given");
    }
    let old = World { form: Family::V12, signer: TestKey::Rsa(0), ..truth() };
    let evidence = Evidence { pcrs: vec![(0, Hash::Sha1.of(&[COUNTER]))], ..old.evidence() };
    let failure = verify(&policy(Family::V20), &evidence, &challenge()).unwrap_err();
    assert!(failure.to_string().contains("SHA-1"), "{failure}");
    let only_p256 = vec![TestKey::P256(1).public()];
    let world = World { events: launch(&only_p256), identity: only_p256, signer: TestKey::Rsa(0), ..truth() };
    expect(&world, Step::MicroQuote, "no identity key of the kind");
}

#[test]
fn pals() {
    let pcr = |number, value: &[u8]| (number, Hash::Sha256.of(&[value]));
    let with = |pcrs: Vec<(u8, Vec<u8>)>| World { pcrs, ..truth() };
    expect(&with(vec![pcr(0, b"a look-alike")]), Step::Pal, "no PAL of the policy");
    expect(&with(vec![pcr(1, COUNTER)]), Step::Pal, "not quoted");
    expect(&with(vec![pcr(0, COUNTER)]), Step::Pal, "counter: its micro-PCR 1 is not quoted");
    expect(&with(vec![pcr(0, COUNTER), pcr(1, b"other")]), Step::Pal, "counter: its micro-PCR 1 is");
}

#[test]
fn a_quote_is_no_call_and_a_call_no_quote() {
    // S asks for a quote of what looks like a call's digest, and hands it out as a call.
    let digest = World::call().call.unwrap().digest();
    let forged = World { extra: Some([&[1][..], &digest].concat()), ..World::call() };
    expect(&forged, Step::Binding, "the call given");
    let quote = World { call: None, ..World::call() };
    expect(&quote, Step::Binding, "an attested call is demanded");
    let call = World { pcrs: truth().pcrs, ..World::call() };
    expect(&call, Step::Binding, "a quote is demanded");
    // A call passed off as a quote: the tag is TrustVisor's.
    let tagged = World { extra: Some([&[2][..], &NONCE].concat()), ..truth() };
    expect(&tagged, Step::Binding, "this nonce");
    // The challenge can demand a call as well, of a PAL that the policy believes for quotes.
    let demand = |change: fn(&mut Challenge)| {
        let mut challenge = challenge();
        change(&mut challenge);
        check(&truth(), &policy(Family::V20), &challenge).to_string()
    };
    assert!(demand(|challenge| challenge.entry = Some(0)).contains("call is demanded"));
    assert!(demand(|challenge| challenge.output = Some(vec![])).contains("call is demanded"));
}

#[test]
fn calls() {
    // All of these TrustVisor has signed.
    expect(&called(|call| call.entry = 1), Step::Binding, "does not list entry 1");
    expect(&called(|call| call.signature = [1, 1, 0, 0, 0, 0]), Step::Binding, "signature");
    expect(&called(|call| call.abi = 2), Step::Binding, "interface version");
    expect(&called(|call| call.input = Some(vec![1])), Step::Binding, "input in the evidence");
    expect(&called(|call| call.output = Some(vec![1])), Step::Binding, "output in the evidence");
    let demand = |change: fn(&mut Challenge)| {
        let mut challenge = challenge();
        change(&mut challenge);
        check(&World::call(), &policy(Family::V20), &challenge).to_string()
    };
    assert!(demand(|challenge| challenge.entry = Some(1)).contains("entry is 0, not 1"));
    assert!(demand(|challenge| challenge.number = Some(2)).contains("number is 1, not 2"));
    assert!(demand(|challenge| challenge.chain = Some([1; 32])).contains("chain"));
    assert!(demand(|challenge| challenge.input = Some(vec![1])).contains("input of the challenge"));
    assert!(demand(|challenge| challenge.output = Some(vec![1])).contains("output of the challenge"));
    let shorter = Challenge::new([7; 31]).unwrap();
    assert_eq!(check(&World::call(), &policy(Family::V20), &shorter).step(), Step::HardwareQuote);
}

#[test]
fn a_tpm_1_2_is_none_of_2_0() {
    let old = World::quote(Family::V12);
    let failure = check(&old, &policy(Family::V20), &challenge());
    assert!(failure.step() == Step::HardwareKey && failure.to_string().contains("TPM 1.2"), "{failure}");
    let call = World { call: World::call().call, pcrs: vec![(0, Hash::Sha1.of(&[ADDER]))], ..old };
    assert_eq!(call.verify().unwrap().pal, "adder");
    expect(&World { extra: Some(vec![1; 33]), ..call }, Step::Binding, "the call given");
}

/// A restricted key of a TPM 2.0 signs whatever does not begin as a structure of its own, so also what looks like a quote of a TPM 1.2: it
/// is known by its scheme, which is part of its Name, and no authority can vouch for a family.
#[test]
fn a_key_of_a_tpm_2_0_quotes_nothing_for_a_tpm_1_2() {
    let mut forged = World::quote(Family::V12).evidence();
    let old = forged.hardware.key.clone();
    let at = old.windows(4).position(|part| part == [0, 0x10, 0, 0x10]).unwrap() + 2;
    forged.hardware.key.splice(at..at + 2, [0, 0x14, 0, 4]);
    let name = |key: &[u8]| crate::hash::hex([&[0, 0x0b][..], &sha256(&[key])].concat());
    let text = policy_text(Family::V12).replace(&name(&old), &name(&forged.hardware.key));
    let failure = verify(&Policy::parse(&text).unwrap(), &forged, &challenge()).unwrap_err();
    assert!(failure.step() == Step::HardwareKey && failure.to_string().contains("scheme"), "{failure}");
}
