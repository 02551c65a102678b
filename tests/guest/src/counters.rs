//! Counters as applications and their PALs use them: they count, beside an OS that uses its TPM, whoever dies meanwhile, and they tell an
//! old blob from a new one.

use crate::sealed::{FAILED, another_image, seal, unseal};
use crate::support::{Child, IMAGE, Rng, TestPal, register};
use anyhow::{Context, ensure};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::thread::sleep;
use std::time::{Duration, Instant};
use trustvisor::abi::Status;

/// The counters that are used here.
const VERSION: u64 = 1;
const LEFT: u64 = 2;
const STEADY: u64 = 3;
/// Longer than TrustVisor keeps the OS's driver waiting, which waits for 750 ms itself.
const SOON: Duration = Duration::from_millis(700);
const LIMIT: Duration = Duration::from_secs(60);

/// A TPM that was not to be had in time, on a busy host, is asked again.
fn up(s: &TestPal, number: u64) -> anyhow::Result<u64> {
    let mut value = FAILED;
    for _ in 0..10 {
        value = s.count_up(number)?;
        if value != FAILED + Status::NotKept as u64 {
            break;
        }
    }
    ensure!(value < FAILED, "incrementing counter {number} answers {value:#x}");
    Ok(value)
}

pub fn run() -> anyhow::Result<()> {
    let (s, other) = (register()?, TestPal::register(&another_image())?);
    let before = s.counter(STEADY)?;
    for more in 1..=3 {
        ensure!(up(&s, STEADY)? == before + more && s.counter(STEADY)? == before + more, "it does not count");
    }
    ensure!(
        up(&other, STEADY)? == other.counter(STEADY)? && s.counter(STEADY)? == before + 3,
        "S' has no counter of its own"
    );
    let again = register()?;
    ensure!(again.counter(STEADY)? == before + 3, "another instance of S has other counters");
    // Two at a time.
    let child = Child::fork(|| {
        let s = register()?;
        (0..10).try_for_each(|_| up(&s, STEADY).map(drop))
    })?;
    let mut last = before + 3;
    for _ in 0..10 {
        let value = up(&s, STEADY)?;
        ensure!(value > last, "{value} after {last}");
        last = value;
    }
    child.join(LIMIT)?;
    ensure!(s.counter(STEADY)? == before + 23, "{} instead of {}", s.counter(STEADY)?, before + 23);
    Ok(())
}

/// TPM2_GetRandom, by the OS's driver.
fn ask_tpm() -> anyhow::Result<()> {
    let mut tpm = OpenOptions::new().read(true).write(true).open("/dev/tpm0").context("/dev/tpm0")?;
    tpm.write_all(&[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7b, 0, 8]).context("the OS's command")?;
    let mut answer = [0; 64];
    let length = tpm.read(&mut answer).context("the OS's answer")?;
    ensure!(length == 20 && answer[6..10] == [0; 4], "the TPM answers {:x?}", &answer[..length]);
    Ok(())
}

/// The OS's driver and increments, at the same time.
pub fn beside_the_os() -> anyhow::Result<()> {
    let s = register()?;
    let child = Child::fork(|| (0..200).try_for_each(|_| ask_tpm()))?;
    for _ in 0..20 {
        up(&s, STEADY)?;
    }
    child.join(LIMIT)
}

/// The host makes this many increments fail in the TPM, one after the other.
const FAULTS: usize = 5;

/// A TPM that fails at increments: S is told, the counter does not move, the OS has its TPM, and then all is as before.
pub fn not_kept() -> anyhow::Result<()> {
    let s = register()?;
    let before = s.counter(STEADY)?;
    let mut failed = 0;
    let value = loop {
        let value = s.count_up(STEADY)?;
        ask_tpm()?;
        if value != FAILED + Status::NotKept as u64 {
            break value;
        }
        ensure!(s.counter(STEADY)? == before, "what is not kept counts");
        failed += 1;
        ensure!(failed < 4 * FAULTS, "no increment is kept any more");
    };
    ensure!(value == before + 1 && failed >= FAULTS, "{value:#x} after {before} and {failed} failures");
    up(&s, STEADY).map(drop)
}

/// Counts until this file is there, beside what the OS does with its TPM.
const STOP: &str = "/tmp/stop";

pub fn meanwhile() -> anyhow::Result<()> {
    let s = register()?;
    let (before, mut times) = (s.counter(STEADY)?, 0);
    while !std::fs::exists(STOP)? {
        times += 1;
        ensure!(up(&s, STEADY)? == before + times, "it does not count");
        // There are 256 for a boot: enough for a minute.
        sleep(Duration::from_millis(250));
    }
    println!("tvtest: increments meanwhile {times}");
    Ok(())
}

/// Processes that are stopped, then killed, in the middle of an increment: the OS has its TPM back soon, and the next one counts on.
pub fn left() -> anyhow::Result<()> {
    let s = register()?;
    let mut rng = Rng::new(17);
    // No more increments than there may be at a time.
    for _ in 0..20 {
        let before = s.counter(LEFT)?;
        let child = Child::fork(|| {
            let s = register()?;
            (0..5).try_for_each(|_| up(&s, LEFT).map(drop))?;
            sleep(LIMIT);
            Ok(())
        })?;
        while s.counter(LEFT)? == before {
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_micros(rng.within(0..20_000)));
        // SAFETY: our own child, not reaped.
        unsafe { libc::kill(child.pid(), libc::SIGSTOP) };
        let start = Instant::now();
        ask_tpm()?;
        ensure!(start.elapsed() < SOON, "the OS waits for its TPM for {} ms", start.elapsed().as_millis());
        let stopped_at = s.counter(LEFT)?;
        child.kill()?;
        let next = up(&s, LEFT)?;
        ensure!(next > stopped_at, "{next} after {stopped_at}");
    }
    Ok(())
}

/// Where a blob is kept between two boots.
const BLOB: &str = "/tmp/blob";

/// S seals its state with the version that it has, and later makes a new one.
pub fn keep_version() -> anyhow::Result<()> {
    let s = register()?;
    let version = up(&s, VERSION)?;
    std::fs::write(BLOB, seal(&s, &[], &version.to_le_bytes())?)?;
    is_current(&s).map(drop)
}

fn is_current(s: &TestPal) -> anyhow::Result<bool> {
    let (_, version) = unseal(s, &std::fs::read(BLOB)?)?;
    Ok(version == s.counter(VERSION)?.to_le_bytes())
}

pub fn current() -> anyhow::Result<()> {
    ensure!(is_current(&register()?)?, "the blob is taken for an old one");
    Ok(())
}

pub fn next_version() -> anyhow::Result<()> {
    up(&register()?, VERSION).map(drop)
}

pub fn outdated() -> anyhow::Result<()> {
    ensure!(!is_current(&register()?)?, "an old blob is taken for the current one");
    Ok(())
}

/// Counts and says so until the power goes.
pub fn for_ever() -> anyhow::Result<()> {
    let s = register()?;
    loop {
        println!("tvtest: counted {}", up(&s, STEADY)?);
    }
}

pub fn show() -> anyhow::Result<()> {
    println!("tvtest: counter {}", register()?.counter(STEADY)?);
    Ok(())
}

pub fn none() -> anyhow::Result<()> {
    let s = TestPal::register(IMAGE)?;
    let unsupported = FAILED + Status::Unsupported as u64;
    ensure!((s.counter(STEADY)?, s.count_up(STEADY)?) == (unsupported, unsupported), "there are counters");
    Ok(())
}

/// Every place is taken, and what is there goes on.
pub fn full() -> anyhow::Result<()> {
    let s = register()?;
    let too_many = FAILED + Status::TooMany as u64;
    let taken = (1000..1016).take_while(|number| s.count_up(*number).is_ok_and(|value| value == 1)).count();
    ensure!(s.count_up(2000)? == too_many && taken > 5, "{taken} more counters");
    up(&s, STEADY).map(drop)
}
