//! A TPM that fails while TrustVisor is launched: without a root, if that is all that fails; not at all, if it does not measure. Always in
//! bounded time, and with one line that says why.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use machine::{Boot, Family, Fault, Machine, Misbehaviour};
use trustvisor_tests::{SOON, built, expect_refusal, pcr_in_guest};

use super::Computer;
use super::counters::{counter, state};

/// Command codes (TPM 2.0 Library part 2, 6.5.2).
const NV_DEFINE_SPACE: u32 = 0x12a;
const CREATE_PRIMARY: u32 = 0x131;
const NV_WRITE: u32 = 0x137;
const CERTIFY_CREATION: u32 = 0x14a;
const NV_READ: u32 = 0x14e;
const CREATE: u32 = 0x153;
const LOAD: u32 = 0x157;
const UNSEAL: u32 = 0x15e;
const GET_RANDOM: u32 = 0x17b;
const PCR_EXTEND: u32 = 0x182;
/// TPM_ORD_PcrRead (TPM Main 1.2 part 2, 17).
const PCR_READ_1_2: u32 = 0x15;
/// Response codes (6.6.3), and TPM_DOING_SELFTEST of 1.2 (16).
const FAILURE: u32 = 0x101;
const LOCKOUT: u32 = 0x921;
const RETRY: u32 = 0x922;
const DOING_SELF_TEST: u32 = 0x802;
/// The code of an answer that is noise.
const NOISE: u32 = 0x22de_9a56;

fn fault(command: u32, how: Misbehaviour) -> Fault {
    Fault { commands: vec![command], after: 0, how: vec![how] }
}

/// Boots to the guest's shell without a root; says why. S runs, and the guest has its TPM and the launch's measurements.
fn launches_without_a_root(computer: &Computer, fault: Fault, why: &str) -> Result<()> {
    let (start, told) = (Instant::now(), format!("{fault:?}"));
    let machine = computer.start(computer.boot()?.tpm_fault(fault), "NONE, nothing can be sealed")?;
    let lines = machine.lines();
    let said: Vec<_> = lines.iter().filter(|line| line.contains("no root: ")).collect();
    ensure!(
        matches!(said[..], [line] if line.ends_with(&format!("no root: {why}"))),
        "{told}: {said:?} instead of {why:?}"
    );
    measured(&machine)?;
    machine.succeed("tvtest calls", SOON)?;
    ensure!(machine.command("tvtest save-root", SOON)?.code != 0, "{told}: there is a root to save");
    println!("{told}: {why}, after {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

pub(super) fn measured(machine: &Machine) -> Result<()> {
    let info = machine.succeed("trustvisor info", SOON)?;
    for register in [17, 18] {
        let pcr = pcr_in_guest(machine, "sha256", register)?;
        ensure!(info.contains(&format!("PCR {register} sha256 {pcr}")), "PCR {register} is {pcr}: {info:?}");
    }
    let pcr = pcr_in_guest(machine, "sha256", 19)?;
    ensure!(pcr.bytes().any(|digit| digit != b'0'), "PCR 19 is still zero");
    Ok(())
}

#[test]
fn a_root_that_cannot_be_made_stops_nobody() -> Result<()> {
    let computer = Computer::new()?;
    for (command, how, why) in [
        (GET_RANDOM, Misbehaviour::Code(FAILURE), "the TPM answers with error 0x101"),
        (CREATE_PRIMARY, Misbehaviour::Code(RETRY), "the TPM answers with error 0x922"),
        (CREATE, Misbehaviour::Length(4000), "the TPM's answer makes no sense (size)"),
        (CREATE, Misbehaviour::Silence, "the TPM takes too long (answer)"),
    ] {
        launches_without_a_root(&computer, fault(command, how), why)?;
    }
    Ok(())
}

/// The saved root is as good as before once the TPM is.
#[test]
fn a_root_that_cannot_be_opened_stops_nobody_and_is_not_replaced() -> Result<()> {
    let mut computer = Computer::new()?;
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    computer.save_root(&machine)?;
    drop(machine);
    let noise = format!("the TPM answers with error {NOISE:#x}");
    for (command, how, why) in [
        (LOAD, Misbehaviour::Code(LOCKOUT), "the TPM answers with error 0x921"),
        (CERTIFY_CREATION, Misbehaviour::Noise, &noise),
        (UNSEAL, Misbehaviour::Length(20), "the TPM's answer makes no sense (too short)"),
    ] {
        launches_without_a_root(&computer, fault(command, how), why)?;
    }
    let late = Fault {
        commands: vec![CREATE_PRIMARY, LOAD, UNSEAL],
        after: 0,
        how: vec![Misbehaviour::Late(Duration::from_millis(1_500))],
    };
    let machine = computer.start(computer.boot()?.tpm_fault(late), "the saved one, opened")?;
    measured(&machine)
}

/// Boots to the guest's shell with a root in this state, but without counters; says why. All else is there.
fn launches_without_counters(computer: &Computer, root: &str, fault: Fault, why: &str) -> Result<Machine> {
    let (start, told) = (Instant::now(), format!("{fault:?}"));
    let machine = computer.start(computer.boot()?.tpm_fault(fault), root)?;
    let lines = machine.lines();
    let said: Vec<_> = lines.iter().filter(|line| line.contains("no counters: ")).collect();
    ensure!(
        matches!(said[..], [line] if line.ends_with(&format!("no counters: {why}"))),
        "{told}: {said:?} instead of {why:?}"
    );
    state(&machine, "NONE: the hardware TPM fails")?;
    measured(&machine)?;
    machine.succeed("tvtest no-counters calls sealed", SOON)?;
    println!("{told}: {why}, after {:.1} s", start.elapsed().as_secs_f32());
    Ok(machine)
}

/// Their root is none the worse for it, and what they counted is still there once the TPM is.
#[test]
fn counters_that_cannot_be_had_stop_nobody_and_are_not_replaced() -> Result<()> {
    let mut computer = Computer::new()?;
    let new = "none was handed in";
    let retry = fault(NV_DEFINE_SPACE, Misbehaviour::Code(RETRY));
    launches_without_counters(&computer, new, retry, "the TPM answers with error 0x922")?;
    let machine = computer.start(computer.boot()?, new)?;
    machine.succeed("tvtest counters", SOON)?;
    let counted = counter(&machine)?;
    computer.save_root(&machine)?;
    drop(machine);

    let opened = "the saved one, opened";
    for (command, how, why) in [
        (NV_READ, Misbehaviour::Noise, &*format!("the TPM answers with error {NOISE:#x}")),
        (NV_WRITE, Misbehaviour::Silence, "the TPM takes too long (answer)"),
    ] {
        launches_without_counters(&computer, opened, fault(command, how), why)?;
    }

    // The launch writes once; what comes then is S's. The third fault and the fourth let the TPM keep what they say it does not.
    let increments = Fault {
        commands: vec![NV_WRITE],
        after: 1,
        how: vec![
            Misbehaviour::Code(RETRY),
            Misbehaviour::Code(FAILURE),
            Misbehaviour::Noise,
            Misbehaviour::Length(4000),
            Misbehaviour::Silence,
            Misbehaviour::Recovery,
        ],
    };
    let machine = computer.start(computer.boot()?.tpm_fault(increments), opened)?;
    ensure!(counter(&machine)? == counted, "the counter has changed");
    machine.succeed("tvtest counters-not-kept calls", SOON)?;
    ensure!(counter(&machine)? == counted + 2, "two increments are kept");
    measured(&machine)?;
    computer.save_root(&machine)?;
    drop(machine);
    let machine = computer.start(computer.boot()?, opened)?;
    ensure!(counter(&machine)? == counted + 2, "the counter has changed");
    Ok(())
}

/// What is not measured is not started.
#[test]
fn a_launch_that_cannot_be_measured_is_refused() -> Result<()> {
    let tried = |family, fault: Fault, who: &str, why: &str| -> Result<()> {
        let (start, told) = (Instant::now(), format!("TPM {family}, {fault:?}"));
        let boot = Boot::new("tpm-fault", built()?.as_ref()).tpm(family).tpm_fault(fault);
        expect_refusal(boot, who, why).with_context(|| told.clone())?;
        println!("{told}: {who}: {why}, after {:.1} s", start.elapsed().as_secs_f32());
        Ok(())
    };
    let error = "the TPM answers with error 0x101";
    tried(Family::V20, fault(PCR_EXTEND, Misbehaviour::Code(FAILURE)), "slb", error)?;
    // PCR 17 and 18 are extended by the SLB: the third is PCR 19.
    let third = Fault { after: 2, ..fault(PCR_EXTEND, Misbehaviour::Code(FAILURE)) };
    tried(Family::V20, third, "runtime", &format!("the TPM fails: {error}"))?;
    let all = Fault { commands: vec![], after: 0, how: vec![Misbehaviour::Noise] };
    tried(Family::V20, all, "slb", &format!("the TPM answers with error {NOISE:#x}"))?;
    let busy = fault(PCR_READ_1_2, Misbehaviour::Code(DOING_SELF_TEST));
    tried(Family::V12, busy, "slb", "the TPM answers with error 0x802")
}

/// It dies at the root, and with it goes PCR 19.
#[test]
fn a_tpm_that_dies_ends_the_launch_in_bounded_time() -> Result<()> {
    let boot = Boot::new("tpm-dies", built()?.as_ref()).tpm_fault(fault(CREATE, Misbehaviour::Death));
    let machine = boot.start()?;
    machine.wait_for("no root: the TPM takes too long", SOON)?;
    machine.wait_for("runtime: refused: the TPM fails: the TPM takes too long", SOON)?;
    machine.wait_for("runtime: stopped", SOON).map(drop)
}
