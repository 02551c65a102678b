//! The ways in which root takes the machine out of TrustVisor's hands while S keeps its secret: resets, sleep, power off, another kernel.
//! What is left in memory is looked at from outside, and by whatever boots next (`tests/reset.rs`).
//!
//! `tvtest lose-control WAY` says where TrustVisor is and what to look for (masked), waits for `/tmp/release`, and goes the way.

use super::crash;
use super::ends::tell;
use super::victim::Victim;
use crate::attack::{Kernel, TripleFault};
use crate::hold::wait;
use crate::support::{NO_HANDLE, raw, system, tell_kernel};
use anyhow::{Context, bail, ensure};
use std::arch::asm;
use std::fs;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

/// The argument that makes this program do so.
pub const LOSE: &str = "lose-control";

type Way = (&'static str, fn() -> anyhow::Result<()>);

const WAYS: &[Way] = &[
    ("keyboard", || out8(0x64, 0xfe)),
    // By the output port, whose lowest bit is the reset line.
    ("keyboard-port", || {
        out8(0x64, 0xd1)?;
        out8(0x60, 0xfe)
    }),
    ("port-92", || out8(0x92, 1)),
    // The reset control register: first which reset, then that it happens; warm, and the whole platform's.
    ("cf9", || {
        out8(CF9, 0x02)?;
        out8(CF9, 0x06)
    }),
    ("cf9-full", || out8(CF9, 0x0e)),
    ("cf9-word", || out16(CF9, 0x0006)),
    // The second byte is CF9's, on a chipset that takes the word apart. QEMU does not.
    ("cf8-word", || out16(0xcf8, 0x0600)),
    ("acpi-register", || {
        let fadt = Fadt::read()?;
        out8(fadt.reset_register, fadt.reset_value)
    }),
    ("triple-fault", || Kernel::open()?.ask(TripleFault::default()).map(drop)),
    ("linux", linux_reset),
    ("linux-kbd", || linux_resets_by("kbd")),
    ("linux-triple", || linux_resets_by("triple")),
    ("linux-bios", || linux_resets_by("bios")),
    ("linux-pci", || linux_resets_by("pci")),
    ("s3", || {
        tell_kernel("/sys/power/mem_sleep", "deep")?;
        tell_kernel("/sys/power/state", "mem")
    }),
    ("s3-register", || out16(Fadt::read()?.pm1a_control, SLEEP | S3)),
    // What makes it sleep is in the register's second byte.
    ("s3-byte", || out8(Fadt::read()?.pm1a_control + 1, ((SLEEP | S3) >> 8) as u8)),
    // Where the machine can swap to `/dev/vda`.
    ("s4", || {
        tell_kernel("/sys/power/disk", "platform")?;
        tell_kernel("/sys/power/state", "disk")
    }),
    ("s4-register", || out16(Fadt::read()?.pm1a_control, SLEEP | S4)),
    // SAFETY: the machine goes off, which is what is tried.
    ("s5", || system("reboot", unsafe { libc::reboot(libc::RB_POWER_OFF) }).map(drop)),
    ("s5-register", || out16(Fadt::read()?.pm1a_control, SLEEP | S5)),
    // The disk has the kernel, see `crash::load`.
    ("kexec", || {
        crash::load(0, "console=ttyS0 loglevel=4 panic=-1 tv.run=serve")?;
        // SAFETY: the machine goes on with another kernel, which is what is tried.
        system("reboot", unsafe { libc::reboot(libc::RB_KEXEC) }).map(drop)
    }),
    // Somebody else presses it.
    ("button", || bail!("nobody pressed it")),
    // Where the hypervisor has this bug (the mutation `reachable-panic`).
    ("hypervisor-bug", || {
        let (_, status) = raw(0x6275, NO_HANDLE, &[]);
        bail!("no bug: {status:?}")
    }),
];

/// Goes a way; without a name, says which there are.
pub fn lose(mut names: impl Iterator<Item = String>) -> ExitCode {
    let Some(name) = names.next() else {
        WAYS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let end = WAYS.iter().find(|(known, _)| *known == name).context("unknown").and_then(|(_, way)| go(*way));
    println!(
        "tvtest: not lost by {name}: {}",
        end.map_or_else(|e| format!("{e:#}"), |()| "it goes on".into())
    );
    ExitCode::FAILURE
}

fn go(way: fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let info = trustvisor::info()?;
    println!("tvtest: reserve {:#x} {:#x} {:#x}", info.reserve_base, info.reserve_size, info.pool_base);
    let victim = Victim::start()?;
    tell(&victim.needles);
    wait()?;
    way()?;
    // A reset is asked for, and comes when the machine gets to it.
    sleep(Duration::from_secs(5));
    Ok(())
}

fn linux_reset() -> anyhow::Result<()> {
    // SAFETY: resets the machine, which is what is tried.
    system("reboot", unsafe { libc::reboot(libc::RB_AUTOBOOT) }).map(drop)
}

fn linux_resets_by(how: &str) -> anyhow::Result<()> {
    tell_kernel("/sys/kernel/reboot/type", how)?;
    linux_reset()
}

const CF9: u16 = 0xcf9;

/// PM1 control (ACPI 6.5, 4.8.3.2.1): SLP_EN, and QEMU's values of SLP_TYP for the sleeping states.
const SLEEP: u16 = 1 << 13;
const S3: u16 = 1 << 10;
const S4: u16 = 2 << 10;
const S5: u16 = 0;

/// What the fixed ACPI description table (ACPI 6.5, 5.2.9) says of ports.
struct Fadt {
    pm1a_control: u16,
    reset_register: u16,
    reset_value: u8,
}

impl Fadt {
    fn read() -> anyhow::Result<Self> {
        const FILE: &str = "/sys/firmware/acpi/tables/FACP";
        let table = fs::read(FILE).context(FILE)?;
        ensure!(table.len() > 128, "{FILE} has {} bytes", table.len());
        let port = |at: usize| u16::from_le_bytes([table[at], table[at + 1]]);
        // PM1a_CNT_BLK; the address in RESET_REG; RESET_VALUE.
        Ok(Self { pm1a_control: port(64), reset_register: port(120), reset_value: table[128] })
    }
}

fn all_ports() -> anyhow::Result<()> {
    // SAFETY: gives this thread the right to ports; it does not use memory.
    system("iopl", unsafe { libc::syscall(libc::SYS_iopl, 3) }).map(drop)
}

fn out8(port: u16, value: u8) -> anyhow::Result<()> {
    all_ports()?;
    // SAFETY: takes the machine out of our hands, which is what is tried.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
    Ok(())
}

fn out16(port: u16, value: u16) -> anyhow::Result<()> {
    all_ports()?;
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags)) };
    Ok(())
}
