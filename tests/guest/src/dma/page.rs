//! A page of this program that devices can use: it stays where it is.

use super::pci::Registers;
use crate::support::{Mapping, PAGE, system};
use anyhow::ensure;
use std::fs::File;
use std::os::unix::fs::FileExt;

pub struct Page {
    pub memory: Mapping,
    pub physical: u64,
}

/// Linux, Documentation/admin-guide/mm/pagemap.rst.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

impl Page {
    pub fn new() -> anyhow::Result<Self> {
        let memory = Mapping::anonymous(1)?;
        memory.fill(&[0; PAGE]);
        // SAFETY: a page of ours.
        system("mlock", unsafe { libc::mlock(memory.address() as *const _, PAGE) })?;
        let mut entry = [0; 8];
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, memory.address() / PAGE as u64 * 8)?;
        let entry = u64::from_le_bytes(entry);
        ensure!(entry & PRESENT != 0 && entry & FRAME != 0, "no physical address (not root?)");
        Ok(Self { memory, physical: (entry & FRAME) * PAGE as u64 })
    }

    pub fn put(&self, offset: usize, bytes: &[u8]) {
        bytes.iter().enumerate().for_each(|(at, byte)| self.memory.write(offset + at, *byte));
    }

    pub fn get16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.memory.read(offset), self.memory.read(offset + 1)])
    }
}

/// Writes an address to a pair of 32-bit registers.
pub fn write_address(registers: &Registers, low: u64, address: u64) {
    registers.write32(low, address as u32);
    registers.write32(low + 4, (address >> 32) as u32);
}
