//! What transfers are aimed at.

use crate::attack::Kernel;
use crate::hold;
use crate::secrecy::Needles;
use crate::support::{Mapping, PAGE, hex, random, register};
use anyhow::ensure;
use trustvisor::Out;

/// Keeps an S with a secret, and says what to look for: the secret's words, masked, and what the micro-TPM keeps for S.
pub fn hold() -> anyhow::Result<()> {
    let s = register()?;
    s.set_secret(random()?)?;
    let mut digests = [0u8; 52];
    for byte in digests.as_chunks_mut::<4>().0 {
        *byte = (random()? as u32).to_le_bytes();
    }
    ensure!(s.pcr_extend(7, &digests)? == 0, "PCR 7 cannot be extended");
    let mut pcr = [0; 52];
    ensure!(s.pcr_read(7, Out(&mut pcr))? == 0, "PCR 7 cannot be read");
    let needles = Needles::of(&s)?;
    let words: String = needles.words.iter().map(|word| format!(" {word:#x}")).collect();
    hold::pool()?;
    println!("dma: PCR {}", hex(&pcr[20..]));
    println!("dma: holds {:#x}{words}", needles.mask);
    hold::wait()?;
    ensure!(s.count()? == 1, "S is not what it was");
    println!("dma: released");
    Ok(())
}

/// Fills memory that Linux does not use, so that there is something to read: each page's words are its address and a constant.
pub fn fill(base: u64, pages: u64) -> anyhow::Result<()> {
    let memory = Mapping::shared(Kernel::open()?.memory(), base, pages as usize)?;
    let bytes = memory.slice();
    for (number, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *word = ((base + number as u64 * 8) | 0x5aa5 << 48).to_le_bytes();
    }
    println!("dma: filled {} MiB", (pages * PAGE as u64) >> 20);
    Ok(())
}
