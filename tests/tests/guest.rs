//! The guest is an unmodified Linux that cannot tell TrustVisor's presence but by asking for it, and cannot
//! reach what is not its own.

mod shared;
#[path = "guest/tutorial.rs"]
mod tutorial;

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
fn the_example_in_c_runs() -> Result<()> {
    let lines = machine()?.succeed("c-hello", SOON)?;
    for said in ["c-hello: add(2, 3) = 5", "c-hello: evidence of", "c-hello: ok"] {
        ensure!(lines.iter().any(|line| line.starts_with(said)), "no {said:?} in {lines:?}");
    }
    Ok(())
}

#[test]
fn passwords_are_checked_and_the_file_tells_nothing() -> Result<()> {
    let machine = machine()?;
    let says = |command: &str, code: i32, said: &str| -> Result<()> {
        let output = machine.command(command, SOON)?;
        let found = output.lines.iter().any(|line| line.contains(said));
        ensure!(output.code == code && found, "{command}: exits {}, {:?}", output.code, output.lines);
        Ok(())
    };
    says("echo sesame | password /tmp/users enroll alice", 0, "alice is enrolled")?;
    says("echo open | password /tmp/users enroll bob", 0, "bob is enrolled")?;
    says("echo sesame | password /tmp/users check alice", 0, "password: right")?;
    says("echo open | password /tmp/users check bob", 0, "password: right")?;
    says("echo open | password /tmp/users check alice", 1, "the password is wrong")?;
    says("echo open | password /tmp/users check carol", 1, "there is no such user")?;
    // A record under another name is none.
    machine.succeed("sed -i s/bob/carol/ /tmp/users", SOON)?;
    says("echo open | password /tmp/users check carol", 1, "the record is not this user's")
}

#[test]
fn the_command_calls_s_and_prints_what_others_can_read() -> Result<()> {
    let machine = machine()?;
    let lines = machine.succeed("trustvisor call /lib/pal/hello-pal 0 2 3", SOON)?;
    ensure!(lines == ["returned 5 (0x5)"], "{lines:?}");
    let lines = machine.succeed("trustvisor call /lib/pal/hello-pal 1 text:AB", SOON)?;
    ensure!(lines == ["returned 131 (0x83)"], "{lines:?}");
    let output = machine.command("trustvisor call /lib/pal/hello-pal 0 text:AB", SOON)?;
    let said = "Error: entry 0 takes an integer, an integer";
    ensure!(output.code == 1 && output.lines.iter().any(|line| line == said), "{:?}", output.lines);
    let json = |command: &str| -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&machine.succeed(command, SOON)?.join("\n"))?)
    };
    let answer = json("trustvisor --json call /lib/pal/hello-pal 3 out:32")?;
    ensure!(answer["returned"] == 32, "{answer}");
    ensure!(answer["buffers"][0].as_str().is_some_and(|bytes| bytes.len() == 64), "{answer}");
    let info = json("trustvisor info --json")?;
    ensure!(info["version"] == 1 && info["dynamic_launch"] == true && info["tpm"] == "2.0", "{info}");
    let measured = json("trustvisor measure /lib/pal/hello-pal --json")?;
    ensure!(measured["sha256"].as_str().is_some_and(|digest| digest.len() == 64), "{measured}");
    ensure!(json("trustvisor collect --json")?["freed"].is_u64(), "no number");
    let nonce = "0123456789abcdef".repeat(4);
    machine.succeed(&format!("trustvisor quote /lib/pal/hello-pal 0 2 3 --nonce {nonce} -o /tmp/e"), SOON)?;
    let evidence = json("cat /tmp/e")?;
    ensure!(evidence["call"]["nonce"] == nonce, "{evidence}");
    let script = machine.succeed("trustvisor completions bash | grep -c eventlog", SOON)?;
    ensure!(script != ["0"], "no completions");
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
