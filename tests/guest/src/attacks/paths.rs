//! Every way by which an OS gets at memory that is not its own: each looks for a victim's secret, which it knows masked.

use crate::attack::Kernel;
use crate::attacks::victim::Victim;
use crate::secrecy::{Needles, read_physical, read_process};
use crate::support::{PAGE, system, tell_kernel};
use crate::swap::Swap;
use anyhow::{Context, ensure};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Name, and how many words of the secret it finds.
pub type Way = (&'static str, fn(&Victim) -> anyhow::Result<u64>);

/// The last one kills the victim.
pub const WAYS: &[Way] = &[
    ("/proc/PID/mem", |victim| Ok(read_process(victim.pid(), &victim.needles)?.1)),
    ("process_vm_readv", process_vm_readv),
    ("ptrace", ptrace),
    ("the kernel's direct map", |victim| Ok(read_physical(&Kernel::open()?, &victim.needles)?.1)),
    ("/proc/kcore", kcore),
    ("the swap device", swap),
    ("a hibernation image", hibernation_image),
    ("a core file", core_file),
];

/// Readable ranges of a process that belong to itself.
pub fn ranges(pid: i32) -> anyhow::Result<Vec<(u64, u64)>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let own = maps.lines().filter(|line| line.contains(" rw"));
    own.map(|line| {
        let (start, end) =
            line.split(' ').next().and_then(|r| r.split_once('-')).context("a line of maps")?;
        Ok((u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?))
    })
    .collect()
}

/// Finds the secret by `read`, page by page.
fn search(
    victim: &Victim,
    mut read: impl FnMut(u64, &mut [u8]) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let (mut pages, mut hits) = (0, 0);
    let mut page = [0; PAGE];
    for (start, end) in ranges(victim.pid())? {
        for address in (start..end).step_by(PAGE) {
            // The guard of a stack, and memory that goes while it is read.
            if read(address, &mut page).is_ok() {
                pages += 1;
                hits += victim.needles.count_in(&page);
            }
        }
    }
    ensure!(pages > 0, "nothing of the process can be read");
    Ok(hits)
}

fn process_vm_readv(victim: &Victim) -> anyhow::Result<u64> {
    search(victim, |address, page| {
        let ours = libc::iovec { iov_base: page.as_mut_ptr().cast(), iov_len: PAGE };
        let theirs = libc::iovec { iov_base: address as *mut _, iov_len: PAGE };
        // SAFETY: one piece of ours, a page long.
        let read = unsafe { libc::process_vm_readv(victim.pid(), &ours, 1, &theirs, 1, 0) };
        system("process_vm_readv", read as i64).map(drop)
    })
}

fn ptrace(victim: &Victim) -> anyhow::Result<u64> {
    let traced = Traced::stop(victim.pid())?;
    let hits = search(victim, |address, page| {
        for (word, bytes) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *bytes = traced.peek(address + word as u64 * 8)?.to_le_bytes();
        }
        Ok(())
    });
    drop(traced);
    hits
}

/// A process stopped by a tracer, until dropped.
pub struct Traced(i32);

impl Traced {
    pub fn stop(pid: i32) -> anyhow::Result<Self> {
        // SAFETY: concerns the other process only.
        system("ptrace", unsafe { libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0) })?;
        let traced = Self(pid);
        // SAFETY: waits for the stop just asked for.
        system("waitpid", unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) })?;
        Ok(traced)
    }

    fn peek(&self, address: u64) -> anyhow::Result<u64> {
        let mut word = 0u64;
        // The system call itself, which writes the word, and not the library's function, which returns it.
        // SAFETY: room for a word.
        let result =
            unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, self.0, address, &raw mut word) };
        system("PTRACE_PEEKDATA", result)?;
        Ok(word)
    }

    pub fn poke(&self, address: u64, word: u64) -> anyhow::Result<()> {
        // SAFETY: writes to the other process only.
        system("PTRACE_POKEDATA", unsafe { libc::ptrace(libc::PTRACE_POKEDATA, self.0, address, word) })
            .map(drop)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // SAFETY: lets the other process go on; if it has died, nothing is left to do.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

/// What a crash kernel would save: all memory that the kernel calls RAM, as an ELF core (`readelf -l /proc/kcore`).
fn kcore(victim: &Victim) -> anyhow::Result<u64> {
    const PT_LOAD: u32 = 1;
    let core = File::open("/proc/kcore")?;
    let mut header = [0; 64];
    core.read_exact_at(&mut header, 0)?;
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("in range"));
    let (table, count) = (word(&header, 32), u16::from_le_bytes([header[56], header[57]]));
    let direct_map = 0xffff_8000_0000_0000..0xffff_c900_0000_0000;
    let (mut read, mut hits) = (0, 0);
    for entry in 0..u64::from(count) {
        let mut segment = [0; 56];
        core.read_exact_at(&mut segment, table + entry * 56)?;
        let (offset, start, length) = (word(&segment, 8), word(&segment, 16), word(&segment, 32));
        if word(&segment, 0) as u32 != PT_LOAD || !direct_map.contains(&start) {
            continue;
        }
        let mut piece = vec![0; 1 << 20];
        for at in (0..length).step_by(piece.len()) {
            let piece = &mut piece[..(length - at).min(1 << 20) as usize];
            core.read_exact_at(piece, offset + at)?;
            read += piece.len() as u64;
            hits += victim.needles.count_in(piece);
        }
    }
    ensure!(read > 64 << 20, "/proc/kcore has only {read} bytes");
    Ok(hits)
}

/// Has the kernel swap the victim out and reads the device.
fn swap(victim: &Victim) -> anyhow::Result<u64> {
    let swap = Swap::on()?;
    // SAFETY: opens a descriptor of the process.
    let descriptor = system("pidfd_open", unsafe { libc::syscall(libc::SYS_pidfd_open, victim.pid(), 0) })?;
    // SAFETY: just opened, and nobody else's.
    let process = unsafe { File::from_raw_fd(descriptor as i32) };
    let stopped = Traced::stop(victim.pid())?;
    for (start, end) in ranges(victim.pid())? {
        let range = libc::iovec { iov_base: start as *mut _, iov_len: (end - start) as usize };
        // SAFETY: moves pages of the other process to the device. What cannot be moved stays.
        unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                process.as_raw_fd(),
                &raw const range,
                1,
                libc::MADV_PAGEOUT,
                0,
            )
        };
    }
    let disk = File::open("/dev/vda")?;
    disk.sync_all()?;
    tell_kernel("/proc/sys/vm/drop_caches", "1")?;
    let mut bytes = vec![0; Swap::BYTES];
    disk.read_exact_at(&mut bytes, 0)?;
    let moved = bytes.as_chunks::<PAGE>().0[1..].iter().filter(|page| **page != [0; PAGE]).count();
    ensure!(moved > 0, "nothing was swapped out");
    drop(stopped);
    drop(swap);
    Ok(victim.needles.count_in(&bytes))
}

/// Linux, include/uapi/linux/suspend_ioctls.h: FREEZE, UNFREEZE, CREATE_IMAGE, FREE.
const FREEZE: u64 = 0x3301;
const UNFREEZE: u64 = 0x3302;
const FREE: u64 = 0x3305;
const CREATE_IMAGE: u64 = 0x4004_3311;

/// Has the kernel make the image of memory that it would hibernate with, and reads it.
fn hibernation_image(victim: &Victim) -> anyhow::Result<u64> {
    // SAFETY: a device number.
    let device =
        unsafe { libc::mknod(c"/tmp/snapshot".as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(10, 231)) };
    system("mknod", device)?;
    let snapshot = File::open("/tmp/snapshot").context("/dev/snapshot")?;
    fs::remove_file("/tmp/snapshot")?;
    let ask = |what: &str, request: u64, argument: *mut i32| {
        // SAFETY: the argument is room for an integer where one is asked for.
        system(what, unsafe { libc::ioctl(snapshot.as_raw_fd(), request, argument) })
    };
    ask("SNAPSHOT_FREEZE", FREEZE, std::ptr::null_mut())?;
    let mut resumed = 0;
    let created = ask("SNAPSHOT_CREATE_IMAGE", CREATE_IMAGE, &raw mut resumed);
    let found = created.and_then(|_| read_stream(&snapshot, &victim.needles));
    ask("SNAPSHOT_FREE", FREE, std::ptr::null_mut())?;
    ask("SNAPSHOT_UNFREEZE", UNFREEZE, std::ptr::null_mut())?;
    let (read, hits) = found?;
    ensure!(read > 4 << 20, "the image has only {read} bytes");
    Ok(hits)
}

fn read_stream(mut from: &File, needles: &Needles) -> anyhow::Result<(u64, u64)> {
    let (mut read, mut hits) = (0, 0);
    let mut piece = vec![0; PAGE];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            return Ok((read, hits));
        }
        read += length as u64;
        hits += needles.count_in(&piece[..length]);
    }
}

/// Has the kernel dump the process's core.
fn core_file(victim: &Victim) -> anyhow::Result<u64> {
    const FILE: &str = "/tmp/core";
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern")?;
    tell_kernel("/proc/sys/kernel/core_pattern", FILE)?;
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: sets a limit of the other process, then ends it.
    unsafe {
        libc::prlimit(victim.pid(), libc::RLIMIT_CORE, &unlimited, std::ptr::null_mut());
        system("kill", libc::kill(victim.pid(), libc::SIGABRT))?;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while !dead(victim.pid()) && Instant::now() < deadline {
        sleep(Duration::from_millis(20));
    }
    tell_kernel("/proc/sys/kernel/core_pattern", before.trim())?;
    let core = fs::read(FILE).context("no core file")?;
    fs::remove_file(FILE)?;
    ensure!(core.len() > 16 * PAGE, "the core file has only {} bytes", core.len());
    Ok(victim.needles.count_in(&core))
}

fn dead(pid: i32) -> bool {
    let state = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    state.map_or(true, |text| text.contains(") Z"))
}

/// Where root finds a word of the secret in the process, by `/proc/PID/mem`.
pub fn find(victim: &Victim) -> anyhow::Result<Option<u64>> {
    let memory = OpenOptions::new().read(true).open(format!("/proc/{}/mem", victim.pid()))?;
    let mut page = [0; PAGE];
    for (start, end) in ranges(victim.pid())? {
        for address in (start..end).step_by(PAGE) {
            if memory.read_exact_at(&mut page, address).is_err() {
                continue;
            }
            let hit = page.as_chunks::<8>().0.iter().position(|word| victim.needles.count_in(word) > 0);
            if let Some(word) = hit {
                return Ok(Some(address + word as u64 * 8));
            }
        }
    }
    Ok(None)
}
