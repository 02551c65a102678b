//! Attacks on what S has in its registers: whatever stops or ends it, the OS looks at what it finds in the processor. Without
//! TrustVisor the same code runs in the process itself.

use super::Attack;
use super::tracer::{Seen, Stops, watch};
use super::victim::protected;
use crate::attack::{CR2, Control, Kernel, WRITE_XCR0};
use crate::support::{IMAGE, Timer, call_entry, entry, header, random, register};
use anyhow::{bail, ensure};
use std::arch::asm;
use std::time::Duration;
use trustvisor::Pal;
use trustvisor::abi::Handle;
use trustvisor::abi::image::{FLAG_FPU, HEADER_SIZE};
use trustvisor::image::header_bytes;

#[path = "../../pal/src/marks.rs"]
mod marks;

#[path = "../../pal/src/sse.rs"]
mod sse;

pub const ATTACKS: &[Attack] = &[
    ("registers-after-return", "looks at all registers right after S's return: none is of S", after_return),
    (
        "registers-at-interrupt",
        "looks at all registers whenever S is interrupted: none is of S",
        at_interrupt,
    ),
    ("registers-after-fault", "has S fault with a secret in all registers: none is the OS's", after_fault),
    ("registers-at-syscall", "has S call the kernel: it gets nothing of S, not even the call", at_syscall),
    ("registers-at-hypercall", "has S make a wrong hypercall: the OS is not told", at_hypercall),
    (
        "sse-registers",
        "looks at XMM registers while a PAL that uses them is frozen, and after it",
        sse_registers,
    ),
    (
        "lowered-xcr0",
        "switches SSE off in XCR0 before a call: what S leaves in XMM registers is cleared even so",
        lowered_xcr0,
    ),
    ("fault-address", "has S fault at a secret address: CR2 does not tell it", fault_address),
    ("single-step", "steps through the program: S is one step", single_step),
    ("breakpoint-in-s", "puts a breakpoint on S's first instruction: it is never hit", breakpoint),
];

/// Long enough for some ticks of the timer.
const ROUNDS: u64 = 60_000_000;
const INTERVAL: Duration = Duration::from_millis(10);

/// A call of the code that marks its registers, in S or, without TrustVisor, here; then a breakpoint.
fn call(handle: Option<Handle>, seed: u64, rounds: u64, how: u32) {
    match handle {
        // SAFETY: a call of S with integers; the tracer catches the breakpoint.
        Some(handle) => unsafe {
            asm!(
                "vmmcall",
                "int3",
                inlateout("rax") call_entry(entry::MARKED) => _,
                inlateout("rdx") u64::from(how) => _,
                in("rdi") seed,
                in("rsi") rounds,
                in("r10") handle.low,
                in("r11") handle.high,
            );
        },
        // SAFETY: an ordinary call; as above.
        None => unsafe {
            asm!(
                "call {code}",
                "int3",
                code = sym marks::tvtest_marked,
                in("rdi") seed,
                in("rsi") rounds,
                in("edx") how,
                clobber_abi("C"),
            );
        },
    }
}

/// Has the code run, and looks for its mark at every stop.
fn look_for_mark(how: u32, stops: Stops, rounds: u64, breakpoint: Option<u64>) -> anyhow::Result<usize> {
    let seed = random()?;
    let mut seen = false;
    let act = || {
        let s = if protected() { Some(register()?) } else { None };
        let _timer = Timer::start(INTERVAL, INTERVAL)?;
        call(s.as_ref().map(|s| s.pal().handle()), seed, rounds, how);
        Ok(())
    };
    let count = watch(stops, breakpoint, act, |at| {
        seen |= at.holds(marks::mark(seed));
        seen
    })?;
    ensure!(!seen, "a register shows what S had in it");
    Ok(count)
}

fn after_return() -> anyhow::Result<()> {
    look_for_mark(marks::RETURN, Stops::Signals, 1, None).map(drop)
}

fn at_interrupt() -> anyhow::Result<()> {
    let count = look_for_mark(marks::RETURN, Stops::Signals, ROUNDS, None)?;
    ensure!(count >= 3, "only {count} stops");
    Ok(())
}

fn after_fault() -> anyhow::Result<()> {
    look_for_mark(marks::FAULT, Stops::Signals, 1, None).map(drop)
}

fn at_syscall() -> anyhow::Result<()> {
    look_for_mark(marks::SYSCALL, Stops::SystemCalls, 1, None).map(drop)
}

fn at_hypercall() -> anyhow::Result<()> {
    look_for_mark(marks::HYPERCALL, Stops::Signals, 1, None).map(drop)
}

fn single_step() -> anyhow::Result<()> {
    look_for_mark(marks::RETURN, Stops::Instructions, 3, None).map(drop)
}

/// The breakpoint's own stop is one at its address.
fn breakpoint() -> anyhow::Result<()> {
    let here = marks::tvtest_marked as *const () as u64;
    let address = if protected() { header().entries[entry::MARKED as usize].addr } else { here };
    let mut hit = false;
    let act = || {
        let s = if protected() { Some(register()?) } else { None };
        call(s.as_ref().map(|s| s.pal().handle()), 1, 1, marks::RETURN);
        Ok(())
    };
    watch(Stops::Signals, Some(address), act, |at| {
        hit |= at.signal == libc::SIGTRAP && at.general.rip == address;
        hit
    })?;
    ensure!(!hit, "the OS is told when S begins");
    Ok(())
}

fn fault_address() -> anyhow::Result<()> {
    let seed = random()?;
    let address = marks::address(seed);
    if protected() {
        let (kernel, s) = (Kernel::open()?, register()?);
        let died = s.marked(seed, 1, marks::ADDRESS).is_err();
        let cr2 = kernel.ask(Control { what: CR2, ..Default::default() })?.value;
        ensure!(died, "S does not fault at {address:#x}");
        ensure!(cr2 != address, "CR2 is S's");
        return Ok(());
    }
    let mut told = false;
    let act = || {
        call(None, seed, 1, marks::ADDRESS);
        Ok(())
    };
    watch(Stops::Signals, None, act, |at| {
        told |= at.address == address;
        told
    })?;
    ensure!(!told, "the OS is told where S faulted");
    Ok(())
}

fn sse_registers() -> anyhow::Result<()> {
    let seed = random()?;
    let holds = |at: &Seen| {
        at.sse.xmm_space.as_chunks::<4>().0.iter().any(|x| u64::from(x[1]) << 32 | u64::from(x[0]) == seed)
    };
    let mut seen = false;
    let act = || {
        let _timer = Timer::start(INTERVAL, INTERVAL)?;
        if !protected() {
            sse::fpu(seed, ROUNDS);
            // SAFETY: the tracer catches the breakpoint.
            unsafe { asm!("int3") };
            return Ok(());
        }
        let s = register_with_fpu()?;
        let handle = s.handle();
        // SAFETY: as in `call`.
        unsafe {
            asm!(
                "vmmcall",
                "int3",
                inlateout("rax") call_entry(entry::FPU) => _,
                lateout("rdx") _,
                in("rdi") seed,
                in("rsi") ROUNDS,
                in("r10") handle.low,
                in("r11") handle.high,
            );
        }
        Ok(())
    };
    let count = watch(Stops::Signals, None, act, |at| {
        seen |= holds(at);
        seen
    })?;
    if seen {
        bail!("an XMM register shows what S had in it");
    }
    ensure!(count >= 3, "only {count} stops");
    Ok(())
}

fn register_with_fpu() -> anyhow::Result<Pal> {
    let mut header = header();
    header.flags = FLAG_FPU;
    Ok(Pal::register(&[&header_bytes(&header), &IMAGE[HEADER_SIZE..]].concat())?)
}

fn lowered_xcr0() -> anyhow::Result<()> {
    const X87: u64 = 1;
    let (kernel, s, seed) = (Kernel::open()?, register_with_fpu()?, random()?);
    let handle = s.handle();
    let write = |value| kernel.ask(Control { what: WRITE_XCR0, value, vector: 0 });
    let mut found = [0u64; 2];
    let before = write(X87)?.value;
    // SAFETY: a call of S with integers, and the register in which it leaves one of them, to a place of this size.
    unsafe {
        asm!(
            "vmmcall",
            "movdqu [r12], xmm3",
            inlateout("rax") call_entry(entry::FPU) => _,
            lateout("rdx") _,
            in("rdi") seed,
            in("rsi") 1,
            in("r10") handle.low,
            in("r11") handle.high,
            in("r12") found.as_mut_ptr(),
            out("xmm3") _,
        );
    }
    write(before)?;
    ensure!(found[0] != seed, "an XMM register shows what S had in it");
    Ok(())
}
