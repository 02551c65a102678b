//! A caller under a debugger: single steps over a VMMCALL, a frozen call that is looked at, changed and continued, and debug
//! registers that name S's addresses.

use crate::asm_pal::{Asm, AsmPal, DATA, STACK_TOP, TRIALS};
use crate::support::{Child, call_entry, expect, is_token, leaving_nothing, system};
use anyhow::{Context, bail, ensure};
use std::mem::{offset_of, zeroed};
use std::thread::sleep;
use std::time::{Duration, Instant};
use trustvisor::abi::Status;

const LIMIT: Duration = Duration::from_secs(60);
const VMMCALL: u64 = 0xd9_010f;

/// A child that is traced and stopped.
struct Traced(Child);

impl Traced {
    /// The child stops before it begins.
    fn start(f: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let child = Child::fork(|| {
            // SAFETY: asks for a tracer, and stops.
            system("PTRACE_TRACEME", unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })?;
            stop()?;
            f()
        })?;
        let traced = Self(child);
        traced.wait_for_stop(libc::SIGSTOP)?;
        Ok(traced)
    }

    fn request(&self, what: &str, request: u32, address: u64, data: u64) -> anyhow::Result<i64> {
        // SAFETY: our own child, which is stopped; requests here take no memory of ours but what `regs` and `set_regs` give.
        let result = unsafe { libc::ptrace(request, self.0.pid(), address, data) };
        system(what, result)
    }

    fn step(&self) -> anyhow::Result<()> {
        self.request("PTRACE_SINGLESTEP", libc::PTRACE_SINGLESTEP, 0, 0)?;
        self.wait_for_stop(libc::SIGTRAP)
    }

    fn go_on(&self) -> anyhow::Result<()> {
        self.request("PTRACE_CONT", libc::PTRACE_CONT, 0, 0).map(drop)
    }

    fn regs(&self) -> anyhow::Result<libc::user_regs_struct> {
        // SAFETY: integers, so all zero is a value.
        let mut regs: libc::user_regs_struct = unsafe { zeroed() };
        self.request("PTRACE_GETREGS", libc::PTRACE_GETREGS, 0, &raw mut regs as u64)?;
        Ok(regs)
    }

    fn set_regs(&self, regs: &libc::user_regs_struct) -> anyhow::Result<()> {
        self.request("PTRACE_SETREGS", libc::PTRACE_SETREGS, 0, &raw const *regs as u64).map(drop)
    }

    fn at_vmmcall(&self, rip: u64) -> anyhow::Result<bool> {
        let mut word = 0u64;
        let local = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 3 };
        let remote = libc::iovec { iov_base: rip as *mut libc::c_void, iov_len: 3 };
        // SAFETY: three bytes of the child's to three of ours.
        let read = unsafe { libc::process_vm_readv(self.0.pid(), &local, 1, &remote, 1, 0) };
        Ok(system("process_vm_readv", read as i64)? == 3 && word == VMMCALL)
    }

    /// A debug register.
    fn debug(&self, number: usize) -> anyhow::Result<u64> {
        let offset = (offset_of!(libc::user, u_debugreg) + 8 * number) as u64;
        let mut value = 0u64;
        // SAFETY: the system call itself writes the word to where `data` points.
        let result = unsafe {
            libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKUSER, self.0.pid(), offset, &raw mut value)
        };
        system("PTRACE_PEEKUSER", result)?;
        Ok(value)
    }

    fn set_debug(&self, number: usize, value: u64) -> anyhow::Result<()> {
        let offset = (offset_of!(libc::user, u_debugreg) + 8 * number) as u64;
        self.request("PTRACE_POKEUSER", libc::PTRACE_POKEUSER, offset, value).map(drop)
    }

    /// The next stop is by this signal.
    fn wait_for_stop(&self, signal: i32) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut status = 0;
            // SAFETY: waits for our own child.
            let pid = unsafe { libc::waitpid(self.0.pid(), &mut status, libc::WNOHANG | libc::__WALL) };
            if system("waitpid", pid)? == i64::from(self.0.pid()) {
                ensure!(libc::WIFSTOPPED(status), "the traced child ended with status {status:#x}");
                ensure!(libc::WSTOPSIG(status) == signal, "stopped by signal {}", libc::WSTOPSIG(status));
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the traced child does not stop");
            sleep(Duration::from_millis(2));
        }
    }

    /// Lets it end as it should.
    fn finish(self) -> anyhow::Result<()> {
        self.go_on()?;
        self.0.join(LIMIT)
    }
}

/// Stops this process until its tracer continues it.
fn stop() -> anyhow::Result<()> {
    // SAFETY: a signal to ourselves.
    system("raise", unsafe { libc::raise(libc::SIGSTOP) }).map(drop)
}

/// One step goes over the whole call, be S interrupted or not, and no step ends inside.
pub fn steps() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let traced = Traced::start(|| {
            let s = AsmPal::register()?;
            let rounds = s.rounds_for(Duration::from_millis(200))?;
            for (calls, rounds) in [(1, 0), (2, rounds)] {
                stop()?;
                ensure!(s.spin(rounds)? == TRIALS + calls, "S ran another time");
            }
            s.unregister()
        })?;
        for _ in 0..2 {
            traced.go_on()?;
            traced.wait_for_stop(libc::SIGSTOP)?;
            let before = step_to_vmmcall(&traced)?;
            traced.step()?;
            let after = traced.regs()?;
            let unchanged = |r: &libc::user_regs_struct| {
                [
                    r.rdi, r.rsi, r.rcx, r.r8, r.r9, r.r10, r.r11, r.rbx, r.rbp, r.rsp, r.r12, r.r13, r.r14,
                    r.r15,
                ]
            };
            ensure!(after.rip == before.rip + 3, "a step from {:#x} ends at {:#x}", before.rip, after.rip);
            ensure!(after.rdx == 0 && !is_token(after.rax), "RAX {:#x}, RDX {:#x}", after.rax, after.rdx);
            ensure!(unchanged(&after) == unchanged(&before), "registers changed in the step");
            traced.step()?;
            ensure!(traced.regs()?.rip != after.rip, "the step after the call goes nowhere");
        }
        traced.finish()
    })
}

fn step_to_vmmcall(traced: &Traced) -> anyhow::Result<libc::user_regs_struct> {
    for _ in 0..20_000 {
        let regs = traced.regs()?;
        if traced.at_vmmcall(regs.rip)? {
            return Ok(regs);
        }
        traced.step()?;
    }
    bail!("no VMMCALL within 20,000 steps")
}

/// Stops the child when S computes: its registers, which are those of a frozen call.
fn stop_in_call(traced: &Traced) -> anyhow::Result<libc::user_regs_struct> {
    traced.go_on()?;
    sleep(Duration::from_millis(100));
    // SAFETY: our own child, not reaped yet.
    system("kill", unsafe { libc::kill(traced.0.pid(), libc::SIGSTOP) })?;
    traced.wait_for_stop(libc::SIGSTOP)?;
    let regs = traced.regs()?;
    ensure!(traced.at_vmmcall(regs.rip)?, "stopped outside a call, at {:#x}", regs.rip);
    ensure!(is_token(regs.rax), "RAX of a frozen call is {:#x}", regs.rax);
    Ok(regs)
}

/// A debugger changes a frozen call's arguments: they were taken when it began. It makes a new call of it: `Busy`. It steps from within:
/// the step ends after the call.
pub fn changed() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let traced = Traced::start(|| {
            let s = AsmPal::register()?;
            let rounds = s.rounds_for(Duration::from_millis(800))?;
            for calls in TRIALS + 1..TRIALS + 3 {
                stop()?;
                ensure!(s.spin(rounds)? == calls, "S ran another time");
            }
            stop()?;
            expect("a call that became another", s.raw(Asm::Spin, &[rounds]).1, Status::Busy)?;
            s.pal().abort().context("ABORT")
        })?;
        traced.go_on()?;
        traced.wait_for_stop(libc::SIGSTOP)?;

        let frozen = stop_in_call(&traced)?;
        let other = libc::user_regs_struct {
            rdi: u64::MAX,
            rsi: 1,
            rdx: 2,
            rcx: 3,
            r8: 4,
            r9: 5,
            rsp: frozen.rsp,
            ..frozen
        };
        traced.set_regs(&other)?;
        traced.step()?;
        let after = traced.regs()?;
        ensure!(after.rip == frozen.rip + 3 && after.rdx == 0, "RIP {:#x}, RDX {}", after.rip, after.rdx);
        traced.set_regs(&libc::user_regs_struct { rax: after.rax, rdx: 0, rip: after.rip, ..frozen })?;
        traced.go_on()?;
        traced.wait_for_stop(libc::SIGSTOP)?;

        stop_in_call(&traced)?;
        traced.go_on()?;
        traced.wait_for_stop(libc::SIGSTOP)?;

        let frozen = stop_in_call(&traced)?;
        traced.set_regs(&libc::user_regs_struct { rax: call_entry(Asm::Spin as u64), ..frozen })?;
        traced.finish()
    })
}

/// DR7: breakpoint 0 on execution, 1 and 2 on reads and writes of 8 bytes, 3 on execution, all enabled (AMD APM vol. 2, 13.1.1.4).
const DR7: u64 = 0x55 | 0b1011 << 20 | 0b1011 << 24;
/// In DR6.
const BREAKPOINT_3: u64 = 1 << 3;

/// Debug registers that name S's code, data and stack do not trap in S; the caller's own breakpoint, on the VMMCALL, traps once a call,
/// and all are what they were afterwards.
pub fn debug_registers() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let traced = Traced::start(|| {
            let s = AsmPal::register()?;
            let rounds = s.rounds_for(Duration::from_millis(200))?;
            stop()?;
            ensure!(s.spin(0)? == TRIALS + 1 && s.spin(rounds)? == TRIALS + 2, "S ran another time");
            s.unregister()
        })?;
        traced.go_on()?;
        traced.wait_for_stop(libc::SIGSTOP)?;
        let vmmcall = step_to_vmmcall(&traced)?.rip;
        let registers = [0x4000_0000, DATA, STACK_TOP - 8, vmmcall];
        for (number, address) in registers.into_iter().enumerate() {
            traced.set_debug(number, address)?;
        }
        traced.set_debug(7, DR7)?;
        // This call begins on the breakpoint, so it comes at once; then the next one.
        for hit in 0..2 {
            traced.go_on()?;
            traced.wait_for_stop(libc::SIGTRAP).with_context(|| format!("breakpoint {hit}"))?;
            let (rip, dr6) = (traced.regs()?.rip, traced.debug(6)?);
            ensure!(rip == vmmcall, "a breakpoint at {rip:#x} (DR6 {dr6:#x})");
            ensure!(dr6 & 0xf == BREAKPOINT_3, "DR6 is {dr6:#x}");
            for (number, address) in registers.into_iter().enumerate() {
                let found = traced.debug(number)?;
                ensure!(found == address, "DR{number} is {found:#x} instead of {address:#x}");
            }
            traced.set_debug(6, 0)?;
        }
        // UNREGISTER uses the same instruction.
        traced.go_on()?;
        traced.wait_for_stop(libc::SIGTRAP)?;
        traced.set_debug(7, 0)?;
        traced.finish()
    })
}

/// A tracer kills its child in a frozen call: leaves a PAL without an owner.
pub fn kill_in_call() -> anyhow::Result<()> {
    let traced = Traced::start(|| {
        let s = AsmPal::register()?;
        let rounds = s.rounds_for(Duration::from_secs(100))?;
        stop()?;
        s.spin(rounds).map(drop)
    })?;
    traced.go_on()?;
    traced.wait_for_stop(libc::SIGSTOP)?;
    stop_in_call(&traced)?;
    traced.0.kill()
}
