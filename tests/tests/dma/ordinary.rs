//! Ordinary devices at work: Debian's own drivers move a pattern to disks, to the network, and back.

use anyhow::{Context, Result, ensure};
use machine::load::{MIB, block, exchange};
use machine::{Boot, generic_guest};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use tempfile::NamedTempFile;
use trustvisor_tests::built;

/// What each moves, each way.
const LOAD: u64 = 16;
const LIMIT: Duration = Duration::from_secs(100);
/// What a device is called in Linux, and in QEMU.
const DISKS: [(&str, &str); 3] = [
    ("/dev/vda", "virtio-blk-pci,iommu_platform=on,disable-legacy=on"),
    ("/dev/sda", "ide-hd,bus=ide.0"),
    ("/dev/nvme0n1", "nvme,serial=1"),
];
const NETWORKS: [&str; 3] = ["e1000", "e1000e", "virtio-net-pci"];

#[test]
fn ordinary_devices_work_under_load() -> Result<()> {
    let _held = crate::machines();
    let mut disks = Vec::new();
    let guest = generic_guest()?;
    let mut boot = Boot::new("dma-ordinary", built()?.as_ref()).guest(&guest).limit(Duration::from_secs(250));
    for (name, device) in DISKS {
        let disk = NamedTempFile::new()?;
        disk.as_file().set_len(2 * LOAD * MIB as u64)?;
        for number in LOAD..2 * LOAD {
            disk.as_file().write_all_at(&block(number), number * MIB as u64)?;
        }
        boot = boot.device_with_disk(disk.path(), device);
        disks.push((name, disk));
    }
    for (number, name) in (0..).zip(NETWORKS) {
        boot = boot.network(number, name);
    }
    let machine = boot.start()?;
    machine.wait_until_ready()?;
    for (name, disk) in &disks {
        for work in [format!("write {name} 0"), format!("read {name} {LOAD}")] {
            show(name, &machine.succeed(&format!("tvtest dma disk {work} {LOAD}"), LIMIT)?);
        }
        let mut written = vec![0; MIB];
        for number in 0..LOAD {
            disk.as_file().read_exact_at(&mut written, number * MIB as u64)?;
            ensure!(written == block(number), "{name}: block {number} on the disk is not what was written");
        }
    }
    for (number, name) in (0..).zip(NETWORKS) {
        let said = exchange(&machine, number, LOAD, "").with_context(|| name.to_owned())?;
        show(name, &said);
    }
    Ok(())
}

fn show(what: &str, said: &[String]) {
    for line in said.iter().filter(|line| line.starts_with("dma: ")) {
        println!("{what}: {line}");
    }
}
