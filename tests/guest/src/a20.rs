//! Address line 20: where a processor heeds it, turning it off makes every odd MiB an alias of the even one below it, under
//! the hypervisor as well. None of the ways to do so may work, and what else the ports do must.

use crate::attack::{Flags, INTERRUPTS, Kernel};
use crate::support::{Child, Mapping, PAGE, register};
use anyhow::{Context, ensure};
use std::arch::asm;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;
const SYSTEM_CONTROL: u16 = 0x92;
/// Commands of the keyboard controller: read and write its output port, line 20 off.
const READ_OUTPUT: u8 = 0xd0;
const WRITE_OUTPUT: u8 = 0xd1;
const OFF: u8 = 0xdd;
const ENABLE_KEYBOARD: u8 = 0xae;
/// In the output port: no reset, and all else but the line.
const ALL_BUT_A20: u8 = 0xdd;
const LINE: u8 = 1 << 1;

const HUGE: usize = 2 << 20;
const ODD: usize = 1 << 20;

fn out(port: u16, value: u8) {
    // SAFETY: the ports were asked for; what is written is this test's subject.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

fn input(port: u16) -> u8 {
    let value;
    // SAFETY: the ports were asked for; reading them harms nobody.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) }
    value
}

/// What a program tries, byte by byte.
const ATTEMPTS: &[(&str, &[(u16, u8)])] = &[
    ("port 92h", &[(SYSTEM_CONTROL, 0)]),
    ("the output port", &[(COMMAND, WRITE_OUTPUT), (DATA, ALL_BUT_A20)]),
    ("the command", &[(COMMAND, OFF)]),
    (
        "the output port, the command in between",
        &[(COMMAND, WRITE_OUTPUT), (COMMAND, OFF), (DATA, ALL_BUT_A20)],
    ),
    (
        "the output port, enabling the keyboard in between",
        &[(COMMAND, WRITE_OUTPUT), (COMMAND, ENABLE_KEYBOARD), (DATA, ALL_BUT_A20)],
    ),
    ("the output port, twice", &[(COMMAND, WRITE_OUTPUT), (COMMAND, WRITE_OUTPUT), (DATA, ALL_BUT_A20)]),
    (
        "the output port, port 92h in between",
        &[(COMMAND, WRITE_OUTPUT), (SYSTEM_CONTROL, 0), (DATA, ALL_BUT_A20)],
    ),
];

pub fn run() -> anyhow::Result<()> {
    let memory = Mapping::anonymous(2 * HUGE / PAGE)?;
    memory.advise(libc::MADV_HUGEPAGE)?;
    let even = even_page(&memory)?;
    let (s, kernel) = (register()?, Kernel::open()?);
    allow(DATA, 5)?;
    allow(SYSTEM_CONTROL - 1, 2)?;
    for (round, (how, bytes)) in (1u8..).zip(ATTEMPTS) {
        memory.write(even, round);
        memory.write(even + ODD, !round);
        bytes.iter().for_each(|(port, value)| out(*port, *value));
        let after = (memory.read(even), memory.read(even + ODD));
        memory.write(even, !round);
        let distinct = after == (round, !round) && memory.read(even + ODD) == !round;
        out(SYSTEM_CONTROL, LINE);
        ensure!(distinct, "by {how} line 20 is off");
        ensure!(output_port(&kernel)? & LINE != 0, "by {how} line 20 is off, says the keyboard controller");
        ensure!(s.count()? == u64::from(round), "S does not run after {how}");
    }
    wide_accesses_are_refused()
}

/// Offset of a page at an even MiB of physical memory whose counterpart 1 MiB above is there too: a huge page has both.
fn even_page(memory: &Mapping) -> anyhow::Result<usize> {
    let start = (memory.address().next_multiple_of(HUGE as u64) - memory.address()) as usize;
    memory.write(start, 1);
    let map = File::open("/proc/self/pagemap")?;
    let frame = |offset: usize| {
        let mut entry = [0; 8];
        map.read_exact_at(&mut entry, (memory.address() + offset as u64) / PAGE as u64 * 8)?;
        // Linux, Documentation/admin-guide/mm/pagemap.rst: bits 54:0 are the frame's number.
        anyhow::Ok(u64::from_le_bytes(entry) & ((1 << 55) - 1))
    };
    memory.write(start + ODD, 1);
    let (even, odd) = (frame(start)?, frame(start + ODD)?);
    ensure!(even ^ odd == (ODD / PAGE) as u64, "no huge page: frames {even:#x} and {odd:#x}");
    Ok(start)
}

fn allow(first: u16, count: u64) -> anyhow::Result<()> {
    // SAFETY: gives this process the right to ports; it does not use memory.
    let result = unsafe { libc::ioperm(first.into(), count, 1) };
    crate::support::system("ioperm", result).map(drop)
}

/// The controller still takes commands and answers: its output port. Interrupts are off meanwhile, or Linux's driver takes the answer.
fn output_port(kernel: &Kernel) -> anyhow::Result<u8> {
    const FULL: u8 = 1 << 0;
    kernel.ask(Flags { set: 0, clear: INTERRUPTS })?;
    let ready = || (0..1000).any(|_| input(COMMAND) & FULL != 0);
    if input(COMMAND) & FULL != 0 {
        input(DATA);
    }
    out(COMMAND, READ_OUTPUT);
    let answer = ready().then(|| input(DATA));
    kernel.ask(Flags { set: INTERRUPTS, clear: 0 })?;
    answer.context("the keyboard controller does not answer")
}

/// An access of more than a byte, or a string of them: a program gets SIGSEGV.
fn wide_accesses_are_refused() -> anyhow::Result<()> {
    let accesses: [(&str, fn()); 4] = [
        ("OUT of 16 bits at 91h", || {
            // SAFETY: faults.
            unsafe { asm!("out dx, ax", in("dx") SYSTEM_CONTROL - 1, in("ax") 0u16) }
        }),
        ("OUT of 16 bits at 92h", || {
            // SAFETY: faults.
            unsafe { asm!("out dx, ax", in("dx") SYSTEM_CONTROL, in("ax") 0u16) }
        }),
        ("OUTSB at 64h", || {
            // SAFETY: faults; else it reads one byte, which is there.
            unsafe { asm!("outsb", in("dx") COMMAND, inout("rsi") [OFF].as_ptr() => _) }
        }),
        ("REP OUTSB at 92h", || {
            let bytes = [0u8; 2];
            // SAFETY: as above, two bytes.
            unsafe {
                asm!("rep outsb", in("dx") SYSTEM_CONTROL, inout("rsi") bytes.as_ptr() => _, inout("rcx") 2u64 => _);
            }
        }),
    ];
    for (what, access) in accesses {
        let child = Child::fork(|| {
            allow(DATA, 5)?;
            // 93h belongs to nobody and is there for the width.
            allow(SYSTEM_CONTROL - 1, 3)?;
            access();
            Ok(())
        })?;
        let ended = child.join(Duration::from_secs(10));
        ensure!(ended.is_err_and(|e| e.to_string().ends_with("signal 11")), "{what} is carried out");
    }
    Ok(())
}
