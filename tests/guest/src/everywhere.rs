//! Looks for words in all physical memory, from its beginning to `MEMORY` MiB, whatever the memory map says of it; `NEEDLES` is a mask
//! and the words, masked, in hexadecimal with commas between. For the kernel that comes after TrustVisor, or after another kernel.

use crate::attack::{Kernel, NEEDLES, Scan};
use anyhow::{Context, ensure};
use std::env::var;

/// A piece is short enough for the kernel to be interrupted between two.
const PIECE: u64 = 16 << 20;

pub fn run() -> anyhow::Result<()> {
    let end = var("MEMORY").context("MEMORY")?.parse::<u64>()? << 20;
    let (mask, needles) = parse(&var("NEEDLES").context("NEEDLES")?)?;
    let kernel = Kernel::open()?;
    let (mut hits, mut first) = (0, 0);
    for start in (0..end).step_by(PIECE as usize) {
        let length = PIECE.min(end - start);
        let found = kernel.ask(Scan { start, length, mask, needles, ..Default::default() })?;
        ensure!(found.words * 8 == length, "the kernel read {} words at {start:#x}", found.words);
        if hits == 0 {
            first = found.first_hit;
        }
        hits += found.hits;
    }
    println!("tvtest: everywhere: {hits} hits, the first at {first:#x}, in {end:#x} bytes");
    Ok(())
}

/// A mask and words.
pub fn parse(list: &str) -> anyhow::Result<(u64, [u64; NEEDLES])> {
    let numbers = list.split(',').map(|word| u64::from_str_radix(word, 16)).collect::<Result<Vec<_>, _>>()?;
    let (mask, words) = numbers.split_first().context("no mask")?;
    Ok((*mask, words.try_into()?))
}
