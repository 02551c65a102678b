//! A virtio disk (VIRTIO 1.1, 4.1 and 5.2), with a queue made by hand.

use super::page::{Page, write_address};
use super::pci::{Function, Registers, until};
use crate::support::PAGE;
use anyhow::{Context, ensure};

/// 4.1.4: the vendor's capabilities say where registers are.
const VENDOR: u8 = 9;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
/// 4.1.4.3: offsets of the common registers.
const FEATURES_SELECT: u64 = 0;
const FEATURES: u64 = 4;
const ACCEPT_SELECT: u64 = 8;
const ACCEPT: u64 = 12;
const STATUS: u64 = 20;
const QUEUE: u64 = 22;
const SIZE: u64 = 24;
const ENABLE: u64 = 28;
const NOTIFY_OFFSET: u64 = 30;
const DESCRIPTORS: u64 = 32;
const DRIVER: u64 = 40;
const DEVICE: u64 = 48;
/// 2.1: status. ACKNOWLEDGE | DRIVER, FEATURES_OK, DRIVER_OK.
const KNOWN: u8 = 3;
const AGREED: u8 = 8;
const GO: u8 = 4;
/// 6: VERSION_1 and ACCESS_PLATFORM, in the features' second word.
const VERSION_1: u32 = 1;
const ACCESS_PLATFORM: u32 = 2;
/// Where the queue's parts are in our page, the request's header, and its status.
const AVAILABLE: usize = 0x400;
const USED: usize = 0x600;
const HEADER: usize = 0x800;
const ANSWER: usize = 0x900;
const ENTRIES: u16 = 8;
/// 2.6.5: a descriptor has a next one; the device writes.
const NEXT: u16 = 1;
const WRITES: u16 = 2;
/// 5.2.6: VIRTIO_BLK_T_IN, _OUT.
const IN: u32 = 0;
const OUT: u32 = 1;
const BYTES: u32 = 512;

pub struct Disk {
    common: Registers,
    common_at: u64,
    notify: Registers,
    notify_at: u64,
    page: Page,
}

impl Disk {
    pub fn open(address: &str) -> anyhow::Result<Self> {
        let function = Function::at(address)?.take()?;
        let place = |kind: u8| -> anyhow::Result<(u8, u64, u64)> {
            for at in function.capabilities(VENDOR)? {
                let words = [at, at + 4, at + 8, at + 16].map(|word| function.read32(word));
                let [first, bar, offset, multiplier] = words;
                if first?.to_le_bytes()[3] == kind {
                    return Ok((bar? as u8, offset?.into(), multiplier?.into()));
                }
            }
            anyhow::bail!("no registers of kind {kind}")
        };
        let (common, notify) = (place(COMMON)?, place(NOTIFY)?);
        let mut disk = Self {
            common: function.registers(common.0)?,
            common_at: common.1,
            notify: function.registers(notify.0)?,
            notify_at: notify.1,
            page: Page::new()?,
        };
        disk.start(notify.2).context("starting the disk")?;
        Ok(disk)
    }

    fn start(&mut self, multiplier: u64) -> anyhow::Result<()> {
        let (common, at) = (&self.common, self.common_at);
        common.write8(at + STATUS, 0);
        until("a reset", || common.read8(at + STATUS) == 0)?;
        common.write8(at + STATUS, KNOWN);
        common.write32(at + FEATURES_SELECT, 1);
        let offered = common.read32(at + FEATURES);
        ensure!(offered & VERSION_1 != 0, "a legacy device");
        let platform = offered & ACCESS_PLATFORM != 0;
        println!("dma: the disk {} by the platform's DMA", if platform { "goes" } else { "does not go" });
        for (select, accept) in [(0, 0), (1, offered & (VERSION_1 | ACCESS_PLATFORM))] {
            common.write32(at + ACCEPT_SELECT, select);
            common.write32(at + ACCEPT, accept);
        }
        common.write8(at + STATUS, KNOWN | AGREED);
        ensure!(common.read8(at + STATUS) & AGREED != 0, "features are refused");
        common.write16(at + QUEUE, 0);
        common.write16(at + SIZE, ENTRIES);
        for (register, part) in [(DESCRIPTORS, 0), (DRIVER, AVAILABLE), (DEVICE, USED)] {
            write_address(common, at + register, self.page.physical + part as u64);
        }
        self.notify_at += u64::from(common.read16(at + NOTIFY_OFFSET)) * multiplier;
        common.write16(at + ENABLE, 1);
        common.write8(at + STATUS, KNOWN | AGREED | GO);
        Ok(())
    }

    /// A sector of the disk to memory.
    pub fn bring_in(&self, address: u64, sector: u64) -> anyhow::Result<()> {
        self.carry_out(IN, WRITES, address, sector)
    }

    /// Memory to a sector of the disk.
    pub fn take_out(&self, address: u64, sector: u64) -> anyhow::Result<()> {
        self.carry_out(OUT, 0, address, sector)
    }

    fn carry_out(&self, request: u32, flags: u16, address: u64, sector: u64) -> anyhow::Result<()> {
        let page = &self.page;
        page.put(HEADER, &[request.to_le_bytes(), [0; 4]].concat());
        page.put(HEADER + 8, &sector.to_le_bytes());
        page.put(ANSWER, &[!0]);
        let ours = |at: usize| page.physical + at as u64;
        let chain = [(ours(HEADER), 16, NEXT), (address, BYTES, NEXT | flags), (ours(ANSWER), 1, WRITES)];
        for (number, (address, length, flags)) in chain.into_iter().enumerate() {
            page.put(number * 16, &address.to_le_bytes());
            page.put(number * 16 + 8, &length.to_le_bytes());
            page.put(number * 16 + 12, &flags.to_le_bytes());
            page.put(number * 16 + 14, &(number as u16 + 1).to_le_bytes());
        }
        // The ring's first entry is descriptor 0; there is one request now.
        page.put(AVAILABLE + 4, &0u16.to_le_bytes());
        page.put(AVAILABLE + 2, &1u16.to_le_bytes());
        self.notify.write16(self.notify_at, 0);
        until("a request", || page.get16(USED + 2) == 1)?;
        let answer = page.memory.read(ANSWER);
        // The device is to forget the page before this program does.
        self.common.write8(self.common_at + STATUS, 0);
        until("a reset", || self.common.read8(self.common_at + STATUS) == 0)?;
        ensure!(answer == 0, "the disk's status is {answer}");
        println!("dma: done");
        Ok(())
    }
}

const _: () = assert!(ANSWER < PAGE);
