//! The quoting PAL of TrustVisor, which turns a PAL's report into a quote.

use crate::hypercall::{NO_HANDLE, hypercall, presence};
use crate::{Error, Out, Pal};
use abi::quote::KEY_BLOB;
use abi::{Status, number};

crate::stubs! {
    /// Its entries ([`abi::quote::entry`]).
    struct Entries {
        fn generate(blob: Out<'_>) -> usize;
        fn public(blob: &[u8], out: Out<'_>) -> usize;
        fn sign(report: &[u8], blob: &[u8], out: Out<'_>) -> usize;
    }
}

/// Room for what it answers: two TPM2B_PUBLICs, or a TPMT_SIGNATURE.
const ROOM: usize = 512;

/// An instance of the quoting PAL, this process's own.
///
/// It signs with the identity keys of this TrustVisor: a P-256 key, and the RSA key that was saved with the root
/// (`trustvisor root save`) before this launch.
pub struct Quoting {
    entries: Entries,
    key_blob: Vec<u8>,
}

impl Quoting {
    /// Registers it.
    pub fn register() -> Result<Self, Error> {
        let entries = Entries(Pal::register_quoting(Entries::SIGNATURES)?);
        // There may be no RSA key.
        let none = |error: Error| match error.status() {
            Some(Status::Unsupported) => Ok(Vec::new()),
            _ => Err(error),
        };
        let key_blob = saved_key().or_else(none)?;
        Ok(Self { entries, key_blob })
    }

    /// The identity keys, TPMT_PUBLIC each, in the order of PCR 19.
    pub fn public_keys(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut out = vec![0; ROOM];
        let length = self.entries.public(&self.key_blob, Out(&mut out))?;
        out.truncate(length);
        let mut keys = Vec::new();
        let mut rest = &out[..];
        while let Some((size, more)) = rest.split_first_chunk() {
            let (key, later) =
                more.split_at_checked(u16::from_be_bytes(*size).into()).ok_or(Error::Quoting)?;
            keys.push(key.to_vec());
            rest = later;
        }
        if keys.is_empty() { Err(Error::Quoting) } else { Ok(keys) }
    }

    /// The quote of a report of this launch: the structure that is signed (TPMS_ATTEST or TPM_QUOTE_INFO) and its TPMT_SIGNATURE.
    pub fn sign(&self, report: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let mut out = vec![0; ROOM];
        let length = self.entries.sign(report, &self.key_blob, Out(&mut out))?;
        out.truncate(length);
        let quoted = report.get(33..).ok_or(Error::Quoting)?;
        if out.is_empty() { Err(Error::Quoting) } else { Ok((quoted.to_vec(), out)) }
    }

    /// Makes a new RSA key, to be saved with the root: it is used from the next launch on.
    pub fn generate(&self) -> Result<Vec<u8>, Error> {
        let mut blob = vec![0; KEY_BLOB];
        let length = self.entries.generate(Out(&mut blob))?;
        if length == KEY_BLOB { Ok(blob) } else { Err(Error::Quoting) }
    }
}

/// The RSA key of this launch, as the quoting PAL sealed it.
pub fn saved_key() -> Result<Vec<u8>, Error> {
    presence()?;
    let mut blob = vec![0; KEY_BLOB];
    let arguments = [blob.as_mut_ptr() as u64, blob.len() as u64, 0, 0, 0, 0];
    // SAFETY: TrustVisor is there; the buffer is ours and as long as said.
    let length = Error::check(unsafe { hypercall(number::KEY_BLOB.into(), NO_HANDLE, arguments) })?;
    blob.truncate(length as usize);
    Ok(blob)
}
