//! Signal handlers that look at, or change, what they interrupt.

use super::system;
use std::mem::zeroed;
use std::ptr;
use std::time::Duration;
use trustvisor::abi::TOKEN_BIT;

/// A handler with its context.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs a handler; `SA_ONSTACK` or `SA_NODEFER` may be among the flags.
pub fn on_signal(signal: i32, handler: Handler, flags: i32) -> anyhow::Result<()> {
    // SAFETY: an all-zero `sigaction` is valid.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO | flags;
    // SAFETY: a valid action; what the handler may do is its own part.
    system("sigaction", unsafe { libc::sigaction(signal, &action, ptr::null_mut()) }).map(drop)
}

/// The default action again.
pub fn default_action(signal: i32) -> anyhow::Result<()> {
    // SAFETY: no handler.
    let before = unsafe { libc::signal(signal, libc::SIG_DFL) };
    system("signal", if before == libc::SIG_ERR { -1 } else { 0 }).map(drop)
}

/// The registers that a handler's context holds.
///
/// # Safety
/// `context` is what the kernel gave to the running handler.
pub unsafe fn registers<'a>(context: *mut libc::c_void) -> &'a mut [i64; 23] {
    // SAFETY: by the contract; the context lives as long as the handler runs.
    unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs }
}

/// Whether RAX holds a token of TrustVisor's (and no error of a system call's).
pub fn is_token(rax: u64) -> bool {
    rax & TOKEN_BIT != 0 && rax >> 32 != 0xffff_ffff
}

/// SIGALRM after this time, and then in these intervals (zero: once); no more when dropped.
pub struct Timer;

impl Timer {
    pub fn start(delay: Duration, interval: Duration) -> anyhow::Result<Self> {
        set_timer(delay, interval)?;
        Ok(Self)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let _ = set_timer(Duration::ZERO, Duration::ZERO);
    }
}

fn set_timer(delay: Duration, interval: Duration) -> anyhow::Result<()> {
    let time =
        |d: Duration| libc::timeval { tv_sec: d.as_secs() as i64, tv_usec: i64::from(d.subsec_micros()) };
    let timer = libc::itimerval { it_interval: time(interval), it_value: time(delay) };
    // SAFETY: a valid timer value.
    system("setitimer", unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, ptr::null_mut()) }).map(drop)
}
