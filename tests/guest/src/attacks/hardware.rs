//! Attacks with what only a kernel can do to the machine: registers, SVM's instructions, interrupt messages, memory that is not its own.

use super::Attack;
use crate::attack::{CLGI, Icr, Invd, Kernel, Msr, NO_FAULT, Svm, VMLOAD, VMSAVE};
use crate::interrupted::rounds_for;
use crate::support::{leaving_nothing, pattern, register};
use crate::{io_apic, ipi, messages, privileged, reserve};
use anyhow::{Context, ensure};
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use trustvisor::abi::exit;

pub const ATTACKS: &[Attack] = &[
    ("svme", "sets EFER.SVME: SVM is nobody's but TrustVisor's", svme),
    ("vmsave", "has VMSAVE write to physical memory: it does not", || {
        effect_of(VMSAVE, "VMSAVE writes to memory")
    }),
    ("vmload", "has VMLOAD load registers from physical memory: it does not", || {
        effect_of(VMLOAD, "VMLOAD loads registers")
    }),
    ("clgi", "holds interrupts off by GIF: time goes on", || effect_of(CLGI, "CLGI stops time")),
    ("svm-instructions", "executes all instructions of SVM: #UD each", privileged::run),
    ("host-save-area", "says where #VMEXIT finds the host's state: it is not the OS's to say", || {
        keeps("VM_HSAVE_PA", 0xc001_0117, |_| 0x10_0000)
    }),
    ("memory-types", "makes all memory uncached by MTRRs: they stay", memory_types),
    ("apic-base", "moves the local APIC over the reserve: it stays", apic_base),
    ("svm-lock", "writes VM_CR and the key of its lock: nothing arrives", || {
        arrives(&[(0xc001_0114, 0x18), (0xc001_0118, 0x1234)])
    }),
    ("address-map", "moves the borders of RAM, IORRs and MMCONFIG: nothing arrives", || {
        arrives(&[
            (0xc001_001a, 0x10_0000),
            (0xc001_001d, 0x1_0000_0000),
            (0xc001_0016, 0x10_0018),
            (0xc001_0017, 0x10_0800),
            (0xc001_0010, 1 << 21),
            (0xc001_0058, 0x10_0001),
            (0xc001_001f, 1 << 46),
        ])
    }),
    ("smm", "moves SMM's memory and opens it: nothing arrives", || {
        arrives(&[(0xc001_0111, 0x10_0000), (0xc001_0112, 0x10_0000), (0xc001_0113, 3), (0xc001_0116, 1)])
    }),
    ("microcode", "loads microcode: nothing arrives", || arrives(&[(0xc001_0020, 0x10_0000)])),
    ("invd", "drops what is in the caches: it is written back instead", invd),
    ("x2apic", "reaches the local APIC by MSRs, past the watched page: there are none", privileged::x2apic),
    (
        "localities",
        "speaks to the TPM as the hypervisor does: localities 1 to 4 are not there",
        reserve::localities,
    ),
    ("io-apic", "has the I/O APIC send INIT: no such entry", io_apic::run),
    ("init-sipi", "starts the second processor outside SVM: it stays TrustVisor's", ipi::run),
    ("self-init", "sends itself INIT: the processor goes on", self_init),
    ("messages", "stores INIT into the range of interrupt messages: nothing is sent", messages::run),
    ("nmi-storm", "NMIs while S runs: S goes on as if there were none", nmi_storm),
    ("reserve-read", "reads the reserve: a constant everywhere", reserve::read_and_write),
    ("reserve-write", "writes to the reserve: nothing of what is read there changes", reserve_write),
    ("pci-bars", "moves devices' registers over the pool: S does not notice", pci_bars),
];

const EFER: u32 = 0xc000_0080;
const SVME: u64 = 1 << 12;

fn read(kernel: &Kernel, msr: u32) -> anyhow::Result<Option<u64>> {
    let answer = kernel.ask(Msr { msr, ..Default::default() })?;
    Ok((answer.read_error == 0).then_some(answer.value))
}

fn write(kernel: &Kernel, msr: u32, value: u64) -> anyhow::Result<bool> {
    Ok(kernel.ask(Msr { msr, write: 1, value, ..Default::default() })?.write_error == 0)
}

/// Writes a register, sees whether it reads differently, and restores it.
fn keeps(name: &str, msr: u32, change: impl FnOnce(u64) -> u64) -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    let before = read(&kernel, msr)?;
    write(&kernel, msr, change(before.unwrap_or(0)))?;
    let after = read(&kernel, msr)?;
    if after != before {
        write(&kernel, msr, before.unwrap_or(0))?;
    }
    ensure!(after == before, "{name} has changed");
    Ok(())
}

fn svme() -> anyhow::Result<()> {
    keeps("EFER", EFER, |efer| efer | SVME)
}

fn memory_types() -> anyhow::Result<()> {
    for msr in [0x200, 0x201, 0x250, 0x2ff] {
        keeps(&format!("MTRR {msr:#x}"), msr, |value| value ^ 1)?;
    }
    Ok(())
}

fn apic_base() -> anyhow::Result<()> {
    let over = trustvisor::info().map_or(0x400_0000, |info| info.pool_base);
    keeps("the APIC's base", 0x1b, |base| base & 0xfff | over)
}

/// QEMU has none of these registers: all there is to see is whether a write reaches the processor, unseen by TrustVisor.
fn arrives(writes: &[(u32, u64)]) -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    for (msr, value) in writes {
        let before = exits(exit::MSR);
        let done = write(&kernel, *msr, *value)?;
        ensure!(!done || exits(exit::MSR) > before, "a write of MSR {msr:#x} reaches the processor");
    }
    Ok(())
}

/// Exits so far; none without TrustVisor.
fn exits(kind: usize) -> u64 {
    trustvisor::info().map_or(0, |info| info.exits[kind])
}

fn effect_of(instruction: u32, seen: &'static str) -> anyhow::Result<()> {
    let answer = Kernel::open()?.ask(Svm { what: instruction, ..Default::default() })?;
    ensure!(answer.effect == 0, seen);
    ensure!(answer.vector != NO_FAULT, "it does not fault");
    Ok(())
}

/// QEMU has no caches, and takes INVD for WBINVD where it looks whether to exit: S goes on is all that there is to see.
fn invd() -> anyhow::Result<()> {
    let (kernel, s) = (Kernel::open()?, register()?);
    ensure!(s.count()? == 1, "S was called before");
    kernel.ask(Invd::default())?;
    ensure!(s.count()? == 2, "S's data are lost");
    Ok(())
}

fn self_init() -> anyhow::Result<()> {
    const SELF: u32 = 1 << 18;
    let kernel = Kernel::open()?;
    kernel.ask(Icr { high: 0, low: SELF | ipi::INIT | ipi::ASSERT, ..Default::default() })?;
    ensure!(register()?.count()? == 1, "S does not run after it");
    Ok(())
}

fn nmi_storm() -> anyhow::Result<()> {
    let s = register()?;
    let rounds = rounds_for(&s, Duration::from_secs(3))?;
    println!("tvtest: S works");
    let value = s.compute(rounds).context("S is gone")?;
    ensure!(value == pattern::compute(rounds), "S computed something else");
    Ok(())
}

fn reserve_write() -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    let info = trustvisor::info()?;
    for offset in [0, 0x8000, 0xc000, 0x1_0000, 0x2_0000, 0x10_0000, info.pool_base - info.reserve_base] {
        let address = info.reserve_base + offset;
        let before = kernel.read(address)?;
        kernel.write(address, !before)?;
        let after = kernel.read(address)?;
        kernel.write(address, before)?;
        ensure!(after == before, "what is read in the reserve has changed");
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
