//! S of the example `password`: a password file whose hashes nobody sees but S, so that nobody who has the file, root among them, can try
//! passwords by himself.
//!
//! A line of the file is a [`Record`]: user, salt and hash, sealed for this very S. The application keeps the records and hands one in to have
//! a password checked. What it hands in is seen by the application, and so by the OS, while it does; what is in the file is not.
//!
//! Not solved here: who can call S can try passwords through it, one after the other ([`MOST_TRIES`] at a time), and an old file makes old
//! passwords good again. For both, S would count in the hardware TPM (`trustvisor_pal::counter`).

#![cfg_attr(target_os = "none", no_std)]
#![warn(missing_docs)]

use pbkdf2::{pbkdf2_hmac, sha2::Sha256};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use trustvisor_pal::seal::{OVERHEAD, Policy, seal, unseal};
use trustvisor_pal::{State, Status, pcr, random};
use zeroize::Zeroizing;

/// Longest name of a user, in bytes.
pub const MAX_USER: usize = 64;
/// Wrong passwords in a row after which this S checks none any more: it has to be registered again, which takes time.
pub const MOST_TRIES: u32 = 10;

const ROUNDS: u32 = 2_000;
const SALT: usize = 16;
const HASH: usize = 32;
/// What is sealed: salt and hash, then the user's name.
const FIXED: usize = SALT + HASH;
/// Most bytes of a record.
pub const MAX_RECORD: usize = FIXED + MAX_USER + OVERHEAD;

/// Why S does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The user's name is empty or too long.
    User,
    /// The record is none of this S's, or another user's.
    Record,
    /// Too many wrong passwords.
    TooMany,
    /// The micro-TPM does not seal or give random numbers.
    Tpm,
}

impl From<Status> for Refusal {
    fn from(_: Status) -> Self {
        Self::Tpm
    }
}

static TRIES: State<u32> = State::new(0);

/// Writes a record for a user with this password; its length, [`MAX_RECORD`] at most.
pub fn enroll(user: &str, password: &str, record: &mut [u8]) -> Result<usize, Refusal> {
    if user.is_empty() || user.len() > MAX_USER {
        return Err(Refusal::User);
    }
    let mut data = Zeroizing::new([0; FIXED + MAX_USER]);
    random::fill(&mut data[..SALT])?;
    let hash = hash(password, &data[..SALT]);
    data[SALT..FIXED].copy_from_slice(&*hash);
    data[FIXED..FIXED + user.len()].copy_from_slice(user.as_bytes());
    Ok(seal(&data[..FIXED + user.len()], &Policy::this_pal()?, record)?)
}

/// Whether the password is that of the record, which must be this user's.
pub fn check(user: &str, password: &str, record: &[u8]) -> Result<bool, Refusal> {
    if TRIES.get() >= MOST_TRIES {
        return Err(Refusal::TooMany);
    }
    let mut data = Zeroizing::new([0; FIXED + MAX_USER]);
    let (length, creator) = unseal(record, &mut *data).map_err(|_| Refusal::Record)?;
    // Anybody can seal for this S: only what it sealed itself is a record.
    let ours = *creator.identity() == pcr::read(0)?.sha256;
    let name = data.get(FIXED..length).filter(|name| *name == user.as_bytes());
    if !ours || name.is_none() {
        return Err(Refusal::Record);
    }
    let right = bool::from(hash(password, &data[..SALT])[..].ct_eq(&data[SALT..FIXED]));
    TRIES.with(|tries| *tries = if right { 0 } else { *tries + 1 });
    Ok(right)
}

fn hash(password: &str, salt: &[u8]) -> Zeroizing<[u8; HASH]> {
    let mut hash = Zeroizing::new([0; HASH]);
    pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, ROUNDS, &mut *hash);
    hash
}

#[cfg(test)]
mod tests;
