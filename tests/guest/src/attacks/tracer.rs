//! What an OS sees of a process whenever it stops it: registers, by `ptrace`.

use crate::support::{Child, system};
use anyhow::{Context, bail, ensure};
use std::mem::{offset_of, zeroed};
use std::time::{Duration, Instant};

/// When the process stops besides at its signals.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stops {
    Signals,
    SystemCalls,
    Instructions,
}

/// A stop.
pub struct Seen {
    pub general: libc::user_regs_struct,
    pub sse: libc::user_fpregs_struct,
    pub signal: i32,
    /// Where a fault was, says the kernel.
    pub address: u64,
}

impl Seen {
    /// Whether a general register holds this.
    pub fn holds(&self, value: u64) -> bool {
        let r = &self.general;
        let all = [
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14,
            r.r15,
        ];
        all.contains(&value)
    }
}

const LIMIT: Duration = Duration::from_secs(60);
const MOST_STOPS: usize = 200_000;

/// Has a child do `act` and looks at each of its stops, until `look` has seen enough or the child ends. `breakpoint` is an address
/// for its debug registers.
pub fn watch(
    stops: Stops,
    breakpoint: Option<u64>,
    act: impl FnOnce() -> anyhow::Result<()>,
    mut look: impl FnMut(&Seen) -> bool,
) -> anyhow::Result<usize> {
    let child = Child::fork(|| {
        // SAFETY: the parent traces us.
        system("PTRACE_TRACEME", unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })?;
        // SAFETY: stops until the parent goes on.
        unsafe { libc::raise(libc::SIGSTOP) };
        act()
    })?;
    let pid = child.pid();
    let deadline = Instant::now() + LIMIT;
    let (mut count, mut first) = (0, true);
    while let Some((signal, event)) = wait(pid, deadline)? {
        if event == libc::PTRACE_EVENT_EXIT {
            break;
        }
        if first {
            first = false;
            set_up(pid, breakpoint)?;
            go_on(pid, stops, 0)?;
            continue;
        }
        count += 1;
        if look(&state(pid, signal)?) {
            break;
        }
        ensure!(count < MOST_STOPS, "the process stops without end");
        let its_own = ![libc::SIGTRAP, libc::SIGTRAP | 0x80, libc::SIGALRM, libc::SIGSTOP].contains(&signal);
        go_on(pid, stops, if its_own { signal } else { 0 })?;
    }
    // A traced process that is about to exit does not heed a signal.
    // SAFETY: concerns the child only.
    system("PTRACE_DETACH", unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, libc::SIGKILL) })?;
    child.kill()?;
    ensure!(count > 0, "the process never stopped");
    Ok(count)
}

/// The child's next stop: signal and event. It is not reaped here: it stops when it exits.
fn wait(pid: i32, deadline: Instant) -> anyhow::Result<Option<(i32, i32)>> {
    loop {
        let mut status = 0;
        // SAFETY: waits for our own child.
        let who =
            system("waitpid", unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG | libc::__WALL) })?;
        if who == i64::from(pid) {
            ensure!(libc::WIFSTOPPED(status), "the traced child ended with {status:#x}");
            return Ok(Some((libc::WSTOPSIG(status), status >> 16)));
        }
        if Instant::now() > deadline {
            bail!("the traced child neither stops nor ends");
        }
        std::thread::yield_now();
    }
}

fn set_up(pid: i32, breakpoint: Option<u64>) -> anyhow::Result<()> {
    let options = libc::PTRACE_O_TRACEEXIT | libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD;
    // SAFETY: concerns the child only.
    system("PTRACE_SETOPTIONS", unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options) })?;
    let Some(address) = breakpoint else { return Ok(()) };
    let registers = offset_of!(libc::user, u_debugreg) as u64;
    // DR7: L0, and DR0 for instructions (AMD APM vol. 2, 13.1.1).
    for (register, value) in [(0, address), (7, 1)] {
        // SAFETY: concerns the child only.
        let set = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, pid, registers + register * 8, value) };
        system("PTRACE_POKEUSER", set).context("debug registers")?;
    }
    Ok(())
}

fn go_on(pid: i32, stops: Stops, signal: i32) -> anyhow::Result<()> {
    let request = match stops {
        Stops::Signals => libc::PTRACE_CONT,
        Stops::SystemCalls => libc::PTRACE_SYSCALL,
        Stops::Instructions => libc::PTRACE_SINGLESTEP,
    };
    // SAFETY: concerns the child only.
    system("ptrace", unsafe { libc::ptrace(request, pid, 0, signal) }).map(drop)
}

fn state(pid: i32, signal: i32) -> anyhow::Result<Seen> {
    // SAFETY: all zero is a value of each, and the kernel writes as much as each is long.
    unsafe {
        let (mut general, mut sse, mut info) = (zeroed(), zeroed(), zeroed::<libc::siginfo_t>());
        system("PTRACE_GETREGS", libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut general))?;
        system("PTRACE_GETFPREGS", libc::ptrace(libc::PTRACE_GETFPREGS, pid, 0, &raw mut sse))?;
        let fault =
            libc::ptrace(libc::PTRACE_GETSIGINFO, pid, 0, &raw mut info) == 0 && signal == libc::SIGSEGV;
        let address = if fault { info.si_addr() as u64 } else { 0 };
        Ok(Seen { general, sse, signal, address })
    }
}
