//! What the fuzzers check, as functions from bytes to nothing or a panic: one module a target, each of which says what it
//! demands of the production code beyond not to panic.
//!
//! `fuzz_targets/` makes a libFuzzer program of each when built with `--cfg fuzzing` (as `qemu-scripts/test fuzz` and cargo-fuzz
//! do); built without, the same programs replay the files they are given. The corpora are replayed by this crate's tests, so that
//! what was found once is looked at in every run of the host's tests.
//!
//! Nothing here is `cfg`'d into the production crates: the targets use what those crates export.

pub mod decoder;
pub mod exit;
pub mod hypercall;
pub mod image;
mod input;
mod machine;
pub mod marshalling;
pub mod page_walk;
mod pal;
mod reference;
mod software;
mod world;

/// The program of a target: its module's `check` on what libFuzzer thinks up, or on files.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::$name::check(bytes));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            fuzz::replay(fuzz::$name::check)
        }
    };
}

/// Checks the files named on the command line.
pub fn replay(check: fn(&[u8])) -> std::io::Result<()> {
    for path in std::env::args_os().skip(1) {
        check(&std::fs::read(path)?);
    }
    Ok(())
}
