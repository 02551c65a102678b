//! PINs: a slow hash, and tries that are counted before they are compared, in counters that a killed process, another S or an old file do
//! not take back.
//!
//! A try costs one of a launch counter, *used*; another, *granted*, says how many there may be. When they are used up, one more of a lasting
//! counter, *leases*, grants [`A_LEASE`] tries; a right PIN gives its own try back. So a launch costs the hardware TPM one increment,
//! whatever the number of logins, and so do each [`A_LEASE`] wrong tries. The record of the PIN knows what *leases* had come to at the last
//! right PIN: [`LEASES`] more, and the PIN is locked.

use crate::ck::rv;
use crate::platform::{Counter, Platform};
use crate::protocol::Error;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

/// Tries that a lease grants.
pub const A_LEASE: u64 = 4;
/// Leases since the last right PIN.
pub const LEASES: u64 = 3;
/// Iterations of PBKDF2. Of S a guess is had at this price and counted; without S there is nothing to guess at.
const ITERATIONS: u32 = 10_000;
/// Shortest and longest.
pub const LENGTH: (u64, u64) = (4, 255);

/// Whose PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The security officer's.
    Officer,
    /// The user's.
    User,
}

/// The counters of a PIN's tries.
#[derive(Clone, Copy)]
pub struct Tries {
    leases: Counter,
    granted: Counter,
    used: Counter,
}

impl Tries {
    /// Those of a token's role.
    pub fn new(token: u32, role: Role) -> Self {
        let role = role as u64;
        let token = u64::from(token) * 4;
        Self {
            leases: Counter::Lasting(token + 1 + role),
            granted: Counter::Launch(token + 2 * role),
            used: Counter::Launch(token + 2 * role + 1),
        }
    }

    /// What *leases* has come to.
    pub fn leases(&self, platform: &mut impl Platform) -> Result<u64, Error> {
        platform.counter(self.leases)
    }

    /// Takes a try; without one the PIN must not be looked at.
    fn take(&self, since: u64, platform: &mut impl Platform) -> Result<(), Error> {
        let leased = |platform: &mut _| self.locked(since, platform).map(|locked| !locked);
        if !leased(platform)? {
            return Err(Error::Rv(rv::PIN_LOCKED));
        }
        if platform.counter(self.granted)? == 0 {
            // Both have a place before anything lasting is counted; as many granted as used.
            platform.increment(self.used)?;
            platform.increment(self.granted)?;
        }
        // What is granted from here on is granted to who comes later: a lease is for those that it is taken before.
        let granted = platform.counter(self.granted)?;
        let mine = platform.increment(self.used)?;
        if mine > granted {
            platform.increment(self.leases)?;
            let grant = platform.counter(self.used)?.saturating_add(A_LEASE - 1);
            while platform.increment(self.granted)? < grant {}
        }
        // Looked at after the lease: it may have been the last.
        if leased(platform)? { Ok(()) } else { Err(Error::Rv(rv::PIN_LOCKED)) }
    }

    /// Whether there are no more tries: `since` is what *leases* had come to at the last right PIN.
    pub fn locked(&self, since: u64, platform: &mut impl Platform) -> Result<bool, Error> {
        Ok(platform.counter(self.leases)?.saturating_sub(since) > LEASES)
    }

    /// How many there are at least.
    pub fn left(&self, since: u64, platform: &mut impl Platform) -> Result<u64, Error> {
        let leased = platform.counter(self.leases)?.saturating_sub(since);
        if leased > LEASES {
            return Ok(0);
        }
        let present = platform.counter(self.granted)?.saturating_sub(platform.counter(self.used)?);
        Ok((LEASES - leased) * A_LEASE + present)
    }
}

/// A PIN's record.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    salt: [u8; 16],
    hash: [u8; 32],
    /// What *leases* had come to at the last right PIN.
    pub since: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.hash);
    }
}

impl Pin {
    /// The record of a new PIN, with all its tries.
    pub fn new(pin: &[u8], tries: Tries, platform: &mut impl Platform) -> Result<Self, Error> {
        if !(LENGTH.0..=LENGTH.1).contains(&(pin.len() as u64)) {
            return Err(Error::Rv(rv::PIN_LEN_RANGE));
        }
        let mut salt = [0; 16];
        platform.random(&mut salt)?;
        Ok(Self { salt, hash: *hash(pin, &salt), since: tries.leases(platform)? })
    }

    /// Whether both records are of one PIN, as it was set once.
    pub fn is_of(&self, other: &Self) -> bool {
        self.salt == other.salt
    }

    /// Counts a try and compares. Right: the record to be kept from now on, if it is another.
    pub fn check(
        &self,
        pin: &[u8],
        tries: Tries,
        platform: &mut impl Platform,
    ) -> Result<Option<Self>, Error> {
        tries.take(self.since, platform)?;
        let difference = hash(pin, &self.salt).iter().zip(&self.hash).fold(0, |sum, (a, b)| sum | (a ^ b));
        if core::hint::black_box(difference) != 0 {
            return Err(Error::Rv(rv::PIN_INCORRECT));
        }
        platform.increment(tries.granted)?;
        let since = tries.leases(platform)?;
        Ok((since != self.since).then(|| Self { since, ..self.clone() }))
    }
}

fn hash(pin: &[u8], salt: &[u8; 16]) -> Zeroizing<[u8; 32]> {
    let mut hash = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(pin, salt, ITERATIONS, &mut *hash);
    hash
}

/// A label as `CK_TOKEN_INFO` has it.
pub fn padded(label: &[u8]) -> Vec<u8> {
    let mut label = label.to_vec();
    label.resize(32, b' ');
    label
}
