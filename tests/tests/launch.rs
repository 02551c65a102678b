//! From GRUB to the runtime: what is measured, what is not, and what is refused. Predictions come from the build alone,
//! observations from the running machine: from Linux, which reads the TPM itself, wherever the machine gets that far.

use anyhow::{Context, Result, ensure};
use hypervisor::launch::{HANDOVER_OFFSET, Handover, INFO_OFFSET, SLB_SIZE};
use machine::{Boot, Family, Machine, Multiboot, Pcr, predict};
use trustvisor_tests::{SOON, built, expect_refusal, pcr_in_guest};

const OPTIONS: &str = "console=com1";

/// The line in which the SLB says what it has read back.
fn pcr_line(register: u32, pcr: &Pcr) -> String {
    format!("slb: PCR {register} sha1 {}", pcr.sha1())
}

/// Bytes of the SLB that are measured.
fn measured_length(hypervisor: &[u8]) -> usize {
    u16::from_le_bytes([hypervisor[2], hypervisor[3]]).into()
}

fn expect_pcrs_in_guest(machine: &Machine, banks: &[&str], expected: [(u32, &Pcr); 2]) -> Result<()> {
    for (register, pcr) in expected {
        for bank in banks {
            let expected = if *bank == "sha1" { pcr.sha1() } else { pcr.sha256() };
            let found = pcr_in_guest(machine, bank, register)?;
            ensure!(found == expected, "PCR {register} {bank}: predicted {expected}, found {found}");
        }
    }
    Ok(())
}

#[test]
fn tpm_2_holds_the_predicted_values_by_multiboot_2() -> Result<()> {
    let built = built()?;
    let machine = Boot::new("launch-2.0", &built).multiboot(Multiboot::Two).tpm(Family::V20).start()?;
    let pcrs = &built.pcrs;
    machine.wait_for(&pcr_line(17, &pcrs.pcr17), SOON)?;
    machine.wait_for(&pcr_line(18, &pcrs.pcr18), SOON)?;
    machine.wait_until_ready()?;
    expect_pcrs_in_guest(&machine, &["sha1", "sha256"], [(17, &pcrs.pcr17), (18, &pcrs.pcr18)])?;
    let info = machine.succeed("trustvisor info", SOON)?;
    ensure!(info.iter().any(|l| l == "dynamic launch: yes"), "{info:?}");
    ensure!(info.iter().any(|l| *l == format!("PCR 17 sha256 {}", pcrs.pcr17.sha256())), "{info:?}");
    Ok(())
}

#[test]
fn tpm_12_holds_the_predicted_values_by_multiboot_1() -> Result<()> {
    let built = built()?;
    let machine = Boot::new("launch-1.2", &built).multiboot(Multiboot::One).tpm(Family::V12).start()?;
    machine.wait_until_ready()?;
    let pcrs = &built.pcrs;
    expect_pcrs_in_guest(&machine, &["sha1"], [(17, &pcrs.pcr17), (18, &pcrs.pcr18)])
}

#[test]
fn another_console_and_reserve_change_no_pcr() -> Result<()> {
    let built = built()?;
    let options = "reserve=96M console=com2 log=debug";
    let machine = Boot::new("launch-console", &built).options(options).start()?;
    machine.wait_until_ready()?;
    let said: Vec<_> = machine.lines().into_iter().filter(|l| l.starts_with("slb: ")).collect();
    ensure!(said.is_empty(), "console=com2 leaves COM1 alone: {said:?}");
    let pcrs = &built.pcrs;
    expect_pcrs_in_guest(&machine, &["sha1", "sha256"], [(17, &pcrs.pcr17), (18, &pcrs.pcr18)])
}

#[test]
fn without_an_iommu_somebody_must_say_so_and_pcr_18_tells() -> Result<()> {
    let built = built()?;
    let boot = |name| Boot::new(name, &built).iommu(false);
    let nothing =
        "nothing keeps devices out: no IOMMU (it may be off in the firmware), no DEV, and no dma=unprotected";
    expect_refusal(boot("launch-no-iommu"), "slb", nothing)?;
    let unprotected = "dma=unprotected console=com1";
    let machine = boot("launch-unprotected").options(unprotected).start()?;
    machine.wait_for("slb: warning: dma=unprotected: devices can read and change", SOON)?;
    machine.wait_until_ready()?;
    let info = machine.succeed("trustvisor info", SOON)?;
    ensure!(info.iter().any(|l| l == "protected from devices: NO"), "{info:?}");
    let pcrs = predict(&built.hypervisor, unprotected)?;
    ensure!(pcrs.pcr18 != built.pcrs.pcr18);
    expect_pcrs_in_guest(&machine, &["sha1", "sha256"], [(17, &pcrs.pcr17), (18, &pcrs.pcr18)])
}

/// Its stack grows down towards what it hands on, and nothing would stop it there.
#[test]
fn the_slb_has_stack_enough() -> Result<()> {
    let machine = Boot::new("launch-stack", built()?.as_ref()).start()?;
    machine.wait_until_ready()?;
    let line = machine
        .lines()
        .into_iter()
        .find_map(|line| Some(line.split_once("slb: started at 0x")?.1.to_owned()));
    let base = line.context("no SLB")?;
    let base = u64::from_str_radix(base.split(',').next().context("no address")?, 16)?;
    let lowest = HANDOVER_OFFSET + size_of::<Handover>() as u64;
    let stack = machine.memory_dump(base + lowest, SLB_SIZE - lowest)?;
    let unused = stack.iter().position(|byte| *byte != 0).context("no stack")?;
    println!("launch: the SLB used {} bytes of stack, {unused} are left", stack.len() - unused);
    ensure!(unused >= 1024, "{unused} bytes of {} are left", stack.len());
    Ok(())
}

/// It is TrustVisor's: the guest finds neither the firmware's list nor its registers, and its configuration is read-only.
#[test]
fn the_guest_has_no_iommu() -> Result<()> {
    let machine = Boot::new("launch-iommu", built()?.as_ref()).start()?;
    machine.wait_for("slb: no device reaches this memory any more", SOON)?;
    machine.wait_until_ready()?;
    let info = machine.succeed("trustvisor info", SOON)?;
    ensure!(info.iter().any(|l| l == "protected from devices: yes"), "{info:?}");
    let tables = machine.succeed("ls /sys/firmware/acpi/tables", SOON)?;
    ensure!(tables.iter().any(|l| l.contains("APIC")), "{tables:?}");
    ensure!(!tables.iter().any(|l| l.contains("IVRS")), "{tables:?}");
    Ok(())
}

#[test]
fn one_byte_of_the_runtime_is_another_pcr_17() -> Result<()> {
    let built = built()?;
    let mut changed = built.hypervisor.clone();
    *changed.last_mut().context("an empty hypervisor")? ^= 1;
    expect_other_pcr_17("launch-runtime-changed", changed)
}

#[test]
fn one_byte_of_the_slb_is_another_pcr_17() -> Result<()> {
    let built = built()?;
    let mut changed = built.hypervisor.clone();
    let measured = &mut changed[..measured_length(&built.hypervisor)];
    // A letter of a text, so that the SLB still does its work.
    let text = b"refused: ";
    let at = measured.windows(text.len()).rposition(|w| w == text).context("the SLB cannot refuse")?;
    measured[at] ^= b'r' ^ b'R';
    expect_other_pcr_17("launch-slb-changed", changed)
}

fn expect_other_pcr_17(name: &str, changed: Vec<u8>) -> Result<()> {
    let built = built()?;
    let predicted = predict(&changed, OPTIONS)?.pcr17;
    ensure!(predicted != built.pcrs.pcr17);
    let machine = Boot::new(name, &built).hypervisor(changed).start()?;
    machine.wait_for(&pcr_line(17, &predicted), SOON)?;
    Ok(())
}

/// Memory the CPU has not measured, as a hostile loader leaves it: the SLB must not be the worse for it.
#[test]
fn garbage_above_the_measured_part_does_not_reach_the_slb() -> Result<()> {
    const GARBAGE: u8 = 0xa5;
    let built = built()?;
    let length = measured_length(&built.hypervisor) as u64;
    let garbage = vec![GARBAGE; (SLB_SIZE - length) as usize];
    let machine = Boot::new("launch-garbage", &built).tamper(length, garbage).start()?;
    let skinit = machine.wait_for("machine: SKINIT: SLB at 0x", SOON)?.text;
    machine.wait_for(&pcr_line(17, &built.pcrs.pcr17), SOON)?;
    machine.wait_until_ready()?;
    let base = skinit.split("0x").nth(1).and_then(|rest| rest.split(',').next()).context("no base")?;
    let base = u64::from_str_radix(base, 16)?;
    let above = machine.memory_dump(base + length, SLB_SIZE - length)?;
    ensure!(!above.windows(16).any(|w| w == [GARBAGE; 16]), "garbage is left above the measured part");
    Ok(())
}

#[test]
fn the_slb_refuses_a_record_that_is_not_the_loader_s() -> Result<()> {
    let boot = Boot::new("launch-record", built()?.as_ref()).tamper(INFO_OFFSET, b"TVOTHER!".into());
    expect_refusal(boot, "slb", "the loader's record is wrong (magic)")
}

#[test]
fn without_skinit_pcr_17_shows_no_dynamic_launch() -> Result<()> {
    let built = built()?;
    let machine = Boot::new("launch-no-skinit", &built).skinit(false).start()?;
    machine.wait_for("slb: no dynamic launch: ", SOON)?;
    let runtime = &built.hypervisor[SLB_SIZE as usize..];
    let never_reset = Pcr(abi::Digests { sha1: [0xff; 20], sha256: [0xff; 32] });
    let expected = never_reset.extend(runtime);
    ensure!(expected != built.pcrs.pcr17);
    machine.wait_until_ready()?;
    let pcr_18 = pcr_in_guest(&machine, "sha256", 18)?;
    ensure!(pcr_18 != built.pcrs.pcr18.sha256(), "PCR 18 shows a dynamic launch");
    let pcr_17 = pcr_in_guest(&machine, "sha256", 17)?;
    ensure!(pcr_17 == expected.sha256(), "PCR 17 is {pcr_17}");
    let info = machine.succeed("trustvisor info", SOON)?;
    ensure!(info.iter().any(|l| l == "dynamic launch: NO"), "{info:?}");
    Ok(())
}

#[test]
fn tpm_none_launches_without_a_tpm_and_says_so() -> Result<()> {
    let built = built()?;
    let boot = Boot::new("launch-no-tpm", &built).tpm(None).options("tpm=none");
    let machine = boot.start()?;
    machine.wait_for("slb: warning: tpm=none: nothing is measured", SOON)?;
    machine.wait_until_ready()?;
    let info = machine.succeed("trustvisor info", SOON)?;
    ensure!(info.iter().any(|l| l == "TPM: none"), "{info:?}");
    Ok(())
}

/// The CPU has put the SLB into PCR 17: with nothing measured after it, whatever came next could make itself look like TrustVisor.
#[test]
fn tpm_none_with_a_tpm_is_refused() -> Result<()> {
    let reason = "tpm=none is for machines without a TPM, and here is one";
    for family in [Family::V20, Family::V12] {
        let boot = Boot::new("launch-hidden-tpm", built()?.as_ref()).tpm(family);
        expect_refusal(boot.options("tpm=none"), "slb", reason)?;
    }
    Ok(())
}

/// PCR 17 is worth as much as somebody else's ability to build the same bytes.
#[test]
fn a_build_in_another_folder_gives_the_same_bytes() -> Result<()> {
    let built = built()?;
    let folder = tempfile::tempdir()?;
    let other = machine::hypervisor_elsewhere(folder.path())?;
    let differences = other.iter().zip(&built.hypervisor).filter(|(a, b)| a != b).count();
    ensure!(other.len() == built.hypervisor.len() && differences == 0, "{differences} bytes differ");
    Ok(())
}

#[test]
fn refusals_of_the_machine() -> Result<()> {
    let built = built()?;
    let boot = |name| Boot::new(name, &built);
    expect_refusal(
        boot("refuse-long-mode").cpu("EPYC,-lm"),
        "loader",
        "this processor has no long mode (64 bits)",
    )?;
    expect_refusal(boot("refuse-svm").cpu("EPYC,-svm"), "loader", "this processor has no SVM")?;
    expect_refusal(
        boot("refuse-npt").cpu("EPYC,-npt"),
        "loader",
        "this processor has no nested paging (NPT)",
    )?;
    expect_refusal(
        boot("refuse-no-tpm").tpm(None),
        "loader",
        "no TPM found (tpm=none goes without one: no attestation)",
    )?;
    expect_refusal(
        boot("refuse-memory").memory_mib(64),
        "loader",
        "no room for a reserve of 64 MiB below 4 GiB (reserve= sets its size)",
    )
}

#[test]
fn refusals_of_modules() -> Result<()> {
    let built = built()?;
    let boot = |name| Boot::new(name, &built);
    expect_refusal(
        boot("refuse-no-modules").modules(Vec::clear),
        "loader",
        "module 1 is missing: the hypervisor image",
    )?;
    expect_refusal(
        boot("refuse-no-kernel").modules(|m| m.truncate(1)),
        "loader",
        "module 2 is missing: the kernel",
    )?;
    expect_refusal(
        boot("refuse-truncated").modules(|m| m[0].bytes.truncate(SLB_SIZE as usize + 100)),
        "loader",
        "the TrustVisor image is truncated",
    )?;
    expect_refusal(
        boot("refuse-not-ours").modules(|m| m.swap(0, 1)),
        "loader",
        "module 1 is not a TrustVisor image",
    )
}

#[test]
fn refusals_of_options() -> Result<()> {
    let built = built()?;
    let boot = |options| Boot::new("refuse-options", &built).options(options);
    expect_refusal(boot("tpm=none colour=red"), "loader", "unknown option colour=red")
}
