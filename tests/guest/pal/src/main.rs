//! The S of the system tests: computes, keeps a secret, moves bytes in all directions, and dies in many ways.

#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU64, Ordering};
use trustvisor_pal::seal::{Policy, seal, unseal};
use trustvisor_pal::{Digests, Out, Status, counter, pcr, quote, random};

mod cost;
mod deaths;
mod marks;
mod sse;

mod pattern;
mod secret;

static CALLS: AtomicU64 = AtomicU64::new(0);
/// Another S is this one with a byte of it changed: nothing depends on it.
static MARK: [u8; 16] = *b"tvtest, any byte";

fn null() {}

/// Takes a buffer and does nothing with it: what is left is TrustVisor's part.
fn ignore(_: &[u8]) {}

/// Counts its calls: shows which calls ran, and that data is kept between them.
fn count() -> u64 {
    core::hint::black_box(&MARK);
    CALLS.fetch_add(1, Ordering::Relaxed) + 1
}

fn weigh(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> u64 {
    [a, b, c, d, e, f].iter().rev().fold(0u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(*digit))
}

fn sum(data: &[u8]) -> u64 {
    data.iter().map(|byte| u64::from(*byte)).sum()
}

/// Fills `out` from `seed` and returns how many of its bytes were not zero before.
fn fill(mut out: Out<'_>, seed: u64) -> u64 {
    count();
    let dirty = out.iter().filter(|byte| **byte != 0).count();
    pattern::bytes(seed, &mut out);
    dirty as u64
}

fn reverse(data: &mut [u8]) {
    data.reverse();
}

/// `out[i] = a[i] + b[i]`, and `b` becomes `a`.
fn add_bytes(a: &[u8], b: &mut [u8], mut out: Out<'_>) {
    for ((a, b), out) in a.iter().zip(b).zip(&mut *out) {
        *out = a.wrapping_add(*b);
        *b = *a;
    }
}

fn set_secret(seed: u64) {
    secret::with(|words| pattern::words(seed, words));
}

/// Writes the secret's words, each XORed with `mask`.
fn masked_secret(mut out: Out<'_>, mask: u64) {
    secret::with(|words| {
        for (to, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = (*word ^ mask).to_le_bytes();
        }
    });
}

/// Takes the secret through the registers, `rounds` times.
fn stir_secret(rounds: u64) -> u64 {
    secret::with(|words| secret::stir(words, rounds))
}

fn compute(rounds: u64) -> u64 {
    pattern::compute(rounds)
}

fn least_gap(rounds: u64) -> u64 {
    pattern::least_gap(rounds)
}

fn pcr_read(index: u32, mut out: Out<'_>) -> u64 {
    match pcr::read(index) {
        Ok(digests) => {
            let bytes = digests.sha1.iter().chain(&digests.sha256);
            out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            Status::Ok as u64
        }
        Err(status) => status as u64,
    }
}

/// `digests`: SHA-1, then SHA-256.
fn pcr_extend(index: u32, digests: &[u8]) -> u64 {
    let (Some(sha1), Some(sha256)) = (digests.first_chunk(), digests.last_chunk()) else {
        return Status::BadArgument as u64;
    };
    match pcr::extend(index, &Digests { sha1: *sha1, sha256: *sha256 }) {
        Ok(()) => Status::Ok as u64,
        Err(status) => status as u64,
    }
}

/// Seals `data`: for the PAL of an identity; if `whom` is empty, for this one; if it is one byte, for this one with PCR 1 as it is. The
/// blob's length, or 1000000h + status.
fn seal_for(whom: &[u8], data: &[u8], mut blob: Out<'_>) -> u64 {
    let policy = || match (whom.first_chunk(), whom.len()) {
        (Some(identity), _) => Ok(Policy::pal(identity)),
        (None, 0) => Policy::this_pal(),
        (None, _) => Ok(Policy::this_pal()?.with_pcr(1, &pcr::read(1)?.sha256)),
    };
    match policy().and_then(|policy| seal(data, &policy, &mut blob)) {
        Ok(length) => length as u64,
        Err(status) => SEALING_FAILED + status as u64,
    }
}

/// Unseals: 32 bytes of who sealed it, then the data. The data's length, or 1000000h + status.
fn unseal_here(blob: &[u8], mut data: Out<'_>) -> u64 {
    let Some((creator, data)) = data.split_first_chunk_mut() else { return u64::MAX };
    match unseal(blob, data) {
        Ok((length, who)) => {
            *creator = *who.identity();
            length as u64
        }
        Err(status) => SEALING_FAILED + status as u64,
    }
}

const SEALING_FAILED: u64 = 0x100_0000;

fn random_bytes(mut out: Out<'_>) -> u64 {
    random::fill(&mut out).map_or_else(|status| status as u64, |()| Status::Ok as u64)
}

/// A report on the PCRs of bits 7:0 of `what` for the key of bits 15:8; its length, or 1000000h + status.
fn report(what: u32, nonce: &[u8], mut out: Out<'_>) -> u64 {
    match quote::report(what as u8, (what >> 8) as u8, nonce, &mut out) {
        Ok(length) => length as u64,
        Err(status) => SEALING_FAILED + status as u64,
    }
}

/// What a counter has come to, or 1000000h + status.
fn counter(number: u64) -> u64 {
    counter::read(number).unwrap_or_else(|status| SEALING_FAILED + status as u64)
}

/// And after one more.
fn count_up(number: u64) -> u64 {
    counter::increment(number).unwrap_or_else(|status| SEALING_FAILED + status as u64)
}

/// A hypercall of any number with any pointer; returns its status.
fn hypercall(rax: u64, rdi: u64, rsi: u64) -> u64 {
    let status;
    // SAFETY: TrustVisor changes RAX and RDX, and memory only as a well-formed PCR_READ asks, which the test does not do here.
    unsafe {
        core::arch::asm!(
            "vmmcall",
            inlateout("rax") rax => _,
            lateout("rdx") status,
            in("rdi") rdi,
            in("rsi") rsi,
            options(nostack, preserves_flags),
        );
    }
    status
}

trustvisor_pal::entries! {
    fn null();
    fn count() -> u64;
    fn weigh(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> u64;
    fn sum(data: &[u8]) -> u64;
    fn fill(out: Out<'_>, seed: u64) -> u64;
    fn reverse(data: &mut [u8]);
    fn add_bytes(a: &[u8], b: &mut [u8], out: Out<'_>);
    fn set_secret(seed: u64);
    fn masked_secret(out: Out<'_>, mask: u64);
    fn stir_secret(rounds: u64) -> u64;
    fn compute(rounds: u64) -> u64;
    fn pcr_read(index: u32, out: Out<'_>) -> u64;
    fn pcr_extend(index: u32, digests: &[u8]) -> u64;
    fn hypercall(rax: u64, rdi: u64, rsi: u64) -> u64;
    fn die(how: u32) -> u64;
    fn ignore(data: &[u8]);
    fn fpu(value: u64, rounds: u64) -> u64;
    fn marked(seed: u64, rounds: u64, how: u32) -> u64;
    fn watched(data: &[u8], rounds: u64) -> u64;
    fn least_gap(rounds: u64) -> u64;
    fn seal_for(whom: &[u8], data: &[u8], blob: Out<'_>) -> u64;
    fn unseal_here(blob: &[u8], data: Out<'_>) -> u64;
    fn random_bytes(out: Out<'_>) -> u64;
    fn cost(command: u32, length: u64) -> u64;
    fn report(what: u32, nonce: &[u8], out: Out<'_>) -> u64;
    fn counter(number: u64) -> u64;
    fn count_up(number: u64) -> u64;
}

use cost::cost;
use deaths::die;
use marks::marked;
use pattern::watched;
use sse::fpu;
