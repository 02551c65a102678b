//! Attacks with what only a kernel can do to the machine: registers, SVM's instructions, interrupt messages, memory that is not its own.

use super::Attack;
use crate::attack::{CLGI, Icr, Invd, Kernel, Msr, NO_FAULT, Svm, VMLOAD, VMSAVE};
use crate::interrupted::rounds_for;
use crate::support::{pattern, register};
use crate::{io_apic, ipi, messages, privileged, reserve};
use anyhow::{Context, ensure};
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
    ("page-attributes", "makes all memory uncached by its own PAT: S does not notice", page_attributes),
    ("counters", "counts what S does: nothing begins to count unseen", counters),
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

/// What the PAT says is the OS's own with nested paging (APM vol. 2, 15.25.7).
fn page_attributes() -> anyhow::Result<()> {
    const PAT: u32 = 0x277;
    let (kernel, s) = (Kernel::open()?, register()?);
    let before = read(&kernel, PAT)?.unwrap_or(0);
    ensure!(write(&kernel, PAT, 0)?, "PAT cannot be written");
    let (count, after) = (s.count(), read(&kernel, PAT));
    write(&kernel, PAT, before)?;
    ensure!(count? == 1, "S does not run");
    ensure!(after? == Some(0), "PAT is not what was written");
    Ok(())
}

/// Performance counters, and instruction based sampling, from the first of each.
fn counters() -> anyhow::Result<()> {
    const ENABLE: u64 = 1 << 22 | 1 << 16 | 0xc0;
    const FETCH_ENABLE: u64 = 1 << 48;
    const OP_ENABLE: u64 = 1 << 17;
    arrives(&[(0xc001_0000, ENABLE)])?;
    let kernel = Kernel::open()?;
    for (msr, on) in [(0xc001_0200, ENABLE), (0xc001_1030, FETCH_ENABLE), (0xc001_1033, OP_ENABLE)] {
        write(&kernel, msr, on)?;
    }
    let s = register()?;
    let ran = (1..=3).all(|calls| s.count().is_ok_and(|count| count == calls));
    for msr in [0xc001_0000, 0xc001_0200, 0xc001_1030, 0xc001_1033] {
        write(&kernel, msr, 0)?;
    }
    ensure!(ran, "S does not run while something counts");
    Ok(())
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
