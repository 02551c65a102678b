//! Buffers that change under a call: while S computes, another thread unmaps, protects, replaces or truncates what the result is for. S runs
//! once for a call, whatever becomes of its result, and a result is delivered whole or there is a status or a signal.

use crate::asm_pal::{Asm, AsmPal, FILLED, TRIALS};
use crate::support::{
    Fault, Mapping, PAGE, default_action, expect, faulting, leaving_nothing, on_signal, raw, registers,
    system,
};
use anyhow::ensure;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;
use trustvisor::abi::{Status, TOKEN_BIT};

const PAGES: usize = 4;
const LENGTH: usize = PAGES * PAGE;
const OLD: u8 = 0x11;
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
/// S computes for [`LONG`]; the other thread acts after [`SOON`].
const LONG: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_millis(150);

/// S with the buffers that it fills slowly.
struct Scene {
    s: AsmPal,
    rounds: u64,
    /// Calls of S that should have been.
    calls: u64,
    buffer: Mapping,
}

impl Scene {
    fn new() -> anyhow::Result<Self> {
        let s = AsmPal::register()?;
        let rounds = s.rounds_for(LONG)?;
        let buffer = Mapping::anonymous(PAGES)?;
        buffer.fill(&[OLD; LENGTH]);
        Ok(Self { s, rounds, calls: TRIALS, buffer })
    }

    fn arguments(&self) -> [u64; 3] {
        [self.buffer.address(), LENGTH as u64, self.rounds]
    }

    /// A call of `slow_fill` while another thread does something to the buffer.
    fn call_while<F: FnOnce(&Mapping) -> anyhow::Result<()> + Send>(
        &mut self,
        act: F,
    ) -> anyhow::Result<((u64, Status), Option<Fault>)> {
        self.calls += 1;
        let buffer = &self.buffer;
        let arguments = self.arguments();
        thread::scope(|scope| {
            let other = scope.spawn(move || {
                thread::sleep(SOON);
                act(buffer)
            });
            let result = faulting(|| self.s.raw(Asm::SlowFill, &arguments));
            other.join().expect("the other thread does not panic")?;
            result
        })
    }

    /// The call faulted where it should and stands open; nothing was delivered to the pages that are still there. The token.
    fn open(
        &self,
        ((token, _), fault): ((u64, Status), Option<Fault>),
        page: usize,
        code: i32,
    ) -> anyhow::Result<u64> {
        let address = self.buffer.address() + (page * PAGE) as u64;
        let wanted = Fault { address, code, at_vmmcall: true };
        ensure!(fault == Some(wanted), "{fault:x?} instead of {wanted:x?}");
        ensure!(token & TOKEN_BIT != 0, "RAX is {token:#x} at a fault in the middle of a call");
        ensure!((0..page * PAGE).all(|i| self.buffer.read(i) == OLD), "half a result was delivered");
        expect("a new call meanwhile", self.s.raw(Asm::Spin, &[0]).1, Status::Busy)?;
        Ok(token)
    }

    /// Continues the open call: the result is there, and S ran once.
    fn finish(&mut self, token: u64) -> anyhow::Result<()> {
        let (value, status) = raw(token, self.s.handle(), &[0; 3]);
        expect("the call that was mended", status, Status::Ok)?;
        self.delivered(value)
    }

    fn delivered(&mut self, value: u64) -> anyhow::Result<()> {
        ensure!(value == self.calls, "S ran {value} times for {} calls", self.calls);
        ensure!(self.buffer.bytes() == [FILLED; LENGTH], "the result is wrong");
        self.calls += 1;
        ensure!(self.s.spin(0)? == self.calls, "S ran again");
        self.buffer.fill(&[OLD; LENGTH]);
        Ok(())
    }
}

fn map_again(at: &Mapping, page: usize, pages: usize) -> anyhow::Result<()> {
    let address = (at.address() + (page * PAGE) as u64) as *mut libc::c_void;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: replaces pages of a mapping that the test owns.
    let result = unsafe { libc::mmap(address, pages * PAGE, protection, flags, -1, 0) };
    system("mmap", if result == libc::MAP_FAILED { -1 } else { 0 }).map(drop)
}

pub fn run() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let mut scene = Scene::new()?;
        // Unmapped: SIGSEGV at the page, then the call goes on with new memory.
        let result = scene.call_while(|buffer| buffer.unmap(2, 1))?;
        let token = scene.open(result, 2, SEGV_MAPERR)?;
        map_again(&scene.buffer, 2, 1)?;
        scene.finish(token)?;

        // Write-protected.
        let result = scene.call_while(|buffer| buffer.protect(1, 3, libc::PROT_READ))?;
        let token = scene.open(result, 1, SEGV_ACCERR)?;
        scene.buffer.protect(1, 3, libc::PROT_READ | libc::PROT_WRITE)?;
        scene.finish(token)?;

        // Dropped, and replaced: the kernel brings new pages, nobody notices.
        let ((value, status), fault) = scene.call_while(|buffer| buffer.advise(libc::MADV_DONTNEED))?;
        ensure!(status == Status::Ok && fault.is_none(), "{status:?}, {fault:?} for pages that were dropped");
        scene.delivered(value)?;
        let ((value, status), fault) = scene.call_while(|buffer| map_again(buffer, 0, PAGES))?;
        ensure!(status == Status::Ok && fault.is_none(), "{status:?}, {fault:?} for another mapping");
        scene.delivered(value)?;

        // Away for good: the call stands open until it is aborted.
        let result = scene.call_while(|buffer| buffer.unmap(0, 1))?;
        let token = scene.open(result, 0, SEGV_MAPERR)?;
        scene.s.pal().abort()?;
        expect("a call after abort", raw(token, scene.s.handle(), &[]).1, Status::Lost)
    })?;
    leaving_nothing(|_| no_progress())?;
    leaving_nothing(|_| truncated())
}

/// The right to write a result's file goes while S computes: nothing is written there.
pub fn no_longer_writable() -> anyhow::Result<()> {
    let mut scene = Scene::new()?;
    let mut file = memory_file()?;
    file.write_all(&[OLD; LENGTH])?;
    scene.buffer = Mapping::shared(&file, 0, PAGES)?;
    scene.buffer.fill(&[OLD; LENGTH]);
    scene.call_while(|buffer| buffer.protect(0, PAGES, libc::PROT_READ))?;
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    ensure!(content == [OLD; LENGTH], "a result is in a file that the caller cannot write any more");
    Ok(())
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

/// A handler that mends nothing.
extern "C" fn count(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if SIGNALS.fetch_add(1, SeqCst) == 100 {
        // SAFETY: the kernel's context.
        let found = unsafe { registers(context) };
        // Past the VMMCALL, to end the test.
        found[libc::REG_RIP as usize] += 3;
    }
}

/// Whoever handles SIGSEGV and mends nothing gets a status after a few times, before S runs and after.
fn no_progress() -> anyhow::Result<()> {
    const MOST: u64 = 8;
    let scene = Scene::new()?;
    let away = Mapping::anonymous(PAGES)?;
    away.unmap(1, 3)?;
    let at = away.address() + PAGE as u64;
    on_signal(libc::SIGSEGV, count, 0)?;

    SIGNALS.store(0, SeqCst);
    let answer = scene.s.raw(Asm::SlowFill, &[away.address(), LENGTH as u64, 0]);
    let before_s = SIGNALS.swap(0, SeqCst);
    ensure!(answer == (at, Status::NoProgress), "{answer:x?} for memory that stays away");
    ensure!((1..=MOST).contains(&before_s), "{before_s} page faults for memory that stays away");
    ensure!(scene.s.spin(0)? == TRIALS + 1, "S ran for a result that nobody can have");

    let arguments = scene.arguments();
    let buffer = &scene.buffer;
    let answer = thread::scope(|scope| {
        let other = scope.spawn(move || {
            thread::sleep(SOON);
            buffer.unmap(3, 1)
        });
        let answer = scene.s.raw(Asm::SlowFill, &arguments);
        other.join().expect("the other thread does not panic")?;
        anyhow::Ok(answer)
    })?;
    let after_s = SIGNALS.load(SeqCst);
    default_action(libc::SIGSEGV)?;
    let at = scene.buffer.address() + 3 * PAGE as u64;
    ensure!(answer == (at, Status::NoProgress), "{answer:x?} for a result's memory that stays away");
    ensure!((1..=MOST).contains(&after_s), "{after_s} page faults for a result's memory that stays away");
    ensure!((0..3 * PAGE).all(|i| scene.buffer.read(i) == OLD), "half a result was delivered");
    ensure!(scene.s.spin(0)? == TRIALS + 3, "S did not run once");
    scene.s.unregister()
}

static FILE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn lengthen(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SIGNALS.fetch_add(1, SeqCst);
    // SAFETY: an open file of the test's.
    unsafe { libc::ftruncate(FILE.load(SeqCst), LENGTH as i64) };
}

fn memory_file() -> anyhow::Result<File> {
    // SAFETY: a new anonymous file.
    let descriptor = system("memfd_create", unsafe { libc::memfd_create(c"tvtest".as_ptr(), 0) })?;
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { File::from_raw_fd(descriptor as i32) })
}

/// A file that another thread makes shorter: SIGBUS at the call, as for any access; longer again, the call goes on.
fn truncated() -> anyhow::Result<()> {
    let mut scene = Scene::new()?;
    let file = memory_file()?;
    file.set_len(LENGTH as u64)?;
    scene.buffer = Mapping::shared(&file, 0, PAGES)?;
    scene.buffer.fill(&[OLD; LENGTH]);
    FILE.store(file.as_raw_fd(), SeqCst);
    SIGNALS.store(0, SeqCst);
    on_signal(libc::SIGBUS, lengthen, 0)?;
    let ((value, status), fault) = scene.call_while(|_| Ok(file.set_len(PAGE as u64)?))?;
    default_action(libc::SIGBUS)?;
    ensure!(status == Status::Ok && fault.is_none(), "{status:?}, {fault:?} for a file that was shorter");
    ensure!(SIGNALS.load(SeqCst) == 1, "{} signals for a file that was shorter", SIGNALS.load(SeqCst));
    scene.delivered(value)?;
    scene.s.unregister()
}
