//! A TPM 1.2. The attestation key is an attestation identity key, which the owner has the TPM make once; the file that it is kept in,
//! wrapped by the storage root key, is no secret. Whoever reaches the TPM may quote with it, as on a TPM 2.0.
//!
//! References: TCG TPM Main 1.2 part 2 and 3. The TPM's own HMACs are not looked at: if somebody changes what it answers, the verifier
//! will say so.

use super::{Provision, Tpm, split};
use crate::Error;
use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest as _, Sha1};

type Digest = [u8; 20];

/// TPM_TAG_RQU_COMMAND, without authorisation (part 2, 6.1); with one or two, the tag is as much higher.
const REQUEST: u16 = 0xc1;
/// Ordinals (17).
const OIAP: u32 = 0x0a;
const OSAP: u32 = 0x0b;
const QUOTE: u32 = 0x16;
const LOAD_KEY2: u32 = 0x41;
const GET_CAPABILITY: u32 = 0x65;
const MAKE_IDENTITY: u32 = 0x79;
const FLUSH_SPECIFIC: u32 = 0xba;
/// TPM_CAP_PROPERTY, TPM_CAP_PROP_OWNER (21.1, 21.2).
const PROPERTY: u32 = 5;
const HAS_OWNER: u32 = 0x111;
/// TPM_KH_SRK, TPM_KH_OWNER (4.4.1), TPM_ET_OWNER (4.3), TPM_RT_KEY, TPM_RT_AUTH (4.1).
const SRK: u32 = 0x4000_0000;
const OWNER: u32 = 0x4000_0001;
const ET_OWNER: u16 = 2;
const RT_KEY: u32 = 1;
const RT_AUTH: u32 = 2;
/// Return codes (16): TPM_AUTHFAIL and TPM_AUTH2FAIL, TPM_NOSRK, TPM_DECRYPT_ERROR.
const AUTH_FAIL: u32 = 0x01;
const AUTH2_FAIL: u32 = 0x1d;
const NO_SRK: u32 = 0x12;
const DECRYPT_ERROR: u32 = 0x21;

/// TPM_WELL_KNOWN_SECRET, which the storage root key has.
const WELL_KNOWN: Digest = [0; 20];
/// Our nonce: only the TPM's HMACs would be fresh by it.
const NONCE: Digest = [0; 20];

/// Beginning of the attestation key's TPM_KEY (10.2): TPM_KEY_IDENTITY, no flags, TPM_AUTH_NEVER; RSA without encryption, signing by
/// TPM_SS_RSASSAPKCS1v15_SHA1.
const KEY: [u8; 19] = [1, 1, 0, 0, 0, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 2];
/// The rest of it, before it is made: 2048 bits, two primes, the usual exponent; no PCRs; neither public nor private part.
const NEW: [u8; 28] = [0, 0, 0, 12, 0, 0, 8, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// TPMT_PUBLIC of such a key up to its modulus, as evidence has it, its attributes those that say the same: RSA, SHA-256; fixedTPM, fixedParent,
/// sensitiveDataOrigin, userWithAuth, restricted, sign; no scheme, 2048 bits, the usual exponent.
const PUBLIC: [u8; 22] = [0, 1, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0];
const MODULUS: usize = 256;

/// TPM_PCR_SELECTION (8.1): PCR 17, 18 and 19. TPM_PCR_COMPOSITE (8.2) is that, a size and three values.
const PCRS: [u8; 5] = [0, 3, 0, 0, 0b1110];
const COMPOSITE: usize = PCRS.len() + 4 + 3 * 20;
/// Version and "QUOT" of TPM_QUOTE_INFO (11.3).
const QUOTE_INFO: &[u8] = b"\x01\x01\0\0QUOT";
/// TPMT_SIGNATURE before the signature's size: RSASSA, SHA-1.
const RSASSA_SHA1: [u8; 4] = [0, 0x14, 0, 4];

pub(super) fn provision(tpm: &mut Tpm) -> Result<Provision, Error> {
    let what = [PROPERTY, 4, HAS_OWNER].map(u32::to_be_bytes).concat();
    match tpm.exchange(REQUEST, GET_CAPABILITY, &what)?[..] {
        [0, 0, 0, 1, 0] => Ok(Provision::NoOwner),
        [0, 0, 0, 1, _] => Ok(Provision::Owned),
        _ => Err(Error::Tpm(0)),
    }
}

/// TPM_MakeIdentity (part 3, 15.1) for no privacy CA; TPM_KEY of the new key.
pub(super) fn make_key(tpm: &mut Tpm, owner: &Digest) -> Result<Vec<u8>, Error> {
    let parent = Session::oiap(tpm)?;
    let owner = Session::osap(tpm, owner).inspect_err(|_| parent.flush(tpm))?;
    // The key's own secret, which nobody needs, is all zero; it is sent encrypted.
    let secret = Sha1::new().chain_update(owner.key).chain_update(owner.nonce).finalize();
    let what = [&secret[..], &[0; 20], &KEY, &NEW].concat();
    let answer =
        authorised(tpm, MAKE_IDENTITY, &[], &what, &[parent, owner]).map_err(|error| match error {
            Error::Tpm(AUTH2_FAIL) => Error::OwnerSecret,
            error => of_srk(error),
        })?;
    let (_, rest) = public(&answer)?;
    Ok(answer[..answer.len() - rest.len()].to_vec())
}

/// TPMT_PUBLIC of the key.
pub(super) fn key(tpm: &mut Tpm, saved: &[u8]) -> Result<Vec<u8>, Error> {
    with_key(tpm, saved, |_, _| Ok(())).map(|(key, ())| key)
}

/// TPMT_PUBLIC of the key, TPM_QUOTE_INFO and its signature, as TPMT_SIGNATURE: TPM_Quote (part 3, 16.3).
pub(super) fn quote(tpm: &mut Tpm, saved: &[u8], external: &Digest) -> Result<[Vec<u8>; 3], Error> {
    let quote =
        |tpm: &mut Tpm, handle: &[u8]| tpm.exchange(REQUEST, QUOTE, &[handle, &external[..], &PCRS].concat());
    let (key, answer) = with_key(tpm, saved, quote)?;
    let (composite, signature) = split(&answer, COMPOSITE)?;
    let (signature, _) = sized(signature)?;
    let quoted = [QUOTE_INFO, &Sha1::digest(composite), external].concat();
    let size = (signature.len() as u16).to_be_bytes();
    Ok([key, quoted, [&RSASSA_SHA1[..], &size, signature].concat()])
}

/// TPMT_PUBLIC of the key, and what became of what was done with it, by its handle: TPM_LoadKey2 (part 3, 10.5).
fn with_key<T>(
    tpm: &mut Tpm,
    saved: &[u8],
    work: impl FnOnce(&mut Tpm, &[u8]) -> Result<T, Error>,
) -> Result<(Vec<u8>, T), Error> {
    let (modulus, _) = public(saved).ok().filter(|(_, rest)| rest.is_empty()).ok_or(Error::ForeignKey)?;
    let session = Session::oiap(tpm)?;
    let loaded =
        authorised(tpm, LOAD_KEY2, &SRK.to_be_bytes(), saved, &[session]).map_err(|error| match error {
            Error::Tpm(DECRYPT_ERROR) => Error::ForeignKey,
            error => of_srk(error),
        })?;
    let (handle, _) = split(&loaded, 4)?;
    let done = work(tpm, handle);
    // The key takes one of few places.
    flush(tpm, handle, RT_KEY)?;
    Ok(([&PUBLIC, modulus].concat(), done?))
}

/// What a refusal means that speaks of the storage root key.
fn of_srk(error: Error) -> Error {
    match error {
        Error::Tpm(AUTH_FAIL | NO_SRK) => Error::StorageRootKey,
        error => error,
    }
}

/// The modulus of a TPM_KEY that is such a key, and what follows it.
fn public(key: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let rest = key.strip_prefix(&KEY).ok_or(Error::Tpm(0))?;
    let (_, rest) = sized(rest)?;
    let (_, rest) = sized(rest)?;
    let (modulus, rest) = sized(rest)?;
    let (_, rest) = sized(rest)?;
    if modulus.len() == MODULUS { Ok((modulus, rest)) } else { Err(Error::Tpm(0)) }
}

/// An authorisation session: the TPM's nonce, and the key of HMACs.
struct Session {
    handle: Vec<u8>,
    nonce: Digest,
    key: Digest,
}

impl Session {
    /// TPM_OIAP (part 3, 18.1), for the storage root key.
    fn oiap(tpm: &mut Tpm) -> Result<Self, Error> {
        Self::new(&tpm.exchange(REQUEST, OIAP, &[])?, |_| WELL_KNOWN)
    }

    /// TPM_OSAP (18.2) with the owner.
    fn osap(tpm: &mut Tpm, secret: &Digest) -> Result<Self, Error> {
        let what = [&ET_OWNER.to_be_bytes()[..], &OWNER.to_be_bytes(), &NONCE].concat();
        Self::new(&tpm.exchange(REQUEST, OSAP, &what)?, |shared| mac(secret, &[shared, &NONCE]))
    }

    fn new(answer: &[u8], key: impl FnOnce(&[u8]) -> Digest) -> Result<Self, Error> {
        let (handle, rest) = split(answer, 4)?;
        let (nonce, shared) = rest.split_first_chunk().ok_or(Error::Tpm(0))?;
        Ok(Self { handle: handle.to_vec(), nonce: *nonce, key: key(shared) })
    }

    /// What went wrong before counts, not whether there is still something to flush.
    fn flush(&self, tpm: &mut Tpm) {
        let _ = flush(tpm, &self.handle, RT_AUTH);
    }
}

/// Carries out a command that these sessions authorise, and end with.
fn authorised(
    tpm: &mut Tpm,
    ordinal: u32,
    handle: &[u8],
    parameters: &[u8],
    sessions: &[Session],
) -> Result<Vec<u8>, Error> {
    let digest = Sha1::new().chain_update(ordinal.to_be_bytes()).chain_update(parameters).finalize();
    let mut body = [handle, parameters].concat();
    for session in sessions {
        let proof = mac(&session.key, &[&digest, &session.nonce, &NONCE, &[0]]);
        body.extend([&session.handle[..], &NONCE, &[0], &proof].concat());
    }
    let done = tpm.exchange(REQUEST + sessions.len() as u16, ordinal, &body);
    // An error ends most sessions, not all.
    done.inspect_err(|_| sessions.iter().for_each(|session| session.flush(tpm)))
}

/// TPM_FlushSpecific (part 3, 22.1).
fn flush(tpm: &mut Tpm, handle: &[u8], kind: u32) -> Result<(), Error> {
    tpm.exchange(REQUEST, FLUSH_SPECIFIC, &[handle, &kind.to_be_bytes()].concat()).map(drop)
}

/// What follows a size of 32 bits, and what follows that.
fn sized(bytes: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let (size, rest) = bytes.split_first_chunk().ok_or(Error::Tpm(0))?;
    split(rest, u32::from_be_bytes(*size) as usize)
}

fn mac(key: &Digest, parts: &[&[u8]]) -> Digest {
    let mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes any key");
    parts.iter().fold(mac, |mac, part| mac.chain_update(part)).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file of the key is anybody's to change.
    #[test]
    fn a_key_is_read_whole_or_not() {
        let part = |size: u32, byte| [&size.to_be_bytes()[..], &vec![byte; size as usize]].concat();
        let key = [&KEY[..], &NEW[..16], &part(0, 0), &part(256, 0xc1), &part(256, 7)].concat();
        assert_eq!(public(&key).unwrap(), (&[0xc1; MODULUS][..], &[][..]));
        assert_eq!(public(&[&key[..], b"session"].concat()).unwrap().1, b"session");
        assert!((0..key.len()).all(|length| public(&key[..length]).is_err()));
        // Another usage, another size, a length that no file has.
        for (at, byte) in [(5, 0x10), (41, 2), (39, 0xff)] {
            let mut other = key.clone();
            other[at] = byte;
            assert!(public(&other).is_err(), "{at}");
        }
    }
}
