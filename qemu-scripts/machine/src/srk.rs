//! The secret of a TPM 1.2's storage root key. What `swtpm_setup --srk-well-known` gives it is the SHA-1 digest of TPM_WELL_KNOWN_SECRET;
//! what it has on a machine whose owner ran `tpm_takeownership -z` is TPM_WELL_KNOWN_SECRET itself, 20 zero bytes.
//!
//! References: TCG TPM Main 1.2 part 3, 17.2 (TPM_ChangeAuthOwner) and 18.2 (TPM_OSAP).

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};

use crate::process::Process;

const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// TPM_TAG_RQU_COMMAND, and with one authorisation; TPM_ORD_OSAP, TPM_ORD_ChangeAuthOwner (part 2, 6.1 and 17).
const REQUEST: u16 = 0xc1;
const AUTH1: u16 = 0xc2;
const OSAP: u32 = 0x0b;
const CHANGE_AUTH_OWNER: u32 = 0x10;
/// TPM_ET_OWNER, TPM_KH_OWNER, TPM_ET_SRK (4.3, 4.4.1), TPM_PID_ADCP (4.2).
const ET_OWNER: u16 = 2;
const OWNER: u32 = 0x4000_0001;
const ET_SRK: u16 = 4;
const ADCP: u16 = 4;

const WELL_KNOWN: [u8; 20] = [0; 20];
const NONCE: [u8; 20] = [0; 20];

/// Gives the key the well-known secret. The TPM is one that `swtpm_setup --owner-well-known` made.
pub(crate) fn make_well_known(state: &Path) -> Result<()> {
    let (mut tpm, theirs) = UnixStream::pair()?;
    tpm.set_read_timeout(Some(ANSWER_LIMIT))?;
    let theirs = OwnedFd::from(theirs);
    let mut swtpm = Command::new("swtpm");
    swtpm.arg("socket").arg("--tpmstate").arg(format!("dir={}", state.display()));
    swtpm.arg("--fd").arg(theirs.as_raw_fd().to_string()).args(["--flags", "startup-clear"]);
    swtpm.stdin(Stdio::null());
    let _process = Process::spawn("swtpm", swtpm, vec![theirs])?;

    let parameters = [&ET_OWNER.to_be_bytes()[..], &OWNER.to_be_bytes(), &NONCE].concat();
    let session = exchange(&mut tpm, REQUEST, OSAP, &parameters).context("TPM_OSAP")?;
    ensure!(session.len() == 44, "TPM_OSAP answers {} bytes", session.len());
    let (handle, nonces) = session.split_at(4);
    let (nonce, shared) = nonces.split_at(20);
    let key = mac(&Sha1::digest(WELL_KNOWN), &[shared, &NONCE]);
    // All zero, encrypted.
    let secret = Sha1::digest([&key, nonce].concat());
    let parameters = [&ADCP.to_be_bytes()[..], &secret, &ET_SRK.to_be_bytes()].concat();
    let digest = Sha1::digest([&CHANGE_AUTH_OWNER.to_be_bytes()[..], &parameters].concat());
    let proof = mac(&key, &[&digest, nonce, &NONCE, &[0]]);
    let command = [&parameters, handle, &NONCE, &[0], &proof].concat();
    exchange(&mut tpm, AUTH1, CHANGE_AUTH_OWNER, &command).context("TPM_ChangeAuthOwner").map(drop)
}

/// What follows the answer's header.
fn exchange(tpm: &mut UnixStream, tag: u16, code: u32, rest: &[u8]) -> Result<Vec<u8>> {
    let size = 10 + rest.len() as u32;
    tpm.write_all(&[&tag.to_be_bytes()[..], &size.to_be_bytes(), &code.to_be_bytes(), rest].concat())?;
    let mut header = [0; 10];
    tpm.read_exact(&mut header)?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut body = vec![0; (word(2) as usize).checked_sub(10).context("no answer")?];
    tpm.read_exact(&mut body)?;
    ensure!(word(6) == 0, "the TPM answers with error {:#x}", word(6));
    Ok(body)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes any key");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}
