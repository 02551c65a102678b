//! The root's place in a TPM 1.2: sealed under its storage root key for locality 1 and PCR 17, 18 and 19 as they are when this runtime
//! has just been launched, PCR 19 still zero. Once it is extended, the blob stays shut for this boot, whoever asks.
//!
//! A policy says who opens a blob, not who made it: the OS could make one of a root that it knows. So the blob must tell that it was made
//! at locality 1, with these PCRs. That is true if it opens: TPM_Seal itself writes localityAtCreation and digestAtCreation, whatever it
//! is given (part 3, 10.1), and a digest of all that stands in clear, with a secret that no other TPM has and this one never tells
//! (tpmProof), into what it encrypts; TPM_Unseal compares both (10.2).
//!
//! The storage root key must have the well-known secret, and the blob has it too: the policy is what guards it, not a secret that this
//! code could not hide. So the TPM's own HMACs are not looked at: everybody on the bus could compute them.
//!
//! A blob: 8 bytes of magic, then TPM_STORED_DATA12 (part 2, 9.2) as TPM_Seal answers it.

use core::ops::Range;

use abi::{Digests, RootState};
use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest as _, Sha1};
use utpm::Root;

use super::root::{Blob, Keeper, Opened, Secret, Stop, append};
use super::v12::{self, REQUEST};
use super::wire::{Command, Reader};
use super::{Done, Error, Transport};
use crate::release::Release;

type Digest = [u8; 20];

/// Ordinals (part 2, 17).
const OIAP: u32 = 0x0a;
const OSAP: u32 = 0x0b;
pub(super) const SEAL: u32 = 0x17;
pub(super) const UNSEAL: u32 = 0x18;
const FLUSH_SPECIFIC: u32 = 0xba;
/// TPM_RT_AUTH (4.1), TPM_ET_SRK with encryption by XOR (4.3), TPM_KH_SRK (4.4.1).
const RT_AUTH: u32 = 2;
const ET_SRK: u16 = 4;
const SRK: u32 = 0x4000_0000;
/// Return codes of TPM_Unseal that speak of the blob (16): TPM_NOTSEALED_BLOB, and TPM_DECRYPT_ERROR of TPMs that are more exact.
const BLOB: [u32; 2] = [0x13, 0x21];

/// TPM_WELL_KNOWN_SECRET of the storage root key, and of the blob.
const WELL_KNOWN: Digest = [0; 20];
/// Our nonce, which only the TPM's HMACs depend on.
const NONCE: Digest = [0; 20];

/// TPM_LOC_ONE (8.6).
const LOCALITY_1: u8 = 1 << 1;
/// TPM_PCR_SELECTION (8.1): PCR 17, 18, 19.
const PCRS: [u8; 5] = [0, 3, 0, 0, 0b1110];
/// Bytes of a blob before what is encrypted; of its magic, and of all before its TPM_PCR_INFO_LONG (8.4).
const HEAD: usize = 74;
const MAGIC: usize = 8;
const INFO: usize = 16;
/// TPM_TAG_STORED_DATA12, no encryption when it is unsealed (9.2), size and tag of TPM_PCR_INFO_LONG.
const START: [u8; 18] = *b"TVROOT1\x01\0\x16\0\0\0\0\0\x36\0\x06";
/// Bytes that are encrypted, with an RSA key of 2048 bits.
const ENCRYPTED: usize = 256;

/// A TPM 1.2 with a release of TrustVisor, and PCR 17, 18 and 19.
pub(super) struct Keeper12<'t, T> {
    tpm: &'t mut T,
    release: &'t Release,
    values: [Digest; 3],
}

impl<'t, T: Transport> Keeper12<'t, T> {
    pub fn new(tpm: &'t mut T, release: &'t Release) -> Done<Self> {
        let values = [v12::read(tpm, 17)?, v12::read(tpm, 18)?, [0; 20]];
        Ok(Self { tpm, release, values })
    }

    /// The composite with the PCR 17 of another release.
    fn pcrs(&self, pcr17: &Digests) -> Digest {
        composite(&[pcr17.sha1, self.values[1], self.values[2]])
    }

    /// What there is to unseal of a blob: for this release, and made by this one or one that it takes over from, if the TPM opens it.
    fn judge<'a>(&self, blob: &'a [u8]) -> Result<(&'a [u8], Opened<'a>), RootState> {
        let (found, rest) = blob.split_first_chunk().ok_or(RootState::NewMalformed)?;
        let (encrypted, manifest) = rest.split_at_checked(ENCRYPTED).ok_or(RootState::NewMalformed)?;
        let pcrs = composite(&self.values);
        let ours = head(&pcrs, &pcrs);
        let differs = |part: Range<usize>| found.get(part.clone()) != ours.get(part);
        if differs(0..18) || differs(70..74) {
            return Err(RootState::NewMalformed);
        }
        // Locality, PCRs and digest at release; the rest is the creation's.
        if differs(19..20) || differs(25..30) || differs(50..70) {
            return Err(RootState::NewOtherPolicy);
        }
        let stored = &blob[MAGIC..HEAD + encrypted.len()];
        if *found == ours {
            return Ok((stored, Opened::Ours(manifest)));
        }
        let mut predecessors = self.release.predecessors.iter().map(|old| head(&self.pcrs(old), &pcrs));
        let named = predecessors.any(|theirs| *found == theirs);
        if named { Ok((stored, Opened::Predecessor)) } else { Err(RootState::NewNotOurs) }
    }
}

impl<T: Transport> Keeper for Keeper12<'_, T> {
    fn open<'a>(&mut self, saved: &'a [u8], secret: &mut Secret) -> Result<Opened<'a>, Stop> {
        let (stored, maker) = self.judge(saved).map_err(Stop::Blob)?;
        match unseal(self.tpm, stored, secret) {
            Ok(()) => Ok(maker),
            Err(Error::Refused(code)) if BLOB.contains(&code) => Err(Stop::Blob(RootState::NewOtherTpm)),
            Err(error) => Err(Stop::Tpm(error)),
        }
    }

    fn seal(&mut self, pcr17: Option<Digests>, secret: &Secret, blob: &mut Blob) -> Done {
        let ours = composite(&self.values);
        let theirs = pcr17.map_or(ours, |pcr17| self.pcrs(&pcr17));
        seal(self.tpm, &theirs, secret, blob)?;
        let good = blob.starts_with(&head(&ours, &theirs));
        if good { Ok(()) } else { Err(Error::Malformed("sealed root")) }
    }
}

/// Digest of TPM_PCR_COMPOSITE (part 2, 8.2).
pub(super) fn composite(values: &[Digest; 3]) -> Digest {
    let selected = Sha1::new().chain_update(PCRS).chain_update([0, 0, 0, 60]);
    selected.chain_update(values.as_flattened()).finalize().into()
}

/// A blob's head if it was made at locality 1 with PCRs, for locality 1 and PCRs.
fn head(creation: &Digest, release: &Digest) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..18].copy_from_slice(&START);
    head[18..20].fill(LOCALITY_1);
    head[20..30].copy_from_slice([PCRS; 2].as_flattened());
    head[30..70].copy_from_slice([*creation, *release].as_flattened());
    head[70..].copy_from_slice(&(ENCRYPTED as u32).to_be_bytes());
    head
}

/// TPM_Seal (part 3, 10.1).
pub(super) fn seal<T: Transport>(tpm: &mut T, pcrs: &Digest, secret: &Secret, blob: &mut Blob) -> Done {
    let session = session(tpm, OSAP)?;
    // The blob's secret, which is all zero, encrypted.
    let pad = Sha1::new().chain_update(session.key).chain_update(session.nonce).finalize();
    let mut command = Command::new(REQUEST + 1, SEAL);
    command.u32(SRK).bytes(&pad).u32(54).bytes(&head(pcrs, pcrs)[INFO..70]);
    command.u32(secret.len() as u32).bytes(secret);
    let mut body = authorised(tpm, &mut command, &[session])?;
    append(blob, &START[..MAGIC])?;
    append(blob, body.take(HEAD - MAGIC + ENCRYPTED)?)
}

/// TPM_Unseal (part 3, 10.2).
pub(super) fn unseal(tpm: &mut impl Transport, stored: &[u8], secret: &mut Secret) -> Done {
    let parent = session(tpm, OIAP)?;
    let data = session(tpm, OIAP).inspect_err(|_| flush(tpm, &parent))?;
    let mut command = Command::new(REQUEST + 2, UNSEAL);
    command.u32(SRK).bytes(stored);
    let mut body = authorised(tpm, &mut command, &[parent, data])?;
    if body.u32()? as usize != Root::SIZE {
        return Err(Error::Malformed("root"));
    }
    *secret = body.array()?;
    Ok(())
}

/// A session: the TPM's nonce, and the key of HMACs.
struct Session {
    handle: u32,
    nonce: Digest,
    key: Digest,
}

/// TPM_OIAP, or TPM_OSAP with the storage root key (part 3, 18.1, 18.2).
fn session(tpm: &mut impl Transport, ordinal: u32) -> Done<Session> {
    let mut command = Command::new(REQUEST, ordinal);
    if ordinal == OSAP {
        command.u16(ET_SRK).u32(SRK).bytes(&NONCE);
    }
    let mut body = command.run(tpm)?;
    let (handle, nonce, shared) = (body.u32()?, body.array()?, body.rest());
    let key = if ordinal == OSAP { mac(&WELL_KNOWN, &[shared, &NONCE]) } else { WELL_KNOWN };
    Ok(Session { handle, nonce, key })
}

/// Carries out a command on one key, authorised by sessions that end with it. What follows an answer's parameters is the sessions'.
fn authorised<'a>(
    tpm: &mut impl Transport,
    command: &'a mut Command,
    sessions: &[Session],
) -> Done<Reader<'a>> {
    // The ordinal and the parameters, without the key's handle.
    let bytes = command.finish()?;
    let parameters = Sha1::new().chain_update(&bytes[6..10]).chain_update(&bytes[14..]).finalize();
    for session in sessions {
        let proof = mac(&session.key, &[&parameters, &session.nonce, &NONCE, &[0]]);
        command.u32(session.handle).bytes(&NONCE).u8(0).bytes(&proof);
    }
    let done = command.run(tpm);
    if done.is_err() {
        // An error ends most sessions, not all.
        sessions.iter().for_each(|session| flush(tpm, session));
    }
    done
}

/// TPM_FlushSpecific (part 3, 22.1). What went wrong before counts, not whether there is still something to flush.
fn flush(tpm: &mut impl Transport, session: &Session) {
    let _ = Command::new(REQUEST, FLUSH_SPECIFIC).u32(session.handle).u32(RT_AUTH).run(tpm);
}

pub(super) fn mac(key: &Digest, parts: &[&[u8]]) -> Digest {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes any key");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}
