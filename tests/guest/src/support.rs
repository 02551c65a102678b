//! What most tests need: S, raw hypercalls, children, memory of their own, and faults survived.

mod child;
mod fault;
mod mapping;
mod rng;
mod signal;

pub use child::{Child, Pipe};
pub use fault::{Fault, faulting};
pub use mapping::{Mapping, PAGE};
pub use rng::Rng;
pub use signal::{Handler, Timer, default_action, is_token, on_signal, registers};

use anyhow::{Context, bail, ensure};
use std::path::Path;
use trustvisor::abi::{Handle, Info, Status, image::Header, number};
use trustvisor::{Out, image};

/// S as a file.
pub static IMAGE: &[u8] = include_bytes!(env!("TVTEST_PAL"));

#[path = "../pal/src/pattern.rs"]
pub mod pattern;

trustvisor::stubs! {
    /// The S of the tests.
    pub struct TestPal {
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
}

/// In hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Indices of entries that tests call raw.
pub mod entry {
    pub const NULL: u64 = 0;
    pub const COUNTING: u64 = 1;
    pub const SUM: u64 = 3;
    pub const FILL: u64 = 4;
    pub const REVERSE: u64 = 5;
    pub const ADD_BYTES: u64 = 6;
    pub const COMPUTE: u64 = 10;
    pub const IGNORE: u64 = 15;
    pub const FPU: u64 = 16;
    pub const MARKED: u64 = 17;
    pub const COUNT: u64 = 27;
}

pub fn register() -> anyhow::Result<TestPal> {
    TestPal::register(IMAGE).context("registering S")
}

pub fn header() -> Header {
    image::header(IMAGE).expect("the build made a well-formed image")
}

/// A hypercall with any arguments at all: value and status.
pub fn raw(call: u64, handle: Handle, arguments: &[u64]) -> (u64, Status) {
    let mut registers = [0; 6];
    registers[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: every test calls `trustvisor::info` or `register` first, so TrustVisor is there. What a test names as a buffer
    // is its own mapping, or nothing that TrustVisor will write to.
    let (value, status) = unsafe { trustvisor::hypercall(call, handle, registers) };
    (value, trustvisor::status(status).unwrap_or(Status::UnknownCall))
}

pub fn call_entry(entry: u64) -> u64 {
    u64::from(number::CALL) | entry << 16
}

pub const NO_HANDLE: Handle = Handle { low: 0, high: 0 };

/// Checks that TrustVisor has as many free frames and PALs as before.
pub fn as_before(before: &Info) -> anyhow::Result<()> {
    let after = trustvisor::info()?;
    ensure!(
        (before.frames_free, before.pals) == (after.frames_free, after.pals),
        "{} frames free and {} PALs before, {} and {} after",
        before.frames_free,
        before.pals,
        after.frames_free,
        after.pals
    );
    Ok(())
}

/// Checks that a piece of a test leaves nothing behind in TrustVisor.
pub fn leaving_nothing<T>(f: impl FnOnce(&Info) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let before = trustvisor::info()?;
    let result = f(&before)?;
    as_before(&before)?;
    Ok(result)
}

pub fn expect(what: &str, status: Status, wanted: Status) -> anyhow::Result<()> {
    ensure!(status == wanted, "{what}: {status:?} instead of {wanted:?}");
    Ok(())
}

pub fn expect_error<T>(
    what: &str,
    result: Result<T, trustvisor::Error>,
    wanted: Status,
) -> anyhow::Result<()> {
    match result {
        Ok(_) => bail!("{what}: done instead of {wanted:?}"),
        Err(error) => {
            ensure!(error.status() == Some(wanted), "{what}: \"{error}\" instead of {wanted:?}");
            Ok(())
        }
    }
}

/// Random bits.
pub fn random() -> anyhow::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer is as long as said.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    ensure!(got == 8, "no random bits");
    Ok(u64::from_le_bytes(bytes))
}

/// Writes to a file of the kernel's.
pub fn tell_kernel(path: &str, what: &str) -> anyhow::Result<()> {
    std::fs::write(Path::new(path), what).with_context(|| format!("cannot write {what:?} to {path}"))
}

/// Turns a system call's -1 into its error.
pub fn system(what: &str, result: impl Into<i64>) -> anyhow::Result<i64> {
    let result = result.into();
    if result == -1 {
        return Err(std::io::Error::last_os_error()).with_context(|| what.to_owned());
    }
    Ok(result)
}
