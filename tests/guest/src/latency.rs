//! How late another process's timer comes while S computes, or while TrustVisor works for long: no later by more than a tick than beside
//! ordinary programs. The machine's time must be exact for this (`-icount`).

use crate::asm_pal::{self, AsmPal};
use crate::support::{Child, IMAGE, NO_HANDLE, Pipe, pattern, raw};
use anyhow::ensure;
use std::hint::black_box;
use std::mem::zeroed;
use std::ptr;
use std::thread::sleep;
use std::time::Duration;
use trustvisor::abi::image::MAX_PAGES;
use trustvisor::abi::number;

/// The guest's: CONFIG_HZ=250.
const TICK: Duration = Duration::from_millis(4);
const PERIOD: Duration = Duration::from_millis(1);

fn now() -> Duration {
    // SAFETY: integers, so all zero is a value.
    let mut time: libc::timespec = unsafe { zeroed() };
    // SAFETY: room for a time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The worst lateness of a timer of [`PERIOD`] in this time.
fn worst_lateness(duration: Duration) -> Duration {
    let start = now();
    let (mut next, mut worst) = (start, Duration::ZERO);
    while next < start + duration {
        next += PERIOD;
        let until = libc::timespec { tv_sec: next.as_secs() as i64, tv_nsec: i64::from(next.subsec_nanos()) };
        // SAFETY: a valid time.
        unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &until, ptr::null_mut()) };
        let late = now().saturating_sub(next);
        worst = worst.max(late);
        // What was missed is not waited for.
        next += late;
    }
    worst
}

/// The worst lateness while a child does something over and over.
fn beside(
    what: &str,
    duration: Duration,
    work: impl FnOnce(&Pipe) -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let pipe = Pipe::new()?;
    let child = Child::fork(|| work(&pipe))?;
    pipe.wait()?;
    sleep(Duration::from_millis(100));
    let worst = worst_lateness(duration);
    child.kill()?;
    println!("tvtest: a timer is {} us late at worst beside {what}", worst.as_micros());
    Ok(worst)
}

/// Wipes what the children left.
fn clean_up() -> anyhow::Result<()> {
    for _ in 0..2 {
        sleep(Duration::from_millis(12_000));
        trustvisor::collect()?;
    }
    Ok(())
}

fn forever(pipe: &Pipe, mut f: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    pipe.signal()?;
    loop {
        f()?;
    }
}

/// Beside a program that computes, and beside an S that does, for 10 s in one call.
pub fn compute() -> anyhow::Result<()> {
    let program = beside("a program that computes", Duration::from_secs(2), |pipe| {
        forever(pipe, || {
            black_box(pattern::compute(100_000));
            Ok(())
        })
    })?;
    let s = beside("an S that computes", Duration::from_secs(10), |pipe| {
        let s = AsmPal::register()?;
        let rounds = s.rounds_for(Duration::from_secs(100))?;
        pipe.signal()?;
        s.spin(rounds).map(drop)
    })?;
    no_more_than_a_tick(s, program)?;
    clean_up()
}

fn no_more_than_a_tick(late: Duration, ordinary: Duration) -> anyhow::Result<()> {
    ensure!(
        late <= ordinary + TICK,
        "{} us late, {} us beside a program",
        late.as_micros(),
        ordinary.as_micros()
    );
    Ok(())
}

/// Beside the long hypercalls: registering and wiping 16 MiB, collecting, calls with the largest buffers, and a registration that fails at its
/// end.
pub fn hypercalls() -> anyhow::Result<()> {
    const TIME: Duration = Duration::from_millis(1_200);
    let largest = asm_pal::image(false, MAX_PAGES - asm_pal::pages(0));
    let full = {
        // The data's contents are in the image, so all of it is hashed.
        let mut image = largest.clone();
        let last = asm_pal::fill_data(&mut image);
        ensure!(last > 15 << 20, "an image of {last} bytes");
        image
    };
    let ordinary = beside("a program that allocates 16 MiB", TIME, |pipe| {
        forever(pipe, || {
            black_box(full.clone());
            Ok(())
        })
    })?;
    let register =
        beside("registrations of 16 MiB", TIME, |pipe| forever(pipe, || AsmPal::of(&full)?.unregister()))?;
    no_more_than_a_tick(register, ordinary)?;
    let empty = beside("registrations of 16 MiB of zeroes", TIME, |pipe| {
        forever(pipe, || AsmPal::of(&largest)?.unregister())
    })?;
    no_more_than_a_tick(empty, ordinary)?;

    let collect = beside("collects", TIME, |pipe| {
        forever(pipe, || {
            raw(number::COLLECT.into(), NO_HANDLE, &[]);
            Ok(())
        })
    })?;
    no_more_than_a_tick(collect, ordinary)?;
    let buffers = beside("calls with 159 KiB", TIME, |pipe| {
        let s = crate::support::TestPal::register(IMAGE)?;
        let mut data = vec![0; 159 << 10];
        forever(pipe, || Ok(s.reverse(&mut data)?))
    })?;
    no_more_than_a_tick(buffers, ordinary)?;
    let info = trustvisor::info()?;
    println!("tvtest: interrupts were held off for {} ticks of the TSC at worst", info.irq_off_max);
    clean_up()
}

/// Beside the collect that wipes what a killed owner of 16 MiB left.
pub fn collecting() -> anyhow::Result<()> {
    let before = trustvisor::info()?;
    let image = asm_pal::image(false, MAX_PAGES - asm_pal::pages(0));
    let pipe = Pipe::new()?;
    let owner = Child::fork(|| {
        let _s = AsmPal::of(&image)?;
        pipe.signal()?;
        loop {
            sleep(Duration::from_secs(10));
        }
    })?;
    pipe.wait()?;
    owner.kill()?;
    let ordinary = beside("nothing", Duration::from_millis(1_500), |pipe| {
        forever(pipe, || {
            sleep(Duration::from_secs(1));
            Ok(())
        })
    })?;
    ensure!(trustvisor::collect()? == 0, "one collect is enough");
    sleep(Duration::from_millis(12_000));
    let worst = beside("a collect that wipes 16 MiB", Duration::from_secs(1), |pipe| {
        pipe.signal()?;
        sleep(Duration::from_millis(300));
        ensure!(trustvisor::collect()? == 1, "nothing was collected");
        sleep(Duration::from_secs(10));
        Ok(())
    })?;
    let after = trustvisor::info()?;
    let (before, after) = [before, after].map(|info| (info.pals, info.frames_free)).into();
    ensure!(after == before, "the PAL is still there: {after:?}, and not {before:?} PALs and free frames");
    no_more_than_a_tick(worst, ordinary)
}
