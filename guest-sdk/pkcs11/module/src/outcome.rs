//! What becomes of a call, on its way from S to the application.

use cryptoki_sys::{CK_RV, CKR_BUFFER_TOO_SMALL, CKR_GENERAL_ERROR, CKR_OK};
use token::protocol::{Answer, Error};

/// `CKR_…` other than `CKR_OK`.
pub type Rv = CK_RV;

/// The `CK_RV` of a function.
pub fn rv(result: Result<(), Rv>) -> CK_RV {
    result.err().unwrap_or(CKR_OK)
}

/// A refusal whose length nobody asked for.
pub fn plain(error: Error) -> Rv {
    match error {
        Error::Rv(CKR_OK) => CKR_GENERAL_ERROR,
        Error::Rv(rv) => rv,
        Error::TooSmall(_) => CKR_BUFFER_TOO_SMALL,
    }
}

/// What S answers to a question that this is no answer of.
const NO_ANSWER: Error = Error::Rv(CKR_GENERAL_ERROR);

pub fn done(answer: Answer) -> Result<(), Error> {
    match answer {
        Answer::Done => Ok(()),
        _ => Err(NO_ANSWER),
    }
}

pub fn handle(answer: Answer) -> Result<u64, Error> {
    match answer {
        Answer::Handle(handle) => Ok(handle),
        _ => Err(NO_ANSWER),
    }
}

pub fn handles(answer: Answer) -> Result<Vec<u64>, Error> {
    match answer {
        Answer::Handles(handles) => Ok(handles),
        _ => Err(NO_ANSWER),
    }
}

/// Bytes; `Done` has none.
pub fn bytes(answer: Answer) -> Result<Vec<u8>, Error> {
    match answer {
        Answer::Bytes(bytes) => Ok(bytes),
        Answer::Done => Ok(Vec::new()),
        _ => Err(NO_ANSWER),
    }
}
