//! Evidence that a private key of a token was made in S and never leaves it, for `trustvisor-verify key`.

use crate::outcome::Rv;
use crate::process;
use cryptoki_sys::{CKA_CLASS, CKA_LABEL, CKA_TOKEN, CKO_PRIVATE_KEY, CKR_TOKEN_NOT_RECOGNIZED};
use std::fmt;
use token::protocol::{Answer, Error as Refused, Request, User};

/// What was asked for.
pub struct Evidence {
    /// What S says of the key.
    pub statement: Vec<u8>,
    /// The evidence for it, in JSON.
    pub json: String,
}

/// Why there is none.
#[derive(Debug)]
pub enum Error {
    /// `CKR_…`: of the token, its PIN or its file.
    Token(Rv),
    /// How many private keys have the label, where one is meant.
    Keys(usize),
    /// TrustVisor, its quoting PAL or the hardware TPM.
    TrustVisor(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(rv) => write!(f, "the token answers {rv:#x} (CKR_...)"),
            Self::Keys(count) => write!(f, "{count} private keys of the token have this label"),
            Self::TrustVisor(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<Refused> for Error {
    fn from(error: Refused) -> Self {
        Self::Token(crate::outcome::plain(error))
    }
}

/// Of the private key with this label in token `number`, whose user's PIN this is, for a verifier's nonce of 16 to 64 bytes.
pub fn evidence(number: u32, pin: &[u8], label: &str, nonce: &[u8]) -> Result<Evidence, Error> {
    process::initialise().map_err(Error::Token)?;
    let slot = process::slot(number.into()).map_err(Error::Token)?;
    let found = slot.with(|token| {
        Ok((|| {
            if !token.initialised() {
                return Err(Error::Token(CKR_TOKEN_NOT_RECOGNIZED));
            }
            let Answer::Handle(session) = token.ask(Request::OpenSession { write: false })? else {
                return Err(Error::Token(CKR_TOKEN_NOT_RECOGNIZED));
            };
            token.ask(Request::Login { session, user: User::User, pin: pin.to_vec() })?;
            let template = vec![
                (CKA_CLASS, CKO_PRIVATE_KEY.to_le_bytes().to_vec()),
                (CKA_TOKEN, vec![1]),
                (CKA_LABEL, label.as_bytes().to_vec()),
            ];
            let keys = match token.ask(Request::FindObjects { session, template })? {
                Answer::Handles(keys) => keys,
                _ => Vec::new(),
            };
            let [key] = keys[..] else { return Err(Error::Keys(keys.len())) };
            match token.ask(Request::Evidence { session, key, nonce: nonce.to_vec() })? {
                Answer::Evidence { report, statement } => {
                    let json = token.evidence(&report, &statement).map_err(Error::TrustVisor)?;
                    Ok(Evidence { statement, json })
                }
                _ => Err(Error::TrustVisor("S answers something else".into())),
            }
        })())
    });
    found.map_err(Error::Token)?
}
