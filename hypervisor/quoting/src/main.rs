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
use alloc::vec::Vec;
use keys::Rsa;
use table::{heap, input, output};
use tpm::sized;

/// Makes an RSA key and seals it for this PAL.
fn generate(blob: &mut [u8]) -> Option<usize> {
    let blob = blob.get_mut(..KEY_BLOB)?;
    Rsa::generate()?.seal(blob)
}

/// The public keys, each with its length before it.
fn public(blob: &[u8]) -> Option<Vec<u8>> {
    let rsa = if blob.is_empty() { Vec::new() } else { sized(&Rsa::unseal(blob)?.public()) };
    let p256 = keys::p256_public(&*tpm::quoting_keys()?)?;
    Some([rsa, sized(&p256)].concat())
}

/// TPMT_SIGNATURE of what TrustVisor reported.
fn sign(report: &[u8], blob: &[u8]) -> Option<Vec<u8>> {
    let keys = tpm::quoting_keys()?;
    let (kind, structure) = utpm::quote::genuine(keys.first_chunk()?, report)?;
    match kind {
        key::P256 => keys::sign_p256(&keys, structure),
        key::RSA | key::RSA_SHA1 => Rsa::unseal(blob)?.sign(kind, structure),
        _ => None,
    }
}

/// Writes an answer, if there is one that fits: its length, or 0.
fn give(answer: Option<Vec<u8>>, out: &mut [u8]) -> u64 {
    let Some(answer) = answer else { return 0 };
    let Some(room) = out.get_mut(..answer.len()) else { return 0 };
    room.copy_from_slice(&answer);
    answer.len() as u64
}

extern "C" fn generate_entry(at: u64, length: u64, _: u64, _: u64, _: u64, _: u64) -> u64 {
    heap();
    generate(output(at, length)).unwrap_or(0) as u64
}

extern "C" fn public_entry(blob: u64, length: u64, at: u64, room: u64, _: u64, _: u64) -> u64 {
    heap();
    give(public(input(blob, length)), output(at, room))
}

extern "C" fn sign_entry(report: u64, size: u64, blob: u64, length: u64, at: u64, room: u64) -> u64 {
    heap();
    give(sign(input(report, size), input(blob, length)), output(at, room))
}
