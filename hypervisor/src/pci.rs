//! PCI configuration space: what decides which address is RAM is not the guest's to change.
//!
//! Host and ISA bridges have the registers that say which addresses are RAM, a device's or SMM's, and where configuration space
//! itself is, IOMMUs say where their own are; on AMD machines the data fabric's functions are host bridges too, and the root complexes have index and data
//! registers that reach everything else of the chip (SMN). The guest may read all this and change nothing, neither by the ports
//! ([`drops_write`]) nor in memory ([`ConfigSpace`], whose pages of these functions are read-only in the nested tables).
//!
//! Which pages these are is seen once, at launch: a bridge that firmware hides and the guest could make appear is guarded by the
//! ports alone. Where configuration space is in memory must be plain; else the launch is refused.

use crate::addr::PAGE_SIZE;
use crate::ioports::Ports;
use crate::launch::ensure;
use core::iter::successors;
use core::ops::Range;

/// The ports of configuration mechanism #1 (PCI 3.0, 3.2.2.3.2).
pub const ADDRESS: u16 = 0xcf8;
/// See [`ADDRESS`].
pub const DATA: Range<u16> = 0xcfc..0xd00;
const ENABLE: u32 = 1 << 31;
/// The address without function and register.
const FUNCTION: u32 = 0x00ff_ff00;

/// Registers of every function: identity, class code (PCI 3.0, 6.1).
const IDENTITY: u32 = 0x00;
const COMMAND: u32 = 0x04;
const CLASS: u32 = 0x08;
const ABSENT: u32 = u32::MAX;
const AMD: u32 = 0x1022;
/// Class and subclass of bridges that route for the machine, of IOMMUs, and of AMD's security processor (PCI Code and ID Assignment 1.11, 1.7,
/// 1.9 and 1.17).
const HOST_BRIDGE: u32 = 0x0600;
const ISA_BRIDGE: u32 = 0x0601;
const IOMMU: u32 = 0x0806;
const SECURITY_PROCESSOR: u32 = 0x1080;

/// Reads a register of the function with this number: bus, device, function in 8, 5, 3 bits.
pub fn read(ports: &impl Ports, function: u32, register: u32) -> u32 {
    ports.write(ADDRESS, 4, ENABLE | function << 8 | register);
    ports.read(DATA.start, 4)
}

/// Writes one.
pub fn write(ports: &impl Ports, function: u32, register: u32, value: u32) {
    ports.write(ADDRESS, 4, ENABLE | function << 8 | register);
    ports.write(DATA.start, 4, value);
}

/// Whether there is such a function, and AMD's.
pub fn is_amds(ports: &impl Ports, function: u32) -> bool {
    read(ports, function, IDENTITY) & 0xffff == AMD
}

fn is_guarded(ports: &impl Ports, function: u32) -> bool {
    match read(ports, function, CLASS) >> 16 {
        HOST_BRIDGE | ISA_BRIDGE | IOMMU => true,
        SECURITY_PROCESSOR => is_amds(ports, function),
        _ => false,
    }
}

/// No device starts a transfer any more until the OS tells it to (PCI 3.0, 6.2.2: bit 2). The security processor is off for good, for
/// IOMMUs do not judge what it transfers, and its commands have addresses.
pub fn stop_devices(ports: &impl Ports) {
    const MASTER: u32 = 1 << 2;
    const ALL: u32 = 7;
    for function in functions(ports) {
        let command = read(ports, function, COMMAND);
        let off = match read(ports, function, CLASS) >> 16 {
            SECURITY_PROCESSOR if is_guarded(ports, function) => ALL,
            _ if is_guarded(ports, function) || command == ABSENT => continue,
            _ => MASTER,
        };
        write(ports, function, COMMAND, command & 0xffff & !off);
        // What it has sent is there before the answer.
        read(ports, function, COMMAND);
    }
}

/// Whether a write to the data ports must not be done. Leaves the address as it was. AMD's root complexes (device 0) have a register
/// that says which SMN register the data register behind it shows: it may be written, Linux reads temperatures so.
pub fn drops_write(ports: &impl Ports) -> bool {
    const SMN_INDEX: u32 = 0x60;
    let address = ports.read(ADDRESS, 4);
    let function = (address & FUNCTION) >> 8;
    let drops = address & ENABLE != 0
        && is_guarded(ports, function)
        && !(address & 0x0f00_fffc == SMN_INDEX && is_amds(ports, function));
    ports.write(ADDRESS, 4, address);
    drops
}

/// All functions that there can be.
pub const FUNCTIONS: usize = 1 << 16;

/// The functions of the devices that are there, and all of the first bus, where some have no function 0.
pub fn functions(ports: &impl Ports) -> impl Iterator<Item = u32> {
    const FIRST_BUS: u32 = 1 << 8;
    let devices = (FIRST_BUS..FUNCTIONS as u32).step_by(8);
    let there = devices.filter(|device| read(ports, *device, IDENTITY) != ABSENT);
    (0..FIRST_BUS).chain(there.flat_map(|device| device..device + 8))
}

/// The register where a function's capability begins (PCI 3.0, 6.7) whose header is `kind` in the bits of `mask`.
pub fn capability(ports: &impl Ports, function: u32, (mask, kind): (u32, u32)) -> Option<u32> {
    const STATUS: u32 = 0x04;
    const HAS_LIST: u32 = 1 << 20;
    const FIRST: u32 = 0x34;
    // As many as have room: a list may be a ring.
    const MOST: usize = 48;
    let there = read(ports, function, IDENTITY) != ABSENT && read(ports, function, STATUS) & HAS_LIST != 0;
    let next = |at: u32| Some(at & 0xfc).filter(|at| there && *at != 0);
    let list = successors(next(read(ports, function, FIRST)), |at| next(read(ports, function, *at) >> 8));
    list.take(MOST).find(|at| read(ports, function, *at) & mask == kind)
}

/// Configuration space in memory: a page a function (PCI Express 5.0, 7.2.2), and which pages are guarded.
pub struct ConfigSpace {
    pub range: Range<u64>,
    guarded: [bool; FUNCTIONS],
}

impl ConfigSpace {
    /// There is none.
    pub const fn none() -> Self {
        Self { range: 0..0, guarded: [false; FUNCTIONS] }
    }

    /// Looks at every function. `mmio_cfg_base` is the processor's register that says where configuration space is in memory.
    pub fn find(&mut self, ports: &impl Ports, mmio_cfg_base: u64) -> Result<(), &'static str> {
        self.range = match processors(mmio_cfg_base)? {
            Some(range) => range,
            None => q35(ports)?.unwrap_or(0..0),
        };
        // What is at the end of 4 GiB has guards of its own.
        ensure(self.range.start >= 4 << 30 || self.range.end <= DEVICES, MISPLACED)?;
        for function in functions(ports) {
            self.guarded[function as usize] = is_guarded(ports, function);
        }
        Ok(())
    }

    /// Whether a guarded function's page lies between these addresses.
    pub fn guards(&self, start: u64, size: u64) -> bool {
        let from = start.max(self.range.start);
        let to = (start + size).min(self.range.end);
        (from..to).step_by(PAGE_SIZE as usize).any(|page| {
            let function = (page - self.range.start) / PAGE_SIZE;
            self.guarded.get(function as usize).is_some_and(|guarded| *guarded)
        })
    }
}

/// Pages of tables that a [`ConfigSpace`] costs at most: 2 MiB each, and the tables above.
pub const TABLES: u64 = (FUNCTIONS as u64 * PAGE_SIZE) / (2 << 20) + 2;

/// Configuration space is at an address, or of a size, of which it is not certain what the chipset makes of it.
const MISPLACED: &str = "PCI configuration space is at an unusual address";

/// The I/O APICs, TPM, local APICs and flash.
const DEVICES: u64 = 0xfec0_0000;

fn aligned(base: u64, size: u64) -> Result<Option<Range<u64>>, &'static str> {
    if base.is_multiple_of(size) { Ok(Some(base..base + size)) } else { Err(MISPLACED) }
}

/// The register that says where configuration space is in memory.
pub const MMIO_CFG_BASE: u32 = 0xc001_0058;

/// What [`MMIO_CFG_BASE`] says (BKDG, PPR: bit 0 enables, bits 5:2 are the buses as a power of two; more than 256 are segments).
pub fn processors(mmio_cfg_base: u64) -> Result<Option<Range<u64>>, &'static str> {
    if mmio_cfg_base & 1 == 0 {
        return Ok(None);
    }
    let buses = mmio_cfg_base >> 2 & 0xf;
    ensure(buses <= 8, MISPLACED)?;
    aligned(mmio_cfg_base & 0x000f_ffff_fff0_0000, 1 << (20 + buses))
}

/// The chipset that QEMU puts under AMD processors as well (82Q35 data sheet, 5.1.17: PCIEXBAR).
fn q35(ports: &impl Ports) -> Result<Option<Range<u64>>, &'static str> {
    const MCH: u32 = 0x29c0_8086;
    const PCIEXBAR: u32 = 0x60;
    if read(ports, 0, IDENTITY) != MCH {
        return Ok(None);
    }
    let low = read(ports, 0, PCIEXBAR);
    if low & 1 == 0 {
        return Ok(None);
    }
    // 256 MiB below 4 GiB: all that firmware uses.
    ensure(low >> 1 & 3 == 0 && read(ports, 0, PCIEXBAR + 4) == 0, MISPLACED)?;
    aligned(u64::from(low & 0xfc00_0000), 256 << 20)
}

#[cfg(test)]
pub mod tests;
