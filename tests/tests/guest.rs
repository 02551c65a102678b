//! The guest is an unmodified Linux that cannot tell TrustVisor's presence but by asking for it, and cannot
//! reach what is not its own.

mod shared;

use anyhow::{Result, ensure};
use machine::{Boot, Family, Machine, mutated_hypervisor};
use shared::{Shared, tvtest};
use std::sync::MutexGuard;
use std::time::Duration;
use trustvisor_tests::{SOON, built};

static MACHINE: Shared = Shared::new();

const LIMIT: Duration = Duration::from_secs(120);
/// Linux waits 10 s of its own time for a processor that does not start.
const SECOND_PROCESSOR: Duration = Duration::from_secs(300);

fn machine() -> Result<MutexGuard<'static, Machine>> {
    MACHINE.lend(|| Ok((Boot::new("guest", built()?.as_ref()).limit(Duration::from_secs(600)), ())))
}

#[test]
fn the_example_runs() -> Result<()> {
    let machine = machine()?;
    let lines = machine.succeed("hello", SOON)?;
    for said in ["hello: TrustVisor version 1, reserve 64 MiB", "hello: registered", "hello: add(2, 3) = 5"] {
        ensure!(lines.iter().any(|line| line.starts_with(said)), "no {said:?} in {lines:?}");
    }
    Ok(())
}

#[test]
fn the_reserve_and_svm_are_hidden() -> Result<()> {
    tvtest(&*machine()?, "hidden", LIMIT).map(drop)
}

#[test]
fn a_kernel_and_a_root_get_nothing_of_the_reserve_and_change_nothing() -> Result<()> {
    tvtest(&*machine()?, "reserve localities", LIMIT).map(drop)
}

#[test]
fn svm_instructions_and_registers_fault_as_without_svm() -> Result<()> {
    tvtest(&*machine()?, "privileged x2apic", LIMIT).map(drop)
}

#[test]
fn address_line_20_stays_on() -> Result<()> {
    tvtest(&*machine()?, "a20", LIMIT).map(drop)
}

#[test]
fn the_io_apic_sends_no_init() -> Result<()> {
    tvtest(&*machine()?, "io-apic calls", LIMIT).map(drop)
}

#[test]
fn userland_under_tpm_12() -> Result<()> {
    let machine = Boot::new("guest-tpm-1.2", built()?.as_ref()).tpm(Family::V12).start()?;
    machine.wait_until_ready()?;
    let version = machine.succeed("cat /sys/class/tpm/tpm0/tpm_version_major", SOON)?;
    ensure!(version == ["1"], "Linux sees TPM {version:?}");
    tvtest(&machine, "calls", LIMIT).map(drop)
}

#[test]
fn a_second_processor_is_not_started_and_stays_so() -> Result<()> {
    let boot = Boot::new("guest-smp", built()?.as_ref()).processors(2).limit(SECOND_PROCESSOR);
    let machine = boot.start()?;
    machine.wait_until_ready()?;
    let count = machine.succeed("nproc", SOON)?;
    ensure!(count == ["1"], "Linux has {count:?} processors");
    tvtest(&machine, "ipi messages io-apic calls", LIMIT)?;
    ensure!(machine.resets()? == 0, "the machine was reset");
    Ok(())
}

/// Shows that the tests above see what they look for.
#[test]
fn without_the_traps_the_second_processor_leaves_svm() -> Result<()> {
    let broken = mutated_hypervisor("icr-trap")?;
    let boot = Boot::new("guest-no-icr-trap", built()?.as_ref()).hypervisor(broken).processors(2);
    let machine = boot.kernel_options("console=ttyS0 loglevel=4 panic=-1 maxcpus=1").run("serve").start()?;
    machine.wait_until_ready()?;
    let attacks = [
        ("io-apic", "tvtest: FAILED io-apic: an entry of the I/O APIC is now 0x200"),
        ("ipi", "tvtest: FAILED ipi: the second processor runs the guest's code outside SVM"),
    ];
    for (attack, seen) in attacks {
        let output = machine.command(&format!("tvtest {attack}"), LIMIT)?;
        ensure!(output.lines.iter().any(|line| line == seen), "{:?}", output.lines);
    }
    Ok(())
}

#[test]
fn reboot_works() -> Result<()> {
    let machine = Boot::new("guest-reboot", built()?.as_ref()).reboots(true).start()?;
    machine.wait_until_ready()?;
    machine.send("reboot -f")?;
    machine.wait_until_ready()?;
    let launches = machine.lines().iter().filter(|line| line.starts_with("slb: started")).count();
    ensure!(launches == 2, "{launches} launches for one reboot");
    tvtest(&machine, "calls", LIMIT).map(drop)
}

#[test]
fn without_trustvisor_the_sdk_says_so_and_attacks_succeed() -> Result<()> {
    let boot = Boot::new("guest-bare", built()?.as_ref()).with_hypervisor(false).reboots(true);
    let machine = boot.start()?;
    machine.wait_until_ready()?;
    let output = machine.command("hello", SOON)?;
    ensure!(output.code == 1, "hello exits {}", output.code);
    let said = "Error: TrustVisor is not running on this machine";
    ensure!(output.lines.iter().any(|line| line == said), "{:?}", output.lines);

    let failures = [
        ("localities", "tvtest: FAILED localities: locality 1 can be read at 0x0"),
        ("x2apic", "tvtest: FAILED x2apic: MSR 0x800 can be accessed"),
        ("io-apic", "tvtest: FAILED io-apic: an entry of the I/O APIC is now 0x200"),
    ];
    for (attack, seen) in failures {
        let output = machine.command(&format!("tvtest {attack}"), LIMIT)?;
        ensure!(output.lines.iter().any(|line| line == seen), "{:?}", output.lines);
    }
    // A store into the range of interrupt messages: INIT for every processor, and the firmware runs again (and resets the
    // machine, in more than one way).
    machine.send("tvtest messages")?;
    machine.wait_until_ready()?;
    ensure!(machine.resets()? > 0, "the processor was not reset");
    Ok(())
}
