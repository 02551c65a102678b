//! The token in this very process, for tests on a host. Its keys are the process's and its seal is known to everybody: it protects nothing.
//!
//! Counters are kept in the file `counters` of the folder `TRUSTVISOR_COUNTERS`, or of the tokens' folder: 17 bytes each.

use super::{Backend, Failure};
use crate::outcome::Rv;
use crate::trouble;
use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use cryptoki_sys::{CKR_DEVICE_ERROR, CKR_GENERAL_ERROR};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use token::platform::{Counter, Platform};
use token::protocol::{Error, Request, Response};
use zeroize::Zeroizing;

/// What `C_GetTokenInfo` says of it.
pub const MODEL: &[u8] = b"INSECURE TEST";

/// Everybody's.
const KEY: [u8; 32] = *b"software tokens protect nothing!";
const NONCE: usize = 12;

struct Software(token::Engine<Machine>);

/// Makes the token.
pub fn start(folder: &Path) -> Result<Box<dyn Backend>, Rv> {
    trouble::loudly(format_args!("THE TOKEN IS SOFTWARE, for tests only: its keys are protected by nothing"));
    let folder = std::env::var_os("TRUSTVISOR_COUNTERS").map_or_else(|| folder.into(), PathBuf::from);
    Ok(Box::new(Software(token::Engine::new(Machine { counters: folder.join("counters") }))))
}

impl Backend for Software {
    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, Failure> {
        let response: Response = match postcard::from_bytes::<Request>(request) {
            Ok(request) => self.0.request(request),
            Err(_) => Err(Error::Rv(CKR_GENERAL_ERROR)),
        };
        postcard::to_allocvec(&response).map_err(|_| Failure::Refused(CKR_GENERAL_ERROR))
    }

    fn evidence(&self, _report: &[u8], _nonce: &[u8]) -> Result<String, String> {
        Err("a software token has nothing to prove".into())
    }
}

struct Machine {
    counters: PathBuf,
}

fn device<T>(_: T) -> Error {
    Error::Rv(CKR_DEVICE_ERROR)
}

impl Platform for Machine {
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        getrandom::fill(bytes).map_err(device)
    }

    fn seal(&mut self, key: &[u8; 32]) -> Result<Vec<u8>, Error> {
        let mut blob = vec![0; NONCE];
        self.random(&mut blob)?;
        let nonce = Nonce::try_from(blob.as_slice()).map_err(device)?;
        let sealed = Aes256Gcm::new(&KEY.into()).encrypt(&nonce, key.as_slice()).map_err(device)?;
        blob.extend(sealed);
        Ok(blob)
    }

    fn unseal(&mut self, blob: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
        let (nonce, sealed) = blob.split_at_checked(NONCE).ok_or_else(|| device(()))?;
        let nonce = Nonce::try_from(nonce).map_err(device)?;
        let key = Zeroizing::new(Aes256Gcm::new(&KEY.into()).decrypt(&nonce, sealed).map_err(device)?);
        key.as_slice().try_into().map(Zeroizing::new).map_err(device)
    }

    fn counter(&mut self, counter: Counter) -> Result<u64, Error> {
        self.count(counter, 0)
    }

    fn increment(&mut self, counter: Counter) -> Result<u64, Error> {
        self.count(counter, 1)
    }

    fn report(&mut self, nonce: &[u8; 32]) -> Result<Vec<u8>, Error> {
        Ok(nonce.to_vec())
    }
}

impl Machine {
    fn count(&self, counter: Counter, more: u64) -> Result<u64, Error> {
        let (kind, number) = match counter {
            Counter::Lasting(number) => (1u8, number),
            Counter::Launch(number) => (2, number),
        };
        let name = [&[kind][..], &number.to_le_bytes()].concat();
        let mut file =
            match File::options().read(true).write(true).create(true).truncate(false).open(&self.counters) {
                Err(_) if more == 0 && !self.counters.exists() => return Ok(0),
                Err(_) if more == 0 => File::open(&self.counters).map_err(device)?,
                opened => opened.map_err(device)?,
            };
        // SAFETY: the file's own descriptor; the lock goes when it is closed.
        unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
        let mut all = Vec::new();
        file.read_to_end(&mut all).map_err(device)?;
        let at = all.chunks(17).position(|entry| entry.starts_with(&name)).unwrap_or(all.len() / 17);
        let old =
            all.chunks(17).nth(at).and_then(|entry| entry.last_chunk()).map_or(0, |v| u64::from_le_bytes(*v));
        let new = old + more;
        if more > 0 {
            file.seek(SeekFrom::Start(17 * at as u64)).map_err(device)?;
            file.write_all(&[name.as_slice(), &new.to_le_bytes()].concat()).map_err(device)?;
        }
        Ok(new)
    }
}
