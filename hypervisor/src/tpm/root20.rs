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
use super::session::{HMAC, Named, POLICY, Parent, Session, flush, name};
use super::v20::{NO_SESSIONS, NULL, OWNER, SESSIONS, authorise, code};
use super::wire::{Command, MESSAGE, Reader};
use super::{Done, Error, Tpm, Transport};
use crate::pal::Random;
use crate::release::Release;

/// First bytes of a blob.
pub(super) const MAGIC: [u8; 8] = *b"TVROOT2\x01";
/// PCR 17, 18 and 19.
type Values = [[u8; 32]; 3];

/// Response codes that speak of a parameter (RC_FMT1 with RC_P and its number, part 2, 6.6.1): of Load's two, and of CertifyCreation's
/// fourth, the ticket. Which error it is, bits 5:0 say.
const OBJECT: [u32; 2] = [0x1c0, 0x2c0];
const TICKET: [u32; 1] = [0x4c0];
const ERROR: u32 = 0x3f;

/// TPM_ALG_NULL (part 2, 6.3).
const ALG_NULL: u16 = 0x10;
/// TPMA_LOCALITY of locality 1 (part 2, 8.5).
const LOCALITY_1: u8 = 1 << 1;
/// TPML_PCR_SELECTION: SHA-256, PCR 17, 18, 19.
const PCRS: [u8; 10] = [0, 0, 0, 1, 0x00, 0x0b, 3, 0, 0, 0b1110];
/// TPMT_PUBLIC of the sealed root up to its policy: KEYEDHASH, SHA-256; fixedTPM, fixedParent, adminWithPolicy, noDA.
const SEALED: [u8; 10] = [0x00, 0x08, 0x00, 0x0b, 0x00, 0x00, 0x04, 0x92, 0, 32];

/// A TPM 2.0 with a release of TrustVisor, and PCR 17, 18 and 19.
pub(super) struct Keeper20<'t, T> {
    tpm: &'t mut T,
    release: &'t Release,
    parent: &'t Parent,
    random: &'t mut Random,
    values: Values,
}

impl<'t, T: Transport> Keeper20<'t, T> {
    pub fn new(tpm: &'t mut Tpm<T>, random: &'t mut Random, release: &'t Release) -> Done<Self> {
        if !tpm.banks.contains(&Algorithm::SHA256) {
            return Err(Error::Bank(Algorithm::SHA256.number()));
        }
        let values = [tpm.read(17)?.sha256, tpm.read(18)?.sha256, [0; 32]];
        let (tpm, parent) = tpm.parent()?;
        Ok(Self { tpm, release, parent, random, values })
    }
}

impl<T: Transport> Keeper for Keeper20<'_, T> {
    fn open<'a>(&mut self, saved: &'a [u8], secret: &mut Secret) -> Result<Opened<'a>, Stop> {
        let parts = parse(saved).map_err(|_| Stop::Blob(RootState::NewMalformed))?;
        let pcrs = pcrs(&self.values);
        if parts.policy != policy(&pcrs) {
            return Err(Stop::Blob(RootState::NewOtherPolicy));
        }
        let maker = maker(&parts, &self.values, self.release).ok_or(Stop::Blob(RootState::NewNotOurs))?;
        let object = load(self.tpm, self.parent, &parts)
            .map_err(|error| blame(error, &OBJECT, RootState::NewOtherTpm))?;
        let opened = certify_creation(self.tpm, object.0, &parts)
            .map_err(|error| blame(error, &TICKET, RootState::NewNotOurs))
            .and_then(|()| self.parent.session(self.tpm, POLICY, self.random).map_err(Stop::Tpm))
            .and_then(|session| unseal(session, &object, &pcrs, secret).map_err(Stop::Tpm));
        let _ = flush(self.tpm, object.0);
        opened.map(|()| maker)
    }

    fn seal(&mut self, pcr17: Option<Digests>, secret: &Secret, blob: &mut Blob) -> Done {
        let [ours, pcr18, pcr19] = self.values;
        let pcr17 = pcr17.map_or(ours, |digests| digests.sha256);
        let session = self.parent.session(self.tpm, HMAC, self.random)?;
        create(session, &self.parent.named, &pcrs(&[pcr17, pcr18, pcr19]), secret, blob)?;
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

/// TPM2_Create (part 3, 12.1) of the sealed root.
pub(super) fn create<T: Transport>(
    session: Session<'_, T>,
    parent: &Named,
    pcrs: &[u8; 32],
    secret: &Secret,
    blob: &mut Blob,
) -> Done {
    let mut command = Command::new(SESSIONS, code::CREATE);
    command.u16(4 + Root::SIZE as u16).u16(0).sized(secret);
    command.u16(SEALED.len() as u16 + 36).bytes(&SEALED).bytes(&policy(pcrs)).u16(ALG_NULL).u16(0);
    command.u16(0).bytes(&PCRS);
    let mut parameters = session.send(Some(parent), &mut command)?;
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

pub(super) fn parse(blob: &[u8]) -> Done<Parts<'_>> {
    let mut reader = Reader(blob);
    if reader.array()? != MAGIC {
        return Err(Error::Malformed("root blob"));
    }
    let (private, public, creation) = (reader.sized()?, reader.sized()?, reader.sized()?);
    let rest = reader.rest();
    let mut fields = Reader(public);
    let (sealed, policy) = (fields.array()?, fields.array()?);
    // TPMS_CREATION_DATA (part 2, 15.1).
    fields = Reader(creation);
    let (selected, digest, locality) = (fields.array()?, fields.sized()?, fields.u8()?);
    let made_with = (selected == PCRS && locality == LOCALITY_1).then_some(digest);
    fields = Reader(rest);
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

pub(super) fn load(tpm: &mut impl Transport, parent: &Parent, parts: &Parts<'_>) -> Done<Named> {
    let mut command = Command::new(SESSIONS, code::LOAD);
    authorise(command.u32(parent.named.0));
    let object = command.sized(parts.private).sized(parts.public).run(tpm)?.u32()?;
    Ok((object, name(parts.public)))
}

/// Succeeds if the ticket shows that this TPM created this object with this creation data.
fn certify_creation(tpm: &mut impl Transport, object: u32, parts: &Parts<'_>) -> Done {
    let mut command = Command::new(SESSIONS, code::CERTIFY_CREATION);
    authorise(command.u32(NULL).u32(object));
    command.u16(0).sized(&Sha256::digest(parts.creation)).u16(ALG_NULL).bytes(parts.ticket);
    command.run(tpm).map(drop)
}

pub(super) fn unseal<T: Transport>(
    session: Session<'_, T>,
    object: &Named,
    pcrs: &[u8; 32],
    secret: &mut Secret,
) -> Done {
    let mut command = Command::new(NO_SESSIONS, code::POLICY_LOCALITY);
    command.u32(session.handle).u8(LOCALITY_1).run(session.tpm)?.end()?;
    command = Command::new(NO_SESSIONS, code::POLICY_PCR);
    command.u32(session.handle).sized(pcrs).bytes(&PCRS).run(session.tpm)?.end()?;
    session.receive(Some(object), &mut Command::new(SESSIONS, code::UNSEAL), secret)
}
