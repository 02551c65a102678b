//! What the token's S says of a private key to a verifier far away: a [`Statement`]. S asks for a report whose nonce is the statement's
//! [`Statement::digest`], and for no other report, so a quote of this S over that nonce is the token's word for the statement.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

use alloc::vec::Vec;
use sha2::{Digest, Sha256};

/// What S says of a private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The verifier's nonce.
    pub nonce: Vec<u8>,
    /// `CKK_…`.
    pub key_type: u64,
    /// RSA: the modulus. Others: `CKA_EC_PARAMS`.
    pub parameter: Vec<u8>,
    /// RSA: the public exponent. Others: `CKA_EC_POINT`.
    pub public: Vec<u8>,
    /// `CKA_LOCAL`: it was generated in S.
    pub local: bool,
    /// `CKA_ALWAYS_SENSITIVE`: nobody has ever read it in clear.
    pub always_sensitive: bool,
    /// `CKA_NEVER_EXTRACTABLE`: nor wrapped.
    pub never_extractable: bool,
}

/// Version of the encoding, and what it is of.
const MAGIC: &[u8; 8] = b"TVTOKEY1";

impl Statement {
    /// Magic, flags, key type, then each part after its length; numbers are big-endian, of 4 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let flags = [self.local, self.always_sensitive, self.never_extractable];
        let flags = flags.iter().enumerate().fold(0u32, |sum, (at, flag)| sum | u32::from(*flag) << at);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend((self.key_type as u32).to_be_bytes());
        for part in [&self.nonce, &self.parameter, &self.public] {
            bytes.extend((part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// The reverse; nothing but what [`Self::to_bytes`] makes is taken.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut number = || {
            let (number, after) = rest.split_first_chunk()?;
            rest = after;
            Some(u32::from_be_bytes(*number))
        };
        let (flags, key_type) = (number()?, number()?);
        let mut part = || {
            let (length, after) = rest.split_first_chunk()?;
            let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = after;
            Some(part.to_vec())
        };
        let (nonce, parameter, public) = (part()?, part()?, part()?);
        (rest.is_empty() && flags < 8).then_some(Self {
            nonce,
            key_type: key_type.into(),
            parameter,
            public,
            local: flags & 1 != 0,
            always_sensitive: flags & 2 != 0,
            never_extractable: flags & 4 != 0,
        })
    }

    /// What the quote carries as its nonce.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_bytes()).into()
    }
}
