//! The attacks. Each is carried out with the same addresses where TrustVisor is and where nobody is, puts back what it has changed,
//! and says what came of it.

use crate::places::{IOMMU, Place, READ, WRITE};
use crate::trial::{Blocked, By, Done, Outcome, PAGE, SECTOR, Trial, judge_read, judge_write, shows_nothing};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::FileExt;
use trustvisor_tests::SOON;

type CarryOut = dyn Fn(&Trial) -> Result<Outcome>;

pub struct Attack {
    pub name: String,
    pub carry_out: Box<CarryOut>,
}

fn attack(name: impl Into<String>, carry_out: impl Fn(&Trial) -> Result<Outcome> + 'static) -> Attack {
    Attack { name: name.into(), carry_out: Box::new(carry_out) }
}

/// In this order: what would end the machine is last.
pub fn all(places: &[Place]) -> Vec<Attack> {
    let mut all = Vec::new();
    for place in places.iter().filter(|place| place.shows) {
        let Place { name, read, .. } = *place;
        all.push(attack(format!("edu reads {name}"), move |trial| edu_reads(trial, read)));
    }
    for Place { name, write, .. } in places.iter().cloned() {
        all.push(attack(format!("edu writes {name}"), move |trial| edu_writes(trial, write)));
    }
    let s = places[0].write & !(SECTOR - 1);
    for (name, by) in [("AHCI", By::Ahci), ("virtio", By::Virtio)] {
        all.push(attack(format!("{name} reads S's memory"), move |trial| disk_reads(trial, by, s)));
        all.push(attack(format!("{name} writes S's memory"), move |trial| disk_writes(trial, by, s)));
    }
    all.push(attack("fw_cfg writes S's memory", move |trial| fw_cfg_writes(trial, s)));
    all.push(attack("AHCI reads every page of the reserve", sweep_out));
    all.push(attack("edu reads the IOMMU's registers", |trial| edu_reads_registers(trial, IOMMU + 0x30, 8)));
    all.push(attack("edu writes the IOMMU's registers", iommu_register));
    for locality in 1..=3 {
        let at = TPM + 0x1000 * locality;
        let reads = move |trial: &Trial| edu_reads_registers(trial, at, 4);
        all.push(attack(format!("edu reads the TPM's locality {locality}"), reads));
        all.push(attack(format!("edu requests the TPM's locality {locality}"), move |trial| {
            request(trial, at)
        }));
    }
    all.push(attack("edu reads configuration space", |trial| edu_reads_registers(trial, CONFIG, 4)));
    all.push(attack("edu opens SMM's memory by configuration space", configuration));
    all.push(attack("edu writes INIT into the I/O APIC", |trial| io_apic(trial, 5)));
    all.push(attack("edu writes SMI into the I/O APIC", |trial| io_apic(trial, 2)));
    for (name, how) in MESSAGES {
        all.push(attack(format!("edu sends SMI {name}"), move |trial| smi(trial, how)));
    }
    all.push(attack("AHCI writes every page of the reserve", sweep_in));
    all
}

fn edu_reads(trial: &Trial, address: u64) -> Result<Outcome> {
    let there = trial.dump(address, READ)?;
    judge_read(&there, &trial.edu_read(address, READ as usize)?)
}

/// 16 bytes that are nowhere else.
fn marker() -> Vec<u8> {
    let random = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
    [random().to_le_bytes(), random().to_le_bytes()].concat()
}

fn edu_writes(trial: &Trial, address: u64) -> Result<Outcome> {
    let before = trial.dump(address, WRITE)?;
    let marker = marker();
    trial.edu_write(address, &marker)?;
    let outcome = judge_write(&before, &marker, &trial.dump(address, WRITE)?)?;
    if outcome == Done {
        trial.edu_write(address, &before)?;
    }
    Ok(outcome)
}

pub fn disk_reads(trial: &Trial, by: By, address: u64) -> Result<Outcome> {
    trial.blank(by, SECTOR)?;
    let there = trial.dump(address, SECTOR)?;
    trial.disk_transfer(by, "out", address)?;
    let mut got = vec![0; SECTOR as usize];
    trial.disk(by).read_exact_at(&mut got, 0)?;
    judge_read(&there, &got)
}

pub fn disk_writes(trial: &Trial, by: By, address: u64) -> Result<Outcome> {
    let before = trial.dump(address, SECTOR)?;
    let marker = marker().repeat(SECTOR as usize / 16);
    trial.disk(by).write_all_at(&marker, 0)?;
    trial.disk_transfer(by, "in", address)?;
    let outcome = judge_write(&before, &marker, &trial.dump(address, SECTOR)?)?;
    if outcome == Done {
        trial.disk(by).write_all_at(&before, 0)?;
        trial.disk_transfer(by, "in", address)?;
    }
    Ok(outcome)
}

/// What QEMU has for firmware goes past every IOMMU.
fn fw_cfg_writes(trial: &Trial, address: u64) -> Result<Outcome> {
    let before = trial.dump(address, 4)?;
    trial.ask(&format!("fw_cfg write {address:#x}"))?;
    let outcome = judge_write(&before, b"QEMU", &trial.dump(address, 4)?)?;
    if outcome == Done {
        trial.edu_write(address, &before)?;
    }
    Ok(outcome)
}

fn pages(trial: &Trial) -> u64 {
    (trial.reserve.end - trial.reserve.start) / PAGE
}

/// Each page to the disk.
fn sweep_out(trial: &Trial) -> Result<Outcome> {
    let pages = pages(trial);
    trial.blank(By::Ahci, pages * PAGE)?;
    let lines = trial.ask(&format!("ahci out {:#x} {pages} 0", trial.reserve.start))?;
    ensure!(lines.iter().any(|line| line == "dma: done"), "{lines:?}");
    let mut got = vec![0; (pages * PAGE) as usize];
    trial.disk(By::Ahci).read_exact_at(&mut got, 0)?;
    let shown = got.chunks(PAGE as usize).filter(|page| !shows_nothing(page)).count();
    println!("dma: {shown} of {pages} pages are on the disk");
    Ok(if shown == 0 { Blocked } else { Done })
}

/// A sector of the disk to the beginning of each page. Where nothing prevents it, this may be the end of the machine.
fn sweep_in(trial: &Trial) -> Result<Outcome> {
    let pages = pages(trial);
    let marker = marker().repeat(SECTOR as usize / 16);
    trial.disk(By::Ahci).write_all_at(&marker.repeat(pages as usize), 0)?;
    let before = trial.dump(trial.reserve.start, pages * PAGE)?;
    let done = trial.ask(&format!("ahci in {:#x} {pages} 0", trial.reserve.start));
    let after = trial.dump(trial.reserve.start, pages * PAGE)?;
    let marked = after.chunks(PAGE as usize).filter(|page| page.starts_with(&marker[..16])).count();
    let pairs = before.chunks(PAGE as usize).zip(after.chunks(PAGE as usize));
    let changed = pairs.filter(|(before, after)| before != after).count();
    println!("dma: {marked} of {pages} pages are overwritten, {changed} have changed");
    if marked == 0 {
        done.context("the guest's program")?;
    }
    Ok(if marked == 0 { Blocked } else { Done })
}

/// AMD I/O virtualization specification, 3.4: the exclusion range's limit.
const EXCLUSION_LIMIT: u64 = IOMMU + 0x28;
/// TCG PC Client TIS 1.3, 5.2: the access register of locality 1.
const TPM: u64 = 0xfed4_0000;
const REQUEST_USE: u8 = 1 << 1;
const ACTIVE: u8 = 1 << 5;
/// 82Q35 data sheet, 5.1: where firmware puts configuration space, and the host bridge's SMRAM.
const CONFIG: u64 = 0xb000_0000;
const SMRAM: u64 = CONFIG + 0x9d;
const SMRAM_OPEN: u8 = 1 << 6;
/// 82093AA data sheet, 3.1 and 3.2.4: the last entry is no device's.
const IO_APIC_SELECT: u64 = 0xfec0_0000;
const IO_APIC_WINDOW: u64 = 0xfec0_0010;
const LAST_ENTRY: u8 = 0x10 + 2 * 23;
const MASKED: u32 = 1 << 16;
/// PCI 3.0, 6.8; AMD APM vol. 2, 16.5: a message to the first processor, and its type.
const FIRST: u64 = 0xfee0_0000;
const SMI: u32 = 2 << 8;
const NMI: u32 = 4 << 8;
const INIT: u32 = 5 << 8;
const ASSERT: u32 = 1 << 14;

/// How the guest's program is asked to have a message sent: as a transfer, or as the device's interrupt.
pub type How = fn(u64, u32) -> String;
pub const MESSAGES: [(&str, How); 2] = [("by a write", by_write), ("by its interrupt", by_interrupt)];

fn by_write(address: u64, kind: u32) -> String {
    let data: String = (kind | ASSERT).to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("edu write {address:#x} {data}")
}

fn by_interrupt(address: u64, kind: u32) -> String {
    format!("edu message {address:#x} {:#x}", kind | ASSERT)
}

fn edu_reads_registers(trial: &Trial, address: u64, length: usize) -> Result<Outcome> {
    judge_read(&trial.dump(address, length as u64)?, &trial.edu_read(address, length)?)
}

fn iommu_register(trial: &Trial) -> Result<Outcome> {
    let before = trial.dump(EXCLUSION_LIMIT, 8)?;
    trial.edu_write(EXCLUSION_LIMIT, &0x1234_5000u64.to_le_bytes())?;
    let after = trial.dump(EXCLUSION_LIMIT, 8)?;
    if after == before {
        return Ok(Blocked);
    }
    trial.edu_write(EXCLUSION_LIMIT, &before)?;
    Ok(Done)
}

fn request(trial: &Trial, locality: u64) -> Result<Outcome> {
    let taken = || Ok::<_, anyhow::Error>(trial.dump(locality, 1)?[0] & (REQUEST_USE | ACTIVE) != 0);
    ensure!(!taken()?, "the locality is in use");
    trial.edu_write(locality, &[REQUEST_USE])?;
    if !taken()? {
        return Ok(Blocked);
    }
    trial.edu_write(locality, &[ACTIVE])?;
    Ok(Done)
}

fn configuration(trial: &Trial) -> Result<Outcome> {
    let before = trial.dump(SMRAM, 1)?;
    trial.edu_write(SMRAM, &[before[0] ^ SMRAM_OPEN])?;
    if trial.dump(SMRAM, 1)? == before {
        return Ok(Blocked);
    }
    trial.edu_write(SMRAM, &before)?;
    Ok(Done)
}

/// An entry that would send this type of interrupt, but for its mask.
fn io_apic(trial: &Trial, kind: u32) -> Result<Outcome> {
    let entry = (MASKED | kind << 8).to_le_bytes();
    trial.edu_write(IO_APIC_SELECT, &[LAST_ENTRY, 0, 0, 0])?;
    trial.edu_write(IO_APIC_WINDOW, &entry)?;
    if trial.dump(IO_APIC_WINDOW, 4)? != entry {
        return Ok(Blocked);
    }
    trial.edu_write(IO_APIC_WINDOW, &MASKED.to_le_bytes())?;
    Ok(Done)
}

/// Harmless to S: not an attack.
pub fn nmi(trial: &Trial, how: How) -> Result<Outcome> {
    let count =
        || Ok::<_, anyhow::Error>(trial.machine.succeed("grep NMI: /proc/interrupts", SOON)?.concat());
    let before = count()?;
    trial.ask(&how(FIRST, NMI))?;
    Ok(if count()? == before { Blocked } else { Done })
}

/// The firmware's handler does nothing that could be seen: QEMU logs whether it is entered.
fn smi(trial: &Trial, how: How) -> Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("int");
    trial.monitor(&format!("logfile {}", log.display()))?;
    trial.monitor("log int")?;
    let sent = trial.ask(&how(FIRST, SMI));
    trial.monitor("log none")?;
    sent?;
    let log = fs::read(&log).context("QEMU logs nothing")?;
    ensure!(!log.is_empty(), "QEMU's log is empty");
    let entered = String::from_utf8_lossy(&log).contains("SMM: enter");
    Ok(if entered { Done } else { Blocked })
}

/// INIT for the processor that the guest runs on (QEMU holds it back from one that waits in HLT, and sends no start-up by messages). Where nothing prevents it, the firmware starts again.
pub fn init(trial: &Trial, how: How) -> Result<Outcome> {
    let machine = &trial.machine;
    let (resets, lines) = (machine.resets()?, machine.lines().len());
    machine.send(&format!("tvtest dma {}; sleep 1; echo dma: goes on", how(FIRST, INIT)))?;
    let deadline = std::time::Instant::now() + SOON;
    loop {
        let goes_on = machine.lines()[lines..].iter().any(|line| line == "dma: goes on");
        let again = machine.lines()[lines..].iter().any(|line| line == "guest: ready");
        match (goes_on, again || machine.resets()? > resets) {
            (true, false) => return Ok(Blocked),
            (_, true) => {
                machine.wait_until_ready()?;
                return Ok(Done);
            }
            _ => ensure!(
                std::time::Instant::now() < deadline,
                "neither goes the guest on, nor is it ready again"
            ),
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
