//! What it costs the OS that its devices' DMA goes by TrustVisor's tables: exits for what they carry, and a disk's throughput beside
//! that on the bare machine, whose Linux keeps the same IOMMU in pass-through.

use std::time::Duration;

use anyhow::{Context, Result};
use machine::load::{MIB, block, exchange};
use machine::{Artifacts, Boot, Guest, Machine, VIRTIO_BY_IOMMU, generic_guest, say};
use tempfile::NamedTempFile;

use super::{Values, median, round};

/// Of each transfer, and how often it is tried: the machines take turns.
const LOAD: u64 = 32;
const ROUNDS: usize = 21;
const LIMIT: Duration = Duration::from_secs(60);
const DISKS: [(&str, &str); 2] = [("virtio", "/dev/vda"), ("ahci", "/dev/sda")];
const NETWORKS: [(&str, &str); 2] = [("virtio", "virtio-net-pci"), ("e1000e", "e1000e")];
/// With TrustVisor Linux finds no IOMMU.
const KERNEL_OPTIONS: &str = "console=ttyS0 loglevel=4 panic=-1 amd_iommu=on iommu=pt";

pub(super) fn run(built: &Artifacts, values: &mut Values) -> Result<()> {
    let guest = generic_guest()?;
    let with = Computer::start(built, &guest, true)?;
    exits(&with.machine, values)?;
    let without = Computer::start(built, &guest, false)?;
    throughput(&with.machine, &without.machine, values)
}

struct Computer {
    machine: Machine,
    _disks: [NamedTempFile; 2],
}

impl Computer {
    fn start(built: &Artifacts, guest: &Guest, there: bool) -> Result<Self> {
        let disks = [disk()?, disk()?];
        let name = if there { "bench-dma" } else { "bench-dma-bare" };
        let mut boot = Boot::new(name, built).guest(guest).with_hypervisor(there);
        boot = boot.kernel_options(KERNEL_OPTIONS).run("serve");
        boot = boot.device_with_disk(disks[0].path(), &format!("virtio-blk-pci,{VIRTIO_BY_IOMMU}"));
        boot = boot.device_with_disk(disks[1].path(), "ide-hd,bus=ide.0");
        for (number, (_, device)) in (0..).zip(NETWORKS) {
            boot = boot.network(number, device);
        }
        let machine = boot.start()?;
        machine.wait_until_ready()?;
        Ok(Self { machine, _disks: disks })
    }
}

fn disk() -> Result<NamedTempFile> {
    let disk = NamedTempFile::new()?;
    let contents: Vec<_> = (0..LOAD).flat_map(block).collect();
    std::fs::write(disk.path(), contents)?;
    disk.as_file().set_len(LOAD * MIB as u64)?;
    Ok(disk)
}

/// Exits for a MiB, both ways.
fn exits(machine: &Machine, values: &mut Values) -> Result<()> {
    say("dma: exits for what devices carry");
    let mut most = |what: &str, name: &str, counts: [u64; 3]| {
        let kinds = [("exits", counts[0]), ("cpuid_exits", counts[1]), ("lapic_exits", counts[2])];
        for (kind, count) in kinds {
            let per_mib = round(count as f64 / (2 * LOAD) as f64);
            values.insert(format!("{kind}_per_{what}_mib_{name}"), per_mib);
            let worst = values.entry(format!("{kind}_per_{what}_mib")).or_insert(0.0);
            *worst = worst.max(per_mib);
        }
    };
    for (name, device) in DISKS {
        let mut counts = [0; 3];
        for way in ["read", "write"] {
            let command = format!("tvtest dma counted disk {way} {device} 0 {LOAD}");
            let some = count(&machine.succeed(&command, LIMIT)?)?;
            counts.iter_mut().zip(some).for_each(|(all, some)| *all += some);
        }
        most("disk", name, counts);
    }
    for (number, (name, _)) in (0..).zip(NETWORKS) {
        most("net", name, count(&exchange(machine, number, LOAD, "counted")?)?);
    }
    Ok(())
}

/// `dma: exits OTHERS CPUID LAPIC`.
fn count(lines: &[String]) -> Result<[u64; 3]> {
    let counts =
        lines.iter().find_map(|line| line.strip_prefix("dma: exits ")).context("nothing is counted")?;
    let counts: Vec<_> = counts.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    counts.try_into().ok().context("three numbers")
}

/// The guest's throughput, as a part of that on the bare machine: the median over pairs of runs, one right after the other, so that what
/// else this machine does meets both alike.
fn throughput(with: &Machine, without: &Machine, values: &mut Values) -> Result<()> {
    for (name, device) in DISKS {
        for way in ["read", "write"] {
            say(format_args!("dma: disk {way}s by {name}, with and without TrustVisor by turns"));
            let time = |machine: &Machine| {
                microseconds(&machine.succeed(&format!("tvtest dma disk {way} {device} 0 {LOAD}"), LIMIT)?)
            };
            let (mut times, mut ratios) = (Vec::new(), Vec::new());
            for number in 0..ROUNDS {
                // Who is first, is the other's turn next time.
                let (ours, bare) = if number % 2 == 0 {
                    (time(with)?, time(without)?)
                } else {
                    let bare = time(without)?;
                    (time(with)?, bare)
                };
                times.push(ours);
                ratios.push(bare / ours);
            }
            let infix = if name == "virtio" { String::new() } else { format!("{name}_") };
            values.insert(format!("disk_{infix}{way}_ratio"), round(median(&mut ratios)));
            values.insert(format!("disk_{infix}{way}_mib_s"), round(LOAD as f64 * 1e6 / median(&mut times)));
        }
    }
    Ok(())
}

/// `dma: disk N us`.
fn microseconds(lines: &[String]) -> Result<f64> {
    let line =
        lines.iter().find_map(|line| line.strip_prefix("dma: disk ")).context("nothing is measured")?;
    Ok(line.trim_end_matches(" us").parse()?)
}
