//! Attacks by the chipset's registers, which say which addresses are RAM: PCI configuration space of host and ISA bridges, by ports
//! and in memory; devices' registers moved over RAM; the port that calls system management mode.

use super::Attack;
use crate::attack::{Kernel, Mmio, NO_FAULT};
use crate::support::{leaving_nothing, register, system};
use anyhow::ensure;
use std::arch::asm;
use std::fs;
use std::os::unix::fs::FileExt;

pub const ATTACKS: &[Attack] = &[
    ("mmconfig-moved", "moves configuration space by the host bridge's ports: it stays", mmconfig_moved),
    (
        "mmconfig-moves-itself",
        "moves configuration space by a store into it: it stays",
        mmconfig_moves_itself,
    ),
    ("smm-opened", "opens SMM's memory by the host bridge: the register stays", smm_opened),
    (
        "root-complex-moved",
        "moves the root complex's registers by the ISA bridge: they stay",
        root_complex_moved,
    ),
    ("pci-bars", "moves devices' registers over the pool: S does not notice", pci_bars),
    ("smi-port", "calls SMM by its port while S keeps its data: S does not notice", smi_port),
];

/// Q35 (82Q35 data sheet, 5.1): configuration space's place, and SMM's memory.
const HOST_BRIDGE: u32 = 0;
const PCIEXBAR: u32 = 0x60;
const SMRAM: u32 = 0x9c;
const SMRAM_OPEN: u32 = 1 << 14;
/// ICH9 (data sheet, 13.1.35): the root complex's registers.
const ISA_BRIDGE: u32 = 0x1f << 11;
const ROOT_COMPLEX: u32 = 0xf0;
/// The SMI command port (ICH9, 13.8.1).
const SMI_COMMAND: u16 = 0xb2;

/// Configuration mechanism #1.
struct Ports;

impl Ports {
    fn open() -> anyhow::Result<Self> {
        // SAFETY: gives this process the right to all ports; it does not use memory.
        system("iopl", unsafe { libc::iopl(3) })?;
        Ok(Self)
    }

    fn select(function: u32, register: u32) {
        let address = 1 << 31 | function | register;
        // SAFETY: which register the data port is.
        unsafe {
            asm!("out dx, eax", in("dx") 0xcf8u16, in("eax") address, options(nostack, preserves_flags))
        };
    }

    fn read(&self, function: u32, register: u32) -> u32 {
        Self::select(function, register);
        let value;
        // SAFETY: reads configuration.
        unsafe { asm!("in eax, dx", in("dx") 0xcfcu16, out("eax") value, options(nostack, preserves_flags)) };
        value
    }

    fn write(&self, function: u32, register: u32, value: u32) {
        Self::select(function, register);
        // SAFETY: what is tried; the callers restore what was there.
        unsafe { asm!("out dx, eax", in("dx") 0xcfcu16, in("eax") value, options(nostack, preserves_flags)) };
    }

    /// By single bytes, from the last one down.
    fn write_bytes(&self, function: u32, register: u32, value: u32) {
        Self::select(function, register);
        for (at, byte) in value.to_le_bytes().into_iter().enumerate().rev() {
            let port = 0xcfc + at as u16;
            // SAFETY: as above.
            unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nostack, preserves_flags)) };
        }
    }

    fn stays(&self, function: u32, register: u32, bit: u32, what: &str) -> anyhow::Result<()> {
        let before = self.read(function, register);
        ensure!(before != u32::MAX, "no such function");
        for write in [Self::write, Self::write_bytes] {
            write(self, function, register, before ^ bit);
            let after = self.read(function, register);
            self.write(function, register, before);
            ensure!(after == before, "{what} {before:#x} is now {after:#x}");
        }
        Ok(())
    }
}

const MOVED: u32 = 1 << 28;

fn mmconfig_moved() -> anyhow::Result<()> {
    Ports::open()?.stays(HOST_BRIDGE, PCIEXBAR, MOVED, "PCIEXBAR")
}

fn smm_opened() -> anyhow::Result<()> {
    Ports::open()?.stays(HOST_BRIDGE, SMRAM, SMRAM_OPEN, "SMRAM")
}

fn root_complex_moved() -> anyhow::Result<()> {
    Ports::open()?.stays(ISA_BRIDGE, ROOT_COMPLEX, 1 << 20, "RCBA")
}

fn mmconfig_moves_itself() -> anyhow::Result<()> {
    let (ports, kernel) = (Ports::open()?, Kernel::open()?);
    let before = ports.read(HOST_BRIDGE, PCIEXBAR);
    let at = u64::from(before & 0xf000_0000) + u64::from(PCIEXBAR);
    let access = |write, value| kernel.ask(Mmio { address: at, value, write, ..Default::default() });
    let seen = access(0, 0)?;
    ensure!(seen.vector == NO_FAULT && seen.value == before, "configuration space is not at {at:#x}");
    let written = access(1, before ^ MOVED)?;
    let after = ports.read(HOST_BRIDGE, PCIEXBAR);
    ports.write(HOST_BRIDGE, PCIEXBAR, before);
    ensure!(after == before, "PCIEXBAR {before:#x} is now {after:#x}");
    ensure!(written.vector == NO_FAULT, "the store ends in exception {}", written.vector);
    Ok(())
}

fn smi_port() -> anyhow::Result<()> {
    Ports::open()?;
    let s = register()?;
    for (calls, command) in (1..).zip(0..=u8::MAX) {
        // Those by which Linux turns ACPI on and off.
        if matches!(command, 2 | 3) {
            ensure!(s.count()? == calls, "S does not run");
            continue;
        }
        // SAFETY: what is tried.
        unsafe {
            asm!("out dx, al", in("dx") SMI_COMMAND, in("al") command, options(nostack, preserves_flags))
        };
        ensure!(s.count()? == calls, "S's data have changed after command {command:#x}");
    }
    Ok(())
}

/// Type 0 headers, and BARs of memory (PCI 3.0, 6.2.5).
const HEADER_TYPE: u64 = 0xe;
const BARS: [u64; 6] = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24];

fn pci_bars() -> anyhow::Result<()> {
    let s = register()?;
    leaving_nothing(|info| {
        let (mut moved, mut calls) = (0, 0);
        let kernel = Kernel::open()?;
        let constant = kernel.read(info.pool_base)?;
        for device in fs::read_dir("/sys/bus/pci/devices")? {
            let config = fs::OpenOptions::new().read(true).write(true).open(device?.path().join("config"))?;
            let word = |at| {
                let mut bytes = [0; 4];
                config.read_exact_at(&mut bytes, at).map(|()| u32::from_le_bytes(bytes))
            };
            if word(HEADER_TYPE & !3)? >> 16 & 0x7f != 0 {
                continue;
            }
            for bar in BARS {
                let before = word(bar)?;
                if before & 1 != 0 || before & !0xf == 0 {
                    continue;
                }
                config.write_all_at(&(info.pool_base as u32 | before & 0xf).to_le_bytes(), bar)?;
                let (now, read, count) = (word(bar)?, kernel.read(info.pool_base), s.count());
                config.write_all_at(&before.to_le_bytes(), bar)?;
                moved += u32::from(now != before);
                calls += 1;
                ensure!(read? == constant, "a device's registers show what is in the pool");
                ensure!(count? == calls, "S does not run under a device's registers");
            }
        }
        ensure!(moved > 0, "no device could be moved");
        Ok(())
    })
}
