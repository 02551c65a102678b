//! The TPM's registers in memory (TCG PC Client TIS 1.3, 5.1: FED4_0000, a page for each locality).

use super::tis::Registers;

/// Where the registers are, physically.
pub const BASE: u64 = 0xfed4_0000;
/// Bytes of all five localities.
const SIZE: u64 = 0x5000;

/// The registers, mapped.
pub struct Mmio(*mut u8);

impl Mmio {
    /// # Safety
    /// `base` must be where [`BASE`] and the 20 KiB from there are mapped read-write for as long as the value lives.
    pub unsafe fn new(base: *mut u8) -> Self {
        Self(base)
    }

    fn at(&self, offset: u16) -> *mut u8 {
        self.0.wrapping_add(usize::from(offset) % SIZE as usize)
    }
}

impl Registers for Mmio {
    fn read8(&mut self, offset: u16) -> u8 {
        // SAFETY: mapped, as `new` demands, and `at` stays inside; device registers are no Rust memory.
        unsafe { self.at(offset).read_volatile() }
    }

    fn write8(&mut self, offset: u16, value: u8) {
        // SAFETY: as in `read8`.
        unsafe { self.at(offset).write_volatile(value) }
    }

    fn read32(&mut self, offset: u16) -> u32 {
        // SAFETY: as in `read8`; masked, the four bytes are aligned and stay in their page.
        unsafe { self.at(offset & !3).cast::<u32>().read_volatile() }
    }
}
