//! A saved root that the OS hands in, and a TPM that may say anything about it.
//!
//! Demanded: a root is opened only if the blob is for these PCRs, tells that it was made at locality 1 with the PCRs of this release or of
//! one that is named, the TPM has certified that, and then answered the root; a predecessor's storage comes without its identity; in all
//! other cases the root is the new one, or there is none.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::{Digests, RootState};
use hypervisor::pal::Random;
use hypervisor::release::Release;
use hypervisor::tpm::root::Blob;
use hypervisor::tpm::{Error, Tpm, Transport};
use sha2::{Digest, Sha256};

use crate::input::Input;
use crate::session::{Session, storage_key};

const NEW: [u8; 64] = [7; 64];
const PCR_17: [u8; 32] = [17; 32];
const PCR_18: [u8; 32] = [18; 32];
const OLD: Digests = Digests { sha1: [5; 20], sha256: [6; 32] };
static RELEASE: Release = Release { security_version: 1, signer: None, predecessors: &[OLD] };
/// PCR 17, 18, 19 in the bank of SHA-256, and what TPM2_PolicyLocality and TPM2_PolicyPCR hash before.
const SELECTION: [u8; 10] = [0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0b1110];
const LOCALITY: [u8; 5] = [0, 0, 1, 0x6f, 2];
const POLICY_PCR: [u8; 4] = [0, 0, 1, 0x7f];

/// Every decision that is zero is the right one.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    // Of bytes without form only the fuzzer knows what they are.
    let formless = input.bool();
    let (saved, believed) = if formless { (input.take(700).to_vec(), None) } else { blob(&mut input) };
    let seen = Rc::new(RefCell::new(Seen::default()));
    let mut tpm = chip(input, &seen);
    let (mut secret, mut blob) = (NEW, Blob::new());
    let result = tpm.root(&mut entropy(), &RELEASE, &saved, &mut secret, &mut blob);
    tpm.close().unwrap();
    let seen = seen.borrow();
    assert!(seen.kept || seen.objects.is_empty(), "objects are left in the TPM");
    let Ok(state) = result else { return };
    if !state.is_old() {
        assert_eq!(secret, NEW, "{state:?}, and not the new root");
        assert!(blob.as_slice().starts_with(b"TVROOT2\x01"));
        return;
    }
    let root = seen.unsealed.expect("what nobody unsealed is the root");
    assert!(formless || Some(state) == believed, "opened as {state:?}");
    if state == RootState::TakenOver {
        assert!(secret[..32] == root[..32] && secret[32..] == NEW[32..], "another root");
    } else {
        assert!(secret == root && blob.as_slice() == saved, "another root");
    }
}

fn pcrs(pcr_17: &[u8; 32]) -> [u8; 32] {
    Sha256::digest([*pcr_17, PCR_18, [0; 32]].as_flattened()).into()
}

fn policy() -> [u8; 32] {
    let locality = Sha256::new().chain_update([0; 32]).chain_update(LOCALITY).finalize();
    let pcrs = pcrs(&PCR_17);
    let hash = Sha256::new().chain_update(locality).chain_update(POLICY_PCR).chain_update(SELECTION);
    hash.chain_update(pcrs).finalize().into()
}

/// A blob in its form, and as what it may be opened.
fn blob(input: &mut Input) -> (Vec<u8>, Option<RootState>) {
    let mut good = true;
    let mut choose = |right: &[u8], wrong: &[u8], input: &mut Input| {
        let choice = input.u8();
        if choice == 0 {
            return right.to_vec();
        }
        let mut bytes = if choice == 1 { wrong.to_vec() } else { input.take(right.len()).to_vec() };
        bytes.resize(right.len(), 0);
        good &= bytes == right;
        bytes
    };
    let sealed = [0x00, 0x08, 0x00, 0x0b, 0x00, 0x00, 0x04, 0x92, 0, 32];
    let public =
        [&choose(&sealed, &[0; 10], input)[..], &choose(&policy(), &[1; 32], input), &[0; 36]].concat();
    let mut creation = choose(&SELECTION, &[0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0b0110], input);
    let made = match input.u8() {
        0 => pcrs(&PCR_17),
        1 => pcrs(&OLD.sha256),
        _ => input.bytes(),
    };
    creation.extend([0, 32]);
    creation.extend(made);
    creation.extend(choose(&[2], &[1], input));
    creation.extend(input.take(8));
    let ticket = [&[0x80, 0x21, 0x40, 0, 0, 1, 0, 32][..], &[0x11; 32]].concat();
    // Of another ticket the TPM judges, but for one that says nothing.
    let none = input.bool();
    good &= !none;
    let ticket = if none { vec![0x80, 0x21, 0x40, 0, 0, 7, 0, 0] } else { ticket };
    let length = input.u8();
    let manifest = input.take(length.into());
    let mut bytes = b"TVROOT2\x01".to_vec();
    for part in [&[3; 160], &public[..], &creation] {
        bytes.extend((part.len() as u16).to_be_bytes());
        bytes.extend(part);
    }
    bytes.extend([&ticket, manifest].concat());
    let state = match manifest {
        _ if made == pcrs(&OLD.sha256) => Some(RootState::TakenOver),
        _ if made != pcrs(&PCR_17) => None,
        [] => Some(RootState::Opened),
        _ => Some(RootState::NotHandedOver),
    };
    (bytes, state.filter(|_| good))
}

/// What the TPM was asked and answered.
#[derive(Default)]
struct Seen {
    /// Handles of objects that are in it.
    objects: Vec<[u8; 4]>,
    certified: bool,
    unsealed: Option<[u8; 64]>,
    /// It did not tell of them, or did not let go of one.
    kept: bool,
}

impl Seen {
    /// The TPM says success to a command, with this.
    fn note(&mut self, code: u32, command: &[u8], body: &[u8]) {
        match code {
            // TPM2_CreatePrimary, TPM2_Load.
            0x131 | 0x157 => self.objects.extend(body.first_chunk()),
            // TPM2_CertifyCreation.
            0x14a => self.certified = command.ends_with(&[0x11; 32]),
            // TPM2_Unseal.
            0x15e => assert!(self.certified, "unsealed without a proof of who made it"),
            // TPM2_FlushContext.
            0x165 => {
                let there = self.objects.iter().position(|object| command[10..] == *object);
                there.map(|at| self.objects.remove(at));
            }
            _ => {}
        }
    }
}

/// Knows its banks and PCRs; answers all else as the input wants.
struct Chip<'a> {
    input: Input<'a>,
    seen: Rc<RefCell<Seen>>,
    session: Option<Session>,
}

fn chip<'a>(input: Input<'a>, seen: &Rc<RefCell<Seen>>) -> Tpm<Chip<'a>> {
    Tpm::open(Chip { input, seen: Rc::clone(seen), session: None }).expect("its banks are known")
}

pub fn entropy() -> Random {
    static WORDS: AtomicU64 = AtomicU64::new(1);
    Random::seeded(|| Some(WORDS.fetch_add(1, Ordering::Relaxed)), &[]).unwrap()
}

impl Chip<'_> {
    fn answer(&mut self, code: u32, command: &[u8]) -> (u32, Vec<u8>) {
        match (code, &command[10..]) {
            // TPM2_GetCapability of the banks, TPM2_PCR_Read.
            (0x17a, [0, 0, 0, 5, ..]) => return (0, [&[0, 0, 0, 0, 5][..], &SELECTION].concat()),
            (0x17e, [_, _, _, _, 0, 0x0b, 3, _, _, pcr]) => {
                let value = match pcr {
                    2 => PCR_17,
                    4 => PCR_18,
                    _ => [0; 32],
                };
                return (0, [&[0; 4], &command[10..20], &[0, 0, 0, 1, 0, 32], &value].concat());
            }
            _ => {}
        }
        let choice = self.input.u8();
        // Of a storage key that nobody heard of, nobody can get rid.
        self.seen.borrow_mut().kept |= choice != 0 && matches!(code, 0x131 | 0x165 | 0x17a);
        match choice {
            0 => (0, self.good(code, command)),
            1 => (0, self.input.take(100).to_vec()),
            // What the TPM itself says, whatever that is.
            2 => {
                let parameters = self.input.take(100).to_vec();
                // TPM2_Unseal.
                if code == 0x15e && parameters.len() == 66 && parameters[..2] == [0, 64] {
                    self.seen.borrow_mut().unsealed = parameters[2..].try_into().ok();
                }
                (0, self.proved(command, &parameters))
            }
            _ => (self.input.u32() | 1, Vec::new()),
        }
    }

    fn proved(&self, command: &[u8], parameters: &[u8]) -> Vec<u8> {
        self.session.as_ref().map_or(Vec::new(), |session| session.answer(command, parameters))
    }

    fn good(&mut self, code: u32, command: &[u8]) -> Vec<u8> {
        let session = [0, 0, 0, 0, 0, 0, 1, 0, 0];
        let part = |length: u8| [&[0, length][..], &vec![length; length.into()]].concat();
        match code {
            // TPM2_GetCapability of handles: objects, no sessions.
            0x17a => {
                let objects = self.seen.borrow().objects.clone();
                let objects = if command[14] == 0x80 { objects } else { Vec::new() };
                [&[0, 0, 0, 0, 1, 0, 0, 0, objects.len() as u8][..], objects.as_flattened()].concat()
            }
            // TPM2_CreatePrimary: handle and public part.
            0x131 => {
                let public = storage_key();
                let size = [0, public.len() as u8];
                [&[0x80, 0, 0, 0, 0, 0, 0, public.len() as u8 + 2][..], &size, &public, &session[4..]]
                    .concat()
            }
            // TPM2_Load: the object's handle.
            0x157 => [&[0x80, 0, 0, 1][..], &session].concat(),
            // TPM2_CertifyCreation.
            0x14a => session.to_vec(),
            // TPM2_Create: private, public, creation data, hash and ticket.
            0x153 => {
                let public = [&[0, 0x08, 0, 0x0b, 0, 0, 0x04, 0x92, 0, 32][..], &policy(), &[0; 36]].concat();
                let creation = [&SELECTION[..], &[0, 32], &pcrs(&PCR_17), &[2]].concat();
                let sized = |bytes: &[u8]| [&[0, bytes.len() as u8], bytes].concat();
                let ticket = [0x80, 0x21, 0x40, 0, 0, 1].to_vec();
                let all = [part(160), sized(&public), sized(&creation), part(32), ticket, part(32)].concat();
                self.proved(command, &all)
            }
            // TPM2_StartAuthSession.
            0x176 => {
                let (session, answer) = Session::start(command).expect("a session");
                self.session = Some(session);
                answer
            }
            // TPM2_Unseal.
            0x15e => {
                let root = [self.input.u8(); 64];
                self.seen.borrow_mut().unsealed = Some(root);
                self.proved(command, &[&[0, 64][..], &root].concat())
            }
            _ => Vec::new(),
        }
    }
}

impl Transport for Chip<'_> {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        let command_code = u32::from_be_bytes(*command[6..].first_chunk().unwrap());
        let (code, body) = self.answer(command_code, command);
        if code == 0 {
            self.seen.borrow_mut().note(command_code, command, &body);
        }
        let length = 10 + body.len();
        // An answer with sessions follows a command with them, but for an error.
        let tag = if code == 0 { &command[..2] } else { &[0x80, 0x01] };
        answer[..2].copy_from_slice(tag);
        answer[2..6].copy_from_slice(&(length as u32).to_be_bytes());
        answer[6..10].copy_from_slice(&code.to_be_bytes());
        answer[10..length].copy_from_slice(&body);
        Ok(length)
    }

    fn pause(&mut self, _: u64) {}

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_decisions_open_it() {
        let (saved, state) = blob(&mut Input::new(&[]));
        assert_eq!(state, Some(RootState::Opened));
        let seen = Rc::new(RefCell::new(Seen::default()));
        let mut tpm = chip(Input::new(&[]), &seen);
        let (mut secret, mut blob) = (NEW, Blob::new());
        let state = tpm.root(&mut entropy(), &RELEASE, &saved, &mut secret, &mut blob);
        assert_eq!(state, Ok(RootState::Opened));
        tpm.close().unwrap();
        assert!(seen.borrow().objects.is_empty());
        assert_eq!(secret, [0; 64]);
    }
}
