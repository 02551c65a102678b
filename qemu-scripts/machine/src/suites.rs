//! `test`: the test suites, each announced, timed, and an ordinary cargo command that can be run by hand.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use machine::{is_turn, root, run_shown, say, target_dir};

use crate::{fuzz, mutants, tcb};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The suites to run (all by default)
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// How long suite fuzz gives each of its targets
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    fuzz: u64,
    /// How many PALs suite soak registers, calls and kills
    #[arg(long, value_name = "CYCLES", default_value_t = 500)]
    soak: u64,
    /// Try all of what goes by turns, a part with each commit: the tests of suites tpm, reset, dma and apache, the mutations of suite model
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Formatting, lints, unit tests, size of the trusted code
    Host,
    /// From GRUB to the guest's first instruction: measurements and refusals
    Launch,
    /// What the hardware TPM keeps
    Tpm,
    /// Linux under TrustVisor
    Guest,
    /// PALs and the hypercall boundary
    Pal,
    /// A hostile kernel, root and programs against TrustVisor
    Attacks,
    /// What is left in memory when TrustVisor loses control of the machine
    Reset,
    /// Devices against TrustVisor, and at ordinary work
    Dma,
    /// Programs that use a PKCS#11 token, with ours
    Pkcs11,
    /// Apache in the full guest, its key in a file or a token
    Apache,
    /// PALs that live and die at random while the guest swaps
    Soak,
    /// The trusted code with one check removed: some test must notice
    Model,
    /// Random input for everything that parses what others wrote
    Fuzz,
}

const LIMIT: Duration = Duration::from_secs(30 * 60);
/// What only makes sense on the bare-metal target.
const BARE: [(&str, &[&str]); 9] = [
    ("hypervisor", &["--features", "bare"]),
    ("loader", &["--features", "bare"]),
    ("quoting-pal", &[]),
    ("hello-pal", &[]),
    ("password-pal", &[]),
    ("tvtest-pal", &[]),
    ("sdk-pal", &[]),
    ("pkcs11-pal", &[]),
    ("trustvisor-pal", &["--features", "heap"]),
];
const BARE_LINT: &[&str] = &[
    "clippy",
    "-q",
    "--target",
    "x86_64-trustvisor.json",
    "-Zjson-target-spec",
    "-Zbuild-std=core,alloc,compiler_builtins",
    "-Zbuild-std-features=compiler-builtins-mem",
];
/// Crates of the bare-metal target that do not build on a host.
const NOT_ON_A_HOST: [&str; 6] =
    ["quoting-pal", "hello-pal", "password-pal", "pkcs11-pal", "sdk-pal", "tvtest-pal"];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let suites = if arguments.suites.is_empty() { Suite::value_variants() } else { &arguments.suites };
    if suites.iter().any(|s| !matches!(s, Suite::Host | Suite::Model | Suite::Fuzz)) {
        machine::artifacts()?.announce();
    }
    let mut failed = Vec::new();
    for suite in suites {
        let start = Instant::now();
        say(format_args!("suite {suite:?}"));
        let result = suite.run(arguments);
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        match result {
            Ok(()) => say(format_args!("suite {suite:?} passed in {minutes:.1} minutes")),
            Err(error) => {
                say(format_args!("suite {suite:?} FAILED in {minutes:.1} minutes: {error:#}"));
                failed.push(format!("{suite:?}"));
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

impl Suite {
    fn run(self, arguments: &Arguments) -> Result<()> {
        match self {
            Self::Host => host(),
            Self::Launch => system("launch", &[]),
            Self::Tpm => by_turns("tpm", 3, arguments.all),
            Self::Guest => system("guest", &[]),
            Self::Pal => system("pal", &[]),
            Self::Attacks => system("attacks", &[]),
            Self::Reset => by_turns("reset", 4, arguments.all),
            Self::Dma => by_turns("dma", 2, arguments.all),
            Self::Pkcs11 => system("pkcs11", &[]),
            Self::Apache => by_turns("apache", 2, arguments.all),
            Self::Soak => system("soak", &[("TRUSTVISOR_SOAK", arguments.soak.to_string())]),
            Self::Model => mutants::run(arguments.all),
            Self::Fuzz => fuzz::run(Duration::from_secs(arguments.fuzz)),
        }
    }
}

/// All steps are tried, so that one run names all that is wrong.
fn host() -> Result<()> {
    let mut failed = Vec::new();
    let mut step = |what: &str, arguments: &[&str]| {
        if let Err(error) = cargo(what, arguments, &[]) {
            say(format_args!("{error:#}"));
            failed.push(what.to_owned());
        }
    };
    step("formatting", &["fmt", "--all", "--check"]);
    let others = NOT_ON_A_HOST.iter().flat_map(|package| ["--exclude", package]);
    let lint = ["clippy", "-q", "--workspace", "--all-targets"].into_iter().chain(others.clone());
    step("lints for the host", &lint.chain(["--", "-D", "warnings"]).collect::<Vec<_>>());
    for (package, features) in BARE {
        let lint = [BARE_LINT, &["-p", package], features, &["--", "-D", "warnings"]].concat();
        step(&format!("lints of the bare-metal {package}"), &lint);
    }
    let test = ["test", "-q", "--workspace", "--exclude", "trustvisor-tests"].into_iter().chain(others);
    step("unit tests", &test.collect::<Vec<_>>());
    // The PKCS#11 module with a token in its own process, which no other build has.
    let module = ["-q", "-p", "trustvisor-pkcs11", "--no-default-features", "--features", "software"];
    step(
        "lints of the PKCS#11 module's tests",
        &[&["clippy"], &module[..], &["--all-targets", "--", "-D", "warnings"]].concat(),
    );
    step("tests of the PKCS#11 module", &[&["test"], &module[..]].concat());
    say("size of the trusted code");
    if let Err(error) = tcb::check() {
        failed.push(error.to_string());
    }
    ensure!(failed.is_empty(), "{}", failed.join(", "));
    Ok(())
}

fn system(test: &str, environment: &[(&str, String)]) -> Result<()> {
    cargo(&format!("system tests: {test}"), &system_tests(test), environment)
}

fn system_tests(test: &str) -> [&str; 8] {
    // Two machines at a time, at most.
    ["test", "-p", "trustvisor-tests", "--test", test, "--", "--nocapture", "--test-threads=2"]
}

/// A suite that takes long: each commit runs a part of its tests, so many commits all of them.
fn by_turns(test: &str, turns: usize, all: bool) -> Result<()> {
    if all {
        return system(test, &[]);
    }
    let mut list = cargo_command(&["test", "-q", "-p", "trustvisor-tests", "--test", test, "--", "--list"])?;
    list.stderr(std::process::Stdio::inherit());
    let list = list.output()?;
    ensure!(list.status.success(), "the tests of suite {test} cannot be listed");
    let list = String::from_utf8(list.stdout)?;
    let tests: Vec<_> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let turn: Vec<_> =
        tests.iter().enumerate().filter(|(at, _)| is_turn(*at, turns)).map(|(_, test)| *test).collect();
    ensure!(!turn.is_empty(), "suite {test} has no tests");
    say(format_args!("{} of {} tests, by turns (--all for all)", turn.len(), tests.len()));
    let arguments = [&system_tests(test)[..], &["--exact"], &turn].concat();
    cargo(&format!("system tests: {test}"), &arguments, &[])
}

/// Runs cargo, and shows what it says.
pub(crate) fn cargo(what: &str, arguments: &[&str], environment: &[(&str, String)]) -> Result<()> {
    say(format_args!("{what}: cargo {}", arguments.join(" ")));
    let mut command = cargo_command(arguments)?;
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    run_shown(what, command, LIMIT)
}

fn cargo_command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root()).args(arguments).env("CARGO_TARGET_DIR", target_dir());
    // The guest's programs include them.
    command.envs(machine::pal_images()?);
    Ok(command)
}
