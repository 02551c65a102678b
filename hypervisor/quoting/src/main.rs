//! The quoting PAL: holds the identity keys of this TrustVisor and signs reports of its micro-TPM (see [`abi::quote`]).
//!
//! An ordinary PAL in all but one thing: TrustVisor knows its image, which is part of the measured runtime, and gives what runs from it
//! the keys of this launch. So keys and big numbers are kept out of privileged code, and a signature takes no longer without
//! interrupts than anything else that S does. It signs reports that TrustVisor wrote at this launch and nothing else.
#![no_std]
#![no_main]

extern crate alloc;

mod keys;
mod table;
mod tpm;

use abi::quote::{KEY_BLOB, key};
use keys::Rsa;
use table::{input, output};

/// Makes an RSA key and seals it for this PAL: the blob's length, or 0.
fn generate(blob: &mut [u8]) -> Option<usize> {
    let blob = blob.get_mut(..KEY_BLOB)?;
    Rsa::generate()?.seal(blob)
}

/// The public keys, each with its length before it.
fn public(blob: &[u8], mut out: &mut [u8]) -> Option<usize> {
    let rsa = if blob.is_empty() { None } else { Some(Rsa::unseal(blob)?.public()) };
    let keys = tpm::quoting_keys()?;
    let p256 = keys::p256_public(&keys)?;
    let mut written = 0;
    for public in rsa.iter().map(|key| &key[..]).chain([&p256[..]]) {
        written += tpm::sized(&mut out, public)?;
    }
    Some(written)
}

/// TPMT_SIGNATURE of what TrustVisor reported.
fn sign(report: &[u8], blob: &[u8], mut out: &mut [u8]) -> Option<usize> {
    let keys = tpm::quoting_keys()?;
    let (kind, structure) = utpm::quote::genuine(keys.first_chunk()?, report)?;
    match kind {
        key::P256 => keys::sign_p256(&keys, structure, &mut out),
        key::RSA | key::RSA_SHA1 => Rsa::unseal(blob)?.sign(kind, structure, &mut out),
        _ => None,
    }
}

extern "C" fn generate_entry(at: u64, length: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    generate(output(at, length)).unwrap_or(0) as u64
}

extern "C" fn public_entry(blob: u64, length: u64, at: u64, room: u64, _: u64, _: u64) -> u64 {
    public(input(blob, length), output(at, room)).unwrap_or(0) as u64
}

extern "C" fn sign_entry(report: u64, size: u64, blob: u64, length: u64, at: u64, room: u64) -> u64 {
    sign(input(report, size), input(blob, length), output(at, room)).unwrap_or(0) as u64
}
