//! The root in a real TPM.

use super::entropy;
use super::raw;
use super::swtpm::SwTpm;
use crate::release::Release;
use crate::tpm::root::{Blob, Secret};
use crate::tpm::{Error, Tpm, Transport};
use abi::RootState;
use utpm::Root;

const SLB: &[u8] = b"the SLB";
/// What the SLB extends: the runtime, and the options.
const RELEASE: [(u8, &[u8]); 2] = [(17, b"the runtime"), (18, b"dma=protected\n")];
/// A release that knows no other.
pub(super) const ALONE: Release = Release { security_version: 5, signer: None, predecessors: &[] };
const MADE: Secret = [1; Root::SIZE];

/// What the runtime does at locality 1 after a launch: the state, the root, and what keeps it.
fn take(tpm: &mut SwTpm, saved: &[u8], new: Secret) -> (RootState, Secret, Blob) {
    let (mut secret, mut blob) = (new, Blob::new());
    let state = tpm.at(1).root(&mut entropy(), &ALONE, saved, &mut secret, &mut blob).unwrap();
    (state, secret, blob)
}

/// A TPM into which TrustVisor has been launched, and a root that it made.
fn made() -> (SwTpm, Blob) {
    let mut tpm = SwTpm::new();
    tpm.launch(SLB, &RELEASE);
    let (state, secret, blob) = take(&mut tpm, &[], MADE);
    assert_eq!((state, secret), (RootState::NewNoBlob, MADE));
    (tpm, blob)
}

/// The next boot, and what becomes of a saved root.
fn next_boot(tpm: SwTpm, release: &[(u8, &[u8])], saved: &[u8]) -> (SwTpm, RootState, Secret) {
    let mut tpm = tpm.restart();
    tpm.launch(SLB, release);
    let (state, secret, blob) = take(&mut tpm, saved, [2; Root::SIZE]);
    if state == RootState::Opened {
        assert_eq!(blob.as_slice(), saved);
    } else {
        assert_eq!(secret, [2; Root::SIZE], "{state:?}");
        assert_ne!(blob.as_slice(), saved);
        // The new one is as good as any.
        let (again, secret, _) = take(&mut tpm, blob.as_slice(), [3; Root::SIZE]);
        assert_eq!((again, secret), (RootState::Opened, [2; Root::SIZE]));
    }
    (tpm, state, secret)
}

#[test]
fn the_same_release_opens_it_at_every_boot() {
    let (mut tpm, blob) = made();
    for _ in 0..3 {
        let (now, state, secret) = next_boot(tpm, &RELEASE, blob.as_slice());
        assert_eq!((state, secret), (RootState::Opened, MADE));
        tpm = now;
    }
}

#[test]
fn nobody_else_opens_it() {
    let (tpm, blob) = made();
    for release in [[(17, &b"another runtime"[..]), RELEASE[1]], [RELEASE[0], (18, b"dma=unprotected\n")]] {
        let mut tpm = SwTpm::new();
        tpm.launch(SLB, &release);
        assert_eq!(take(&mut tpm, blob.as_slice(), [2; Root::SIZE]).0, RootState::NewOtherPolicy);
    }
    let mut tpm_19 = SwTpm::new();
    tpm_19.launch(SLB, &[RELEASE[0], RELEASE[1], (19, b"an identity key")]);
    let refused =
        tpm_19.at(1).root(&mut entropy(), &ALONE, blob.as_slice(), &mut [2; Root::SIZE], &mut Blob::new());
    assert_eq!(refused, Err(Error::Malformed("PCR 19")));
    let (_, state, _) = next_boot(SwTpm::new(), &RELEASE, blob.as_slice());
    assert_eq!(state, RootState::NewOtherTpm, "another TPM");
    let (_, state, _) = next_boot(tpm, &[RELEASE[0], (18, b"")], blob.as_slice());
    assert_eq!(state, RootState::NewOtherPolicy);
}

/// Whoever tries without asking who may: the TPM itself refuses.
#[test]
fn the_tpm_refuses_all_but_locality_1_before_pcr_19_is_extended() {
    let (mut tpm, blob) = made();
    assert_eq!(raw::unseal_anyhow(&mut tpm.at(1), blob.as_slice()), Some(MADE));
    for locality in [0, 2, 3] {
        assert_eq!(raw::unseal_anyhow(&mut tpm.at(locality), blob.as_slice()), None, "locality {locality}");
    }
    tpm.at(2).extend(19, &utpm::digest(b"separator")).unwrap();
    for locality in 0..4 {
        assert_eq!(
            raw::unseal_anyhow(&mut tpm.at(locality), blob.as_slice()),
            None,
            "then locality {locality}"
        );
    }
    let mut tpm = tpm.restart();
    for locality in 0..4 {
        assert_eq!(
            raw::unseal_anyhow(&mut tpm.at(locality), blob.as_slice()),
            None,
            "no launch, locality {locality}"
        );
    }
    tpm.launch(b"another SLB", &RELEASE);
    assert_eq!(raw::unseal_anyhow(&mut tpm.at(1), blob.as_slice()), None, "another SLB");
}

/// The OS knows the PCRs and can make a blob with the right policy of a root that it knows.
#[test]
fn a_planted_root_is_refused() {
    let (mut tpm, good) = made();
    for locality in [0, 2, 3] {
        // There and then it is refused, and nothing is to be saved.
        let (mut known, mut refused) = ([9; Root::SIZE], Blob::new());
        let made = tpm.at(locality).root(&mut entropy(), &ALONE, &[], &mut known, &mut refused);
        assert_eq!(made, Err(Error::Malformed("sealed root")), "locality {locality}");
        let planted = raw::made_for(&mut tpm.at(locality), raw::made_with(good.as_slice()), &known);
        let (state, secret, _) = take(&mut tpm, &planted, [2; Root::SIZE]);
        assert_eq!((state, secret), (RootState::NewNotOurs, [2; Root::SIZE]), "made at locality {locality}");
        // With the creation data or the ticket of a good one.
        for mixed in raw::mixed(&planted, good.as_slice()) {
            let (state, secret, _) = take(&mut tpm, &mixed, [2; Root::SIZE]);
            assert_eq!(
                (state, secret),
                (RootState::NewNotOurs, [2; Root::SIZE]),
                "mixed, made at locality {locality}"
            );
        }
    }
    // Made at locality 1 by somebody else's kernel, without a launch: other PCRs at creation, though the policy is right.
    let mut tpm = tpm.restart();
    let planted = raw::made_for(&mut tpm.at(1), raw::made_with(good.as_slice()), &[9; Root::SIZE]);
    tpm.launch(SLB, &RELEASE);
    let (state, secret, _) = take(&mut tpm, &planted, [2; Root::SIZE]);
    assert_eq!((state, secret), (RootState::NewNotOurs, [2; Root::SIZE]));
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let (mut tpm, blob) = made();
    let good = blob.as_slice();
    for byte in (0..good.len()).step_by(3) {
        let mut bad = good.to_vec();
        bad[byte] ^= 1 << (byte % 8);
        let (state, secret, _) = take(&mut tpm, &bad, [2; Root::SIZE]);
        assert_ne!(state, RootState::Opened, "byte {byte}");
        assert_eq!(secret, [2; Root::SIZE], "byte {byte}");
    }
    for bad in [&good[..good.len() - 1], &good[..8], &[0], &[7; 1024]] {
        let (state, secret, _) = take(&mut tpm, bad, [2; Root::SIZE]);
        assert_eq!((state, secret), (RootState::NewMalformed, [2; Root::SIZE]));
    }
    // Parts too long for any command, and the ticket that a TPM gives for nothing.
    let long = raw::with_ticket(good, &[&[0x80, 0x21, 0x40, 0, 0, 1, 2, 0x58][..], &[0; 600]].concat());
    let nobody = raw::with_ticket(good, &[0x80, 0x21, 0x40, 0, 0, 7, 0, 1, 0]);
    let nothing = raw::with_ticket(good, &[0x80, 0x21, 0x40, 0, 0, 1, 0, 0]);
    for bad in [long, nobody, nothing] {
        assert_eq!(take(&mut tpm, &bad, [2; Root::SIZE]).0, RootState::NewMalformed);
    }
    // And nothing is left in the TPM: it has room for three objects.
    assert_eq!(take(&mut tpm, good, [2; Root::SIZE]).0, RootState::Opened);
}

/// The TPM, but for one command that it answers with an error, or not at all.
pub(super) struct Failing<'a> {
    pub tpm: &'a mut SwTpm,
    pub fails_in: usize,
    pub answer: Option<u32>,
    /// The command is carried out, and its answer is lost.
    pub late: bool,
}

impl Transport for Failing<'_> {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        let fails = self.fails_in == 0;
        self.fails_in = self.fails_in.wrapping_sub(1);
        match self.answer {
            Some(code) if fails => {
                answer[..6].copy_from_slice(&[0x80, 0x01, 0, 0, 0, 10]);
                answer[6..10].copy_from_slice(&code.to_be_bytes());
                Ok(10)
            }
            None if fails => {
                if self.late {
                    self.tpm.exchange(command, answer)?;
                }
                Err(Error::Timeout("answer"))
            }
            _ => self.tpm.exchange(command, answer),
        }
    }
    fn pause(&mut self, _: u64) {}
    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Whoever was there before has filled its three places for objects, and three of those for sessions.
#[test]
fn what_others_left_in_the_tpm_goes() {
    let (mut tpm, blob) = made();
    raw::fill(&mut tpm.at(0));
    assert_eq!(take(&mut tpm, blob.as_slice(), [2; Root::SIZE]).0, RootState::Opened);
}

/// TPM_RC_LOCKOUT, OBJECT_MEMORY, FAILURE, HIERARCHY of handle 1, BAD_AUTH of session 1 (2.0 part 2, 6.6.3), and silence.
#[test]
fn a_tpm_that_fails_gives_no_root_rather_than_a_new_one() {
    let (mut tpm, blob) = made();
    let codes = [Some(0x921), Some(0x902), Some(0x101), Some(0x185), Some(0x9a2)];
    for (answer, late) in codes.into_iter().chain([None]).map(|code| (code, false)).chain([(None, true)]) {
        for fails_in in 0.. {
            tpm = tpm.restart();
            tpm.launch(SLB, &RELEASE);
            tpm.at(1);
            let failing = Failing { tpm: &mut tpm, fails_in: fails_in + 1, answer, late };
            let (mut secret, mut now) = ([2; Root::SIZE], Blob::new());
            let result = Tpm::open(failing).unwrap().root(
                &mut entropy(),
                &ALONE,
                blob.as_slice(),
                &mut secret,
                &mut now,
            );
            if result == Ok(RootState::Opened) {
                assert!(fails_in > 10, "only {fails_in} commands");
                break;
            }
            assert!(result.is_err(), "{result:?} though command {fails_in} fails with {answer:x?}");
        }
    }
}
