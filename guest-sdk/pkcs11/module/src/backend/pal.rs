//! S: a PAL of this process.

use super::{Backend, Failure};
use crate::outcome::Rv;
use crate::trouble;
use cryptoki_sys::*;
use std::path::Path;
use trustvisor::abi::Status;
use trustvisor::{Error, Out, Quoting};

/// What `C_GetTokenInfo` says of it.
pub const MODEL: &[u8] = b"TrustVisor S";

static IMAGE: &[u8] = include_bytes!(env!("PKCS11_PAL"));

/// Most of one answer that is taken at once.
const PIECE: usize = 16 << 10;

trustvisor::stubs! {
    /// The functions of `pkcs11-pal`.
    struct Token {
        /// Answers a request: how long the answer is, of which `out` has what there is room for.
        fn request(input: &[u8], out: Out<'_>) -> u64;
        /// The last answer from there on, as far as there is room; how long it is as a whole.
        fn more(offset: u64, out: Out<'_>) -> u64;
    }
}

/// Registers S.
pub fn start(_folder: &Path) -> Result<Box<dyn Backend>, Rv> {
    match Token::register(IMAGE) {
        Ok(token) => Ok(Box::new(token)),
        Err(error) => {
            trouble::say(format_args!("S is not registered: {error}"));
            Err(match failure(&error) {
                Failure::Gone => CKR_DEVICE_ERROR,
                Failure::Refused(rv) => rv,
            })
        }
    }
}

impl Backend for Token {
    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut answer = vec![0; PIECE];
        let length = self.request(request, Out(&mut answer)).map_err(said)? as usize;
        if length > MOST {
            return Err(Failure::Refused(CKR_GENERAL_ERROR));
        }
        answer.resize(length, 0);
        for (number, piece) in answer.chunks_mut(PIECE).enumerate().skip(1) {
            let offset = (number * PIECE) as u64;
            if self.more(offset, Out(piece)).map_err(said)? as usize != length {
                return Err(Failure::Refused(CKR_GENERAL_ERROR));
            }
        }
        Ok(answer)
    }

    fn evidence(&self, report: &[u8], nonce: &[u8]) -> Result<String, String> {
        let quoting = Quoting::register().map_err(|error| error.to_string())?;
        self.pal().evidence(&quoting, report, nonce, &[]).map_err(|error| error.to_string())
    }
}

/// No answer is longer.
const MOST: usize = 1 << 26;

fn said(error: Error) -> Failure {
    trouble::say(format_args!("S does not answer: {error}"));
    failure(&error)
}

fn failure(error: &Error) -> Failure {
    match error.status() {
        Some(Status::Lost | Status::Faulted | Status::NoSuchPal) => Failure::Gone,
        Some(Status::NoMemory | Status::TooMany) => Failure::Refused(CKR_DEVICE_MEMORY),
        Some(Status::TooLarge) => Failure::Refused(CKR_DATA_LEN_RANGE),
        None if matches!(error, Error::NotPresent | Error::Version(_)) => {
            Failure::Refused(CKR_TOKEN_NOT_PRESENT)
        }
        _ => Failure::Refused(CKR_DEVICE_ERROR),
    }
}
