//! Counters from one boot to the next: they count on, an old blob is known, whatever is put back, and no power cut takes anything back
//! that S was told.

use super::{Computer, PAGE, length};
use anyhow::{Context, Result, ensure};
use machine::Machine;
use std::fs;
use std::time::Duration;
use trustvisor_tests::SOON;

/// Times that the power goes.
const CUTS: u32 = 10;

/// The last number after `start`.
fn last(lines: &[String], start: &str) -> Option<u64> {
    lines.iter().rev().find_map(|line| line.strip_prefix(start)?.trim().parse().ok())
}

pub(super) fn counter(machine: &Machine) -> Result<u64> {
    last(&machine.succeed("tvtest counter", SOON)?, "tvtest: counter ").context("no counter")
}

/// What `trustvisor info` says of the counters.
pub(super) fn state(machine: &Machine, expected: &str) -> Result<()> {
    let info = machine.succeed("trustvisor info", SOON)?;
    let told = info.iter().find(|line| line.starts_with("counters: ")).context("no word of the counters")?;
    ensure!(told.contains(expected), "{told:?} instead of {expected:?}");
    Ok(())
}

/// To the disk, and back.
fn to_disk(machine: &Machine, file: &str, page: usize) -> Result<usize> {
    let length = length(machine, file)?;
    let copy = format!("dd if={file} of=/dev/vda bs={PAGE} seek={page} conv=sync 2>/dev/null && sync");
    machine.succeed(&copy, SOON)?;
    Ok(length)
}

fn from_disk(machine: &Machine, length: usize) -> Result<()> {
    machine.succeed(&format!("head -c {length} /dev/vda >/tmp/blob"), SOON).map(drop)
}

#[test]
fn counters_never_go_back() -> Result<()> {
    let mut computer = Computer::new()?;
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    state(&machine, "kept by")?;
    machine.succeed("tvtest counters counters-beside-the-os counters-left keep-version", SOON)?;
    let blob = to_disk(&machine, "/tmp/blob", 0)?;
    machine.succeed("tvtest save-root", SOON)?;
    let root = to_disk(&machine, "/tmp/root", 1)?;
    let counted = counter(&machine)?;
    drop(machine);
    let disk = fs::read(computer.disk())?;
    computer.root = disk[PAGE..][..root].to_vec();

    let machine = computer.start(computer.boot()?, "the saved one, opened")?;
    ensure!(counter(&machine)? == counted, "the counter has changed");
    from_disk(&machine, blob)?;
    machine.succeed("tvtest version-is-current next-version version-is-outdated", SOON)?;
    drop(machine);

    // Everything but the TPM as it was.
    fs::write(computer.disk(), &disk)?;
    let machine = computer.start(computer.boot()?, "the saved one, opened")?;
    from_disk(&machine, blob)?;
    machine.succeed("tvtest version-is-outdated", SOON)?;
    drop(machine);

    let mut told = counted;
    for cut in 0..CUTS {
        let machine = computer.start(computer.boot()?, "the saved one, opened")?;
        let found = counter(&machine)?;
        ensure!((told..=told + 1).contains(&found), "{found} after S was told {told}");
        machine.send("tvtest count-for-ever &")?;
        machine.wait_for(&format!("tvtest: counted {}", found + 2), SOON)?;
        std::thread::sleep(Duration::from_millis(u64::from(cut * 7)));
        machine.switch_off();
        told = last(&machine.lines(), "tvtest: counted ").context("nothing counted")?;
    }

    let machine = computer.start(computer.boot()?, "the saved one, opened")?;
    machine.succeed("tvtest counters-full", SOON)?;
    machine.succeed("! trustvisor root reset /tmp/none && ! trustvisor root reset /bin/busybox", SOON)?;
    machine.succeed(
        "tvtest counter save-root && trustvisor root reset /tmp/root && ! test -e /tmp/root",
        SOON,
    )?;
    drop(machine);
    // The old root does not begin to count anew.
    let machine = computer.start(computer.boot()?, "the saved one, opened")?;
    state(&machine, "were removed")?;
    machine.succeed("tvtest no-counters", SOON)?;
    drop(machine);
    computer.root.clear();
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    state(&machine, "kept by")?;
    ensure!(counter(&machine)? == 0, "the new root has old counters");
    drop(machine);
    // And another's are left alone.
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    state(&machine, "another root's")
}
