//! The root in a real TPM 1.2.

use std::sync::{Mutex, OnceLock};

use super::entropy;
use super::root::ALONE;
use super::root::Failing;
use super::swtpm::SwTpm;
use crate::tpm::root::{Blob, Secret};
use crate::tpm::root12::{SEAL, UNSEAL, composite, mac, seal, unseal};
use crate::tpm::v12::REQUEST;
use crate::tpm::wire::Command;
use crate::tpm::{Error, Tpm, Transport};
use abi::{CountersState, RootState};
use sha1::{Digest, Sha1};
use utpm::Root;

const SLB: &[u8] = b"the SLB";
/// What the SLB extends: the runtime, and the options.
const RELEASE: [(u8, &[u8]); 2] = [(17, b"the runtime"), (18, b"dma=protected\n")];
const MADE: Secret = [1; Root::SIZE];
const NEW: Secret = [2; Root::SIZE];
const KNOWN: Secret = [9; Root::SIZE];
/// Bytes of a blob: magic and head, sealInfo (locality, selection and digest at creation and at release), the size of what is encrypted.
const INFO: usize = 16;
const ENCRYPTED: usize = INFO + 54 + 4;
const OWNED: [&str; 3] = ["--take-ownership", "--srk-well-known", "--owner-well-known"];

/// The same TPM each time, owned as TrustVisor needs it: making one takes seconds.
pub(super) fn owned() -> SwTpm {
    static MODEL: OnceLock<Mutex<SwTpm>> = OnceLock::new();
    MODEL.get_or_init(|| Mutex::new(another())).lock().unwrap().twin()
}

/// One that is like no other.
fn another() -> SwTpm {
    let mut tpm = SwTpm::v12(&OWNED);
    // What swtpm_setup calls well-known is the digest of the well-known secret.
    set_srk_secret(&mut tpm, Sha1::digest([0; 20]).into(), [0; 20]);
    tpm
}

/// TPM_ChangeAuthOwner (1.2 part 3, 17.2), in an OSAP session with the owner.
fn set_srk_secret(tpm: &mut SwTpm, owner: [u8; 20], secret: [u8; 20]) {
    let mut command = Command::new(REQUEST, 0x0b);
    let mut tpm = tpm.at(0);
    let mut body = command.u16(2).u32(0x4000_0001).bytes(&[0; 20]).run(&mut tpm.transport).unwrap();
    let (handle, nonce, shared) =
        (body.u32().unwrap(), body.array::<20>().unwrap(), body.array::<20>().unwrap());
    let key = mac(&owner, &[&shared, &[0; 20]]);
    let mut new: [u8; 20] = Sha1::new().chain_update(key).chain_update(nonce).finalize().into();
    new.iter_mut().zip(secret).for_each(|(byte, secret)| *byte ^= secret);
    command = Command::new(REQUEST + 1, 0x10);
    command.u16(4).bytes(&new).u16(4);
    let parameters = Sha1::digest(&command.finish().unwrap()[6..]);
    let proof = mac(&key, &[&parameters, &nonce, &[0; 20], &[0]]);
    command.u32(handle).bytes(&[0; 20]).u8(0).bytes(&proof);
    command.run(&mut tpm.transport).unwrap();
}

/// What the runtime does at locality 1 after a launch: the state, the root, and what keeps it. Nothing is left in the TPM.
fn take(tpm: &mut SwTpm, saved: &[u8]) -> (RootState, Secret, Blob) {
    let (mut secret, mut blob) = (NEW, Blob::new());
    let state = tpm.at(1).root(&mut entropy(), &ALONE, saved, &mut secret, &mut blob).unwrap();
    assert_eq!(sessions(tpm), 0);
    (state, secret, blob)
}

/// What becomes of the root in a TPM that does not behave.
fn attempt(transport: impl Transport, saved: &[u8]) -> Result<RootState, Error> {
    let mut tpm = Tpm::open(transport).unwrap();
    tpm.root(&mut entropy(), &ALONE, saved, &mut NEW.clone(), &mut Blob::new())
}

/// How many authorisation sessions there are: TPM_GetCapability of TPM_CAP_HANDLE, TPM_RT_AUTH (1.2 part 3, 7.1; part 2, 21.1).
fn sessions(tpm: &mut SwTpm) -> u16 {
    let mut command = Command::new(REQUEST, 0x65);
    let mut body = command.u32(0x14).u32(4).u32(2).run(&mut tpm.at(1).transport).unwrap();
    let _size = body.u32().unwrap();
    body.u16().unwrap()
}

/// A TPM into which TrustVisor has been launched, and a root that it made.
fn made() -> (SwTpm, Blob) {
    let mut tpm = owned();
    tpm.launch(SLB, &RELEASE);
    let (mut secret, mut blob) = (MADE, Blob::new());
    assert_eq!(tpm.at(1).root(&mut entropy(), &ALONE, &[], &mut secret, &mut blob), Ok(RootState::NewNoBlob));
    assert_eq!(secret, MADE);
    (tpm, blob)
}

fn next_boot(tpm: SwTpm, slb: &[u8], release: &[(u8, &[u8])]) -> SwTpm {
    let mut tpm = tpm.restart();
    tpm.launch(slb, release);
    tpm
}

/// A new root is made, for this reason, and is as good as any.
fn refused(tpm: &mut SwTpm, saved: &[u8], why: RootState) {
    let (state, secret, blob) = take(tpm, saved);
    assert_eq!((state, secret), (why, NEW));
    assert_ne!(blob.as_slice(), saved);
    let (mut again, mut same) = ([3; Root::SIZE], Blob::new());
    assert_eq!(
        tpm.at(1).root(&mut entropy(), &ALONE, blob.as_slice(), &mut again, &mut same),
        Ok(RootState::Opened)
    );
    assert_eq!((again, same.as_slice()), (NEW, blob.as_slice()));
}

#[test]
fn the_same_release_opens_it_at_every_boot() {
    let (mut tpm, blob) = made();
    for _ in 0..3 {
        tpm = next_boot(tpm, SLB, &RELEASE);
        let (state, secret, same) = take(&mut tpm, blob.as_slice());
        assert_eq!((state, secret, same.as_slice()), (RootState::Opened, MADE, blob.as_slice()));
    }
    // However often: a TPM 1.2 need not have more than three sessions.
    for _ in 0..50 {
        assert_eq!(take(&mut tpm, blob.as_slice()).0, RootState::Opened);
        assert_eq!(take(&mut tpm, &[]).0, RootState::NewNoBlob);
    }
}

#[test]
fn nobody_else_opens_it() {
    let (mut tpm, blob) = made();
    let runtime = [(17, &b"another runtime"[..]), RELEASE[1]];
    let options = [RELEASE[0], (18, b"dma=unprotected\n")];
    for (slb, release) in [(SLB, &runtime), (SLB, &options), (b"another SLB", &RELEASE)] {
        tpm = next_boot(tpm, slb, release);
        refused(&mut tpm, blob.as_slice(), RootState::NewOtherPolicy);
    }
    tpm = next_boot(tpm, SLB, &[RELEASE[0], RELEASE[1], (19, b"an identity key")]);
    let late = tpm.at(1).root(&mut entropy(), &ALONE, blob.as_slice(), &mut NEW.clone(), &mut Blob::new());
    assert_eq!(late, Err(Error::Malformed("PCR 19")));
    // PCR 19 is all ones without a launch.
    let late =
        tpm.restart().at(1).root(&mut entropy(), &ALONE, blob.as_slice(), &mut NEW.clone(), &mut Blob::new());
    assert_eq!(late, Err(Error::Malformed("PCR 19")));
    let mut another = another();
    another.launch(SLB, &RELEASE);
    refused(&mut another, blob.as_slice(), RootState::NewOtherTpm);
}

/// Tries to unseal without looking at anything, as an attacker does.
fn unseal_anyhow(tpm: &mut SwTpm, locality: u8, blob: &Blob) -> Option<Secret> {
    let mut secret = [0; Root::SIZE];
    let found = unseal(&mut tpm.at(locality).transport, &blob.as_slice()[8..], &mut secret);
    assert_eq!(sessions(tpm), 0);
    found.ok().map(|()| secret)
}

#[test]
fn the_tpm_refuses_all_but_locality_1_before_pcr_19_is_extended() {
    let (mut tpm, blob) = made();
    assert_eq!(unseal_anyhow(&mut tpm, 1, &blob), Some(MADE));
    for locality in [0, 2, 3, 4] {
        assert_eq!(unseal_anyhow(&mut tpm, locality, &blob), None, "locality {locality}");
    }
    tpm.at(2).extend(19, &utpm::digest(b"separator")).unwrap();
    for locality in 0..5 {
        assert_eq!(unseal_anyhow(&mut tpm, locality, &blob), None, "then locality {locality}");
    }
    tpm = tpm.restart();
    for locality in 0..5 {
        assert_eq!(unseal_anyhow(&mut tpm, locality, &blob), None, "no launch, locality {locality}");
    }
    tpm = next_boot(tpm, b"another SLB", &RELEASE);
    assert_eq!(unseal_anyhow(&mut tpm, 1, &blob), None, "another SLB");
}

/// Seals a root that is known, for the launch of this release, here and now.
pub(super) fn plant(tpm: &mut SwTpm, locality: u8, pcrs: &[u8; 20]) -> Blob {
    let mut blob = Blob::new();
    seal(&mut tpm.at(locality).transport, pcrs, &KNOWN, &mut blob).unwrap();
    blob
}

/// The digest of PCR 17 to 19 as they are.
fn pcrs(tpm: &mut SwTpm) -> [u8; 20] {
    composite(&[17, 18, 19].map(|register| tpm.at(1).read(register).unwrap().sha1))
}

/// The OS knows the PCRs and can make a blob with the right policy of a root that it knows.
#[test]
fn a_planted_root_is_refused() {
    let (mut tpm, good) = made();
    let now = pcrs(&mut tpm);
    let mut planted = Vec::new();
    for locality in [0, 2, 3, 4] {
        // What made it is refused there and then, and so nothing is saved.
        let here = tpm.at(locality).root(&mut entropy(), &ALONE, &[], &mut KNOWN.clone(), &mut Blob::new());
        assert_eq!(here, Err(Error::Malformed("sealed root")), "locality {locality}");
        planted.push(plant(&mut tpm, locality, &now));
    }
    // By somebody else's kernel at locality 1: without a launch, with a launch of something else, and later in this launch.
    tpm = tpm.restart();
    planted.push(plant(&mut tpm, 1, &now));
    tpm = next_boot(tpm, b"another SLB", &RELEASE);
    planted.push(plant(&mut tpm, 1, &now));
    tpm = next_boot(tpm, SLB, &RELEASE);
    tpm.at(2).extend(19, &utpm::digest(b"separator")).unwrap();
    planted.push(plant(&mut tpm, 1, &now));

    tpm = next_boot(tpm, SLB, &RELEASE);
    assert_eq!(pcrs(&mut tpm), now);
    for (number, planted) in planted.iter().enumerate() {
        // The TPM itself opens it, at locality 1.
        assert_eq!(unseal_anyhow(&mut tpm, 1, planted), Some(KNOWN), "{number}");
        refused(&mut tpm, planted.as_slice(), RootState::NewNotOurs);
        // With what a good one tells.
        let mixed = [&good.as_slice()[..ENCRYPTED], &planted.as_slice()[ENCRYPTED..]].concat();
        refused(&mut tpm, &mixed, RootState::NewOtherTpm);
    }
    assert_eq!(take(&mut tpm, good.as_slice()).0, RootState::Opened);
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let (mut tpm, blob) = made();
    let good = blob.as_slice();
    for byte in (0..ENCRYPTED).chain((ENCRYPTED..good.len()).step_by(3)) {
        let mut bad = good.to_vec();
        bad[byte] ^= 1 << (byte % 8);
        let (state, secret, _) = take(&mut tpm, &bad);
        let why = match byte.checked_sub(INFO) {
            Some(2 | 4..9 | 14..34) => RootState::NewNotOurs,
            Some(3 | 9..14 | 34..54) => RootState::NewOtherPolicy,
            Some(58..) => RootState::NewOtherTpm,
            _ => RootState::NewMalformed,
        };
        assert_eq!((state, secret), (why, NEW), "byte {byte}");
    }
    let long = [good, &[0; 600]].concat();
    for bad in [&good[..good.len() - 1], &good[..8], &[0], &[7; 1024]] {
        assert_eq!(take(&mut tpm, bad).0, RootState::NewMalformed);
    }
    // Behind it there may stand a manifest, which these are not.
    for more in [&[good, &[0]].concat(), &long] {
        assert_eq!(take(&mut tpm, more).0, RootState::NotHandedOver);
    }
    assert_eq!(take(&mut tpm, good).0, RootState::Opened);
}

/// TPM_AUTHFAIL, DEACTIVATED, FAIL, NOSRK, RESOURCES, DEFEND_LOCK_RUNNING (1.2 part 2, 16), silence, and an answer that is lost: whatever
/// command it is, there is no root then. An answer that is lost may have left a session, whose handle it was.
#[test]
fn a_tpm_that_fails_gives_no_root_rather_than_a_new_one() {
    let (mut tpm, blob) = made();
    let codes = [Some(1), Some(6), Some(9), Some(0x12), Some(0x15), Some(0x803), None];
    for (saved, enough) in [(blob.as_slice(), 6), (&[], 5)] {
        tpm = next_boot(tpm, SLB, &RELEASE);
        for (answer, late) in codes.into_iter().map(|code| (code, false)).chain([(None, true)]) {
            for fails_in in 0.. {
                if late {
                    tpm = next_boot(tpm, SLB, &RELEASE);
                }
                tpm.at(1);
                // Two open it.
                let failing = Failing { tpm: &mut tpm, fails_in: fails_in + 2, answer, late };
                let result = attempt(failing, saved);
                let left = sessions(&mut tpm);
                if result.is_ok() {
                    assert_eq!((fails_in, left), (enough, 0));
                    break;
                }
                assert_eq!(result.unwrap_err(), answer.map_or(Error::Timeout("answer"), Error::Refused));
                assert!(left <= u16::from(late), "{left} sessions, command {fails_in}, {answer:x?}");
            }
        }
    }
    tpm = next_boot(tpm, SLB, &RELEASE);
    assert_eq!(take(&mut tpm, blob.as_slice()).1, MADE, "and it is as good as before");
}

/// The TPM, but for what a function makes of its answers to some commands.
struct Changed<'a, F> {
    tpm: &'a mut SwTpm,
    ordinal: u32,
    answer: F,
}

impl<F: FnMut(&mut [u8])> Transport for Changed<'_, F> {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        let size = (&mut *self.tpm).exchange(command, answer)?;
        if command[6..10] == self.ordinal.to_be_bytes() {
            (self.answer)(answer);
        }
        Ok(size)
    }
    fn pause(&mut self, _: u64) {}
    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// The TPM, busy for the first times that it is asked to seal or unseal.
struct Busy<'a>(&'a mut SwTpm, usize);

impl Transport for Busy<'_> {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        if self.1 > 0 && [SEAL, UNSEAL].map(u32::to_be_bytes).contains(command[6..].first_chunk().unwrap()) {
            self.1 -= 1;
            answer[..10].copy_from_slice(&[0, 0xc4, 0, 0, 0, 10, 0, 0, 8, 0]);
            return Ok(10);
        }
        (&mut *self.0).exchange(command, answer)
    }
    fn pause(&mut self, _: u64) {}
    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// TPM_RETRY, a few times and for ever.
#[test]
fn a_busy_tpm_is_asked_again_but_not_for_ever() {
    let (mut tpm, blob) = made();
    for saved in [blob.as_slice(), &[]] {
        for times in [3, usize::MAX] {
            tpm.at(1);
            let busy = Busy(&mut tpm, times);
            let result = attempt(busy, saved);
            assert_eq!(result.err(), (times > 3).then_some(Error::Refused(0x800)));
            assert_eq!(sessions(&mut tpm), 0);
        }
    }
}

/// Each is the TPM's trouble, even if a blob is there.
#[test]
fn a_tpm_that_is_not_owned_as_needed_gives_no_root() {
    let (_, blob) = made();
    // TPM_KEYNOTFOUND or TPM_NOSRK; TPM_AUTHFAIL.
    for (setup, code) in [(&[][..], 0x12), (&OWNED, 1)] {
        let mut tpm = SwTpm::v12(setup);
        tpm.launch(SLB, &RELEASE);
        for saved in [blob.as_slice(), &[]] {
            let mut kept = Blob::new();
            let result = tpm.at(1).root(&mut entropy(), &ALONE, saved, &mut NEW.clone(), &mut kept);
            assert_eq!(result, Err(Error::Refused(code)));
            assert_eq!((kept.as_slice(), sessions(&mut tpm)), (&[][..], 0));
        }
    }
}

/// Answers that are well formed but for one field that only its meaning gives away; and what the TPM makes is looked at before it is kept.
#[test]
fn fields_that_make_no_sense_are_refused() {
    let (mut tpm, blob) = made();
    let (unsealed, sealed) = (blob.as_slice(), &[][..]);
    // The size of what was unsealed; the locality, the size and the digest in what was sealed; tags.
    for (saved, ordinal, at, complaint) in [
        (unsealed, UNSEAL, 13, "root"),
        (unsealed, UNSEAL, 12, "root"),
        (unsealed, UNSEAL, 1, "tag"),
        (sealed, SEAL, 1, "tag"),
        (sealed, SEAL, 10 + 10, "sealed root"),
        (sealed, SEAL, 10 + 11, "sealed root"),
        (sealed, SEAL, 10 + 64, "sealed root"),
        (sealed, SEAL, 10 + 24, "sealed root"),
    ] {
        tpm.at(1);
        let answer = |answer: &mut [u8]| {
            answer[at] ^= u8::from(answer[1] != 0xc4);
        };
        let liar = Changed { tpm: &mut tpm, ordinal, answer };
        let mut secret = NEW;
        let result =
            Tpm::open(liar).unwrap().root(&mut entropy(), &ALONE, saved, &mut secret, &mut Blob::new());
        assert_eq!((result, secret), (Err(Error::Malformed(complaint)), NEW), "{ordinal:#x} {at}");
        assert_eq!(sessions(&mut tpm), 0);
    }
}

/// No command of a TPM 2.0 is sent.
#[test]
fn there_are_no_counters() {
    let (mut tpm, _) = made();
    tpm.at(1);
    for root in [RootState::Opened, RootState::NewNoBlob] {
        let failing = Failing { tpm: &mut tpm, fails_in: 2, answer: None, late: false };
        let found = Tpm::open(failing).unwrap().counters(&[7; 32], root);
        assert_eq!(found.err(), Some(CountersState::Tpm12));
    }
}
