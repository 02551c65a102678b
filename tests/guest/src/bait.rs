//! Real-mode code in low memory that leaves a mark: a processor that starts outside the hypervisor's hands runs it.

use crate::attack::{Kernel, NO_FAULT};
use anyhow::ensure;

/// Physical page that a start-up interrupt would begin at. Linux keeps the first MiB to itself and uses only its end.
const PAGE: u64 = 0x1_0000;
const MARKER: u64 = PAGE + 0x100;
const STARTED: u16 = 0x5654;
/// MOV WORD CS:[0x100], STARTED; HLT; JMP to the HLT.
const CODE: [u8; 16] = [0x2e, 0xc7, 0x06, 0x00, 0x01, 0x54, 0x56, 0xf4, 0xeb, 0xfd, 0, 0, 0, 0, 0, 0];
const PLACES: [u64; 3] = [PAGE, PAGE + 8, MARKER];

/// The code, and what lay there before.
pub struct Bait<'a> {
    kernel: &'a Kernel,
    before: [u64; PLACES.len()],
}

impl<'a> Bait<'a> {
    pub fn lay(kernel: &'a Kernel) -> anyhow::Result<Self> {
        let mut before = [0; PLACES.len()];
        for (word, place) in before.iter_mut().zip(PLACES) {
            *word = kernel.read(place)?;
        }
        let (code, _) = CODE.as_chunks::<8>();
        let words = code.iter().map(|bytes| u64::from_le_bytes(*bytes)).chain([0]);
        for (place, word) in PLACES.into_iter().zip(words) {
            ensure!(kernel.write(place, word)? == NO_FAULT, "no place for the code");
        }
        Ok(Self { kernel, before })
    }

    /// The start-up interrupt's vector that leads here.
    pub fn vector(&self) -> u32 {
        (PAGE >> 12) as u32
    }

    /// Whether a processor has run the code.
    pub fn taken(&self) -> anyhow::Result<bool> {
        Ok(self.kernel.read(MARKER)? as u16 == STARTED)
    }

    pub fn clear(self) -> anyhow::Result<()> {
        for (place, word) in PLACES.into_iter().zip(self.before) {
            self.kernel.write(place, word)?;
        }
        Ok(())
    }
}
