//! Quotes, as S asks for them by [`crate::number::QUOTE`], and the PAL that signs them.
//!
//! S gets a *report*: a structure of the TPM's that TrustVisor has written, with an authentication code that lasts until the next
//! launch. The *quoting PAL*, which TrustVisor has with it and any application may register ([`crate::number::REGISTER_QUOTING`]), takes
//! a report and answers with the signature of an identity key of this TrustVisor.
//!
//! # A report
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 32 | HMAC-SHA-256 over all that follows |
//! | 32 | 1 | which [`key`] is to sign |
//! | 33 | *n* | TPMS_ATTEST (TPM 2.0 part 2, 10.12.12), for [`key::RSA_SHA1`] TPM_QUOTE_INFO (TPM 1.2 part 2, 11.3) |
//!
//! # The quoting PAL
//! Its keys come as a *key blob*: the RSA key, sealed for itself. The P-256 key is derived from the root and is always there.
//! | entry | arguments | value |
//! |---|---|---|
//! | [`entry::GENERATE`] | out: key blob, [`KEY_BLOB`] bytes | 1, or 0 if nothing can be sealed |
//! | [`entry::PUBLIC`] | in: key blob or nothing; out: TPM2B_PUBLIC of the RSA key (if there is a blob), then of the P-256 key | bytes written, or 0 |
//! | [`entry::SIGN`] | in: report; in: key blob or nothing; out: TPMT_SIGNATURE | bytes written, or 0 |

use zerocopy::{Immutable, IntoBytes};

/// First byte of a quote's extraData: what follows is the PAL's nonce.
pub const TAG_QUOTE: u8 = 1;
/// First byte of a quote's extraData: what follows is the digest of an attested call.
pub const TAG_CALL: u8 = 2;
/// Most bytes of a nonce.
pub const MAX_NONCE: usize = 64;
/// Most bytes of a report.
pub const MAX_REPORT: usize = 256;
/// Bytes of a key blob: sealed digests of the public key, and its primes.
pub const KEY_BLOB: usize = super::seal::OVERHEAD + size_of::<super::Digests>() + 2 * 128;

/// An attested call, as [`crate::number::CALL_REPORT`] tells it before the report.
///
/// The report's extraData is [`TAG_CALL`] and SHA-256 of eight fields, each after its length (16 bits, big-endian): version of the ABI
/// (32 bits, big-endian), entry (16 bits, big-endian), signature of the entry (6 bytes), nonce (32 bytes), `input_hash`, `output_hash`,
/// `number` (64 bits, big-endian), `chain`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
pub struct AttestedCall {
    /// SHA-256 of the six argument registers (8 bytes each, little-endian, unused ones and the addresses of buffers 0), then the contents of
    /// in and in-out buffers.
    pub input_hash: [u8; 32],
    /// SHA-256 of S's value (8 bytes, little-endian), then the contents of out and in-out buffers.
    pub output_hash: [u8; 32],
    /// How many calls of this PAL there have been, this one included, attested or not.
    pub number: u64,
    /// What came before: 32 zero bytes, or SHA-256 of the chain of the attested call before and of its digest (what followed the tag).
    pub chain: [u8; 32],
}

/// The identity keys, and what they sign.
pub mod key {
    /// RSA-2048, RSASSA-PKCS1-v1_5 with SHA-256: TPM 2.0.
    pub const RSA: u8 = 0;
    /// P-256, ECDSA with SHA-256: TPM 2.0.
    pub const P256: u8 = 1;
    /// The same RSA key, RSASSA-PKCS1-v1_5 with SHA-1: TPM 1.2.
    pub const RSA_SHA1: u8 = 2;
}

/// Entries of the quoting PAL.
pub mod entry {
    /// Makes an RSA key.
    pub const GENERATE: u16 = 0;
    /// Tells the public keys.
    pub const PUBLIC: u16 = 1;
    /// Signs a report.
    pub const SIGN: u16 = 2;
}
