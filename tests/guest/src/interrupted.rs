//! S computes for long, and the OS goes on meanwhile.

use crate::support::{
    Child, Handler, Mapping, TestPal, Timer, call_entry, entry, expect, expect_error, leaving_nothing,
    on_signal, pattern, raw, register,
};
use anyhow::ensure;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};
use trustvisor::abi::{Handle, Status, number};

/// How many rounds take S this long.
pub fn rounds_for(s: &TestPal, duration: Duration) -> anyhow::Result<u64> {
    let start = Instant::now();
    let trial = 1_000_000;
    s.compute(trial)?;
    Ok((duration.as_secs_f64() / start.elapsed().as_secs_f64() * trial as f64) as u64)
}

static ALARMS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_alarm(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    ALARMS.fetch_add(1, Relaxed);
}

/// S runs for 3 s in one call: a timer's signals reach the caller, another process keeps working, and the
/// result is right.
pub fn run() -> anyhow::Result<()> {
    let s = register()?;
    let rounds = rounds_for(&s, Duration::from_secs(3))?;
    let ticks = Mapping::shared_anonymous(1)?;
    let ticker = Child::fork(|| {
        for tick in 0u64.. {
            ticks.slice()[..8].copy_from_slice(&tick.to_le_bytes());
            sleep(Duration::from_millis(10));
        }
        Ok(())
    })?;
    let ticked = || ticks.bytes()[..8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let (ticks_before, exits_before) = (ticked(), trustvisor::info()?.exits);

    let timer = alarm(Duration::from_millis(20), Duration::from_millis(20), count_alarm)?;
    let start = Instant::now();
    let value = s.compute(rounds)?;
    let took = start.elapsed();
    drop(timer);

    let (ticks, alarms) = (ticked() - ticks_before, ALARMS.load(Relaxed));
    ticker.kill()?;
    let exits = trustvisor::info()?.exits;
    let freezes = exits[trustvisor::abi::exit::PAL] - exits_before[trustvisor::abi::exit::PAL];
    println!(
        "tvtest: S ran {:.1} s, {freezes} exits, {alarms} signals, another process ticked {ticks} times",
        took.as_secs_f64()
    );
    ensure!(value == pattern::compute(rounds), "S computed something else");
    // The machine may be busy with other things; a quarter of what was asked for still shows that nothing
    // stood still.
    let expected = took.as_millis() as u64;
    ensure!(expected >= 300, "S was too fast for this test: {expected} ms");
    ensure!(freezes >= expected / 80, "only {freezes} exits out of S");
    ensure!(alarms >= expected / 80, "only {alarms} signals while S ran");
    ensure!(ticks >= expected / 80, "another process ticked only {ticks} times while S ran");
    Ok(())
}

/// What a signal handler is to call, and what came of it.
static HANDLE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static OTHER: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static ANSWERS: [AtomicU64; 3] = [const { AtomicU64::new(u64::MAX) }; 3];

fn publish(to: &[AtomicU64; 2], handle: Handle) {
    to[0].store(handle.low, Relaxed);
    to[1].store(handle.high, Relaxed);
}

fn published(from: &[AtomicU64; 2]) -> Handle {
    Handle { low: from[0].load(Relaxed), high: from[1].load(Relaxed) }
}

fn answer(at: usize, status: Status) {
    ANSWERS[at].store(status as u64, Relaxed);
}

fn answered(at: usize) -> Option<Status> {
    trustvisor::status(ANSWERS[at].load(Relaxed))
}

extern "C" fn call_both(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    answer(0, raw(call_entry(entry::NULL), published(&HANDLE), &[]).1);
    answer(1, raw(call_entry(entry::NULL), published(&OTHER), &[]).1);
    answer(2, raw(number::UNREGISTER.into(), published(&HANDLE), &[]).1);
}

/// A signal handler finds the frozen PAL busy, calls another, and returns into the call.
pub fn signals() -> anyhow::Result<()> {
    let (s, other) = (register()?, register()?);
    let rounds = rounds_for(&s, Duration::from_millis(800))?;
    publish(&HANDLE, s.pal().handle());
    publish(&OTHER, other.pal().handle());
    let timer = alarm(Duration::from_millis(100), Duration::from_millis(100), call_both)?;
    let value = s.compute(rounds)?;
    drop(timer);
    let busy = answered(0).ok_or_else(|| anyhow::anyhow!("no signal came"))?;
    expect("a call of the frozen PAL", busy, Status::Busy)?;
    expect("a call of another PAL", answered(1).unwrap_or(Status::Lost), Status::Ok)?;
    expect("unregistering the frozen PAL", answered(2).unwrap_or(Status::Lost), Status::Busy)?;
    ensure!(value == pattern::compute(rounds), "S computed something else");
    Ok(())
}

extern "C" fn abort(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    answer(0, raw(number::ABORT.into(), published(&HANDLE), &[]).1);
}

/// A frozen PAL that is aborted is gone at once; who comes back to its call hears so.
pub fn abandoned() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let s = register()?;
        let rounds = rounds_for(&s, Duration::from_millis(800))?;
        publish(&HANDLE, s.pal().handle());
        answer(0, Status::Unsupported);
        let timer = alarm(Duration::from_millis(100), Duration::ZERO, abort)?;
        let result = s.compute(rounds);
        drop(timer);
        expect("abort of a frozen PAL", answered(0).unwrap_or(Status::Lost), Status::Ok)?;
        expect_error("the call that was aborted", result, Status::Lost)?;
        expect_error("a call after abort", s.count(), Status::NoSuchPal)
    })
}

/// The handler, and then SIGALRM after this time and in these intervals.
fn alarm(delay: Duration, interval: Duration, handler: Handler) -> anyhow::Result<Timer> {
    on_signal(libc::SIGALRM, handler, 0)?;
    Timer::start(delay, interval)
}
