//! What goes over the bus to a real TPM, and somebody who changes it.

use abi::RootState;
use utpm::Root;

use super::root::ALONE;
use super::swtpm::SwTpm;
use super::{entropy, raw};
use crate::tpm::root::{Blob, Secret};
use crate::tpm::v20::code;
use crate::tpm::{Error, Tpm, Transport};

const SLB: &[u8] = b"the SLB";
const RELEASE: [(u8, &[u8]); 2] = [(17, b"the runtime"), (18, b"dma=protected\n")];
const MADE: Secret = [0x5a; Root::SIZE];

/// Sits on the bus: sees all that goes over it, and may change a bit of one kind of command, or of its answer.
#[derive(Default)]
struct Listener {
    seen: Vec<u8>,
    /// The points that sessions began with.
    salts: Vec<Vec<u8>>,
    /// The command's code, whether its answer is changed, and where.
    changes: Option<(u32, bool, usize)>,
    /// How long the last such command or answer was.
    length: usize,
}

struct Bus<'a>(&'a mut SwTpm, &'a mut Listener);

impl Transport for Bus<'_> {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        let Self(tpm, listener) = self;
        let mut tpm = &mut **tpm;
        let mut command = command.to_vec();
        listener.seen.extend(&command);
        if command[6..10] == code::START_AUTH_SESSION.to_be_bytes() {
            listener.salts.push(command[54..122].to_vec());
        }
        let changes = listener.changes.filter(|(code, ..)| command[6..10] == code.to_be_bytes());
        if let Some((_, false, at)) = changes {
            listener.length = command.len();
            command[at] ^= 1 << (at % 8);
        }
        let length = tpm.exchange(&command, answer)?;
        listener.seen.extend(&answer[..length]);
        if let Some((_, true, at)) = changes {
            listener.length = length;
            answer[at] ^= 1 << (at % 8);
        }
        Ok(length)
    }
    fn pause(&mut self, _: u64) {}
    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// A launch at which 32 numbers are drawn, and the root is made, or opened.
fn launch(
    tpm: &mut SwTpm,
    listener: &mut Listener,
    saved: &[u8],
    new: Secret,
) -> Result<(RootState, [u8; 32], Secret, Blob), Error> {
    tpm.launch(SLB, &RELEASE);
    tpm.at(1);
    let mut tpm = Tpm::open(Bus(tpm, listener))?;
    let drawn = tpm.random(&mut entropy())?;
    let (mut secret, mut blob) = (new, Blob::new());
    let state = tpm.root(&mut entropy(), &ALONE, saved, &mut secret, &mut blob)?;
    tpm.close()?;
    Ok((state, *drawn, secret, blob))
}

#[test]
fn who_listens_learns_neither_the_root_nor_random_numbers() {
    let (mut tpm, mut listener) = (SwTpm::new(), Listener::default());
    let (_, first, _, blob) = launch(&mut tpm, &mut listener, &[], MADE).unwrap();
    let mut tpm = tpm.restart();
    let opened = launch(&mut tpm, &mut listener, blob.as_slice(), [2; Root::SIZE]).unwrap();
    assert_eq!((opened.0, opened.2), (RootState::Opened, MADE));
    assert_ne!(first, opened.1);
    let seen = |what: &[u8]| listener.seen.windows(what.len()).any(|window| window == what);
    assert!(seen(&blob[8..72]), "the blob goes over the bus");
    let mut salts = listener.salts.clone();
    salts.sort();
    salts.dedup();
    assert_eq!((listener.salts.len(), salts.len()), (4, 4), "each session has a salt of its own");
    for secret in [&first, &opened.1, &MADE[..]] {
        assert!(secret.chunks(4).all(|part| !seen(part)), "{secret:x?} goes over the bus");
    }
}

/// Nothing else is ever believed: what is changed leads to an error, or, where a blob is handed over whole, to a refusal of it.
#[test]
fn who_changes_a_bit_is_found_out() {
    let mut tpm = SwTpm::new();
    let (.., blob) = launch(&mut tpm, &mut Listener::default(), &[], MADE).unwrap();
    let cases = [(code::UNSEAL, blob.as_slice()), (code::GET_RANDOM, blob.as_slice()), (code::CREATE, &[])];
    for (code, saved) in cases {
        for answer in [false, true] {
            let mut at = 10;
            loop {
                tpm = tpm.restart();
                let mut listener = Listener { changes: Some((code, answer, at)), ..Listener::default() };
                let result = launch(&mut tpm, &mut listener, saved, [2; Root::SIZE]);
                assert!(
                    result.is_err(),
                    "{:?}, {code:#x}, answer {answer}, byte {at}",
                    result.map(|good| good.0)
                );
                at += 7;
                if at >= listener.length {
                    break;
                }
            }
        }
    }
}

/// The parent has to be what was asked for: neither another kind of key, nor what is no point of the curve.
#[test]
fn another_parent_is_refused() {
    let mut tpm = SwTpm::new();
    for at in 20..110 {
        tpm = tpm.restart();
        let changes = Some((code::CREATE_PRIMARY, true, at));
        let result = launch(&mut tpm, &mut Listener { changes, ..Listener::default() }, &[], MADE);
        assert!(matches!(result, Err(Error::Malformed(_))), "byte {at}");
    }
}

/// Afterwards the OS has all of the TPM's places for objects and sessions, whatever became of the root.
#[test]
fn nothing_is_left_in_the_tpm() {
    let mut tpm = SwTpm::new();
    let (.., blob) = launch(&mut tpm, &mut Listener::default(), &[], MADE).unwrap();
    let mut planted = blob.to_vec();
    // A byte of the ticket, and one of what is encrypted.
    let length = planted.len();
    planted[length - 1] ^= 1;
    let mut garbled = blob.to_vec();
    garbled[80] ^= 1;
    let changes =
        [code::LOAD, code::CERTIFY_CREATION, code::POLICY_PCR, code::UNSEAL].map(|code| (code, false, 6));
    for saved in [blob.as_slice(), &planted, &garbled] {
        for changes in changes.map(Some).into_iter().chain([None]) {
            tpm = tpm.restart();
            let mut listener = Listener { changes, ..Listener::default() };
            tpm.launch(SLB, &RELEASE);
            tpm.at(1);
            let mut opened = Tpm::open(Bus(&mut tpm, &mut listener)).unwrap();
            let result = opened.root(&mut entropy(), &ALONE, saved, &mut [2; Root::SIZE], &mut Blob::new());
            opened.close().unwrap();
            assert_eq!(raw::loaded(&mut tpm.at(0)), 0, "{result:?}, {changes:x?}");
        }
    }
    tpm = tpm.restart();
    raw::fill(&mut tpm.at(0));
    assert_eq!(raw::loaded(&mut tpm.at(0)), 6);
}
