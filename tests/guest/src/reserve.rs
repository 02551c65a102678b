//! The reserve is not the OS's: not in its memory map, and reads and writes of its addresses get nothing and change nothing.

use crate::attack::{GP, Kernel, Mmio};
use crate::support::{Child, Mapping, PAGE, leaving_nothing, register};
use anyhow::{Context, ensure};
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;
use trustvisor::Out;
use trustvisor::abi::Info;

/// A line of /proc/iomem.
pub struct Range {
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    pub name: String,
    /// Not inside another range.
    pub top: bool,
}

pub fn memory_map() -> anyhow::Result<Vec<Range>> {
    let lines = fs::read_to_string("/proc/iomem")?;
    let parse = |line: &str| {
        let (range, name) = line.trim_start().split_once(" : ")?;
        let (start, last) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Range {
            start: number(start)?,
            end: number(last)? + 1,
            name: name.into(),
            top: !line.starts_with(' '),
        })
    };
    lines.lines().map(|line| parse(line).with_context(|| format!("/proc/iomem: {line:?}"))).collect()
}

/// Neither the memory map nor CPUID nor /proc/cpuinfo show what is not the OS's.
pub fn hidden() -> anyhow::Result<()> {
    let info = trustvisor::info()?;
    let (start, end) = (info.reserve_base, info.reserve_base + info.reserve_size);
    let map = memory_map()?;
    ensure!(
        map.iter().any(|r| r.end > 1 << 20 && r.name == "System RAM"),
        "/proc/iomem shows no memory (not root?)"
    );
    for range in map.iter().filter(|r| r.start < end && r.end > start) {
        ensure!(range.name == "Reserved", "the reserve is \"{}\" to Linux", range.name);
    }
    ensure!(
        map.iter().any(|r| r.start <= start && r.end >= end),
        "the reserve is not in Linux's memory map as reserved"
    );

    let flags = fs::read_to_string("/proc/cpuinfo")?;
    let flags = flags.lines().find(|l| l.starts_with("flags")).context("/proc/cpuinfo has no flags")?;
    for hidden in ["svm", "npt", "skinit", "x2apic"] {
        ensure!(!flags.split_whitespace().any(|flag| flag == hidden), "/proc/cpuinfo shows {hidden}");
    }
    let zero = |leaf: u32| {
        let r = __cpuid_count(leaf, 0);
        ensure!([r.eax, r.ebx, r.ecx, r.edx] == [0; 4], "CPUID {leaf:#x} is not zero");
        Ok(())
    };
    for leaf in [0x8000_000a, 0x8000_001f, 0x4000_0000, 0x4000_0001, 0x4000_0010, 0x4000_00ff] {
        zero(leaf)?;
    }
    ensure!(__cpuid(0x8000_0001).ecx & (1 << 2 | 1 << 12) == 0, "CPUID shows SVM or SKINIT");
    Ok(())
}

/// Reads every page of the reserve and writes to pages of every part of it, from the kernel and from a program that the
/// kernel gave the addresses to.
pub fn read_and_write() -> anyhow::Result<()> {
    let s = register()?;
    s.set_secret(77)?;
    let mut secret = vec![0; 4096];
    s.masked_secret(Out(&mut secret), 0)?;
    let kernel = Kernel::open()?;
    leaving_nothing(|info| {
        let pages = (info.reserve_size / PAGE as u64) as usize;
        let reserve = Mapping::shared(kernel.memory(), info.reserve_base, pages)?;
        let constant = reserve.read(0);
        let differs = reserve.slice().iter().position(|byte| *byte != constant);
        ensure!(differs.is_none(), "byte {:#x} of the reserve can be read", differs.unwrap_or_default());
        println!("tvtest: {pages} pages of the reserve all read {constant:#04x}");
        through_dev_mem(info, constant)?;

        let parts =
            [0, 0x8000, 0xc000, 0x1_0000, 0x2_0000, 0x10_0000, 0x20_0000, 0x30_0000, info.reserve_size / 2];
        let pool = info.pool_base - info.reserve_base;
        let pool_pages = [0, 1, 16, 64, 1024].map(|page| pool + page * PAGE as u64);
        for offset in parts.into_iter().chain(pool_pages).chain([info.reserve_size - PAGE as u64]) {
            let address = info.reserve_base + offset;
            let before = kernel.read(address)?;
            let vector = kernel.write(address, !before)?;
            ensure!(vector == GP, "the kernel writes at {address:#x}: vector {vector}");
            ensure!(kernel.read(address)? == before, "what the kernel reads at {address:#x} has changed");
            let written = Child::fork(|| {
                reserve.write(offset as usize, !constant);
                Ok(())
            })?
            .join(Duration::from_secs(10));
            ensure!(
                written.is_err_and(|e| e.to_string().ends_with("signal 11")),
                "a program writes at {address:#x} and lives"
            );
        }
        Ok(())
    })?;
    let mut now = vec![0; 4096];
    s.masked_secret(Out(&mut now), 0)?;
    ensure!(now == secret && s.count()? == 1, "S has changed");
    Ok(())
}

/// What root can do without a module. Linux may refuse; what it gives must be the constant.
fn through_dev_mem(info: &Info, constant: u8) -> anyhow::Result<()> {
    let Ok(memory) = File::open("/dev/mem") else { return Ok(()) };
    let mut page = [!constant; PAGE];
    for address in [info.reserve_base, info.reserve_base + 0x2_0000, info.pool_base] {
        if let Err(error) = memory.read_exact_at(&mut page, address) {
            println!("tvtest: /dev/mem at {address:#x}: {error}");
            continue;
        }
        ensure!(page == [constant; PAGE], "/dev/mem gives something of the reserve at {address:#x}");
    }
    Ok(())
}

/// The TPM's localities 1 to 4 read as nothing and cannot be written; locality 0 is the OS's.
pub fn localities() -> anyhow::Result<()> {
    const TPM: u64 = 0xfed4_0000;
    // TCG PC Client TIS 1.3, 5.2: access, status, data FIFO, vendor and device id, revision; and the last of the page.
    const REGISTERS: [u64; 6] = [0, 0x18, 0x24, 0xf00, 0xf04, 0xffc];
    const REQUEST_USE: u32 = 1 << 1;
    let kernel = Kernel::open()?;
    let read = |address| anyhow::Ok(kernel.ask(Mmio { address, ..Default::default() })?.value);
    for locality in 1..=4 {
        for register in REGISTERS {
            let address = TPM + locality * PAGE as u64 + register;
            ensure!(read(address)? == u32::MAX, "locality {locality} can be read at {register:#x}");
            let store = Mmio { address, value: REQUEST_USE, write: 1, ..Default::default() };
            let vector = kernel.ask(store)?.vector;
            ensure!(
                vector == GP,
                "a store to locality {locality} at {register:#x}: vector {}",
                vector as i32
            );
            ensure!(read(address)? == u32::MAX, "locality {locality} has changed at {register:#x}");
        }
    }
    ensure!(read(TPM + 0xf00)? != u32::MAX, "locality 0 is hidden as well");
    Ok(())
}
