//! A PAL belongs to the process that registered it, and does not outlive it.

use crate::attack::{Kernel, Msr};
use crate::support::{
    Child, IMAGE, Mapping, NO_HANDLE, PAGE, Pipe, call_entry, entry, expect, expect_error, faulting, raw,
    register,
};
use anyhow::{Context, ensure};
use std::arch::x86_64::_rdtsc;
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;
use trustvisor::abi::image::HEADER_SIZE;
use trustvisor::abi::{Handle, Status, number};

/// The argument that makes this program a stranger.
pub const STRANGER: &str = "--stranger";

const LIMIT: Duration = Duration::from_secs(60);

pub fn fork() -> anyhow::Result<()> {
    let s = register()?;
    let handle = s.pal().handle();
    ensure!(s.count()? == 1, "S was called before");
    Child::fork(|| {
        nothing_works("a forked child", handle)?;
        expect_error("the stubs in a forked child", s.count(), Status::NoSuchPal)?;
        ensure!(s.pal().handle() == NO_HANDLE, "a forked child inherits the owner page");
        Ok(())
    })?
    .join(LIMIT)?;
    ensure!(s.count()? == 2, "S ran for the child");
    Ok(())
}

pub fn stranger() -> anyhow::Result<()> {
    let s = register()?;
    ensure!(s.count()? == 1, "S was called before");
    let mut stranger = Command::new("/proc/self/exe").arg(STRANGER).stdin(Stdio::piped()).spawn()?;
    let handle = s.pal().handle();
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&handle.low.to_le_bytes());
    bytes[8..].copy_from_slice(&handle.high.to_le_bytes());
    let told = stranger.stdin.take().context("a pipe was asked for")?.write_all(&bytes);
    let ended = stranger.wait()?;
    told?;
    ensure!(ended.success(), "the stranger: {ended}");
    ensure!(s.count()? == 2, "S ran for the stranger");
    Ok(())
}

/// Another program, which was given somebody's handle.
pub fn be_a_stranger() -> ExitCode {
    let attempt = || {
        let mut bytes = [0; 16];
        std::io::stdin().read_exact(&mut bytes)?;
        let word =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        trustvisor::info()?;
        nothing_works("a stranger", Handle { low: word(0), high: word(8) })
    };
    match attempt() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("tvtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

pub fn nothing_works(who: &str, handle: Handle) -> anyhow::Result<()> {
    let calls = [number::PAL_INFO, number::UNREGISTER, number::ABORT].map(u64::from);
    for call in [call_entry(entry::NULL)].into_iter().chain(calls) {
        expect(&format!("call {call:#x} by {who}"), raw(call, handle, &[]).1, Status::NoSuchPal)?;
    }
    Ok(())
}

/// Two collects, 10 s apart, free what killed processes left, be it registered or half registered, and
/// nothing of the living.
pub fn killed() -> anyhow::Result<()> {
    let before = trustvisor::info()?;
    let living = register()?;
    let with_ours = trustvisor::info()?;

    let pipe = Pipe::new()?;
    let owner = Child::fork(|| {
        let s = register()?;
        ensure!(s.count()? == 1, "S was called before");
        leave_half_a_registration()?;
        pipe.signal()?;
        loop {
            sleep(LIMIT);
        }
    })?;
    pipe.wait()?;
    let with_theirs = trustvisor::info()?;
    ensure!(with_theirs.pals == with_ours.pals + 2, "a whole and a half registration should stand");
    owner.kill()?;

    sleep(Duration::from_millis(1_500));
    ensure!(trustvisor::collect()? == 0, "one collect is enough to free a PAL");
    collect_with_the_tsc_set_forward()?;
    sleep(Duration::from_millis(5_000));
    ensure!(trustvisor::collect()? == 0, "two collects are enough to free a PAL, 5 s apart");
    sleep(Duration::from_millis(5_500));
    let freed = trustvisor::collect()?;
    ensure!(freed == 2, "{freed} PALs freed instead of 2");
    let after = trustvisor::info()?;
    ensure!(after.frames_free == with_ours.frames_free, "frames are missing after the collects");
    ensure!(living.count()? == 1, "the living owner's PAL is gone");
    living.unregister()?;
    ensure!(trustvisor::info()?.frames_free == before.frames_free, "frames are missing at the end");
    Ok(())
}

const TSC: u32 = 0x10;

/// The 10 s are TrustVisor's, not those of a TSC that the guest has set.
fn collect_with_the_tsc_set_forward() -> anyhow::Result<()> {
    // SAFETY: reads the time stamp counter.
    let now = || unsafe { _rdtsc() };
    let start = now();
    sleep(Duration::from_millis(100));
    // 12 s: enough for TrustVisor if it were fooled, not enough for Linux to believe that it hung.
    let forward = (now() - start) * 120;
    let before = now();
    let answer =
        Kernel::open()?.ask(Msr { msr: TSC, write: 1, value: before + forward, ..Default::default() })?;
    let moved = now() - before;
    ensure!(answer.write_error == 0 && moved >= forward, "the TSC has moved by {moved} instead of {forward}");
    ensure!(trustvisor::collect()? == 0, "a TSC set forward frees a PAL");
    Ok(())
}

/// An image that ends with its header: the fault comes when the PAL already has frames.
fn leave_half_a_registration() -> anyhow::Result<()> {
    let (image, owner_page) = (Mapping::anonymous(2)?, Mapping::anonymous(1)?);
    let at = PAGE - HEADER_SIZE;
    image.slice()[at..PAGE].copy_from_slice(&IMAGE[..HEADER_SIZE]);
    image.unmap(1, 1)?;
    let arguments = [image.address() + at as u64, IMAGE.len() as u64, owner_page.address()];
    let (_, fault) = faulting(|| raw(number::REGISTER.into(), NO_HANDLE, &arguments))?;
    ensure!(fault.is_some_and(|f| f.at_vmmcall), "no SIGSEGV for half an image");
    std::mem::forget(owner_page);
    Ok(())
}
