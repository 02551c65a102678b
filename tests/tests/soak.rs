//! PALs that live and die at random while the guest swaps: `TRUSTVISOR_SOAK` of them (500 by default), some at a time, by `tvtest soak` in
//! the guest. Afterwards the pool is as large as before, all zero when looked at from outside, and the guest goes on.

use anyhow::{Context, Result, ensure};
use machine::Boot;
use std::time::Duration;
use trustvisor_tests::{SOON, built};

const CYCLES: u64 = 500;
/// So little that the guest swaps; the reserve is taken from it.
const MEMORY_MIB: u32 = 320;
const SWAP_SIZE: u64 = 512 << 20;
/// What a life takes at most on average, and what comes once.
const EACH: Duration = Duration::from_secs(2);
const ONCE: Duration = Duration::from_secs(300);

/// A number from the environment.
fn setting(name: &str) -> Result<Option<u64>> {
    let Ok(value) = std::env::var(name) else { return Ok(None) };
    Ok(Some(value.parse().with_context(|| format!("{name} is no number"))?))
}

#[test]
fn lives_and_deaths_at_random_leave_nothing() -> Result<()> {
    let cycles = setting("TRUSTVISOR_SOAK")?.unwrap_or(CYCLES);
    let limit = ONCE + EACH * u32::try_from(cycles)?;
    let disk = tempfile::NamedTempFile::new()?;
    disk.as_file().set_len(SWAP_SIZE)?;
    let boot = Boot::new("soak", built()?.as_ref()).memory_mib(MEMORY_MIB).disk(disk.path()).limit(limit);
    let machine = boot.start()?;
    machine.wait_until_ready()?;
    machine.succeed("mkswap /dev/vda && swapon /dev/vda", SOON)?;

    let seed = setting("TRUSTVISOR_SOAK_SEED")?.map(|seed| format!("SEED={seed} ")).unwrap_or_default();
    let lines = machine.succeed(&format!("CYCLES={cycles} {seed}tvtest soak"), limit)?;
    lines.iter().for_each(|line| println!("{line}"));
    ensure!(lines.iter().any(|line| line == "tvtest: ok soak"), "no word of success");

    let lines = machine.succeed("tvtest pool", SOON)?;
    let line = lines.iter().find_map(|line| line.strip_prefix("tvtest: pool ")).context("no pool")?;
    let numbers = line.split_whitespace().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    let [base, size] = numbers[..] else { anyhow::bail!("the pool is {numbers:x?}") };
    let dump = machine.memory_dump(base, size)?;
    let left = dump.iter().position(|byte| *byte != 0);
    ensure!(left.is_none(), "byte {:#x} of the pool is not zero", left.unwrap_or_default());

    ensure!(machine.resets()? == 0, "the machine was reset");
    machine.succeed("hello", SOON)?;
    machine.succeed("tvtest calls registers deaths", SOON).map(drop)
}
