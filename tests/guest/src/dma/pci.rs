//! Functions on the PCI bus, driven from a program: configuration space and registers by Linux's sysfs.

use crate::support::{Mapping, PAGE};
use anyhow::{Context, ensure};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

const FUNCTIONS: &str = "/sys/bus/pci/devices";
/// PCI 3.0, 6.1: offsets in configuration space, and bits of the command register.
const COMMAND: u64 = 4;
const CAPABILITIES: u64 = 0x34;
const MEMORY: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

pub struct Function {
    folder: PathBuf,
    config: File,
}

impl Function {
    /// The first with this vendor and device (`0x1234:0x11e8`), or class (`0x010601`).
    pub fn find(what: &str) -> anyhow::Result<Self> {
        for entry in fs::read_dir(FUNCTIONS)? {
            let folder = entry?.path();
            let file = |name| fs::read_to_string(folder.join(name));
            let (vendor, device, class) = (file("vendor")?, file("device")?, file("class")?);
            if class.trim() == what || format!("{}:{}", vendor.trim(), device.trim()) == what {
                return Self::open(folder);
            }
        }
        anyhow::bail!("no function {what}")
    }

    /// The one at this address (`0000:00:08.0`).
    pub fn at(address: &str) -> anyhow::Result<Self> {
        Self::open(Path::new(FUNCTIONS).join(address))
    }

    fn open(folder: PathBuf) -> anyhow::Result<Self> {
        let config = OpenOptions::new().read(true).write(true).open(folder.join("config"))?;
        Ok(Self { folder, config })
    }

    /// Takes the function from Linux's driver, and lets it decode addresses and access memory.
    pub fn take(self) -> anyhow::Result<Self> {
        let driver = self.folder.join("driver");
        if driver.exists() {
            let name = self.folder.file_name().context("a function has an address")?;
            fs::write(driver.join("unbind"), name.as_encoded_bytes()).context("unbinding")?;
        }
        let mut command = [0; 2];
        self.read(COMMAND, &mut command)?;
        let command = u16::from_le_bytes(command) | MEMORY | BUS_MASTER;
        self.write(COMMAND, &command.to_le_bytes())?;
        Ok(self)
    }

    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> anyhow::Result<()> {
        self.config.read_exact_at(bytes, offset).context("configuration space")
    }

    pub fn write(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        self.config.write_all_at(bytes, offset).context("configuration space")
    }

    pub fn read32(&self, offset: u64) -> anyhow::Result<u32> {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn read8(&self, offset: u64) -> anyhow::Result<u8> {
        let mut byte = [0];
        self.read(offset, &mut byte)?;
        Ok(byte[0])
    }

    /// Where capabilities with this number are.
    pub fn capabilities(&self, number: u8) -> anyhow::Result<Vec<u64>> {
        let (mut found, mut at) = (Vec::new(), self.read8(CAPABILITIES)?);
        while at != 0 && found.len() < 48 {
            if self.read8(at.into())? == number {
                found.push(at.into());
            }
            at = self.read8(u64::from(at) + 1)?;
        }
        Ok(found)
    }

    /// The registers at a base address.
    pub fn registers(&self, number: u8) -> anyhow::Result<Registers> {
        let path = self.folder.join(format!("resource{number}"));
        let file = OpenOptions::new().read(true).write(true).open(&path).context("no such registers")?;
        let pages = (file.metadata()?.len() as usize).div_ceil(PAGE);
        let mapping = Mapping::shared(&file, 0, pages)?;
        Ok(Registers { mapping, length: pages * PAGE })
    }
}

/// Registers in memory.
pub struct Registers {
    mapping: Mapping,
    length: usize,
}

macro_rules! access {
    ($($read:ident $write:ident $type:ty)*) => {$(
        pub fn $read(&self, offset: u64) -> $type {
            // SAFETY: inside the mapping (`pointer`), and what a device's register may do is what is tested.
            unsafe { self.pointer::<$type>(offset).read_volatile() }
        }

        pub fn $write(&self, offset: u64, value: $type) {
            // SAFETY: as above.
            unsafe { self.pointer::<$type>(offset).write_volatile(value) }
        }
    )*};
}

impl Registers {
    fn pointer<T>(&self, offset: u64) -> *mut T {
        assert!(
            offset as usize + size_of::<T>() <= self.length && offset.is_multiple_of(size_of::<T>() as u64)
        );
        (self.mapping.address() + offset) as *mut T
    }

    access! {
        read8 write8 u8
        read16 write16 u16
        read32 write32 u32
        read64 write64 u64
    }
}

/// Waits for a device.
pub fn until(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        ensure!(Instant::now() < deadline, "{what}: the device does not get there");
        sleep(Duration::from_millis(1));
    }
    Ok(())
}
