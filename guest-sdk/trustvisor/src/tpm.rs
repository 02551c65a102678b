//! The machine's TPM, by Linux's driver and at its locality 0: a hardware quote of what was launched (TPM 2.0), what its owner has to do
//! before TrustVisor keeps anything in it, and may remove.
//!
//! The attestation key is a primary key of the endorsement hierarchy, made anew each time from the TPM's seed: always the same, and
//! nothing has to be kept for it. References: TCG TPM 2.0 Library part 2 and 3; TCG TPM Main 1.2 part 2 and 3 ("1.2").

use crate::Error;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

/// The resource manager's device, and the TPM's own.
const DEVICES: [&str; 2] = ["/dev/tpmrm0", "/dev/tpm0"];

/// TPM_ST_NO_SESSIONS, TPM_ST_SESSIONS (part 2, 6.9), TPM_CCs (6.5.2), TPM_RH_ENDORSEMENT, TPM_RS_PW (7.4).
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const CREATE_PRIMARY: u32 = 0x131;
const QUOTE: u32 = 0x158;
const FLUSH_CONTEXT: u32 = 0x165;
const ENDORSEMENT: u32 = 0x4000_000b;
/// Of the counters: TPM_RH_OWNER, their NV index, the response code for an index that is not there (handle 2).
const NV_UNDEFINE_SPACE: u32 = 0x122;
const OWNER: u32 = 0x4000_0001;
const COUNTERS: u32 = 0x0180_5456;
const NO_INDEX: u32 = 0x28b;
/// Of the owner: TPM_CAP_TPM_PROPERTIES (6.12), TPM_PT_PERMANENT (6.13), TPMA_PERMANENT ownerAuthSet and inLockout (8.6).
const GET_CAPABILITY: u32 = 0x17a;
const PROPERTIES: u32 = 6;
const PERMANENT: u32 = 0x200;
const OWNER_AUTH_SET: u8 = 1;
const IN_LOCKOUT: u8 = 1 << 1;
/// 1.2 part 2: TPM_TAG_RQU_COMMAND (6.1), TPM_ORD_GetCapability (17), TPM_CAP_PROPERTY, TPM_CAP_PROP_OWNER (21.1, 21.2).
const REQUEST_12: u16 = 0xc1;
const GET_CAPABILITY_12: u32 = 0x65;
const PROPERTY_12: u32 = 5;
const HAS_OWNER_12: u32 = 0x111;
const PASSWORD: u32 = 0x4000_0009;
/// TPM_ALG_NULL (part 2, 6.3).
const ALG_NULL: u16 = 0x10;

/// TPMT_PUBLIC of the attestation key: P-256, SHA-256; fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign;
/// ECDSA with SHA-256 (part 2, 12.2.4).
const KEY: [u8; 24] =
    [0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 0, 0, 0];
/// TPML_PCR_SELECTION: SHA-256, PCR 17, 18 and 19.
const PCRS: [u8; 10] = [0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0b1110];

/// A quote of the hardware TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareQuote {
    /// TPMS_ATTEST: PCR 17, 18 and 19 (SHA-256).
    pub quoted: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key.
    pub key: Vec<u8>,
}

/// Has the TPM quote what was launched, with `extra` (64 bytes at most) as extraData.
pub fn hardware_quote(extra: &[u8]) -> Result<HardwareQuote, Error> {
    let mut tpm = Tpm::open()?;
    let created = tpm.call(SESSIONS, CREATE_PRIMARY, &ENDORSEMENT.to_be_bytes(), &primary())?;
    let (handle, created) = created.split_at_checked(4).ok_or(Error::Tpm(0))?;
    let quoted = tpm.call(SESSIONS, QUOTE, handle, &quote(extra));
    // The key takes one of few places.
    tpm.call(NO_SESSIONS, FLUSH_CONTEXT, handle, &[])?;
    let quoted = parameters(&quoted?)?.to_vec();
    let (key, _) = sized(parameters(created)?)?;
    let (quoted, signature) = sized(&quoted)?;
    Ok(HardwareQuote { quoted: quoted.to_vec(), signature: signature.to_vec(), key: key.to_vec() })
}

/// What the TPM's owner has to see to, so that TrustVisor can keep a root in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provision {
    /// A TPM 2.0: nothing.
    Ready,
    /// A TPM 2.0 whose owner authorisation must be made empty.
    OwnerAuth,
    /// A TPM 2.0 that is locked out, after too many wrong authorisations: wait, or reset it.
    LockedOut,
    /// A TPM 1.2 that must be owned, its storage root key with the well-known secret (20 zero bytes).
    NoOwner,
    /// A TPM 1.2 that is owned. Whether the storage root key has the well-known secret, it does not tell.
    Owned,
}

/// Asks the TPM.
pub fn provision() -> Result<Provision, Error> {
    let mut tpm = Tpm::open()?;
    let words = |words: [u32; 3]| words.map(u32::to_be_bytes).concat();
    match tpm.call(NO_SESSIONS, GET_CAPABILITY, &[], &words([PROPERTIES, PERMANENT, 1])) {
        // More data, the capability, one property, its name.
        Ok(answer) => match answer.get(13..17) {
            Some([_, _, locked, _]) if locked & IN_LOCKOUT != 0 => Ok(Provision::LockedOut),
            Some([.., auth]) if auth & OWNER_AUTH_SET != 0 => Ok(Provision::OwnerAuth),
            Some(_) => Ok(Provision::Ready),
            None => Err(Error::Tpm(0)),
        },
        Err(Error::Tpm(code)) if is_1_2(code) => {
            let answer =
                tpm.call(REQUEST_12, GET_CAPABILITY_12, &[], &words([PROPERTY_12, 4, HAS_OWNER_12]))?;
            match answer[..] {
                [0, 0, 0, 1, 0] => Ok(Provision::NoOwner),
                [0, 0, 0, 1, _] => Ok(Provision::Owned),
                _ => Err(Error::Tpm(0)),
            }
        }
        Err(error) => Err(error),
    }
}

/// Removes TrustVisor's counters from the TPM, if they are there: the next root begins with new ones. A TPM 1.2 has none.
pub fn remove_counters() -> Result<(), Error> {
    let handles = [OWNER.to_be_bytes(), COUNTERS.to_be_bytes()].concat();
    match Tpm::open()?.call(SESSIONS, NV_UNDEFINE_SPACE, &handles, &[]) {
        Err(Error::Tpm(code)) if code == NO_INDEX || is_1_2(code) => Ok(()),
        result => result.map(drop),
    }
}

/// Whether a TPM 1.2 answers so to a command of 2.0: TPM_BADTAG or TPM_BAD_ORDINAL, as a rule. A 2.0 has TPM_RC_BAD_TAG alone below 100h,
/// for commands of 1.2.
fn is_1_2(code: u32) -> bool {
    (1..0x100).contains(&code)
}

/// No authorisation value and no data; the key; nothing from outside, no PCRs.
fn primary() -> Vec<u8> {
    [&[0, 4, 0, 0, 0, 0, 0, KEY.len() as u8][..], &KEY, &[0, 0, 0, 0, 0, 0]].concat()
}

/// The key's own scheme.
fn quote(extra: &[u8]) -> Vec<u8> {
    [&(extra.len() as u16).to_be_bytes()[..], extra, &ALG_NULL.to_be_bytes(), &PCRS].concat()
}

struct Tpm(File);

impl Tpm {
    fn open() -> Result<Self, Error> {
        let mut why = None;
        for device in DEVICES {
            match OpenOptions::new().read(true).write(true).open(device) {
                Ok(file) => return Ok(Self(file)),
                Err(error) => why = why.or(Some(error)),
            }
        }
        Err(why.map_or(Error::NoTpm, Error::Device))
    }

    /// What follows the answer's header.
    fn call(&mut self, tag: u16, code: u32, handle: &[u8], parameters: &[u8]) -> Result<Vec<u8>, Error> {
        // With an empty password.
        let authorisation = [&9u32.to_be_bytes()[..], &PASSWORD.to_be_bytes(), &[0; 5]].concat();
        let authorisation = if tag == SESSIONS { &authorisation[..] } else { &[] };
        let length = 10 + handle.len() + authorisation.len() + parameters.len();
        let header = [&tag.to_be_bytes()[..], &(length as u32).to_be_bytes(), &code.to_be_bytes()].concat();
        let command = [&header, handle, authorisation, parameters].concat();
        self.0.write_all(&command).map_err(Error::Device)?;
        let mut answer = vec![0; 4096];
        let length = self.0.read(&mut answer).map_err(Error::Device)?;
        answer.truncate(length);
        let header: &[u8; 10] = answer.first_chunk().ok_or(Error::Tpm(0))?;
        match u32::from_be_bytes([header[6], header[7], header[8], header[9]]) {
            0 => Ok(answer.split_off(10)),
            code => Err(Error::Tpm(code)),
        }
    }
}

/// The parameters of an answer with sessions.
fn parameters(answer: &[u8]) -> Result<&[u8], Error> {
    let (size, rest) = answer.split_first_chunk().ok_or(Error::Tpm(0))?;
    rest.get(..u32::from_be_bytes(*size) as usize).ok_or(Error::Tpm(0))
}

/// What a TPM2B holds, and what follows it.
fn sized(bytes: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let (size, rest) = bytes.split_first_chunk().ok_or(Error::Tpm(0))?;
    rest.split_at_checked(u16::from_be_bytes(*size).into()).ok_or(Error::Tpm(0))
}
