//! A TPM 2.0. The attestation key is a primary key of the endorsement hierarchy, made anew each time from the TPM's seed: always the same,
//! and nothing has to be kept for it.
//!
//! References: TCG TPM 2.0 Library part 2 and 3.

use super::{Provision, Tpm, split};
use crate::Error;

/// TPM_ST_NO_SESSIONS, TPM_ST_SESSIONS (part 2, 6.9), TPM_CCs (6.5.2), TPM_RH_ENDORSEMENT, TPM_RS_PW (7.4).
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const CREATE_PRIMARY: u32 = 0x131;
const QUOTE: u32 = 0x158;
const FLUSH_CONTEXT: u32 = 0x165;
const ENDORSEMENT: u32 = 0x4000_000b;
const PASSWORD: u32 = 0x4000_0009;
/// TPM_ALG_NULL (6.3).
const ALG_NULL: u16 = 0x10;
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

/// TPMT_PUBLIC of the attestation key: P-256, SHA-256; fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign;
/// ECDSA with SHA-256 (part 2, 12.2.4).
const KEY: [u8; 24] =
    [0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 0, 0, 0];
/// TPML_PCR_SELECTION: SHA-256, PCR 17, 18 and 19.
const PCRS: [u8; 10] = [0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0b1110];

/// TPMA_PERMANENT, as its bytes are sent.
pub(super) fn permanent(tpm: &mut Tpm) -> Result<[u8; 4], Error> {
    let what = [PROPERTIES, PERMANENT, 1].map(u32::to_be_bytes).concat();
    let answer = call(tpm, NO_SESSIONS, GET_CAPABILITY, &[], &what)?;
    // More data, the capability, one property, its name.
    answer.get(13..).and_then(<[u8]>::first_chunk).copied().ok_or(Error::Tpm(0))
}

pub(super) fn provision(tpm: &mut Tpm) -> Result<Provision, Error> {
    let [_, _, locked, auth] = permanent(tpm)?;
    Ok(match (locked & IN_LOCKOUT, auth & OWNER_AUTH_SET) {
        (0, 0) => Provision::Ready,
        (0, _) => Provision::OwnerAuth,
        _ => Provision::LockedOut,
    })
}

pub(super) fn remove_counters(tpm: &mut Tpm) -> Result<(), Error> {
    let handles = [OWNER, COUNTERS].map(u32::to_be_bytes).concat();
    match call(tpm, SESSIONS, NV_UNDEFINE_SPACE, &handles, &[]) {
        Err(Error::Tpm(NO_INDEX)) => Ok(()),
        result => result.map(drop),
    }
}

/// TPMT_PUBLIC of the attestation key.
pub(super) fn key(tpm: &mut Tpm) -> Result<Vec<u8>, Error> {
    with_key(tpm, |_, _| Ok(())).map(|(key, ())| key)
}

/// TPMT_PUBLIC of the attestation key, TPMS_ATTEST and TPMT_SIGNATURE.
pub(super) fn quote(tpm: &mut Tpm, extra: &[u8]) -> Result<[Vec<u8>; 3], Error> {
    // The key's own scheme.
    let what = [&(extra.len() as u16).to_be_bytes()[..], extra, &ALG_NULL.to_be_bytes(), &PCRS].concat();
    let (key, answer) = with_key(tpm, |tpm, handle| call(tpm, SESSIONS, QUOTE, handle, &what))?;
    let (quoted, signature) = sized(parameters(&answer)?)?;
    Ok([key, quoted.to_vec(), signature.to_vec()])
}

/// TPMT_PUBLIC of the attestation key, and what became of what was done with it, by its handle.
fn with_key<T>(
    tpm: &mut Tpm,
    work: impl FnOnce(&mut Tpm, &[u8]) -> Result<T, Error>,
) -> Result<(Vec<u8>, T), Error> {
    let created = call(tpm, SESSIONS, CREATE_PRIMARY, &ENDORSEMENT.to_be_bytes(), &primary())?;
    let (handle, created) = split(&created, 4)?;
    let done = work(tpm, handle);
    // The key takes one of few places.
    call(tpm, NO_SESSIONS, FLUSH_CONTEXT, handle, &[])?;
    let (key, _) = sized(parameters(created)?)?;
    Ok((key.to_vec(), done?))
}

/// No authorisation value and no data; the key; nothing from outside, no PCRs.
fn primary() -> Vec<u8> {
    [&[0, 4, 0, 0, 0, 0, 0, KEY.len() as u8][..], &KEY, &[0, 0, 0, 0, 0, 0]].concat()
}

/// What follows the answer's header.
fn call(tpm: &mut Tpm, tag: u16, code: u32, handles: &[u8], parameters: &[u8]) -> Result<Vec<u8>, Error> {
    // With an empty password.
    let authorisation = [&9u32.to_be_bytes()[..], &PASSWORD.to_be_bytes(), &[0; 5]].concat();
    let authorisation = if tag == SESSIONS { &authorisation[..] } else { &[] };
    tpm.exchange(tag, code, &[handles, authorisation, parameters].concat())
}

/// The parameters of an answer with sessions.
fn parameters(answer: &[u8]) -> Result<&[u8], Error> {
    let (size, rest) = answer.split_first_chunk().ok_or(Error::Tpm(0))?;
    rest.get(..u32::from_be_bytes(*size) as usize).ok_or(Error::Tpm(0))
}

/// What a TPM2B holds, and what follows it.
fn sized(bytes: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let (size, rest) = bytes.split_first_chunk().ok_or(Error::Tpm(0))?;
    split(rest, u16::from_be_bytes(*size).into())
}
