//! The root on its way to a newer release, in a real TPM.

use std::boxed::Box;
use std::vec::Vec;

use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha256};
use utpm::{Root, manifest};

use super::entropy;
use super::root::Failing;
use super::swtpm::SwTpm;
use super::{raw, root12};
use crate::release::Release;
use crate::tpm::Tpm;
use crate::tpm::root::{Blob, Secret};
use crate::tpm::root12::composite;
use abi::{Digests, RootState};

const SLB: &[u8] = b"the SLB";
const OLD: &[u8] = b"the old runtime";
const NEW: &[u8] = b"the new runtime";
const OPTIONS: &[u8] = b"dma=protected\n";
const VERSION: u32 = 5;

/// Who makes releases.
fn signer(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

/// A release by the right signer that takes over from these.
fn release(predecessors: &[Digests]) -> Release {
    let public = signer(1).verifying_key().to_sec1_point(false);
    let signer = Box::leak(Box::new(public.as_bytes().try_into().unwrap()));
    Release { security_version: VERSION, signer: Some(signer), predecessors: predecessors.to_vec().leak() }
}

fn manifest(key: &SigningKey, version: u32, pcr17: &Digests) -> Vec<u8> {
    let body = [&manifest::MAGIC[..], &version.to_be_bytes(), &pcr17.sha1, &pcr17.sha256].concat();
    let signature: Signature = key.sign(&body);
    [&body, signature.to_der().as_bytes()].concat()
}

/// A boot of this runtime: the TPM, the state, the root and what is to be saved.
fn boot(
    tpm: SwTpm,
    runtime: &[u8],
    release: &Release,
    saved: &[u8],
    new: u8,
) -> (SwTpm, RootState, Secret, Vec<u8>) {
    let mut tpm = tpm.restart();
    tpm.launch(SLB, &[(17, runtime), (18, OPTIONS)]);
    let (mut secret, mut blob) = ([new; Root::SIZE], Blob::new());
    let state = tpm.at(1).root(&mut entropy(), release, saved, &mut secret, &mut blob).unwrap();
    (tpm, state, secret, blob.as_slice().to_vec())
}

/// PCR 17 after a launch.
fn pcr17(runtime: &[u8]) -> Digests {
    let mut tpm = SwTpm::new();
    tpm.launch(SLB, &[(17, runtime)]);
    tpm.at(0).read(17).unwrap()
}

/// What the newer release has to be told of the older one is in its image.
#[test]
fn storage_goes_from_a_release_to_the_next_and_the_identity_does_not() {
    let (old, new) = (release(&[]), release(&[pcr17(b"an older one"), pcr17(OLD)]));
    let (tpm, _, made, blob) = boot(SwTpm::new(), OLD, &old, &[], 1);
    let asked = [&blob[..], &manifest(&signer(1), VERSION, &pcr17(NEW))].concat();
    let (tpm, state, secret, handed) = boot(tpm, OLD, &old, &asked, 2);
    assert_eq!((state, secret), (RootState::HandedOver, made));
    // It is not for the old one, though that goes on with its own.
    let (tpm, state, ..) = boot(tpm, OLD, &old, &handed, 2);
    assert_eq!(state, RootState::NewOtherPolicy);
    let (mut tpm, state, secret, _) = boot(tpm, OLD, &old, &blob, 2);
    assert_eq!((state, secret), (RootState::Opened, made));
    // The old identity does not travel, and nobody but the new release opens the rest.
    assert_eq!(raw::unseal_anyhow(&mut tpm.at(1), &handed), None);
    let (mut tpm, state, secret, kept) = boot(tpm, NEW, &new, &handed, 3);
    assert_eq!(state, RootState::TakenOver);
    assert_eq!(secret[..32], made[..32]);
    assert_eq!(secret[32..], [3; 32]);
    // Nobody but that boot of the old release knows what travels in the identity's place.
    let travelled = raw::unseal_anyhow(&mut tpm.at(1), &handed).unwrap();
    assert_eq!((&travelled[..32], &travelled[32..]), (&made[..32], &[2; 32][..]));
    let (_, state, again, still) = boot(tpm, NEW, &new, &kept, 4);
    assert_eq!((state, again, still), (RootState::Opened, secret, kept));
}

/// A release's own manifest is public. Handed its own root, it has a new identity, and no known one.
#[test]
fn a_release_that_hands_it_to_itself_gets_an_identity_that_nobody_knows() {
    for tpm in [SwTpm::new(), root12::owned()] {
        let release = release(&[]);
        let (tpm, _, made, blob) = boot(tpm, OLD, &release, &[], 1);
        let asked = [&blob[..], &manifest(&signer(1), VERSION, &pcr17(OLD))].concat();
        let (tpm, state, secret, handed) = boot(tpm, OLD, &release, &asked, 2);
        assert_eq!((state, secret), (RootState::HandedOver, made));
        let (_, state, secret, _) = boot(tpm, OLD, &release, &handed, 3);
        assert_eq!((state, &secret[..32], &secret[32..]), (RootState::Opened, &made[..32], &[2; 32][..]));
    }
}

#[test]
fn the_old_release_hands_it_to_none_but_signed_newer_ones() {
    let (release, to) = (release(&[]), pcr17(NEW));
    let alone = Release { signer: None, ..release };
    let (mut tpm, _, made, blob) = boot(SwTpm::new(), OLD, &release, &[], 1);
    let good = manifest(&signer(1), VERSION + 1, &to);
    let cases = [
        (&release, manifest(&signer(2), VERSION, &to)),
        (&release, manifest(&signer(1), VERSION - 1, &to)),
        (&release, good[..good.len() - 1].to_vec()),
        (&release, Vec::from([0])),
        (&alone, good.clone()),
    ];
    for (release, bad) in cases {
        let asked = [&blob[..], &bad].concat();
        let (now, state, secret, saved) = boot(tpm, OLD, release, &asked, 2);
        assert_eq!((state, secret, saved), (RootState::NotHandedOver, made, asked));
        tpm = now;
    }
    let (_, state, ..) = boot(tpm, OLD, &release, &[&blob[..], &good].concat(), 2);
    assert_eq!(state, RootState::HandedOver);
}

/// The OS makes a blob of a root that it knows, for the new release: by the old release's policy, or by what the old one would never do.
#[test]
fn the_new_release_takes_it_from_none_but_those_it_names() {
    let (old, new) = (release(&[]), release(&[pcr17(OLD)]));
    let (tpm, _, _, blob) = boot(SwTpm::new(), OLD, &old, &[], 1);
    let asked = [&blob[..], &manifest(&signer(1), VERSION, &pcr17(NEW))].concat();
    let (tpm, state, _, handed) = boot(tpm, OLD, &old, &asked, 2);
    assert_eq!(state, RootState::HandedOver);
    let unnamed = release(&[pcr17(b"another")]);
    let (mut tpm, state, secret, _) = boot(tpm, NEW, &unnamed, &handed, 3);
    assert_eq!((state, secret), (RootState::NewNotOurs, [3; Root::SIZE]));
    let values = [17, 18, 19].map(|pcr| tpm.at(0).read(pcr).unwrap().sha256);
    let theirs = Sha256::digest(values.as_flattened()).into();
    // Under the old release, by the OS; and by a kernel of its own at locality 1, without a launch.
    for (launched, locality) in [(true, 0), (true, 2), (true, 3), (false, 1)] {
        tpm = tpm.restart();
        if launched {
            tpm.launch(SLB, &[(17, OLD), (18, OPTIONS)]);
        }
        let planted = raw::made_for(&mut tpm.at(locality), theirs, &[9; Root::SIZE]);
        let (now, state, secret, _) = boot(tpm, NEW, &new, &planted, 3);
        assert_eq!((state, secret), (RootState::NewNotOurs, [3; Root::SIZE]), "locality {locality}");
        tpm = now;
        for mixed in raw::mixed(&planted, &handed) {
            let (now, state, secret, _) = boot(tpm, NEW, &new, &mixed, 3);
            assert_eq!((state, secret), (RootState::NewNotOurs, [3; Root::SIZE]), "mixed {locality}");
            tpm = now;
        }
    }
    let (_, state, ..) = boot(tpm, NEW, &new, &handed, 3);
    assert_eq!(state, RootState::TakenOver);
}

/// The composite of PCR 17 to 19, the first of them another release's.
fn composite_of(tpm: &mut SwTpm, pcr17: &Digests) -> [u8; 20] {
    composite(&[pcr17.sha1, tpm.at(0).read(18).unwrap().sha1, [0; 20]])
}

#[test]
fn a_tpm_1_2_does_the_same() {
    let (to, from) = (pcr17(NEW), pcr17(OLD));
    let (old, new, unnamed) = (release(&[]), release(&[from]), release(&[to]));
    let (tpm, _, made, blob) = boot(root12::owned(), OLD, &old, &[], 1);
    let low = [&blob[..], &manifest(&signer(1), VERSION - 1, &to)].concat();
    let (tpm, state, secret, _) = boot(tpm, OLD, &old, &low, 2);
    assert_eq!((state, secret), (RootState::NotHandedOver, made));
    let asked = [&blob[..], &manifest(&signer(1), VERSION, &to)].concat();
    let (tpm, state, secret, handed) = boot(tpm, OLD, &old, &asked, 2);
    assert_eq!((state, secret), (RootState::HandedOver, made));
    let (mut tpm, state, ..) = boot(tpm, OLD, &old, &handed, 2);
    assert_eq!(state, RootState::NewOtherPolicy);
    // The OS makes one for the new release, under the old one.
    let theirs = composite_of(&mut tpm, &to);
    let planted = [0, 2, 3].map(|locality| root12::plant(&mut tpm, locality, &theirs));
    for planted in &planted {
        let (now, state, secret, _) = boot(tpm, NEW, &new, planted.as_slice(), 3);
        assert_eq!((state, secret), (RootState::NewNotOurs, [3; Root::SIZE]));
        tpm = now;
    }
    let (tpm, state, ..) = boot(tpm, NEW, &unnamed, &handed, 3);
    assert_eq!(state, RootState::NewNotOurs);
    let (tpm, state, secret, kept) = boot(tpm, NEW, &new, &handed, 3);
    assert_eq!((state, &secret[..32], &secret[32..]), (RootState::TakenOver, &made[..32], &[3; 32][..]));
    let (_, state, again, _) = boot(tpm, NEW, &new, &kept, 4);
    assert_eq!((state, again), (RootState::Opened, secret));
}

/// The power goes, or the TPM fails, at each command of either launch: there is no root then, and what was saved is as good as before.
#[test]
fn nothing_is_lost_on_the_way() {
    let (old, new) = (release(&[]), release(&[pcr17(OLD)]));
    let (mut tpm, _, made, blob) = boot(SwTpm::new(), OLD, &old, &[], 1);
    let mut saved = [&blob[..], &manifest(&signer(1), VERSION, &pcr17(NEW))].concat();
    for (runtime, release, good) in [(OLD, &old, RootState::HandedOver), (NEW, &new, RootState::TakenOver)] {
        let mut commands = 0;
        for (answer, late) in [(None, false), (None, true), (Some(0x101), false)] {
            for fails_in in 0.. {
                tpm = tpm.restart();
                tpm.launch(SLB, &[(17, runtime), (18, OPTIONS)]);
                tpm.at(1);
                let failing = Failing { tpm: &mut tpm, fails_in: fails_in + 1, answer, late };
                let result = Tpm::open(failing).unwrap().root(
                    &mut entropy(),
                    release,
                    &saved,
                    &mut [2; Root::SIZE],
                    &mut Blob::new(),
                );
                if result == Ok(good) {
                    commands = fails_in;
                    break;
                }
                assert!(result.is_err(), "{result:?} at command {fails_in}");
            }
        }
        assert!(commands > 12, "only {commands} commands");
        let (now, state, secret, next) = boot(tpm, runtime, release, &saved, 2);
        assert_eq!((state, &secret[..32]), (good, &made[..32]));
        (tpm, saved) = (now, next);
    }
}
