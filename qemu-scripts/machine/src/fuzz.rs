//! Suite `fuzz`: builds the programs of `tests/fuzz` with libFuzzer and gives each of them its time, a few at once.
//!
//! What `cargo fuzz run --sanitizer none` would do is done with cargo alone: LLVM's coverage pass over all crates, assertions and
//! overflow checks on. The corpora in the tree are where each target begins; what it finds besides stays in a temporary
//! folder. An input that breaks a target fails the suite and is printed, to be given to the program again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::{Process, build_dir, root, run_shown, say, target_dir};

const TARGET: &str = "x86_64-unknown-linux-gnu";
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The corpus is run, and the last input comes to its end, outside of the time that a target is given.
const GRACE: Duration = Duration::from_secs(120);
const AT_ONCE: usize = 2;
/// The instrumentation that libFuzzer needs (LLVM, "SanitizerCoverage": 8-bit counters, PC table, traced comparisons).
const FLAGS: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

pub(crate) fn run(each: Duration) -> Result<()> {
    let targets = targets()?;
    say("building the fuzz targets");
    build()?;
    say(format_args!("{} targets, {} s each", targets.len(), each.as_secs()));
    let folder = tempfile::tempdir()?;
    let left = Mutex::new(targets.iter());
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(name) = left.lock().ok().and_then(|mut left| left.next()) {
            match fuzz(name, each, folder.path()) {
                Ok(done) => say(format_args!("fuzz: {name}: {done}")),
                Err(error) => {
                    say(format_args!("fuzz: {name}: {error:#}"));
                    failed.lock().expect("no holder panics").push(name.as_str());
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().expect("no holder panics");
    ensure!(failed.is_empty(), "{}", failed.join(", "));
    Ok(())
}

fn folder() -> PathBuf {
    root().join("tests/fuzz")
}

/// Each file in `fuzz_targets/` is one.
fn targets() -> Result<Vec<String>> {
    let files = fs::read_dir(folder().join("fuzz_targets"))?.collect::<Result<Vec<_>, _>>()?;
    let stem = |file: &fs::DirEntry| Some(file.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = files.iter().filter_map(stem).collect();
    names.sort();
    Ok(names)
}

/// In a target folder of its own: with these flags nothing of another build can be used, nor the other way round. The
/// triple keeps them away from build scripts.
fn build() -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root()).env("CARGO_TARGET_DIR", build_folder()).env("RUSTFLAGS", FLAGS.join(" "));
    command.args(["build", "-q", "-p", "trustvisor-fuzz", "--bins", "--release", "--target", TARGET]);
    command.args(["--config=profile.release.lto=false", "--config=profile.release.codegen-units=16"]);
    run_shown("building the fuzz targets", command, BUILD_LIMIT)
}

fn build_folder() -> PathBuf {
    target_dir().join("fuzz")
}

/// Runs one target; how it went, or the input that broke it.
fn fuzz(name: &str, each: Duration, folder: &Path) -> Result<String> {
    let log = build_dir().join("log").join(format!("fuzz-{name}.log"));
    let found = folder.join(name);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(log.parent().context("a file lies in a folder")?)?;
    let output = File::create(&log)?;
    let mut command = Command::new(build_folder().join(TARGET).join("release").join(name));
    command.arg(&found).args(Some(self::folder().join("corpus").join(name)).filter(|corpus| corpus.exists()));
    command.arg(format!("-max_total_time={}", each.as_secs().max(1)));
    command.arg(format!("-artifact_prefix={}/broken-", folder.display()));
    command.args(["-max_len=4096", "-len_control=20", "-timeout=10", "-reload=0"]);
    command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = Process::spawn(name, command, Vec::new())?.wait(each + GRACE)?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    ensure!(status.success(), "{} (log: {})", broken(&text), log.display());
    done(&text).with_context(|| format!("no summary (log: {})", log.display()))
}

/// What libFuzzer says at the end of a run that found nothing wrong: `#N DONE cov: C ft: ...`, `Done N runs in S second(s)`.
fn done(log: &str) -> Option<String> {
    let coverage = log.lines().rev().find_map(|line| line.split_once("cov: ")?.1.split(' ').next())?;
    let (runs, rest) =
        log.lines().rev().find_map(|line| line.strip_prefix("Done ")?.split_once(" runs in "))?;
    let seconds = rest.split(' ').next()?;
    Some(format!("{runs} runs, cov {coverage}, in {seconds} s"))
}

/// The panic's message and the input, of a run that found something.
fn broken(log: &str) -> String {
    let mut lines = log.lines().skip_while(|line| !line.contains("panicked at"));
    let place = lines.next().and_then(|line| line.split_once("panicked at ")).map(|(_, place)| place);
    let what = match (place, lines.next()) {
        (Some(place), Some(message)) => format!("{place} {message}"),
        _ => log.lines().find(|line| line.contains("ERROR")).unwrap_or("it failed").to_owned(),
    };
    let input = log.lines().find_map(|line| line.strip_prefix("Base64: "));
    format!("{what}; the input is, base64: {}", input.unwrap_or("not known"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_found_nothing() {
        let log = "INFO: seed\n#2\tINITED cov: 3 ft: 4 corp: 1/1b\n#900\tDONE   cov: 17 ft: 40 corp: 5/9b\nDone 900 runs in 2 second(s)\n";
        assert_eq!(done(log).unwrap(), "900 runs, cov 17, in 2 s");
        assert_eq!(done("#2\tINITED cov: 3 ft: 4\n"), None);
    }

    #[test]
    fn a_run_that_broke() {
        let log = "thread '<unnamed>' (7) panicked at a.rs:1:2:\nnot right\nERROR: libFuzzer: deadly signal\nBase64: AAE=\n";
        assert_eq!(broken(log), "a.rs:1:2: not right; the input is, base64: AAE=");
        assert_eq!(
            broken("ERROR: libFuzzer: timeout\n"),
            "ERROR: libFuzzer: timeout; the input is, base64: not known"
        );
    }

    #[test]
    fn every_target_has_a_corpus() {
        for name in targets().unwrap() {
            let corpus = folder().join("corpus").join(&name);
            assert!(fs::read_dir(&corpus).is_ok_and(|mut files| files.next().is_some()), "{name}");
        }
    }
}
