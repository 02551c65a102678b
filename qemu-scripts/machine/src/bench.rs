//! `bench`: what TrustVisor costs.
//!
//! `guest` compares boots with and without it in one run, by wall clock, and counts the exits of a guest that is up.
//! `pal` and `utpm` count instructions: under `-icount shift=0` the guest's TSC advances by one an instruction, so its values are exact.
//! `dma` counts exits for what devices carry, and compares a disk's throughput with the bare machine's.
//! `apache` compares a web server's keys in the full guest's own time.
//! The guest's program `tvtest` measures inside the guest and prints `bench NAME VALUE`.

mod apache;
mod dma;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::{Artifacts, Boot, Machine, say};

use crate::suites::cargo;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure (all by default)
    #[arg(value_enum)]
    benches: Vec<Bench>,
    /// Write the values as one flat JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Bench {
    /// The cost to the OS
    Guest,
    /// The cost of a PAL
    Pal,
    /// The cost of the micro-TPM
    Utpm,
    /// The cost to the OS's devices
    Dma,
    /// The cost of a key in a token to a web server
    Apache,
}

const ALL: [Bench; 5] = [Bench::Guest, Bench::Pal, Bench::Utpm, Bench::Dma, Bench::Apache];
const LIMIT: Duration = Duration::from_secs(240);
/// Boots of each kind; a shared machine is noisy.
const BOOTS: usize = 5;

/// What both `tvtest,bench-speedup` and `tests/benches/utpm.rs` measure, and of how many bytes.
const NATIVE: [&str; 4] = ["extend", "seal", "unseal", "getrandom"];
const SIZE: usize = 32;

/// To compare `utpm_*_instructions` with; not measured here.
const TPM: [(&str, &str); 2] = [("Unseal", "about 900 ms"), ("Quote", "about 973 ms")];
/// To compare `pal_call_null_instructions` with; not measured here.
const CALLS: [(&str, &str); 2] =
    [("a call into an SGX enclave and back", "8,200-17,000"), ("VMRUN and #VMEXIT under KVM", "about 1,350")];

type Values = BTreeMap<String, f64>;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let built = machine::artifacts()?;
    let benches = if arguments.benches.is_empty() { &ALL[..] } else { &arguments.benches };
    let mut values = Values::new();
    for bench in benches {
        match bench {
            Bench::Guest => guest(&built, &mut values)?,
            Bench::Pal => count("bench-pal", &built, &mut values)?,
            Bench::Utpm => utpm(&built, &mut values)?,
            Bench::Dma => dma::run(&built, &mut values)?,
            Bench::Apache => apache::run(&built, &mut values)?,
        }
    }
    let width = values.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in &values {
        println!("{name:width$}  {value:>14}");
    }
    let published = |bench: Bench, unit: &str, figures: &[(&str, &str)]| {
        for (what, figure) in figures.iter().filter(|_| benches.contains(&bench)) {
            println!("published for others, {unit}: {what}: {figure}");
        }
    };
    published(Bench::Pal, "in cycles of hardware", &CALLS);
    if benches.contains(&Bench::Utpm) {
        println!(
            "utpm_*_speedup: S runs at the emulator's speed here, swtpm (in the place of the hardware TPM) at the host's"
        );
        println!(
            "utpm_*_native_*: the crate alone (no S, no call of TrustVisor) at the host's speed, beside the same hardware_ms, in which the \
             guest's driver is emulated"
        );
    }
    published(Bench::Utpm, "time of a hardware TPM 1.2 (Flicker, 2008)", &TPM);
    if let Some(file) = &arguments.json {
        let json = serde_json::to_vec_pretty(&values)?;
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn guest(built: &Artifacts, values: &mut Values) -> Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 1..=BOOTS {
        say(format_args!("guest: boots with and without TrustVisor, {round} of {BOOTS}"));
        for (there, times) in [(true, &mut with), (false, &mut without)] {
            let boot = Boot::new("bench-boot", built).with_hypervisor(there).run("true");
            times.push(boot_time(&boot.start()?, KERNEL)?.as_secs_f64());
        }
    }
    let (with, without) = (median(&mut with), median(&mut without));
    values.insert("boot_wall_s".into(), round(with));
    values.insert("boot_wall_bare_s".into(), round(without));
    values.insert("boot_wall_ratio".into(), round(with / without));
    say("guest: exits of a guest that is up (seconds are the guest's)");
    measure(Boot::new("bench-guest", built).qemu(&ICOUNT).run("tvtest,bench-guest"), values)
}

const ICOUNT: [&str; 2] = ["-icount", "shift=0,sleep=off"];

fn count(name: &str, built: &Artifacts, values: &mut Values) -> Result<()> {
    say(format_args!("{name}: instructions, counted"));
    measure(Boot::new(name, built).qemu(&ICOUNT).run(&format!("tvtest,{name}")), values)
}

/// With an RSA key, which was made in an earlier boot.
fn utpm(built: &Artifacts, values: &mut Values) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let boot = |name| Boot::new(name, built).tpm_state(&folder.path().join("tpm"));
    say("bench-utpm: making the identity keys");
    let machine = boot("bench-utpm-keys").limit(LIMIT).start()?;
    machine.wait_until_ready()?;
    let root = machine.succeed("trustvisor root save /tmp/root && xxd -p /tmp/root", LIMIT)?.concat();
    let digits = root.trim().as_bytes().as_chunks::<2>().0;
    let root: Result<Vec<u8>> =
        digits.iter().map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect();
    drop(machine);
    let root = root?;
    say("bench-utpm: instructions, counted");
    measure(boot("bench-utpm").root(root.clone()).qemu(&ICOUNT).run("tvtest,bench-utpm"), values)?;
    say("bench-utpm: the same work by the hardware TPM (swtpm), by wall clock");
    measure(boot("bench-speedup").root(root.clone()).run("tvtest,bench-speedup"), values)?;
    native(values)?;
    let (mut opened, mut new) = (Vec::new(), Vec::new());
    for round in 1..=BOOTS {
        say(format_args!("bench-utpm: boots with a saved root and without, {round} of {BOOTS}"));
        let saved = boot("bench-opened-root").root(root.clone());
        for (boot, times) in [(saved, &mut opened), (Boot::new("bench-new-root", built), &mut new)] {
            times.push(boot_time(&boot.run("true").start()?, LOADER)?.as_secs_f64());
        }
    }
    let (opened, new) = (median(&mut opened), median(&mut new));
    values.insert("boot_wall_opened_root_s".into(), round(opened));
    values.insert("boot_wall_new_root_s".into(), round(new));
    values.insert("boot_wall_root_ratio".into(), round(opened / new));
    Ok(())
}

/// The crate `utpm` on the host's processor, beside the hardware TPM that was measured before.
fn native(values: &mut Values) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let only = format!("^({})/utpm/{SIZE}$", NATIVE.join("|"));
    let home = folder.path().to_str().context("no UTF-8")?.to_owned();
    let bench = ["bench", "-q", "-p", "trustvisor-tests", "--bench", "utpm", "--", &only];
    cargo("bench-utpm: the crate on the host", &bench, &[("CRITERION_HOME", home)])?;
    for name in NATIVE {
        let file = folder.path().join(format!("{name}/utpm/{SIZE}/new/estimates.json"));
        let json = std::fs::read(&file).with_context(|| format!("{name} is not measured"))?;
        let estimates: serde_json::Value = serde_json::from_slice(&json)?;
        let us = estimates["median"]["point_estimate"].as_f64().context("no median")? / 1000.0;
        let hardware = values.get(&format!("utpm_{name}_hardware_ms")).context("no hardware TPM")? * 1000.0;
        values.insert(format!("utpm_{name}_native_us"), round(us));
        values.insert(format!("utpm_{name}_native_speedup"), round(hardware / us));
    }
    Ok(())
}

fn measure(boot: Boot, values: &mut Values) -> Result<()> {
    let machine = boot.limit(LIMIT).start()?;
    let exit = machine.wait_for("guest: exit ", LIMIT)?;
    ensure!(
        exit.text.ends_with("guest: exit 0"),
        "the measuring program failed: {} (log: {})",
        exit.text,
        machine.log().display()
    );
    let found: Vec<_> = machine.lines().iter().filter_map(|l| parse(l)).collect();
    ensure!(!found.is_empty(), "nothing was measured (log: {})", machine.log().display());
    values.extend(found);
    Ok(())
}

/// First lines: the kernel's, and the loader's, which the launch follows. (GRUB's own last act takes seconds and is none of either's.)
const KERNEL: &str = "] Linux version ";
const LOADER: &str = "loader: kernel at ";

/// From a line to the first of the guest's userland.
fn boot_time(machine: &Machine, first: &str) -> Result<Duration> {
    let limit = Duration::from_secs(120);
    let start = machine.wait_for(first, limit)?;
    let end = machine.wait_for("guest: userland", limit)?;
    Ok(end.at - start.at)
}

fn parse(line: &str) -> Option<(String, f64)> {
    let mut words = line.strip_prefix("bench ")?.split_whitespace();
    Some((words.next()?.into(), words.next()?.parse().ok()?))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_prints() {
        assert_eq!(parse("bench pal_call_exits 2"), Some(("pal_call_exits".into(), 2.0)));
        assert_eq!(parse("bench x"), None);
        assert_eq!(parse("guest: exit 0"), None);
    }

    #[test]
    fn the_middle_one() {
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
