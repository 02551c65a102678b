//! QEMU's educational device (its docs/specs/edu.txt): copies between memory and a buffer of its own.

use super::page::Page;
use super::pci::{Function, Registers, until};
use anyhow::ensure;

const EDU: &str = "0x1234:0x11e8";
const RAISE: u64 = 0x60;
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
const RUN: u64 = 1;
const TO_MEMORY: u64 = 2;
/// The device's own address of its buffer.
const BUFFER: u64 = 0x4_0000;
const MOST: usize = 2048;
/// What is in the buffer before a read.
const FILLING: u8 = 0xe7;

pub struct Edu {
    pub function: Function,
    registers: Registers,
    page: Page,
}

impl Edu {
    pub fn open() -> anyhow::Result<Self> {
        let function = Function::find(EDU)?.take()?;
        let registers = function.registers(0)?;
        ensure!(registers.read32(0) & 0xff == 0xed, "this is no edu");
        Ok(Self { function, registers, page: Page::new()? })
    }

    fn transfer(&self, source: u64, destination: u64, count: usize, direction: u64) -> anyhow::Result<()> {
        self.registers.write64(SOURCE, source);
        self.registers.write64(DESTINATION, destination);
        self.registers.write64(COUNT, count as u64);
        self.registers.write64(COMMAND, RUN | direction);
        until("a transfer", || self.registers.read64(COMMAND) & RUN == 0)
    }

    /// What the device reads at an address: 0 where it is denied.
    pub fn read(&self, address: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        ensure!(length <= MOST, "too much");
        self.page.put(0, &vec![FILLING; length]);
        self.transfer(self.page.physical, BUFFER, length, 0)?;
        self.transfer(address, BUFFER, length, 0)?;
        self.page.put(0, &vec![!FILLING; length]);
        self.transfer(BUFFER, self.page.physical, length, TO_MEMORY)?;
        let bytes = self.page.memory.bytes();
        ensure!(
            bytes[..length].iter().any(|byte| *byte != !FILLING),
            "the device does not write to this program"
        );
        Ok(bytes[..length].to_vec())
    }

    /// Has the device write.
    pub fn write(&self, address: u64, bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(bytes.len() <= MOST, "too much");
        self.page.put(0, bytes);
        self.transfer(self.page.physical, BUFFER, bytes.len(), 0)?;
        self.transfer(BUFFER, address, bytes.len(), TO_MEMORY)
    }

    /// Has the device interrupt.
    pub fn interrupt(&self) {
        self.registers.write32(RAISE, 1);
    }
}
