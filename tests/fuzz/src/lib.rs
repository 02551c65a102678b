//! What the fuzzers check, as functions from bytes to nothing or a panic: one module a target, each of which says what it
//! demands of the production code beyond not to panic.
//!
//! `fuzz_targets/` makes a libFuzzer program of each when built with `--cfg fuzzing` (as `qemu-scripts/test fuzz` and cargo-fuzz
//! do); built without, the same programs replay the files they are given. The corpora are replayed by this crate's tests, so that
//! what was found once is looked at in every run of the host's tests.
//!
//! Nothing here is `cfg`'d into the production crates: the targets use what those crates export.

pub mod decoder;
pub mod event_log;
pub mod exit;
pub mod hypercall;
pub mod image;
mod input;
pub mod linux;
mod machine;
pub mod marshalling;
pub mod multiboot;
pub mod options;
pub mod page_walk;
mod pal;
mod reference;
pub mod root;
pub mod seal;
mod session;
mod software;
pub mod tpm;
pub mod verify_event_log;
pub mod verify_evidence;
pub mod verify_policy;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    type Check = fn(&[u8]);

    /// In the order of their names.
    const TARGETS: [(&str, Check); 16] = [
        ("decoder", crate::decoder::check),
        ("event_log", crate::event_log::check),
        ("exit", crate::exit::check),
        ("hypercall", crate::hypercall::check),
        ("image", crate::image::check),
        ("linux", crate::linux::check),
        ("marshalling", crate::marshalling::check),
        ("multiboot", crate::multiboot::check),
        ("options", crate::options::check),
        ("page_walk", crate::page_walk::check),
        ("root", crate::root::check),
        ("seal", crate::seal::check),
        ("tpm", crate::tpm::check),
        ("verify_event_log", crate::verify_event_log::check),
        ("verify_evidence", crate::verify_evidence::check),
        ("verify_policy", crate::verify_policy::check),
    ];

    /// Everything that was worth keeping, and the empty input.
    #[test]
    fn the_corpora_pass() {
        for (name, check) in TARGETS {
            check(&[]);
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
            let mut count = 0;
            for file in fs::read_dir(&corpus).expect("every target has a corpus") {
                let path = file.expect("a file").path();
                println!("{}", path.display());
                check(&fs::read(path).expect("a readable file"));
                count += 1;
            }
            assert!(count > 0, "{name}");
        }
    }

    #[test]
    fn every_program_is_replayed() {
        let programs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets")).unwrap();
        let mut names: Vec<String> = programs
            .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, TARGETS.map(|(name, _)| name));
    }
}
