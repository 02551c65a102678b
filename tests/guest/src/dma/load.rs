//! Ordinary work of ordinary devices: a pattern to a disk and back, and over the network both ways; each side knows the pattern.

use anyhow::{Context, ensure};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use crate::bench::other_exits;
use crate::support::{Mapping, PAGE};
use trustvisor::abi::exit;

#[path = "../../../../qemu-scripts/machine/src/load/pattern.rs"]
mod pattern;
use pattern::{MIB, block};

/// Says how fast.
fn report(what: &str, mib: u64, start: Instant) {
    let ms = start.elapsed().as_millis();
    println!("dma: {what} {mib} MiB in {ms} ms");
}

/// Room for a block in one piece of memory, if Linux has one: a device is told of it once.
struct Buffer {
    memory: Mapping,
    at: usize,
}

const LARGE: usize = 2 * MIB;

impl Buffer {
    fn new() -> anyhow::Result<Self> {
        let memory = Mapping::anonymous(2 * LARGE / PAGE)?;
        memory.advise(libc::MADV_HUGEPAGE)?;
        let at = memory.address().next_multiple_of(LARGE as u64) - memory.address();
        Ok(Self { memory, at: at as usize })
    }

    fn block(&mut self) -> &mut [u8] {
        &mut self.memory.slice()[self.at..self.at + MIB]
    }
}

/// Writes blocks of a MiB past Linux's cache.
pub fn write(device: &str, from: u64, mib: u64) -> anyhow::Result<()> {
    let disk = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(device).context("no disk")?;
    let mut buffer = Buffer::new()?;
    let start = Instant::now();
    let mut spent = Duration::ZERO;
    for number in from..from + mib {
        buffer.block().copy_from_slice(&block(number));
        let start = Instant::now();
        disk.write_all_at(buffer.block(), number * MIB as u64)?;
        spent += start.elapsed();
    }
    disk.sync_all()?;
    report("wrote", mib, start);
    println!("dma: disk {} us", spent.as_micros());
    Ok(())
}

/// Reads and compares blocks of a MiB past Linux's cache.
pub fn read(device: &str, from: u64, mib: u64) -> anyhow::Result<()> {
    let disk = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(device).context("no disk")?;
    let mut buffer = Buffer::new()?;
    let start = Instant::now();
    let mut spent = Duration::ZERO;
    for number in from..from + mib {
        let start = Instant::now();
        disk.read_exact_at(buffer.block(), number * MIB as u64)?;
        spent += start.elapsed();
        ensure!(*buffer.block() == block(number), "block {number} is not what was written");
    }
    report("read", mib, start);
    println!("dma: disk {} us", spent.as_micros());
    Ok(())
}

/// Sends blocks to a server, which compares and sends as many back.
pub fn network(address: &str, mib: u64) -> anyhow::Result<()> {
    let mut server = TcpStream::connect(address).context("no server")?;
    server.set_read_timeout(Some(Duration::from_secs(60)))?;
    let start = Instant::now();
    for number in 0..mib {
        server.write_all(&block(number))?;
    }
    let mut buffer = vec![0; MIB];
    for number in 0..mib {
        server.read_exact(&mut buffer)?;
        ensure!(buffer == block(number), "block {number} is not what was sent");
    }
    report("sent and received", mib, start);
    Ok(())
}

/// Says how many exits something takes: those of processors' own, then those for CPUID and the local APIC.
pub fn counted(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let before = trustvisor::info()?;
    work()?;
    let after = trustvisor::info()?;
    let kind = |kind: usize| after.exits[kind] - before.exits[kind];
    let other = other_exits(&after) - other_exits(&before);
    println!("dma: exits {other} {} {}", kind(exit::CPUID), kind(exit::LAPIC));
    Ok(())
}
