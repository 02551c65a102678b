//! What devices can be told to do: `tvtest dma DEVICE WHAT ...`, one transfer or message each.
//!
//! A root program does it all by files of Linux: it takes the device from its driver and speaks to its registers itself, so each
//! transfer is the device's own, to or from just the address that was said. Whether it took place is judged from outside, by the
//! machine's memory and its disks (`tests/dma.rs`).

mod ahci;
mod edu;
mod fw_cfg;
mod load;
mod message;
mod page;
mod pci;
mod victim;
mod virtio;

use anyhow::{Context, bail, ensure};
use std::process::ExitCode;

/// The argument that asks for this.
pub const DMA: &str = "dma";

pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<_> = arguments.collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match carry_out(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("dma: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["hold"] => victim::hold(),
        ["fill", base, pages] => victim::fill(number(base)?, number(pages)?),
        ["edu", "read", address, length] => {
            let bytes = edu::Edu::open()?.read(number(address)?, number(length)? as usize)?;
            println!("dma: got {}", crate::support::hex(&bytes));
            Ok(())
        }
        ["edu", "write", address, bytes] => edu::Edu::open()?.write(number(address)?, &self::bytes(bytes)?),
        ["edu", "message", address, data] => message::by_capability(number(address)?, number(data)? as u32),
        ["ahci", "out", base, pages, sector] => {
            ahci::Disk::open()?.take_out(number(base)?, number(pages)?, number(sector)?)
        }
        ["ahci", "in", base, pages, sector] => {
            ahci::Disk::open()?.bring_in(number(base)?, number(pages)?, number(sector)?)
        }
        ["virtio", device, "out", address, sector] => {
            virtio::Disk::open(device)?.take_out(number(address)?, number(sector)?)
        }
        ["virtio", device, "in", address, sector] => {
            virtio::Disk::open(device)?.bring_in(number(address)?, number(sector)?)
        }
        ["fw_cfg", "write", address] => fw_cfg::write(number(address)?),
        ["disk", "write", device, from, mib] => load::write(device, number(from)?, number(mib)?),
        ["disk", "read", device, from, mib] => load::read(device, number(from)?, number(mib)?),
        ["counted", work @ ..] => load::counted(|| carry_out(work)),
        ["net", address, mib] => load::network(address, number(mib)?),
        _ => bail!("unknown: {words:?}"),
    }
}

fn number(word: &str) -> anyhow::Result<u64> {
    let number = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    number.with_context(|| format!("{word:?} is no number"))
}

fn bytes(word: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(word.len().is_multiple_of(2), "half a byte");
    (0..word.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&word[at..at + 2], 16)?)).collect()
}
