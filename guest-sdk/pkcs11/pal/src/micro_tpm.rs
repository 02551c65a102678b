//! TrustVisor's micro-TPM, as the token wants it.

use alloc::vec::Vec;
use token::ck::rv;
use token::platform::{Counter, Platform};
use token::protocol::Error;
use trustvisor_pal::quote::{IDENTITY, MAX_REPORT, key};
use trustvisor_pal::seal::{OVERHEAD, Policy, seal, unseal};
use trustvisor_pal::{Status, counter, pcr, quote, random};
use zeroize::Zeroizing;

/// The micro-TPM of this S.
pub struct MicroTpm;

fn error(status: Status) -> Error {
    Error::Rv(match status {
        Status::TooMany => rv::DEVICE_MEMORY,
        Status::Unsupported => rv::FUNCTION_NOT_SUPPORTED,
        _ => rv::DEVICE_ERROR,
    })
}

/// Tried again where the hardware TPM was not to be had: the OS may be busy with it. What it was asked before it is asked again, so that
/// it counts once.
fn increment(number: u64) -> Result<u64, Status> {
    const TRIES: u32 = 5;
    let mut result = counter::increment(number);
    for _ in 1..TRIES {
        if result != Err(Status::NotKept) {
            break;
        }
        result = counter::increment(number);
    }
    result
}

impl Platform for MicroTpm {
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        random::fill(bytes).map_err(error)
    }

    fn seal(&mut self, key: &[u8; 32]) -> Result<Vec<u8>, Error> {
        let mut blob = alloc::vec![0; key.len() + OVERHEAD];
        let length = seal(key, &Policy::this_pal().map_err(error)?, &mut blob).map_err(error)?;
        blob.truncate(length);
        Ok(blob)
    }

    fn unseal(&mut self, blob: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
        let mut key = Zeroizing::new([0; 32]);
        let (length, creator) = unseal(blob, &mut *key).map_err(error)?;
        // Anybody can seal for this S.
        if length != key.len() || *creator.identity() != pcr::read(0).map_err(error)?.sha256 {
            return Err(error(Status::DoesNotOpen));
        }
        Ok(key)
    }

    fn counter(&mut self, which: Counter) -> Result<u64, Error> {
        match which {
            Counter::Lasting(number) => counter::read(number),
            Counter::Launch(number) => counter::launch::read(number),
        }
        .map_err(error)
    }

    fn increment(&mut self, which: Counter) -> Result<u64, Error> {
        match which {
            Counter::Lasting(number) => increment(number),
            Counter::Launch(number) => counter::launch::increment(number),
        }
        .map_err(error)
    }

    fn report(&mut self, nonce: &[u8; 32]) -> Result<Vec<u8>, Error> {
        let mut report = alloc::vec![0; MAX_REPORT];
        let length = quote::report(IDENTITY, key::P256, nonce, &mut report).map_err(error)?;
        report.truncate(length);
        Ok(report)
    }
}
