//! A frozen call whose thread goes elsewhere: it jumps out of the signal handler, exits, forks or stops. Each ends in a defined status, and
//! the accounts of the pool are even afterwards.

use crate::asm_pal::{Asm, AsmPal, FILLED, TRIALS};
use crate::support::{
    Child, Mapping, Timer, call_entry, expect, is_token, leaving_nothing, on_signal, raw, registers, system,
};
use anyhow::{Context, ensure};
use std::arch::global_asm;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::thread::sleep;
use std::time::Duration;
use trustvisor::abi::{Handle, Status, number};

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(60);
/// How long S computes: a multiple of [`SOON`], so that it is frozen when the signal comes.
const LONG: Duration = Duration::from_millis(600);

/// What [`tvtest_call_or_leave`] answers when it was left.
const LEFT: u64 = 0x1ef7;

// A call, and the way out of it: what `sigsetjmp` and `siglongjmp` do, of which Rust knows nothing.
global_asm!(
    ".globl tvtest_call_or_leave, tvtest_leave",
    // RDI: RAX of the call; RSI, RDX: handle; RCX: RDI of the call; R8: where the status goes.
    "tvtest_call_or_leave:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push r8",
    "mov [rip + 3f], rsp",
    "mov rax, rdi",
    "mov r10, rsi",
    "mov r11, rdx",
    "mov rdi, rcx",
    "vmmcall",
    "2: pop r8",
    "mov [r8], rdx",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "tvtest_leave:",
    "mov rsp, [rip + 3f]",
    "mov eax, {left}",
    "mov edx, eax",
    "jmp 2b",
    ".pushsection .bss",
    ".balign 8",
    "3: .skip 8",
    ".popsection",
    left = const LEFT,
);

// SAFETY: the routines above; only one call at a time, and `tvtest_leave` only while it runs, from a handler that interrupted it.
unsafe extern "C" {
    fn tvtest_call_or_leave(call: u64, low: u64, high: u64, argument: u64, status: *mut u64) -> u64;
    fn tvtest_leave() -> !;
}

/// A call of `spin` that may be left, always from the same place with the same stack: value and status.
fn call_or_leave(rax: u64, handle: Handle, rounds: u64) -> (u64, u64) {
    let mut status = 0;
    // SAFETY: a PAL is registered, so TrustVisor is there; the call takes an integer.
    let value = unsafe { tvtest_call_or_leave(rax, handle.low, handle.high, rounds, &mut status) };
    (value, status)
}

/// The token that the handler found.
static TOKEN: AtomicU64 = AtomicU64::new(0);

/// Notes the token; false where the signal came elsewhere.
fn noted(context: *mut libc::c_void) -> bool {
    // SAFETY: called by handlers only, with what they were given.
    let rax = unsafe { registers(context) }[libc::REG_RAX as usize] as u64;
    if is_token(rax) {
        TOKEN.store(rax, SeqCst);
    }
    is_token(rax)
}

extern "C" fn jump_out(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if noted(context) {
        // SAFETY: RAX holds a token, so the signal interrupted the VMMCALL above; SA_NODEFER, so no mask is left behind.
        unsafe { tvtest_leave() }
    }
}

/// Lets S compute until the handler has left the call; the token.
pub fn leave_a_call(handle: Handle, rounds: u64) -> anyhow::Result<u64> {
    on_signal(libc::SIGALRM, jump_out, libc::SA_NODEFER)?;
    TOKEN.store(0, SeqCst);
    let timer = Timer::start(SOON, SOON)?;
    let answer = call_or_leave(call_entry(Asm::Spin as u64), handle, rounds);
    drop(timer);
    ensure!(answer == (LEFT, LEFT), "the call was not left but ended with {answer:x?}");
    Ok(TOKEN.load(SeqCst))
}

/// Out of the handler by a jump. From the same place, with the same stack: a new call is `Busy`, the token continues, an old token is
/// nobody's, and after `abort` neither is.
pub fn jump() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let s = AsmPal::register()?;
        let (handle, spin) = (s.handle(), call_entry(Asm::Spin as u64));
        let rounds = s.rounds_for(LONG)?;
        let first = leave_a_call(handle, rounds)?;
        let busy = (0, Status::Busy as u64);
        ensure!(call_or_leave(spin, handle, 1) == busy, "a new call of a frozen PAL is not Busy");

        // A continuation can be left again. Its argument is the call's, whatever RDI holds by now.
        on_signal(libc::SIGALRM, jump_out, libc::SA_NODEFER)?;
        let timer = Timer::start(SOON, Duration::ZERO)?;
        let answer = call_or_leave(first, handle, 0);
        drop(timer);
        ensure!(answer == (LEFT, LEFT), "the continued call was not left but ended with {answer:x?}");
        let second = TOKEN.load(SeqCst);
        ensure!(first != second, "two freezes, one token");
        let lost = (0, Status::Lost as u64);
        ensure!(call_or_leave(first, handle, 0) == lost, "an old token is not Lost");
        let answer = call_or_leave(second, handle, 0);
        ensure!(answer == (TRIALS + 1, 0), "the call that was left twice ends with {answer:x?}");
        ensure!(call_or_leave(second, handle, 0) == lost, "the token of a finished call is not Lost");
        ensure!(s.spin(1)? == TRIALS + 2, "S ran again for a token");

        let token = leave_a_call(handle, rounds)?;
        s.pal().abort()?;
        ensure!(call_or_leave(token, handle, 0) == lost, "a token outlives its PAL");
        ensure!(
            call_or_leave(spin, handle, 1) == (0, Status::NoSuchPal as u64),
            "the handle outlives its PAL"
        );
        let next = AsmPal::register()?;
        ensure!(call_or_leave(token, next.handle(), 0) == lost, "a token is good for the slot's next PAL");
        ensure!(call_or_leave(spin, next.handle(), 1) == (1, 0), "a new PAL cannot be called");
        Ok(())
    })
}

extern "C" fn exit_thread(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if noted(context) {
        // SAFETY: ends the thread that the signal interrupted; it was started for that, by `clone` alone, and owns nothing.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// What a thread that exits in its call is to do: handle and rounds.
static TASK: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

extern "C" fn compute_in_thread(_: *mut libc::c_void) -> i32 {
    let [low, high, rounds] = [0, 1, 2].map(|i| TASK[i].load(SeqCst));
    raw(call_entry(Asm::Spin as u64), Handle { low, high }, &[rounds]);
    0
}

/// A thread exits in the handler: its call stays open (`Busy`), until another thread aborts it.
pub fn thread_exit() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let s = AsmPal::register()?;
        let handle = s.handle();
        let rounds = s.rounds_for(LONG)?;
        for (to, value) in TASK.iter().zip([handle.low, handle.high, rounds]) {
            to.store(value, SeqCst);
        }
        on_signal(libc::SIGUSR1, exit_thread, 0)?;
        TOKEN.store(0, SeqCst);
        let stack = Mapping::anonymous(16)?;
        let top = (stack.address() + 16 * 4096) as *mut libc::c_void;
        let flags =
            libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
        // SAFETY: a thread without Rust's or the C library's knowledge: it only uses atomics, hypercalls and the stack above, which
        // outlives it.
        let thread = system("clone", unsafe {
            libc::clone(compute_in_thread, top, flags | libc::CLONE_SYSVSEM, std::ptr::null_mut())
        })?;
        let pid = std::process::id();
        let alive = || std::path::Path::new(&format!("/proc/{pid}/task/{thread}")).exists();
        for _ in 0..600 {
            sleep(Duration::from_millis(20));
            if !alive() {
                break;
            }
            // SAFETY: a thread of this process, or ESRCH.
            unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, libc::SIGUSR1) };
        }
        ensure!(!alive() && TOKEN.load(SeqCst) != 0, "the thread did not exit in its call");
        expect("a call after the thread's", s.raw(Asm::Spin, &[1]).1, Status::Busy)?;
        expect("UNREGISTER", raw(number::UNREGISTER.into(), handle, &[]).1, Status::Busy)?;
        s.pal().abort()?;
        expect("a call after abort", s.raw(Asm::Spin, &[1]).1, Status::NoSuchPal)
    })
}

static FORKED: AtomicI64 = AtomicI64::new(0);

extern "C" fn fork_once(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if FORKED.load(SeqCst) == 0 && noted(context) {
        // SAFETY: one thread; both go on from here.
        FORKED.store(i64::from(unsafe { libc::fork() }), SeqCst);
        if FORKED.load(SeqCst) == 0 {
            FORKED.store(-1, SeqCst);
        }
    }
}

/// A fork in the handler: both processes go back to the call with the same token. The child gets a status, the parent its result, in its own
/// copy of the memory.
pub fn fork() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let s = AsmPal::register()?;
        let rounds = s.rounds_for(LONG)?;
        let out = Mapping::anonymous(1)?;
        out.fill(&[1; 4096]);
        FORKED.store(0, SeqCst);
        on_signal(libc::SIGALRM, fork_once, 0)?;
        let timer = Timer::start(SOON, SOON)?;
        let (value, status) = s.raw(Asm::SlowFill, &[out.address(), 4096, rounds]);
        if FORKED.load(SeqCst) == -1 {
            let untouched = out.bytes() == [1; 4096];
            let code = if status == Status::Lost && untouched { 0 } else { 10 + status as i32 };
            // SAFETY: the child ends without the parent's destructors.
            unsafe { libc::_exit(code) }
        }
        drop(timer);
        let child = FORKED.load(SeqCst) as libc::pid_t;
        ensure!(child > 0, "no fork while S was frozen");
        Child::adopt(child).join(LIMIT).context("the child")?;
        ensure!((value, status) == (TRIALS + 1, Status::Ok), "the parent's call: {value}, {status:?}");
        ensure!(out.bytes() == [FILLED; 4096], "the parent's result is wrong");
        Ok(())
    })
}

/// SIGSTOP and SIGCONT in the middle of a call change nothing.
pub fn stopped() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let child = Child::fork(|| {
            let s = AsmPal::register()?;
            let rounds = s.rounds_for(LONG)?;
            for calls in TRIALS + 1..TRIALS + 3 {
                ensure!(s.spin(rounds)? == calls, "S ran another time");
            }
            s.unregister()
        })?;
        for _ in 0..20 {
            for signal in [libc::SIGSTOP, libc::SIGCONT] {
                sleep(Duration::from_millis(50));
                // SAFETY: our own child, not reaped yet.
                system("kill", unsafe { libc::kill(child.pid(), signal) })?;
            }
        }
        child.join(LIMIT)
    })
}
