//! AMD-Vi: the IOMMU of today's AMD machines (AMD I/O Virtualization Technology Specification 3.08, 48882; sections as there).
//!
//! Guarantees: an IOMMU that [`AmdVi::set`] has returned for goes by this device table, and by nothing that it knew before; while it is
//! set, it never lets through what it stopped before. An answer that does not come is an error. Relies on the memory that it is
//! given being closed to devices.

use crate::addr::{Hpa, PAGE_SIZE};
use crate::ioports::Ports;
use crate::launch::{Iommu, ensure};
use crate::memory::DirectMap;
use crate::pci;

#[cfg(test)]
mod tests;

/// Header of the capability (3.2.2): mask and value.
const CAPABILITY: (u32, u32) = (0x0007_00ff, 0x0003_000f);
/// Its base address register: firmware has enabled the registers there, which locks it (3.2.2).
const BASE_ENABLED: u32 = 1 << 0;

/// Bytes of the registers, and with performance counters (3.4).
pub const REGISTERS: u64 = 0x4000;
pub const WITH_COUNTERS: u64 = 0x8_0000;

/// Registers (3.4).
mod register {
    pub const DEVICE_TABLE: u64 = 0x00;
    pub const COMMAND_BUFFER: u64 = 0x08;
    pub const EVENT_LOG: u64 = 0x10;
    pub const CONTROL: u64 = 0x18;
    pub const EXCLUSION_BASE: u64 = 0x20;
    pub const EXCLUSION_LIMIT: u64 = 0x28;
    pub const FEATURES: u64 = 0x30;
    pub const COMMAND_HEAD: u64 = 0x2000;
    pub const COMMAND_TAIL: u64 = 0x2008;
    pub const EVENT_HEAD: u64 = 0x2010;
    pub const EVENT_TAIL: u64 = 0x2018;
    pub const STATUS: u64 = 0x2020;
}
use register::*;

/// CONTROL: IommuEn and HtTunEn, for what comes over a tunnel as well; EventLogEn, Coherent, CmdBufEn.
const TRANSLATE: u64 = 3;
const LOG: u64 = 1 << 2;
const COHERENT: u64 = 1 << 10;
const COMMANDS: u64 = 1 << 12;
/// STATUS: EventOverflow (written to be cleared), CmdBufRun.
const OVERFLOW: u64 = 1 << 0;
const COMMANDS_RUN: u64 = 1 << 4;
/// FEATURES: IASup, PCSup.
const HAS_INVALIDATE_ALL: u64 = 1 << 6;
const HAS_COUNTERS: u64 = 1 << 9;

/// 256 entries of 16 bytes, the fewest that there can be: length of command buffer and event log.
const ENTRIES_256: u64 = 8 << 56;
const LOG_SIZE: u64 = 256 * EVENT;
const EVENT: u64 = 16;

/// Commands (2.4).
const COMPLETION_WAIT: u64 = 1 << 60;
const STORE: u64 = 1 << 0;
const INVALIDATE_DEVICE: u64 = 2 << 60;
const INVALIDATE_PAGES: u64 = 3 << 60;
/// All pages, and the directories above them.
const EVERYTHING: u64 = 0x7fff_ffff_ffff_f000 | 3;
const INVALIDATE_INTERRUPTS: u64 = 5 << 60;
const INVALIDATE_ALL: u64 = 8 << 60;

/// Bytes of memory that [`AmdVi::set`] works in, at the start of a page: a command, its completion wait, and what that one stores.
pub const WORK_SIZE: u64 = 3 * 16;
const DONE: u64 = 0x444f_4e45;
/// Looks until an answer counts as missing: a second at least.
const PATIENCE: u32 = if cfg!(test) { 100 } else { 50_000_000 };

/// Whether PCI shows these IOMMUs, where they are said to be, and no others. Where firmware has not enabled their registers, now they are.
pub fn check(ports: &impl Ports, iommus: &[Iommu]) -> Result<(), &'static str> {
    const DIFFERS: &str = "the IOMMUs of the firmware's list (IVRS) are not those that PCI shows";
    let mut found = 0;
    for function in pci::functions(ports) {
        let Some(at) = pci::capability(ports, function, CAPABILITY) else { continue };
        let [low, high] = [4, 8].map(|offset| pci::read(ports, function, at + offset));
        let base = u64::from(high) << 32 | u64::from(low) & !(REGISTERS - 1);
        let is_it = |said: &&Iommu| said.function == u64::from(function);
        let said = iommus.iter().find(is_it).ok_or(DIFFERS)?;
        if low & BASE_ENABLED == 0 {
            pci::write(ports, function, at + 8, (said.base >> 32) as u32);
            pci::write(ports, function, at + 4, said.base as u32 | BASE_ENABLED);
        } else {
            ensure(said.base == base, DIFFERS)?;
        }
        found += 1;
    }
    ensure(found == iommus.len(), DIFFERS)
}

/// Registers of an IOMMU.
pub trait Registers {
    fn read(&self, offset: u64) -> u64;
    fn write(&self, offset: u64, value: u64);
}

/// In physical memory.
pub struct Mmio {
    pub mem: DirectMap,
    pub base: Hpa,
}

impl Registers for Mmio {
    fn read(&self, offset: u64) -> u64 {
        self.mem.read_u64(self.base + offset)
    }
    fn write(&self, offset: u64, value: u64) {
        self.mem.write_u64(self.base + offset, value);
    }
}

/// An IOMMU.
pub struct AmdVi<R> {
    pub registers: R,
    /// Where it logs events, one page, if it does.
    pub log: Option<Hpa>,
}

impl<R: Registers> AmdVi<R> {
    /// Has it go by this device table of so many pages. `work` is [`WORK_SIZE`] bytes.
    pub fn set(&self, mem: DirectMap, work: Hpa, table: Hpa, pages: u64) -> Result<(), &'static str> {
        let Self { registers, log } = self;
        // Whatever was on but translation goes off.
        registers.write(CONTROL, registers.read(CONTROL) & TRANSLATE);
        registers.write(EXCLUSION_BASE, 0);
        registers.write(EXCLUSION_LIMIT, 0);
        registers.write(DEVICE_TABLE, table.0 | (pages - 1));
        let mut on = TRANSLATE | COHERENT;
        if let Some(log) = log {
            registers.write(EVENT_LOG, log.0 | ENTRIES_256);
            registers.write(EVENT_HEAD, 0);
            registers.write(EVENT_TAIL, 0);
            on |= LOG;
        }
        registers.write(CONTROL, on);
        if registers.read(FEATURES) & HAS_INVALIDATE_ALL != 0 {
            return self.command(mem, work, [INVALIDATE_ALL, 0]);
        }
        (0..pci::FUNCTIONS as u64).try_for_each(|number| {
            self.command(mem, work, [INVALIDATE_DEVICE | number, 0])?;
            self.command(mem, work, [INVALIDATE_PAGES | number << 32, EVERYTHING])?;
            self.command(mem, work, [INVALIDATE_INTERRUPTS | number, 0])
        })
    }

    /// Has one command done.
    fn command(&self, mem: DirectMap, work: Hpa, command: [u64; 2]) -> Result<(), &'static str> {
        const SILENT: &str = "an IOMMU does not answer";
        let Self { registers, .. } = self;
        let on = registers.read(CONTROL) & !COMMANDS;
        ensure(soon(|| registers.read(STATUS) & COMMANDS_RUN == 0), SILENT)?;
        registers.write(COMMAND_BUFFER, work.0 | ENTRIES_256);
        registers.write(COMMAND_HEAD, 0);
        registers.write(COMMAND_TAIL, 0);
        let stored = work + 2 * EVENT;
        let words = [command[0], command[1], COMPLETION_WAIT | stored.0 | STORE, DONE, 0];
        for (word, at) in words.into_iter().zip((work.0..).step_by(8)) {
            mem.write_u64(Hpa(at), word);
        }
        registers.write(CONTROL, on | COMMANDS);
        registers.write(COMMAND_TAIL, 2 * EVENT);
        let done = soon(|| mem.read_u64(stored) == DONE);
        registers.write(CONTROL, on);
        ensure(done, SILENT)
    }

    /// Takes all events out of the log: how many, and the last.
    pub fn take_events(&self, mem: DirectMap) -> (u64, [u64; 2]) {
        let (Self { registers, .. }, Some(log)) = (self, self.log) else { return Default::default() };
        let [head, tail] =
            [EVENT_HEAD, EVENT_TAIL].map(|pointer| registers.read(pointer) % LOG_SIZE / EVENT * EVENT);
        let last = log + tail.wrapping_sub(EVENT) % LOG_SIZE;
        registers.write(EVENT_HEAD, tail);
        if registers.read(STATUS) & OVERFLOW != 0 {
            // It logs no more until it is told to begin again (2.5.2).
            let on = registers.read(CONTROL);
            registers.write(CONTROL, on & !LOG);
            registers.write(STATUS, OVERFLOW);
            registers.write(CONTROL, on);
        }
        (tail.wrapping_sub(head) % LOG_SIZE / EVENT, [mem.read_u64(last), mem.read_u64(last + 8)])
    }

    /// Bytes that the registers take.
    pub fn size(&self) -> u64 {
        if self.registers.read(FEATURES) & HAS_COUNTERS != 0 { WITH_COUNTERS } else { REGISTERS }
    }
}

fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    (0..PATIENCE).any(|_| is_so())
}

const _: () = assert!(LOG_SIZE == PAGE_SIZE);
