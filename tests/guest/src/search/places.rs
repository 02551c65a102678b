//! Where root can look.

use super::{PIECE, Sink};
use crate::attack::Kernel;
use crate::reserve::memory_map;
use crate::support::{Mapping, PAGE};
use anyhow::{Context, ensure};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;

/// All RAM, the first MiB, and TrustVisor's reserve if there is one.
pub fn physical_memory(sink: &mut Sink) -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    let mut ranges = vec![(0, 1 << 20)];
    if let Ok(info) = trustvisor::info() {
        ranges.push((info.reserve_base, info.reserve_base + info.reserve_size));
    }
    for range in memory_map()?.iter().filter(|r| r.top && r.name == "System RAM" && r.end > 1 << 20) {
        ranges.push((range.start.max(1 << 20).next_multiple_of(PAGE as u64), range.end & !0xfff));
    }
    for (start, end) in ranges {
        for address in (start..end).step_by(PIECE) {
            let length = (PIECE as u64).min(end - address) as usize;
            let memory = Mapping::shared(kernel.memory(), address, length / PAGE)
                .with_context(|| format!("physical address {address:#x}"))?;
            sink(address, &memory.copy());
        }
    }
    Ok(())
}

/// The memory of every process but this one.
pub fn processes(sink: &mut Sink) -> anyhow::Result<()> {
    let mut searched = 0;
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid != std::process::id() {
            // A process may end at any time.
            searched += u32::from(process(pid, sink).is_ok());
        }
    }
    ensure!(searched > 1, "{searched} processes could be read");
    Ok(())
}

fn process(pid: u32, sink: &mut Sink) -> anyhow::Result<()> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut piece = vec![0; PIECE];
    for line in maps.lines() {
        let (range, _) = line.split_once(' ').with_context(|| format!("maps: {line:?}"))?;
        let (start, end) = range.split_once('-').with_context(|| format!("maps: {line:?}"))?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        for address in (start..end).step_by(PIECE) {
            let piece = &mut piece[..(PIECE as u64).min(end - address) as usize];
            // The kernel's own pages are no memory that could be read.
            let Ok(count) = memory.read_at(piece, address) else { break };
            sink(address, &piece[..count]);
        }
    }
    Ok(())
}

/// A whole disk.
pub fn disk(device: &str, sink: &mut Sink) -> anyhow::Result<()> {
    let mut disk = File::open(device).with_context(|| device.to_owned())?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let count = disk.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        sink(at, &piece[..count]);
        at += count as u64;
    }
}
