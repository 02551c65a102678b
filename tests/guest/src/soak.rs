//! Lives and deaths of PALs at random, some at a time, while the guest swaps and signals come at any moment. `CYCLES` says how many, `SEED` lets a
//! run be repeated as far as time lets it. At the end nothing may be missing and nothing left.

use crate::asm_pal::{self, Asm};
use crate::support::{
    Child, IMAGE, Mapping, PAGE, Pipe, Rng, TestPal, Timer, as_before, expect, expect_error, on_signal,
    pattern, random, raw, system, tell_kernel,
};
use crate::{left, orphans};
use anyhow::{Context, bail, ensure};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};
use trustvisor::abi::{Handle, Status, number};
use trustvisor::{Error, Out};

/// Processes at a time.
const WORKERS: usize = 3;
/// A life takes this long at most, the guest swapping.
const LIFE_LIMIT: Duration = Duration::from_secs(120);
/// `COLLECT` condemns by two looks this far apart, or a little less.
const APART: Duration = Duration::from_millis(12_000);
/// The least that the guest must have written to its swap device.
const SWAPPED_PAGES: u64 = 2_000;

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Unregister,
    Drop,
    Fault,
    AbortInCall,
    LeaveAndAbort,
    /// The others leave a PAL without an owner.
    Exit,
    ExitInCall,
    ExecInCall,
    CrashInCall,
    Killed,
}

const ENDINGS: [Ending; 10] = [
    Ending::Unregister,
    Ending::Drop,
    Ending::Fault,
    Ending::AbortInCall,
    Ending::LeaveAndAbort,
    Ending::Exit,
    Ending::ExitInCall,
    Ending::ExecInCall,
    Ending::CrashInCall,
    Ending::Killed,
];

struct Worker {
    child: Child,
    ending: Ending,
    seed: u64,
    started: Instant,
    /// When the parent kills it.
    kill_at: Option<Instant>,
}

impl Worker {
    fn start(rng: &mut Rng) -> anyhow::Result<Self> {
        let seed = rng.next();
        let ending = ENDINGS[rng.within(0..ENDINGS.len() as u64) as usize];
        let started = Instant::now();
        let kill_at =
            (ending == Ending::Killed).then(|| started + Duration::from_micros(rng.within(2_000..400_000)));
        let child =
            Child::fork(|| live(seed, ending).with_context(|| format!("{ending:?}, seed {seed:#x}")))?;
        Ok(Self { child, ending, seed, started, kill_at })
    }

    /// Whether it has ended, and as it should.
    fn ended(&mut self) -> anyhow::Result<bool> {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| now >= at) {
            // SAFETY: our own child, not reaped yet.
            system("kill", unsafe { libc::kill(self.child.pid(), libc::SIGKILL) })?;
            self.kill_at = None;
        }
        let Some(status) = self.child.ended()? else {
            ensure!(
                now < self.started + LIFE_LIMIT,
                "{:?}, seed {:#x}: does not end",
                self.ending,
                self.seed
            );
            return Ok(false);
        };
        let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
        let wanted = match self.ending {
            Ending::Killed => Some(libc::SIGKILL),
            Ending::CrashInCall => Some(libc::SIGSEGV),
            _ => None,
        };
        let good = signal == wanted && (signal.is_some() || libc::WEXITSTATUS(status) == 0);
        ensure!(good, "{:?}, seed {:#x}: ended with status {status:#x}", self.ending, self.seed);
        Ok(true)
    }
}

pub fn run() -> anyhow::Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let cycles = number("CYCLES").unwrap_or(100);
    let seed = number("SEED").map_or_else(random, Ok)?;
    println!("tvtest: {cycles} lives with SEED={seed}");
    let before = trustvisor::info()?;
    let swapped_before = pages_swapped_out()?;
    let hog = hog()?;
    let mut rng = Rng::new(seed);
    let (mut workers, mut counts, mut collected) = (Vec::new(), [0u64; ENDINGS.len()], 0);
    let mut last_collect = Instant::now();
    for cycle in 0..cycles {
        while workers.len() == WORKERS {
            reap(&mut workers)?;
            sleep(Duration::from_millis(2));
        }
        let worker = Worker::start(&mut rng)?;
        counts[worker.ending as usize] += 1;
        workers.push(worker);
        if last_collect.elapsed() > Duration::from_millis(rng.within(500..6_000)) {
            collected += trustvisor::collect()?;
            last_collect = Instant::now();
        }
        if cycle % 16 == 15 {
            // Pages move, locked ones too.
            tell_kernel("/proc/sys/vm/compact_memory", "1")?;
        }
        if cycle % 100 == 99 {
            let info = trustvisor::info()?;
            println!("tvtest: {} lives, {collected} collected, {} PALs now", cycle + 1, info.pals);
        }
    }
    while !workers.is_empty() {
        reap(&mut workers)?;
        sleep(Duration::from_millis(2));
    }
    hog.kill()?;
    for _ in 0..3 {
        sleep(APART);
        collected += trustvisor::collect()?;
    }
    let swapped = pages_swapped_out()? - swapped_before;
    println!("tvtest: {ENDINGS:?} {counts:?}");
    println!("tvtest: {collected} PALs collected, {swapped} pages swapped out");
    as_before(&before)?;
    ensure!(swapped >= SWAPPED_PAGES.min(cycles * 4), "the guest has hardly swapped");
    Ok(())
}

fn reap(workers: &mut Vec<Worker>) -> anyhow::Result<()> {
    let mut index = 0;
    while index < workers.len() {
        if workers[index].ended()? {
            workers.swap_remove(index);
        } else {
            index += 1;
        }
    }
    Ok(())
}

/// From /proc/vmstat: Linux, Documentation/filesystems/proc.rst.
fn pages_swapped_out() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let line = text.lines().find_map(|line| line.strip_prefix("pswpout ")).context("no pswpout")?;
    Ok(line.trim().parse()?)
}

/// A process that uses more memory than there is, one page after the other, for ever. It has done so once when this function returns.
fn hog() -> anyhow::Result<Child> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let available =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("MemAvailable")?;
    let kib: usize = available.trim().trim_end_matches(" kB").parse()?;
    let pages = kib / 4 * 9 / 8;
    let full = Pipe::new()?;
    let hog = Child::fork(|| {
        let memory = Mapping::anonymous(pages)?;
        let touch = |page: usize| memory.write(page * PAGE, page as u8);
        (0..pages).for_each(touch);
        full.signal()?;
        loop {
            for page in 0..pages {
                touch(page);
                if page % 32 == 0 {
                    sleep(Duration::from_micros(500));
                }
            }
        }
    })?;
    full.wait()?;
    Ok(hog)
}

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// A registered PAL, as soon as there is room for it: what others left behind may have to be found dead twice first.
fn register_when_there_is_room<T>(register: impl Fn() -> Result<T, Error>) -> anyhow::Result<T> {
    let deadline = Instant::now() + LIFE_LIMIT / 2;
    loop {
        match register() {
            Err(error)
                if matches!(error.status(), Some(Status::NoMemory | Status::TooMany))
                    && Instant::now() < deadline =>
            {
                sleep(Duration::from_millis(200));
            }
            result => return Ok(result?),
        }
    }
}

fn live(seed: u64, ending: Ending) -> anyhow::Result<()> {
    let mut rng = Rng::new(seed);
    on_signal(libc::SIGALRM, nothing, 0)?;
    let interval = Duration::from_micros(rng.within(700..30_000));
    let signals = Timer::start(interval, interval)?;
    let s = register_when_there_is_room(|| TestPal::register(IMAGE))?;
    if rng.within(0..2) == 0 {
        // The owner page may be swapped out.
        // SAFETY: one mapped page.
        unsafe { libc::munlock(s.pal().owner_page() as *const libc::c_void, PAGE) };
    }
    let room = Mapping::anonymous(64)?;
    let calls = if ending == Ending::Killed { u64::MAX } else { rng.within(1..8) };
    let mut runs = 0;
    for _ in 0..calls {
        call(&s, &mut rng, &room, &mut runs)?;
    }
    drop(signals);
    end(s, &mut rng, ending)
}

/// A call of a random entry with random buffers.
fn call(s: &TestPal, rng: &mut Rng, room: &Mapping, runs: &mut u64) -> anyhow::Result<()> {
    let length = rng.within(0..50_000) as usize;
    let at = rng.within(0..(64 * PAGE - 50_000) as u64) as usize;
    let seed = rng.next();
    let slice = &mut room.slice()[at..at + length];
    match rng.within(0..6) {
        0 => {
            let rounds = rng.within(0..2_000_000);
            ensure!(s.compute(rounds)? == pattern::compute(rounds), "S computes something else");
        }
        1 => {
            *runs += 1;
            ensure!(s.count()? == *runs, "S has lost count");
        }
        2 => {
            let sum = slice.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            ensure!(s.sum(slice)? == sum, "S reads something else");
        }
        3 => {
            *runs += 1;
            ensure!(s.fill(Out(slice), seed)? == 0, "S finds what another call left");
            ensure!(slice == crate::buffers::filled(seed, length), "a result is wrong");
        }
        4 => {
            let mut wanted = slice.to_vec();
            wanted.reverse();
            s.reverse(slice)?;
            ensure!(slice == wanted, "an in-out buffer comes back wrong");
        }
        _ => {
            room.advise(libc::MADV_PAGEOUT)?;
            let value = seed >> 1;
            ensure!(s.weigh(value, 0, 0, 0, 0, 0)? == value, "an integer arrives wrong");
        }
    }
    Ok(())
}

static HANDLE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static ABORTED: AtomicU64 = AtomicU64::new(0);

extern "C" fn abort(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let [low, high] = [0, 1].map(|i| HANDLE[i].load(SeqCst));
    ABORTED.store(raw(number::ABORT.into(), Handle { low, high }, &[]).1 as u64, SeqCst);
}

fn end(s: TestPal, rng: &mut Rng, ending: Ending) -> anyhow::Result<()> {
    let soon = Duration::from_micros(rng.within(1_000..100_000));
    match ending {
        Ending::Unregister => Ok(s.unregister()?),
        Ending::Drop => {
            drop(s);
            Ok(())
        }
        Ending::Fault => {
            let how = rng.within(0..crate::deaths::ways() as u64) as u32;
            expect_error("S does what it must not", s.die(how), Status::Faulted)
        }
        Ending::AbortInCall => {
            let handle = s.pal().handle();
            HANDLE[0].store(handle.low, SeqCst);
            HANDLE[1].store(handle.high, SeqCst);
            on_signal(libc::SIGALRM, abort, 0)?;
            let _timer = Timer::start(soon, Duration::ZERO)?;
            // Aborted before the call, in it, or, on a slow machine, never.
            match s.compute(200_000_000) {
                Err(error) if matches!(error.status(), Some(Status::Lost | Status::NoSuchPal)) => {
                    ensure!(ABORTED.load(SeqCst) == Status::Ok as u64, "ABORT is not done");
                    Ok(())
                }
                other => bail!("an aborted call: {other:?}"),
            }
        }
        Ending::LeaveAndAbort => {
            s.unregister()?;
            let s = register_when_there_is_room(|| trustvisor::Pal::register(&asm_pal::image(false, 1)))?;
            let token = left::leave_a_call(s.handle(), u64::MAX >> 8)?;
            expect("a new call", raw(asm_call(), s.handle(), &[1]).1, Status::Busy)?;
            s.abort()?;
            expect("a token after abort", raw(token, s.handle(), &[1]).1, Status::Lost)
        }
        Ending::Exit => {
            std::mem::forget(s);
            Ok(())
        }
        Ending::ExitInCall | Ending::ExecInCall | Ending::CrashInCall => {
            s.unregister()?;
            let image = asm_pal::image(false, rng.within(1..64));
            let s = register_when_there_is_room(|| trustvisor::Pal::register(&image))?;
            let how = match ending {
                Ending::ExitInCall => orphans::End::Exit,
                Ending::ExecInCall => orphans::End::Exec,
                _ => orphans::End::Segv,
            };
            orphans::end_soon(how, soon)?;
            raw(asm_call(), s.handle(), &[u64::MAX >> 8]);
            bail!("a call of a process that should have ended has ended");
        }
        Ending::Killed => loop {
            s.compute(1_000_000)?;
        },
    }
}

fn asm_call() -> u64 {
    crate::support::call_entry(Asm::Spin as u64)
}
