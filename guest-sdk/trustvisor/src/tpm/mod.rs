//! The machine's TPM, by Linux's driver and at its locality 0: a hardware quote of what was launched, what its owner has to do before
//! TrustVisor keeps anything in it, and may remove.

mod v12;
mod v20;

use crate::Error;
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};

/// The resource manager's device, which there is for a TPM 2.0, and the TPM's own.
const MANAGER: &str = "/dev/tpmrm0";
const DEVICE: &str = "/dev/tpm0";

/// Where the attestation key of a TPM 1.2 is kept. It is no secret, and of no use without that TPM.
pub const AIK: &str = "/var/lib/trustvisor/aik";

/// A family of TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// TPM 1.2.
    V12,
    /// TPM 2.0.
    V20,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V12 => "1.2",
            Self::V20 => "2.0",
        })
    }
}

/// A quote of the hardware TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwareQuote {
    /// Which TPM.
    pub family: Family,
    /// Of PCR 17, 18 and 19: TPMS_ATTEST (SHA-256), of a TPM 1.2 TPM_QUOTE_INFO.
    pub quoted: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key.
    pub key: Vec<u8>,
}

/// Has the TPM quote what was launched, for a verifier's nonce and what an identity key signed for it.
pub fn hardware_quote(nonce: &[u8], micro_quote: &[u8]) -> Result<HardwareQuote, Error> {
    let mut tpm = Tpm::open()?;
    let [key, quoted, signature] = match tpm.family {
        Family::V12 => v12::quote(&mut tpm, &saved_key()?, &binding::<Sha1>(nonce, micro_quote).into())?,
        Family::V20 => v20::quote(&mut tpm, &binding::<Sha256>(nonce, micro_quote))?,
    };
    Ok(HardwareQuote { family: tpm.family, quoted, signature, key })
}

/// What such a quote carries.
fn binding<H: Digest>(nonce: &[u8], micro_quote: &[u8]) -> sha2::digest::Output<H> {
    H::new().chain_update(b"TV-HW-1").chain_update(nonce).chain_update(H::digest(micro_quote)).finalize()
}

/// The key that signs hardware quotes, TPMT_PUBLIC: what a policy pins is its Name. A TPM 1.2 has none before
/// [`make_attestation_key`] ([`Error::NoAttestationKey`]).
pub fn attestation_key() -> Result<Vec<u8>, Error> {
    let mut tpm = Tpm::open()?;
    match tpm.family {
        Family::V12 => v12::key(&mut tpm, &saved_key()?),
        Family::V20 => v20::key(&mut tpm),
    }
}

/// Has a TPM 1.2 make an attestation key, which takes its owner's secret; what is to be kept in [`AIK`]. A TPM 2.0 needs none.
pub fn make_attestation_key(owner: &[u8; 20]) -> Result<Vec<u8>, Error> {
    v12::make_key(&mut Tpm::open()?, owner)
}

fn saved_key() -> Result<Vec<u8>, Error> {
    fs::read(AIK).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::NoAttestationKey,
        _ => Error::AttestationKey(error),
    })
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
    match tpm.family {
        Family::V12 => v12::provision(&mut tpm),
        Family::V20 => v20::provision(&mut tpm),
    }
}

/// Removes TrustVisor's counters from the TPM, if they are there: the next root begins with new ones. A TPM 1.2 has none.
pub fn remove_counters() -> Result<(), Error> {
    let mut tpm = Tpm::open()?;
    match tpm.family {
        Family::V12 => Ok(()),
        Family::V20 => v20::remove_counters(&mut tpm),
    }
}

struct Tpm {
    device: File,
    family: Family,
}

impl Tpm {
    fn open() -> Result<Self, Error> {
        let open = |device| OpenOptions::new().read(true).write(true).open(device);
        let device = open(MANAGER).or_else(|_| open(DEVICE)).map_err(Error::Device)?;
        let mut tpm = Self { device, family: Family::V20 };
        // What a TPM 1.2 says to a command of 2.0 is TPM_BADTAG or TPM_BAD_ORDINAL, as a rule. A 2.0 has TPM_RC_BAD_TAG alone below
        // 100h, for commands of 1.2.
        match v20::permanent(&mut tpm) {
            Err(Error::Tpm(1..0x100)) => tpm.family = Family::V12,
            answer => drop(answer?),
        }
        Ok(tpm)
    }

    /// What follows the answer's header.
    fn exchange(&mut self, tag: u16, code: u32, body: &[u8]) -> Result<Vec<u8>, Error> {
        let size = 10 + body.len() as u32;
        let command = [&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat();
        self.device.write_all(&command).map_err(Error::Device)?;
        let mut answer = vec![0; 4096];
        let length = self.device.read(&mut answer).map_err(Error::Device)?;
        answer.truncate(length);
        let header: &[u8; 10] = answer.first_chunk().ok_or(Error::Tpm(0))?;
        match u32::from_be_bytes([header[6], header[7], header[8], header[9]]) {
            0 => Ok(answer.split_off(10)),
            code => Err(Error::Tpm(code)),
        }
    }
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), Error> {
    bytes.split_at_checked(at).ok_or(Error::Tpm(0))
}
