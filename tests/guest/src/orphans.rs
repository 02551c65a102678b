//! Processes that end in the middle of a call, in every way a process can end: each leaves a PAL behind, and two collects 10 s apart free them
//! all and nothing of the living.

use crate::asm_pal::{self, Asm, AsmPal};
use crate::support::{Child, Timer, is_token, on_signal, registers};
use crate::traced;
use anyhow::{Context, ensure};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(60);
/// Killing takes this long at most, however long S would go on.
const KILL_LIMIT: Duration = Duration::from_millis(500);

/// How the handler that interrupts a call ends the process.
#[derive(Clone, Copy)]
pub enum End {
    Exec,
    Exit,
    Segv,
    Abort,
}

static END: AtomicU32 = AtomicU32::new(0);

extern "C" fn end(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's context.
    if !is_token(unsafe { registers(context) }[libc::REG_RAX as usize] as u64) {
        return;
    }
    let end = END.load(SeqCst);
    // SAFETY: a path and a null-terminated list of arguments; the others do not come back. The read of address 8 faults.
    unsafe {
        if end == End::Exec as u32 {
            let arguments = [c"true".as_ptr(), std::ptr::null()];
            libc::execv(c"/bin/busybox".as_ptr(), arguments.as_ptr());
        } else if end == End::Exit as u32 {
            libc::_exit(0);
        } else if end == End::Segv as u32 {
            std::ptr::without_provenance::<u64>(8).read_volatile();
        }
        libc::abort();
    }
}

/// Ends this process so in the call that it is about to make.
pub fn end_soon(how: End, soon: Duration) -> anyhow::Result<()> {
    END.store(how as u32, SeqCst);
    on_signal(libc::SIGALRM, end, 0)?;
    std::mem::forget(Timer::start(soon, soon)?);
    Ok(())
}

/// A child that ends so in its call.
fn end_in_call(how: End, image: &[u8]) -> anyhow::Result<Child> {
    Child::fork(|| {
        let s = AsmPal::of(image)?;
        let rounds = s.rounds_for(Duration::from_secs(100))?;
        end_soon(how, SOON)?;
        s.spin(rounds).map(drop)
    })
}

pub fn run() -> anyhow::Result<()> {
    let living = AsmPal::register()?;
    let before = trustvisor::info()?;
    let image = asm_pal::image(false, 1);

    let computing = Child::fork(|| {
        let s = AsmPal::register()?;
        let rounds = s.rounds_for(Duration::from_secs(100))?;
        s.raw(Asm::Spin, &[rounds]);
        Ok(())
    })?;
    sleep(Duration::from_millis(500));
    let start = Instant::now();
    computing.kill()?;
    let took = start.elapsed();
    println!("tvtest: SIGKILL ends a process whose S computes in {} us", took.as_micros());
    ensure!(took < KILL_LIMIT, "SIGKILL takes {} ms", took.as_millis());

    end_in_call(End::Exec, &image)?.join(LIMIT).context("exec in a call")?;
    end_in_call(End::Exit, &image)?.join(LIMIT).context("_exit in a call")?;
    for (how, signal) in [(End::Segv, "signal 11"), (End::Abort, "signal 6")] {
        let died = end_in_call(how, &image)?.join(LIMIT);
        ensure!(
            died.as_ref().is_err_and(|e| e.to_string().ends_with(signal)),
            "instead of {signal}: {died:?}"
        );
    }
    traced::kill_in_call()?;

    let orphans = trustvisor::info()?.pals - before.pals;
    ensure!(orphans == 6, "{orphans} PALs without owners instead of 6");
    sleep(Duration::from_millis(1_500));
    ensure!(trustvisor::collect()? == 0, "one collect is enough");
    sleep(Duration::from_millis(12_000));
    let freed = trustvisor::collect()?;
    ensure!(freed == orphans, "{freed} PALs freed instead of {orphans}");
    let after = trustvisor::info()?;
    ensure!((after.pals, after.frames_free) == (before.pals, before.frames_free), "frames are missing");
    ensure!(living.spin(1)? == 1, "the living owner's PAL is gone");
    living.unregister()
}
