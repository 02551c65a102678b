//! Surviving a SIGSEGV at a VMMCALL: the handler notes the fault and steps over the instruction.

use super::system;
use std::cell::Cell;
use std::mem::{MaybeUninit, zeroed};

/// What a SIGSEGV said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub address: u64,
    /// `SEGV_MAPERR` or `SEGV_ACCERR`.
    pub code: i32,
    /// Whether it came at a VMMCALL.
    pub at_vmmcall: bool,
}

thread_local! {
    /// Of this thread: its own accesses raise the signal.
    static NOTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];

extern "C" fn note(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes both, and RIP is the instruction that faulted, so its bytes can be read (VMMCALL is the
    // shortest that does). Anything else ends here.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        let at_vmmcall = (*rip as *const [u8; 3]).read_unaligned() == VMMCALL;
        NOTED.set(Some(Fault { address: (*info).si_addr() as u64, code: (*info).si_code, at_vmmcall }));
        if !at_vmmcall {
            libc::_exit(139);
        }
        *rip += 3;
    }
}

/// Runs `f`, in which VMMCALL may fault (and then leaves RAX and RDX as they were), and tells of the fault.
pub fn faulting<T>(f: impl FnOnce() -> T) -> anyhow::Result<(T, Option<Fault>)> {
    // SAFETY: an all-zero `sigaction` is valid.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = note as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) as usize;
    action.sa_flags = libc::SA_SIGINFO;
    let mut before = MaybeUninit::uninit();
    // SAFETY: a valid action with a handler of the right type; the old one is written.
    system("sigaction", unsafe { libc::sigaction(libc::SIGSEGV, &action, before.as_mut_ptr()) })?;
    NOTED.set(None);
    let result = f();
    // SAFETY: `before` was written by the first call.
    system("sigaction", unsafe { libc::sigaction(libc::SIGSEGV, before.as_ptr(), std::ptr::null_mut()) })?;
    Ok((result, NOTED.get()))
}
