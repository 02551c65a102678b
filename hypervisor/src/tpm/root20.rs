//! The root's place in a TPM 2.0: sealed for locality 1 and PCR 17, 18 and 19 as they are when this runtime has just been launched,
//! PCR 19 still zero. Once it is extended, the blob stays shut for this boot, whoever asks.
//!
//! A policy says who opens a blob, not who made it: the OS could make one of a root that it knows. So the TPM must certify the blob's
//! creation (2.0 part 3, 18.3, with the ticket and the creation data that are part of the blob): at locality 1, with these PCRs.
//!
//! A blob: [`MAGIC`], then as TPM2_Create answers them TPM2B_PRIVATE, TPM2B_PUBLIC, TPM2B_CREATION_DATA and TPMT_TK_CREATION.

use abi::{Digests, RootState};
use sha2::{Digest, Sha256};
use utpm::Root;

use super::bank::Algorithm;
use super::root::{Blob, Keeper, Opened, Secret, Stop, append};
use super::v20::{NO_SESSIONS, RS_PW, SESSIONS, exchange};
use super::wire::{Command, Reader};
use super::{Error, MESSAGE, Tpm, Transport};
use crate::release::Release;

/// First bytes of a blob.
pub(super) const MAGIC: [u8; 8] = *b"TVROOT2\x01";
/// PCR 17, 18 and 19.
type Values = [[u8; 32]; 3];

/// Command codes (2.0 part 2, 6.5.2).
pub(super) mod code {
    pub const CREATE_PRIMARY: u32 = 0x131;
    pub const CERTIFY_CREATION: u32 = 0x14a;
    pub const CREATE: u32 = 0x153;
    pub const LOAD: u32 = 0x157;
    pub const UNSEAL: u32 = 0x15e;
    pub const FLUSH_CONTEXT: u32 = 0x165;
    pub const POLICY_LOCALITY: u32 = 0x16f;
    pub const START_AUTH_SESSION: u32 = 0x176;
    pub const GET_CAPABILITY: u32 = 0x17a;
    pub const POLICY_PCR: u32 = 0x17f;
}

/// TPM_RH_OWNER, TPM_RH_NULL (part 2, 7.4), TPM_ALG_NULL (6.3), TPM_SE_POLICY (6.11).
pub(super) const OWNER: u32 = 0x4000_0001;
const NULL: u32 = 0x4000_0007;
const ALG_NULL: u16 = 0x10;
const SE_POLICY: u8 = 1;
/// TPM_CAP_HANDLES (6.12), and the first handle of objects and of sessions (7.2).
const CAP_HANDLES: u32 = 1;
const TRANSIENT: u32 = 0x8000_0000;
const LOADED_SESSION: u32 = 0x0200_0000;
/// Response codes that speak of a parameter (RC_FMT1 with RC_P and its number, part 2, 6.6.1): of Load's two, and of CertifyCreation's
/// fourth, the ticket. Which error it is, bits 5:0 say.
const OBJECT: [u32; 2] = [0x1c0, 0x2c0];
const TICKET: [u32; 1] = [0x4c0];
const ERROR: u32 = 0x3f;

/// TPMA_LOCALITY of locality 1 (part 2, 8.5).
const LOCALITY_1: u8 = 1 << 1;
/// TPML_PCR_SELECTION: SHA-256, PCR 17, 18, 19.
const PCRS: [u8; 10] = [0, 0, 0, 1, 0x00, 0x0b, 3, 0, 0, 0b1110];
/// TPMT_PUBLIC of the parent, a storage key on P-256 that every TPM makes anew from its owner's seed: fixedTPM, fixedParent,
/// sensitiveDataOrigin, userWithAuth, noDA, restricted, decrypt; AES-128-CFB.
const PARENT: [u8; 26] = [
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x04, 0x72, 0, 0, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10,
    0x00, 0x03, 0x00, 0x10, 0, 0, 0, 0,
];
/// TPMT_PUBLIC of the sealed root up to its policy: KEYEDHASH, SHA-256; fixedTPM, fixedParent, adminWithPolicy, noDA.
const SEALED: [u8; 10] = [0x00, 0x08, 0x00, 0x0b, 0x00, 0x00, 0x04, 0x92, 0, 32];

/// A TPM 2.0, the storage key that every TPM makes anew from its owner's seed, and PCR 17, 18 and 19.
pub(super) struct Keeper20<'t, T> {
    transport: &'t mut T,
    parent: u32,
    values: Values,
}

impl<'t, T: Transport> Keeper20<'t, T> {
    pub fn new(tpm: &'t mut Tpm<T>) -> Result<Self, Error> {
        if !tpm.banks.contains(&Algorithm::SHA256) {
            return Err(Error::Bank(Algorithm::SHA256.number()));
        }
        let values = [tpm.read(17)?.sha256, tpm.read(18)?.sha256, tpm.read(19)?.sha256];
        if values[2] != [0; 32] {
            return Err(Error::Malformed("PCR 19"));
        }
        flush_all(&mut tpm.transport)?;
        let parent = create_primary(&mut tpm.transport)?;
        Ok(Self { transport: &mut tpm.transport, parent, values })
    }

    pub fn close(self) -> Result<(), Error> {
        flush(self.transport, self.parent)
    }
}

impl<T: Transport> Keeper for Keeper20<'_, T> {
    fn open<'a>(
        &mut self,
        release: &Release,
        saved: &'a [u8],
        secret: &mut Secret,
    ) -> Result<Opened<'a>, Stop> {
        let parts = parse(saved).map_err(|_| Stop::Blob(RootState::NewMalformed))?;
        let pcrs = pcrs(&self.values);
        if parts.policy != policy(&pcrs) {
            return Err(Stop::Blob(RootState::NewOtherPolicy));
        }
        let maker = maker(&parts, &self.values, release).ok_or(Stop::Blob(RootState::NewNotOurs))?;
        let object = load(self.transport, self.parent, &parts)
            .map_err(|error| blame(error, &OBJECT, RootState::NewOtherTpm))?;
        let opened = certify_creation(self.transport, object, &parts)
            .map_err(|error| blame(error, &TICKET, RootState::NewNotOurs))
            .and_then(|()| unseal(self.transport, object, &pcrs, secret).map_err(Stop::Tpm));
        flush(self.transport, object).map_err(Stop::Tpm)?;
        opened.map(|()| maker)
    }

    fn seal(&mut self, pcr17: Option<Digests>, secret: &Secret, blob: &mut Blob) -> Result<(), Error> {
        let [ours, pcr18, pcr19] = self.values;
        let pcr17 = pcr17.map_or(ours, |digests| digests.sha256);
        create(self.transport, self.parent, &pcrs(&[pcr17, pcr18, pcr19]), secret, blob)?;
        let ours = parse(blob)?.made_with.is_some_and(|made| made == pcrs(&self.values));
        if ours { Ok(()) } else { Err(Error::Malformed("sealed root")) }
    }
}

fn pcrs(values: &Values) -> [u8; 32] {
    Sha256::digest(values.as_flattened()).into()
}

/// PolicyLocality, then PolicyPCR (part 3, 23.7 and 23.8).
fn policy(pcrs: &[u8; 32]) -> [u8; 32] {
    let locality = Sha256::new()
        .chain_update([0; 32])
        .chain_update(code::POLICY_LOCALITY.to_be_bytes())
        .chain_update([LOCALITY_1]);
    let both = Sha256::new().chain_update(locality.finalize()).chain_update(code::POLICY_PCR.to_be_bytes());
    both.chain_update(PCRS).chain_update(pcrs).finalize().into()
}

/// Authorisation by an empty password, or by a policy session that ends with it.
pub(super) fn authorise(command: &mut Command, session: u32) -> &mut Command {
    command.u32(9).u32(session).u16(0).u8(0).u16(0)
}

/// The parameters of an answer with sessions; what follows them is the sessions'.
fn parameters<'a>(body: &mut Reader<'a>) -> Result<Reader<'a>, Error> {
    let size = body.u32()?;
    body.part(size as usize)
}

pub(super) fn create_primary(transport: &mut impl Transport) -> Result<u32, Error> {
    let mut command = Command::new(SESSIONS, code::CREATE_PRIMARY);
    authorise(command.u32(OWNER), RS_PW);
    // No authorisation value and no data; nothing from outside, no PCRs.
    command.u16(4).u16(0).u16(0).sized(&PARENT).u16(0).u32(0);
    exchange(transport, &mut command, &mut [0; MESSAGE])?.success(SESSIONS)?.u32()
}

/// TPM2_Create of the sealed root.
pub(super) fn create(
    transport: &mut impl Transport,
    parent: u32,
    pcrs: &[u8; 32],
    secret: &Secret,
    blob: &mut Blob,
) -> Result<(), Error> {
    let mut command = Command::new(SESSIONS, code::CREATE);
    authorise(command.u32(parent), RS_PW);
    command.u16(4 + Root::SIZE as u16).u16(0).sized(secret);
    command.u16(SEALED.len() as u16 + 36).bytes(&SEALED).bytes(&policy(pcrs)).u16(ALG_NULL).u16(0);
    command.u16(0).bytes(&PCRS);
    let mut answer = [0; 2 * MESSAGE];
    let mut body = exchange(transport, &mut command, &mut answer)?.success(SESSIONS)?;
    let mut parameters = parameters(&mut body)?;
    append(blob, &MAGIC)?;
    for _ in ["private", "public", "creation data"] {
        let part = parameters.sized()?;
        append(blob, &(part.len() as u16).to_be_bytes())?;
        append(blob, part)?;
    }
    let _hash = parameters.sized()?;
    append(blob, parameters.rest())
}

/// A blob's parts.
pub(super) struct Parts<'a> {
    pub private: &'a [u8],
    pub public: &'a [u8],
    policy: [u8; 32],
    pub creation: &'a [u8],
    /// The PCRs it was made with, if that was at locality 1.
    made_with: Option<&'a [u8]>,
    pub ticket: &'a [u8],
    pub manifest: &'a [u8],
}

pub(super) fn parse(blob: &[u8]) -> Result<Parts<'_>, Error> {
    let mut reader = Reader::new(blob);
    if reader.array()? != MAGIC {
        return Err(Error::Malformed("root blob"));
    }
    let (private, public, creation) = (reader.sized()?, reader.sized()?, reader.sized()?);
    let rest = reader.rest();
    let mut fields = Reader::new(public);
    let (sealed, policy) = (fields.array()?, fields.array()?);
    // TPMS_CREATION_DATA (part 2, 15.1).
    fields = Reader::new(creation);
    let (selected, digest, locality) = (fields.array()?, fields.sized()?, fields.u8()?);
    let made_with = (selected == PCRS && locality == LOCALITY_1).then_some(digest);
    fields = Reader::new(rest);
    // TPM_ST_CREATION (part 2, 10.7.3), and no NULL ticket.
    let good = (fields.u16()?, fields.u32()?) == (0x8021, OWNER) && !fields.sized()?.is_empty();
    let manifest = fields.rest();
    let ticket = &rest[..rest.len() - manifest.len()];
    if !good || sealed != SEALED || private.len() + public.len() + ticket.len() > MESSAGE - 72 {
        return Err(Error::Malformed("root blob"));
    }
    Ok(Parts { private, public, policy, creation, made_with, ticket, manifest })
}

/// Who made the blob, as it tells.
fn maker<'a>(parts: &Parts<'a>, values: &Values, release: &Release) -> Option<Opened<'a>> {
    let is = |pcr17| parts.made_with == Some(&pcrs(&[pcr17, values[1], values[2]]));
    if is(values[0]) {
        return Some(Opened::Ours(parts.manifest));
    }
    release.predecessors.iter().any(|old| is(old.sha256)).then_some(Opened::Predecessor)
}

/// Whose fault an error is: the blob's, if a parameter is refused that comes out of it. All else is the TPM's trouble.
fn blame(error: Error, parameters: &[u32], blob: RootState) -> Stop {
    match error {
        Error::Refused(code) if parameters.contains(&(code & !ERROR)) => Stop::Blob(blob),
        other => Stop::Tpm(other),
    }
}

pub(super) fn load(transport: &mut impl Transport, parent: u32, parts: &Parts<'_>) -> Result<u32, Error> {
    let mut command = Command::new(SESSIONS, code::LOAD);
    authorise(command.u32(parent), RS_PW);
    command.sized(parts.private).sized(parts.public);
    exchange(transport, &mut command, &mut [0; MESSAGE])?.success(SESSIONS)?.u32()
}

/// Succeeds if the ticket shows that this TPM created this object with this creation data.
fn certify_creation(transport: &mut impl Transport, object: u32, parts: &Parts<'_>) -> Result<(), Error> {
    let mut command = Command::new(SESSIONS, code::CERTIFY_CREATION);
    authorise(command.u32(NULL).u32(object), RS_PW);
    command.u16(0).sized(&Sha256::digest(parts.creation)).u16(ALG_NULL).bytes(parts.ticket);
    exchange(transport, &mut command, &mut [0; MESSAGE])?.success(SESSIONS).map(drop)
}

pub(super) fn unseal(
    transport: &mut impl Transport,
    object: u32,
    pcrs: &[u8; 32],
    secret: &mut Secret,
) -> Result<(), Error> {
    let session = start_session(transport)?;
    let unsealed = unseal_in(transport, object, session, pcrs, secret);
    if unsealed.is_err() {
        // One that was used is gone by itself; what went wrong before counts.
        let _ = flush(transport, session);
    }
    unsealed
}

pub(super) fn start_session(transport: &mut impl Transport) -> Result<u32, Error> {
    let mut command = Command::new(NO_SESSIONS, code::START_AUTH_SESSION);
    // Neither salted nor bound, a nonce that nothing depends on.
    command.u32(NULL).u32(NULL).sized(&[0; 16]).u16(0).u8(SE_POLICY).u16(ALG_NULL);
    command.u16(Algorithm::SHA256.number());
    exchange(transport, &mut command, &mut [0; MESSAGE])?.success(NO_SESSIONS)?.u32()
}

fn unseal_in(
    transport: &mut impl Transport,
    object: u32,
    session: u32,
    pcrs: &[u8; 32],
    secret: &mut Secret,
) -> Result<(), Error> {
    let mut answer = [0; MESSAGE];
    let mut command = Command::new(NO_SESSIONS, code::POLICY_LOCALITY);
    command.u32(session).u8(LOCALITY_1);
    exchange(transport, &mut command, &mut answer)?.success(NO_SESSIONS)?.end()?;
    command = Command::new(NO_SESSIONS, code::POLICY_PCR);
    command.u32(session).sized(pcrs).bytes(&PCRS);
    exchange(transport, &mut command, &mut answer)?.success(NO_SESSIONS)?.end()?;
    command = Command::new(SESSIONS, code::UNSEAL);
    authorise(command.u32(object), session);
    let mut body = exchange(transport, &mut command, &mut answer)?.success(SESSIONS)?;
    let mut parameters = parameters(&mut body)?;
    let data = parameters.sized()?.first_chunk().ok_or(Error::Malformed("root"))?;
    *secret = *data;
    parameters.end()
}

/// Empties the few places for objects and sessions, whoever left something there.
fn flush_all(transport: &mut impl Transport) -> Result<(), Error> {
    for first in [TRANSIENT, LOADED_SESSION] {
        let mut command = Command::new(NO_SESSIONS, code::GET_CAPABILITY);
        command.u32(CAP_HANDLES).u32(first).u32(MESSAGE as u32 / 8);
        let mut answer = [0; MESSAGE];
        let mut body = exchange(transport, &mut command, &mut answer)?.success(NO_SESSIONS)?;
        let (_more, _capability, count) = (body.u8()?, body.u32()?, body.u32()?);
        for _ in 0..count {
            flush(transport, body.u32()?)?;
        }
    }
    Ok(())
}

pub(super) fn flush(transport: &mut impl Transport, handle: u32) -> Result<(), Error> {
    let mut command = Command::new(NO_SESSIONS, code::FLUSH_CONTEXT);
    command.u32(handle);
    exchange(transport, &mut command, &mut [0; MESSAGE])?.success(NO_SESSIONS)?.end()
}
