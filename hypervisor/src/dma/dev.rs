//! The Device Exclusion Vector (DEV) of AMD's northbridges from before there was an IOMMU (AMD APM vol. 2, 15.24): a bitmap in memory, a
//! bit a page, says what devices must not touch. Every northbridge looks at what comes from its own links, so all are programmed, and
//! all alike.
//!
//! # What is closed
//! Pages whose bit is 1, to every device: all domains have the same bitmap, and no device is assigned to another than domain 0. The
//! bitmap is of the smallest size, for 4 GiB, where the reserve lies; what is above (nothing of TrustVisor's) stays open, else no
//! device could use the guest's memory there. Devices' accesses to I/O ports are refused, to configuration space they always are
//! (15.24.3). The GART is turned off: the northbridge translates *after* this check (15.24.3), by a table in the guest's memory, and
//! translates the processors' accesses as well. The guest cannot undo any of it: the function is a host bridge ([`crate::pci`]).
//!
//! # Order of a launch
//! SKINIT protects its block of 64 KiB by SL_DEV (15.24.8), until [`Dev::release_skinit`]. A bitmap has 128 KiB, and into one that is
//! made elsewhere a device could write. But the bits of what is to be closed first are few:
//! 1. The SLB, before it reads anything outside of the block, makes a bitmap that begins where its bits for the start of the reserve lie
//!    in the block ([`window`]). They become 1, nobody else can change them, and [`Dev::protect`] makes them count. They close the
//!    block, and with it themselves, as well: SL_DEV is released on every node, so that nothing depends on whether the bitmap counts
//!    beside it (the BKDG can be read so that it does not), and on whether it lets the northbridge read the block. The other bits are
//!    whatever is in memory around: they can shut other pages off, which fails a device's access, and open nothing.
//! 2. The runtime makes the true bitmap in what this one closes. `protect` again, on every node: the base is one register and both
//!    bitmaps close the start of the reserve, which is never open between. From then on the whole reserve is closed, and only from then on
//!    anything is put above its start, or the block used for something else.
//!
//! Relies on the northbridges being where they can only be, and on the bitmap's being written by processors alone (the northbridge asks
//! their caches: 15.24.2). Families 15h and 16h have kept SL_DEV and no more of it. What was refused stands in registers
//! that nobody reads here (15.24.7).

use super::NOTHING;
use crate::addr::{Hpa, PAGE_SIZE};
use crate::ioports::Ports;
use crate::launch::ensure;
use crate::pci;
use arrayvec::ArrayVec;

/// Bytes of a bitmap: 4 GiB (15.24.6: SIZE = 0).
pub const BITMAP_SIZE: u64 = (4 << 30) / PER_BYTE;
/// Memory that a byte of the bitmap stands for.
const PER_BYTE: u64 = 8 * PAGE_SIZE;

/// Which bit of the bitmap, when it is 1, closes the page at this address, below 4 GiB: its byte, and the bit in it.
pub fn bit(page: u64) -> (u64, u8) {
    (page / PER_BYTE, 1 << (page / PAGE_SIZE % 8))
}

/// Where a bitmap must begin for its bits from `memory` on to lie in this page.
pub fn window(page: Hpa, memory: Hpa) -> Hpa {
    Hpa(page.0 - Hpa(memory.0 / PER_BYTE).page().0)
}

/// Function 0 of every node that there can be: devices 18h to 1Fh on bus 0 (BKDG).
pub(super) fn nodes() -> impl Iterator<Item = u32> {
    (0x18 << 3..0x20 << 3).step_by(8)
}

/// Functions of DEV_OP (15.24.5).
const BASE_LO: u32 = 0;
const BASE_HI: u32 = 1;
const MAP: u32 = 2;
const CAP: u32 = 3;
const CR: u32 = 4;
/// DEV_BASE_LO. The other fields are 0: 4 GiB, and what is above is open.
const VALID: u32 = 1 << 0;
/// DEV_CR. Bit 3, a machine check at every refusal, and bit 6, the bitmap read without asking the caches, are never set.
const ENABLE: u32 = 1 << 0;
const KEEPS_MEMORY_AT_RESET: u32 = 1 << 1;
const REFUSES_IO: u32 = 1 << 2;
const INVALIDATE: u32 = 1 << 4;
const SL_DEV: u32 = 1 << 5;

/// Reads of DEV_CR until the northbridge must have forgotten what it had cached; each takes about a microsecond.
const TURNS: u32 = 100_000;

/// One northbridge's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dev {
    function: u32,
    capability: u32,
}

/// All that there are: function 3 of every node (15.24.4: ID 0Fh of type 0; an IOMMU's is type 3).
pub fn find(ports: &impl Ports) -> ArrayVec<Dev, 8> {
    const CAPABILITY: (u32, u32) = (0x0007_00ff, 0x0000_000f);
    let dev = |function| Some(Dev { function, capability: pci::capability(ports, function, CAPABILITY)? });
    let functions = nodes().map(|node| node + 3);
    functions.filter(|function| pci::is_amds(ports, *function)).filter_map(dev).collect()
}

impl Dev {
    fn select(&self, ports: &impl Ports, register: u32, index: u32) -> u32 {
        pci::write(ports, self.function, self.capability + 4, register << 8 | index);
        self.capability + 8
    }

    fn read(&self, ports: &impl Ports, register: u32) -> u32 {
        let data = self.select(ports, register, 0);
        pci::read(ports, self.function, data)
    }

    /// Writes a register that must be there.
    fn set(&self, ports: &impl Ports, register: u32, index: u32, value: u32) -> Result<(), &'static str> {
        let data = self.select(ports, register, index);
        pci::write(ports, self.function, data, value);
        ensure(pci::read(ports, self.function, data) == value, "the DEV does not take what it is told")
    }

    /// Makes this bitmap, a page's start below 4 GiB, the one that counts. When it returns, no device behind this northbridge reaches what it closes.
    /// SL_DEV stays as it is.
    pub fn protect(&self, ports: &impl Ports, bitmap: Hpa) -> Result<(), &'static str> {
        let cap = self.read(ports, CAP);
        let domains = cap >> 8 & 0xff;
        ensure(domains > 0, NOTHING)?;
        for domain in 0..domains {
            self.set(ports, BASE_HI, domain, 0)?;
            self.set(ports, BASE_LO, domain, bitmap.0 as u32 | VALID)?;
        }
        for map in 0..cap >> 16 & 0xff {
            self.set(ports, MAP, map, 0)?;
        }
        let on = self.read(ports, CR) & (SL_DEV | KEEPS_MEMORY_AT_RESET) | ENABLE | REFUSES_IO;
        let data = self.select(ports, CR, 0);
        pci::write(ports, self.function, data, on | INVALIDATE);
        let is_on = (0..TURNS).any(|_| pci::read(ports, self.function, data) == on);
        ensure(is_on, "the DEV does not forget what it has cached")
    }

    /// The GART translates the processors' accesses, and devices' when they have passed, by a table in the guest's memory (BKDG, D18F3x90:
    /// bit 0 enables).
    pub fn turn_gart_off(&self, ports: &impl Ports) -> Result<(), &'static str> {
        const APERTURE_CONTROL: u32 = 0x90;
        let off = pci::read(ports, self.function, APERTURE_CONTROL) & !1;
        pci::write(ports, self.function, APERTURE_CONTROL, off);
        ensure(pci::read(ports, self.function, APERTURE_CONTROL) == off, "the GART cannot be turned off")
    }

    /// Leaves SKINIT's block to what else protects it, which need not be the DEV. The GART must be off, for SL_DEV kept it out, too.
    pub fn release_skinit(&self, ports: &impl Ports) -> Result<(), &'static str> {
        let released = self.read(ports, CR) & !SL_DEV;
        self.set(ports, CR, 0, released)
    }
}

#[cfg(test)]
pub mod tests;
