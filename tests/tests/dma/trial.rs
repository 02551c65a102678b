//! A machine with devices that a hostile guest commands, and what is seen of it from outside.

use anyhow::{Context, Result, bail, ensure};
use machine::{Boot, Machine, VIRTIO_BY_IOMMU};
use serde_json::json;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tempfile::NamedTempFile;
use trustvisor_tests::{SOON, built};

pub const PAGE: u64 = 4096;
pub const SECTOR: u64 = 512;
/// Pages beside the reserve that Linux leaves alone, on either side.
pub const BESIDE: u64 = 16 * PAGE;
/// For a program that moves all of the reserve.
const LIMIT: Duration = Duration::from_secs(60);
const MEMORY_MIB: u32 = 384;
/// Linux is to leave the IOMMU alone where nobody hides it; the second processor is TrustVisor's.
const KERNEL_OPTIONS: &str = "console=ttyS0 loglevel=4 panic=-1 maxcpus=1 amd_iommu=off";
/// What is on a disk that nothing was written to; the edu device's buffer is filled with the other before a read.
const UNTOUCHED: [u8; 2] = [0xee, 0xe7];

/// What came of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Blocked,
    Done,
}
pub use Outcome::{Blocked, Done};

pub struct Trial {
    pub machine: Machine,
    pub reserve: Range<u64>,
    sata: Disk,
    virtio: Disk,
    direct: Disk,
}

/// A disk's image.
struct Disk(NamedTempFile);

impl Disk {
    fn new(size: u64) -> Result<Self> {
        let disk = Self(NamedTempFile::new()?);
        disk.0.as_file().set_len(size)?;
        Ok(disk)
    }
}

/// Which disk a transfer is by.
#[derive(Clone, Copy)]
pub enum By {
    Ahci,
    Virtio,
    /// Virtio without the platform's DMA.
    VirtioDirect,
}

/// Where the loader puts the reserve of such a machine.
pub fn reserve() -> Result<Range<u64>> {
    let disks = [Disk::new(SECTOR)?, Disk::new(SECTOR)?, Disk::new(SECTOR)?];
    let machine = with_devices(boot("dma-reserve", KERNEL_OPTIONS)?, disks.each_ref()).start()?;
    let line = machine.wait_for("loader: reserve 0x", SOON)?.text;
    let range = line.split_whitespace().nth(2).and_then(|range| range.split_once('-')).context("no range")?;
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x").trim_end_matches(','), 16);
    Ok(number(range.0)?..number(range.1)? + 1)
}

fn boot(name: &str, kernel_options: &str) -> Result<Boot> {
    let boot = Boot::new(name, built()?.as_ref()).memory_mib(MEMORY_MIB).processors(2);
    let boot = boot.kernel_options(kernel_options).run("serve").limit(Duration::from_secs(280));
    Ok(boot.qemu(&["-device", "edu,addr=0x8,dma_mask=0xffffffffffffffff"]))
}

fn with_devices(boot: Boot, [sata, virtio, direct]: [&Disk; 3]) -> Boot {
    boot.device_with_disk(sata.0.path(), "ide-hd,bus=ide.0")
        .device_with_disk(virtio.0.path(), &format!("virtio-blk-pci,addr=0x10,{VIRTIO_BY_IOMMU}"))
        .device_with_disk(direct.0.path(), "virtio-blk-pci,addr=0x11,disable-legacy=on")
}

impl Trial {
    /// Where it would be reset, the machine stops, or boots again.
    pub fn start(name: &str, protected: bool, reserve: &Range<u64>, reboots: bool) -> Result<Self> {
        let size = reserve.end - reserve.start;
        let (sata, virtio, direct) = (Disk::new(size)?, Disk::new(size)?, Disk::new(size)?);
        // Nobody uses the reserve's addresses on the bare machine, either, and nobody the pages beside it.
        let kept = match protected {
            true => [(reserve.start - BESIDE, BESIDE), (reserve.end, BESIDE)].to_vec(),
            false => [(reserve.start - BESIDE, size + 2 * BESIDE)].to_vec(),
        };
        let kept: String = kept.iter().map(|(base, size)| format!(" memmap={size:#x}${base:#x}")).collect();
        let boot =
            boot(name, &format!("{KERNEL_OPTIONS}{kept}"))?.with_hypervisor(protected).reboots(reboots);
        let boot = boot.qemu(if reboots { &[] } else { &["-no-shutdown"] });
        let machine = with_devices(boot, [&sata, &virtio, &direct]).start()?;
        let trial = Self { machine, reserve: reserve.clone(), sata, virtio, direct };
        trial.machine.wait_until_ready()?;
        if protected {
            let line = format!("runtime: reserve {:#x}-{:#x}", reserve.start, reserve.end);
            ensure!(trial.machine.lines().iter().any(|l| l.starts_with(&line)), "not {line:?}");
        } else {
            trial.ask(&format!("fill {:#x} {}", reserve.start, size / PAGE))?;
        }
        Ok(trial)
    }

    /// Has the guest's program do something with a device.
    pub fn ask(&self, what: &str) -> Result<Vec<String>> {
        self.machine.succeed(&format!("tvtest dma {what}"), LIMIT)
    }

    /// The machine's physical memory, or registers.
    pub fn dump(&self, base: u64, length: u64) -> Result<Vec<u8>> {
        self.machine.memory_dump(base, length)
    }

    pub fn monitor(&self, line: &str) -> Result<String> {
        let answer =
            self.machine.monitor_command("human-monitor-command", json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// What the edu device reads.
    pub fn edu_read(&self, address: u64, length: usize) -> Result<Vec<u8>> {
        let lines = self.ask(&format!("edu read {address:#x} {length}"))?;
        let digits = lines.iter().find_map(|line| line.strip_prefix("dma: got ")).context("nothing read")?;
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16);
        Ok((0..2 * length).step_by(2).map(byte).collect::<Result<_, _>>()?)
    }

    pub fn edu_write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.ask(&format!("edu write {address:#x} {digits}")).map(drop)
    }

    pub fn disk(&self, by: By) -> &File {
        match by {
            By::Ahci => &self.sata,
            By::Virtio => &self.virtio,
            By::VirtioDirect => &self.direct,
        }
        .0
        .as_file()
    }

    /// A sector's worth of memory by a disk's transfer: out to its first sector, or in from there.
    pub fn disk_transfer(&self, by: By, way: &str, address: u64) -> Result<()> {
        self.ask(&match by {
            By::Ahci => format!("ahci {way} {address:#x} 1 0"),
            By::Virtio => format!("virtio 0000:00:10.0 {way} {address:#x} 0"),
            By::VirtioDirect => format!("virtio 0000:00:11.0 {way} {address:#x} 0"),
        })
        .map(drop)
    }

    /// Makes the disk a blank one.
    pub fn blank(&self, by: By, length: u64) -> Result<()> {
        Ok(self.disk(by).write_all_at(&vec![UNTOUCHED[0]; length as usize], 0)?)
    }
}

/// Whether a device shows nothing at all: zeros, or what was there before.
pub fn shows_nothing(bytes: &[u8]) -> bool {
    [0, UNTOUCHED[0], UNTOUCHED[1]].iter().any(|nothing| bytes.iter().all(|byte| byte == nothing))
}

/// What a device read, beside what there is to be read. What changes by itself need not be the same in all bytes.
pub fn judge_read(there: &[u8], got: &[u8]) -> Result<Outcome> {
    ensure!(!shows_nothing(there), "there is nothing to be read");
    let same = there.iter().zip(got).filter(|(a, b)| a == b && **a != 0).count();
    let all = there.iter().filter(|byte| **byte != 0).count();
    match (shows_nothing(got), 2 * same >= all) {
        (true, _) => Ok(Blocked),
        (false, true) => Ok(Done),
        _ => bail!("the device reads {got:x?} where there is {there:x?}"),
    }
}

/// What is in memory after a write, beside what was written and what was there.
pub fn judge_write(before: &[u8], written: &[u8], after: &[u8]) -> Result<Outcome> {
    match after {
        _ if after == written => Ok(Done),
        _ if after == before => Ok(Blocked),
        _ => bail!("after a write of {written:x?} over {before:x?} there is {after:x?}"),
    }
}
