//! A token in other hands: whoever has one, but not the registers and the address space of the call it belongs to, continues nothing.

use crate::interrupted::rounds_for;
use crate::support::{
    Child, IMAGE, Mapping, NO_HANDLE, PAGE, TestPal, Timer, call_entry, entry, expect, faulting, is_token,
    leaving_nothing, on_signal, pattern, raw, register, registers,
};
use anyhow::{Context, ensure};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};
use trustvisor::abi::image::HEADER_SIZE;
use trustvisor::abi::{Handle, Status, TOKEN_BIT, number};

const ATTEMPTS: usize = 5;
const UNSEEN: u64 = u64::MAX;

/// What the frozen call's process and the other one tell each other, in memory that both have.
struct Shared {
    handle: [AtomicU64; 2],
    token: AtomicU64,
    /// What came of each attempt: in this process, and in the other.
    here: [AtomicU64; ATTEMPTS],
    there: [AtomicU64; ATTEMPTS],
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());

impl Shared {
    /// The handles to try with a true token. Only the first is right.
    fn handles(&self) -> [Handle; ATTEMPTS] {
        let [low, high] = [0, 1].map(|half| self.handle[half].load(SeqCst));
        [
            Handle { low, high },
            NO_HANDLE,
            Handle { low, high: high ^ 1 },
            Handle { low: low ^ 1 << 40, high },
            Handle { low: high, high: low },
        ]
    }

    fn attempt(&self, answers: &[AtomicU64; ATTEMPTS], first: usize) {
        let token = self.token.load(SeqCst);
        for (handle, answer) in self.handles().into_iter().zip(answers).skip(first) {
            answer.store(raw(token, handle, &[]).1 as u64, SeqCst);
        }
    }
}

/// At the frozen call: its token is in RAX. Tries it here with the wrong handles, and lets the other process try it with all.
extern "C" fn at_the_call(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context; `run` has set the memory up, and it stays.
    let (saved, shared) = unsafe { (registers(context), &*SHARED.load(SeqCst)) };
    let rax = saved[libc::REG_RAX as usize] as u64;
    if !is_token(rax) || shared.token.load(SeqCst) != 0 {
        return;
    }
    shared.token.store(rax, SeqCst);
    shared.attempt(&shared.here, 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    while shared.there[ATTEMPTS - 1].load(SeqCst) == UNSEEN && Instant::now() < deadline {
        sleep(Duration::from_millis(5));
    }
}

pub fn run() -> anyhow::Result<()> {
    let memory = Mapping::shared_anonymous(1)?;
    let shared = memory.address() as *mut Shared;
    // SAFETY: a page of zeroes is room for it and a valid value of it; it lives as long as this process.
    let shared = unsafe { &*shared };
    std::mem::forget(memory);
    SHARED.store(ptr::from_ref(shared).cast_mut(), SeqCst);
    shared.here.iter().chain(&shared.there).for_each(|answer| answer.store(UNSEEN, SeqCst));

    let s = register()?;
    let handle = s.pal().handle();
    shared.handle[0].store(handle.low, SeqCst);
    shared.handle[1].store(handle.high, SeqCst);
    let thief = Child::fork(|| {
        while shared.token.load(SeqCst) == 0 {
            sleep(Duration::from_millis(5));
        }
        shared.attempt(&shared.there, 0);
        Ok(())
    })?;
    let rounds = rounds_for(&s, Duration::from_millis(800))?;
    let value = interrupted_call(&s, rounds)?;
    ensure!(shared.token.load(SeqCst) != 0, "no signal came while S was frozen");
    thief.join(Duration::from_secs(30))?;
    for (whose, answers, first) in [("this", &shared.here, 1), ("another", &shared.there, 0)] {
        for (attempt, answer) in answers.iter().enumerate().skip(first) {
            let answer = trustvisor::status(answer.load(SeqCst)).context("an attempt was not made")?;
            expect(&format!("the token with handle {attempt} in {whose} process"), answer, Status::Lost)?;
        }
    }
    ensure!(value == pattern::compute(rounds), "S computed something else");
    expect("a call after it", raw(call_entry(entry::NULL), handle, &[]).1, Status::Ok)?;
    stopped_registration()
}

/// A registration stops where its image cannot be read: another process with the same memory does not go on with it.
pub fn stopped_registration() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let (image, owner_page) =
            (Mapping::anonymous(IMAGE.len().div_ceil(PAGE) + 1)?, Mapping::anonymous(1)?);
        let at = PAGE - HEADER_SIZE;
        image.slice()[at..at + IMAGE.len()].copy_from_slice(IMAGE);
        image.protect(1, 1, libc::PROT_NONE)?;
        let arguments = [image.address() + at as u64, IMAGE.len() as u64, owner_page.address()];
        let ((token, _), fault) = faulting(|| raw(number::REGISTER.into(), NO_HANDLE, &arguments))?;
        ensure!(fault.is_some_and(|f| f.at_vmmcall) && token & TOKEN_BIT != 0, "{fault:?}, {token:#x}");
        image.protect(1, 1, libc::PROT_READ | libc::PROT_WRITE)?;
        Child::fork(|| {
            let status = raw(token, NO_HANDLE, &arguments).1;
            expect("a registration's token in another process", status, Status::Lost)
        })?
        .join(Duration::from_secs(30))?;
        expect("the registration", raw(token, NO_HANDLE, &arguments).1, Status::Ok)?;
        let handle = owner_page.slice().as_chunks::<8>().0;
        let handle = Handle { low: u64::from_le_bytes(handle[0]), high: u64::from_le_bytes(handle[1]) };
        expect("UNREGISTER", raw(number::UNREGISTER.into(), handle, &[]).1, Status::Ok)
    })
}

/// A long call, with a timer's signals while it goes on.
fn interrupted_call(s: &TestPal, rounds: u64) -> anyhow::Result<u64> {
    const EVERY: Duration = Duration::from_millis(20);
    on_signal(libc::SIGALRM, at_the_call, 0)?;
    let _timer = Timer::start(EVERY, EVERY)?;
    Ok(s.compute(rounds)?)
}
