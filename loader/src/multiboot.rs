//! What the boot loader says, in one form for both versions of multiboot.
//!
//! Guarantees: command lines and memory map are copies, module ranges are below 4 GiB, and nothing in the boot
//! loader's information, however wrong, ends in anything but an error. Relies on [`Memory`] to follow addresses.

mod v1;
mod v2;

use core::fmt;

use thiserror::Error;

use crate::bytes::Memory;
use crate::line::Line;
use crate::map::{MemoryMap, RawMap, TooManyRegions};
use crate::options::MAX_CMDLINE;
use crate::range::Range;

/// What EAX holds after a start by multiboot 1 (Multiboot Specification 0.6.96, 3.2).
pub const MAGIC_1: u32 = 0x2bad_b002;
/// What EAX holds after a start by multiboot 2 (Multiboot2 Specification 2.0, 3.3).
pub const MAGIC_2: u32 = 0x36d7_6289;

/// Most modules: hypervisor, kernel, initrd, root.
pub const MAX_MODULES: usize = 4;
/// Most bytes of a module's command line (Linux takes 2,047 of its own).
pub const MAX_MODULE_LINE: usize = 2047;

/// A file that the boot loader loaded.
#[derive(Clone, Copy, Default)]
pub struct Module {
    /// Where it lies.
    pub range: Range,
    /// Its command line.
    pub line: Line<MAX_MODULE_LINE>,
}

/// What the boot loader says.
pub struct BootInfo {
    /// The loader's command line.
    pub cmdline: Line<MAX_CMDLINE>,
    /// The machine's memory.
    pub map: MemoryMap,
    /// UEFI's system table, 0 without UEFI.
    pub efi_system_table: u64,
    modules: [Module; MAX_MODULES],
    module_count: usize,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BootInfoError {
    /// Started by something else.
    #[error("not started by a multiboot boot loader")]
    NotMultiboot,
    /// Says which part.
    #[error("the boot loader's information is malformed ({0})")]
    Malformed(Part),
    /// It says nothing about memory.
    #[error("the boot loader gives no memory map")]
    NoMap,
    /// More regions than can be handed on.
    #[error("the memory map has too many regions")]
    TooManyRegions,
    /// More modules than have a meaning.
    #[error("more than four modules: hypervisor, kernel, initrd and saved root are expected")]
    TooManyModules,
    /// A command line that does not fit.
    #[error("{0} is too long")]
    LineTooLong(Part),
}

/// A part of the boot loader's information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its frame.
    Header,
    /// The loader's command line.
    CommandLine,
    /// A module.
    Module,
    /// A module's command line.
    ModuleLine,
    /// The memory map.
    Map,
    /// UEFI's system table.
    Efi,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Header => "header",
            Part::CommandLine => "command line",
            Part::Module => "module",
            Part::ModuleLine => "command line of a module",
            Part::Map => "memory map",
            Part::Efi => "EFI system table",
        })
    }
}

impl From<TooManyRegions> for BootInfoError {
    fn from(TooManyRegions: TooManyRegions) -> Self {
        Self::TooManyRegions
    }
}

impl BootInfo {
    /// Reads what the boot loader left at `info`; `magic` is what it left in EAX.
    pub fn read(memory: &impl Memory, magic: u32, info: u32) -> Result<Self, BootInfoError> {
        match magic {
            MAGIC_1 => v1::read(memory, info.into()),
            MAGIC_2 => v2::read(memory, info.into()),
            _ => Err(BootInfoError::NotMultiboot),
        }
    }

    /// The modules, in the boot loader's order.
    pub fn modules(&self) -> &[Module] {
        &self.modules[..self.module_count]
    }
}

/// Collects what both versions find.
#[derive(Default)]
struct Builder {
    cmdline: Line<MAX_CMDLINE>,
    map: RawMap,
    has_map: bool,
    efi_system_table: u64,
    modules: [Module; MAX_MODULES],
    module_count: usize,
}

impl Builder {
    fn cmdline(&mut self, text: &[u8]) -> Result<(), BootInfoError> {
        self.cmdline = Line::new(text).ok_or(BootInfoError::LineTooLong(Part::CommandLine))?;
        Ok(())
    }

    fn module(&mut self, start: u32, end: u32, text: &[u8]) -> Result<(), BootInfoError> {
        // An empty file has no address.
        let range = if start == end {
            Range { start: 0, end: 0 }
        } else {
            Range { start: start.into(), end: end.into() }
        };
        if start > end || (start == 0 && end > 0) {
            return Err(BootInfoError::Malformed(Part::Module));
        }
        let line = Line::new(text).ok_or(BootInfoError::LineTooLong(Part::ModuleLine))?;
        *self.modules.get_mut(self.module_count).ok_or(BootInfoError::TooManyModules)? =
            Module { range, line };
        self.module_count += 1;
        Ok(())
    }

    fn region(&mut self, base: u64, size: u64, kind: u32) -> Result<(), BootInfoError> {
        self.has_map = true;
        Ok(self.map.push(base, size, kind)?)
    }

    fn finish(self) -> Result<BootInfo, BootInfoError> {
        if !self.has_map {
            return Err(BootInfoError::NoMap);
        }
        Ok(BootInfo {
            cmdline: self.cmdline,
            map: MemoryMap::new(&self.map)?,
            efi_system_table: self.efi_system_table,
            modules: self.modules,
            module_count: self.module_count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::tests::Pieces;

    #[test]
    fn another_magic_is_refused() {
        let read = BootInfo::read(&Pieces::default(), 0, 0x1000);
        assert_eq!(read.err(), Some(BootInfoError::NotMultiboot));
    }
}
