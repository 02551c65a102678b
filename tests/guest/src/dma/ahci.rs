//! A SATA disk on an AHCI controller (Serial ATA AHCI 1.3.1), with command lists made by hand: port 0, slot 0.

use super::page::{Page, write_address};
use super::pci::{Function, Registers, until};
use crate::support::PAGE;
use anyhow::ensure;

/// Class, subclass and interface.
const AHCI: &str = "0x010601";
const BASE: u8 = 5;
/// 3.1.2: GHC.AE.
const GLOBAL_CONTROL: u64 = 4;
const ENABLE: u32 = 1 << 31;
/// 3.3: registers of port 0.
const LIST: u64 = 0x100;
const RECEIVED: u64 = 0x108;
const INTERRUPTS: u64 = 0x110;
const PORT_COMMAND: u64 = 0x118;
const TASK_FILE: u64 = 0x120;
const ERRORS: u64 = 0x130;
const ISSUE: u64 = 0x138;
const START: u32 = 1;
const RECEIVE: u32 = 1 << 4;
const RECEIVES: u32 = 1 << 14;
const RUNS: u32 = 1 << 15;
const TASK_ERROR: u32 = 1;
/// 4.2.2: a command's header says that memory is read; and the command's length in words.
const FROM_MEMORY: u32 = 1 << 6;
const COMMAND_WORDS: u32 = 5;
/// ATA8-ACS: READ DMA EXT, WRITE DMA EXT.
const READ: u8 = 0x25;
const WRITE: u8 = 0x35;
const SECTOR: u64 = 512;
/// 4.2.3: where the table's regions begin, and how many fit into our page.
const REGIONS: usize = 0x80;
const MOST: u64 = ((PAGE - REGIONS) / 16) as u64;

pub struct Disk {
    registers: Registers,
    /// Command list, and at its middle what the device answers.
    lists: Page,
    table: Page,
}

impl Disk {
    pub fn open() -> anyhow::Result<Self> {
        let function = Function::find(AHCI)?.take()?;
        let registers = function.registers(BASE)?;
        let disk = Self { registers, lists: Page::new()?, table: Page::new()? };
        disk.start()?;
        Ok(disk)
    }

    fn start(&self) -> anyhow::Result<()> {
        let port = &self.registers;
        port.write32(GLOBAL_CONTROL, port.read32(GLOBAL_CONTROL) | ENABLE);
        port.write32(PORT_COMMAND, port.read32(PORT_COMMAND) & !START);
        until("the port's stop", || port.read32(PORT_COMMAND) & RUNS == 0)?;
        port.write32(PORT_COMMAND, port.read32(PORT_COMMAND) & !RECEIVE);
        until("the port's stop", || port.read32(PORT_COMMAND) & RECEIVES == 0)?;
        write_address(port, LIST, self.lists.physical);
        write_address(port, RECEIVED, self.lists.physical + PAGE as u64 / 2);
        port.write32(ERRORS, !0);
        port.write32(INTERRUPTS, !0);
        port.write32(PORT_COMMAND, port.read32(PORT_COMMAND) | RECEIVE);
        port.write32(PORT_COMMAND, port.read32(PORT_COMMAND) | START);
        Ok(())
    }

    /// Whole pages to the disk, one after the other.
    pub fn take_out(&self, base: u64, pages: u64, sector: u64) -> anyhow::Result<()> {
        self.each(base, pages, sector, PAGE as u64, WRITE)
    }

    /// A sector of the disk to the beginning of each page.
    pub fn bring_in(&self, base: u64, pages: u64, sector: u64) -> anyhow::Result<()> {
        self.each(base, pages, sector, SECTOR, READ)
    }

    fn each(&self, base: u64, pages: u64, sector: u64, bytes: u64, command: u8) -> anyhow::Result<()> {
        for from in (0..pages).step_by(MOST as usize) {
            let count = MOST.min(pages - from);
            for page in 0..count {
                let address = base + (from + page) * PAGE as u64;
                let region = [address.to_le_bytes(), (bytes.wrapping_sub(1) << 32).to_le_bytes()].concat();
                self.table.put(REGIONS + page as usize * 16, &region);
            }
            self.carry_out(command, sector + from * bytes / SECTOR, count * bytes / SECTOR, count as u32)?;
        }
        println!("dma: done");
        Ok(())
    }

    fn carry_out(&self, command: u8, sector: u64, sectors: u64, regions: u32) -> anyhow::Result<()> {
        let direction = if command == WRITE { FROM_MEMORY } else { 0 };
        let header = [
            (regions << 16 | direction | COMMAND_WORDS).to_le_bytes(),
            [0; 4],
            (self.table.physical as u32).to_le_bytes(),
            ((self.table.physical >> 32) as u32).to_le_bytes(),
        ];
        self.lists.put(0, header.as_flattened());
        // Serial ATA 2.6, 10.3.4: Register - Host to Device, for LBA.
        let (at, count) = (sector.to_le_bytes(), sectors.to_le_bytes());
        self.table.put(0, &[0x27, 0x80, command, 0, at[0], at[1], at[2], 0x40]);
        self.table.put(8, &[at[3], at[4], at[5], 0, count[0], count[1], 0, 0]);
        self.registers.write32(ISSUE, 1);
        until("a command", || self.registers.read32(ISSUE) & 1 == 0)?;
        let status = self.registers.read32(TASK_FILE);
        ensure!(status & TASK_ERROR == 0, "the disk's status is {status:#x}");
        Ok(())
    }
}
