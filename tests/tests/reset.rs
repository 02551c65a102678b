//! Before TrustVisor loses control of the machine it wipes what it keeps. Each way to lose control is gone while S keeps a secret: by
//! root's own port accesses, by Linux, by a processor or a hypervisor that gives up. The machine stops there, and its memory is looked
//! at from outside, before anything is overwritten; then a kernel boots on it, without TrustVisor, and looks through all memory itself.
//! Neither finds S's secret, nor any of what TrustVisor's own data and pool held ([`fingerprints`]).
//!
//! Both find all of it after a TrustVisor that does not wipe.

#[path = "reset/button.rs"]
mod button;
#[path = "reset/fingerprints.rs"]
mod fingerprints;
#[path = "reset/kernels.rs"]
mod kernels;
#[path = "reset/sleep.rs"]
mod sleep;
#[path = "reset/trial.rs"]
mod trial;

use anyhow::{Result, bail, ensure};
use std::sync::LazyLock;
use trial::{Build, Trial, boot};

/// How a way is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The machine resets.
    Reset,
    /// It resets, or nothing happens and TrustVisor goes on.
    ResetOrNothing,
    /// It goes off.
    Off,
}
use End::{Off, Reset, ResetOrNothing};

impl End {
    /// QEMU's word.
    fn reason(self) -> &'static str {
        if self == Off { "guest-shutdown" } else { "guest-reset" }
    }
}

/// A TrustVisor that does not wipe, that leaves its memory to the OS, and with a bug that root can reach.
fn without_wipe() -> Result<&'static Build> {
    static BUILT: LazyLock<Result<Build, String>> = LazyLock::new(|| {
        Build::mutated("forget+npt-reserve+reachable-panic").map_err(|error| format!("{error:#}"))
    });
    BUILT.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// All that is wrong after a way was gone.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, good: bool, what: impl FnOnce() -> String) {
        if !good {
            self.0.push(what());
        }
    }

    fn result(self, way: &str) -> Result<()> {
        ensure!(self.0.is_empty(), "{way}: {}", self.0.join("; "));
        println!("reset: {way}: as it must be");
        Ok(())
    }
}

/// Nothing is left, neither for who looks from outside nor for the next kernel.
fn expect_nothing_left(trial: &Trial, wrong: &mut Wrong) -> Result<()> {
    let found = trial.look()?;
    wrong.unless(found.secret == 0 && found.fingerprints == 0, || format!("memory has {found}"));
    let hits = trial.scan()?;
    wrong.unless(hits == (0, 0), || format!("the next kernel finds {} + {} of them", hits.0, hits.1));
    Ok(())
}

fn nothing_is_left(way: &str, wanted: End) -> Result<()> {
    let trial = Trial::start(way, boot(way)?, &Build::real()?, "")?;
    trial.go()?;
    let mut wrong = Wrong::default();
    match trial.wait_for_end()? {
        None if wanted == ResetOrNothing => return Ok(()),
        None => bail!("{way}: nothing happens"),
        Some((status, reason)) => {
            println!("reset: {way}: {status}, {reason}");
            wrong.unless(reason == wanted.reason(), || format!("the machine's end is {status}, {reason}"));
        }
    }
    expect_nothing_left(&trial, &mut wrong)?;
    wrong.result(way)
}

macro_rules! ways {
    ($($test:ident: $way:literal, $end:ident;)*) => {$(
        #[test]
        fn $test() -> Result<()> {
            nothing_is_left($way, $end)
        }
    )*}
}

ways! {
    reset_by_the_keyboard_controller: "keyboard", Reset;
    reset_by_the_keyboard_controller_s_output_port: "keyboard-port", Reset;
    reset_by_port_92: "port-92", Reset;
    reset_by_cf9: "cf9", Reset;
    reset_by_cf9_of_the_platform: "cf9-full", Reset;
    reset_by_cf9_in_a_word: "cf9-word", Reset;
    reset_by_a_word_that_begins_before_cf9: "cf8-word", ResetOrNothing;
    reset_by_the_acpi_register: "acpi-register", Reset;
    triple_fault: "triple-fault", Reset;
    linux_resets: "linux", Reset;
    linux_resets_by_the_keyboard_controller: "linux-kbd", Reset;
    linux_resets_by_a_triple_fault: "linux-triple", Reset;
    linux_resets_by_the_firmware: "linux-bios", Reset;
    linux_resets_by_cf9: "linux-pci", Reset;
    power_off: "s5", Off;
    power_off_by_the_register: "s5-register", Off;
}

/// Root reaches a panic of the hypervisor.
#[test]
fn a_bug_of_the_hypervisor_leaves_nothing() -> Result<()> {
    let way = "hypervisor-bug";
    let build = Build::mutated("reachable-panic")?;
    let trial = Trial::start(way, boot(way)?, &build, "")?;
    trial.go()?;
    trial.wait_for_bug()?;
    let mut wrong = Wrong::default();
    expect_nothing_left(&trial, &mut wrong)?;
    wrong.result(way)
}

/// One way of each kind: by a port, by the processor's end, by the hypervisor's end, to sleep, off.
#[test]
fn without_the_wipe_everything_is_left() -> Result<()> {
    for way in ["cf9", "triple-fault", "hypervisor-bug", "s3-register", "s5-register"] {
        let build = without_wipe()?;
        let trial = Trial::start(way, boot(&format!("without-wipe-{way}"))?, build, "")?;
        trial.go()?;
        match way {
            "hypervisor-bug" => trial.wait_for_bug()?,
            _ => ensure!(trial.wait_for_end()?.is_some(), "{way}: nothing happens"),
        }
        let found = trial.look()?;
        ensure!(trial.are_all_left(&found), "{way}, without the wipe: {found}");
        let (secret, keys) = trial.scan()?;
        let enough = trial::WORDS as u64;
        ensure!(secret >= enough && keys >= enough / 2, "{way}, without the wipe: {secret} + {keys} hits");
    }
    Ok(())
}
