//! What S keeps is nowhere in the OS's memory. Two readers look for it, one through `/proc/PID/mem` as root, one in the kernel
//! through all physical memory; both know it only XORed with a mask, and both find it in a process that keeps it itself.

use crate::attack::{Kernel, NEEDLES, Scan};
use crate::reserve::memory_map;
use crate::support::{Child, Mapping, Pipe, TestPal, pattern, random, register};
use anyhow::{Context, ensure};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;
use trustvisor::Out;

const LIMIT: Duration = Duration::from_secs(120);

/// Sixteen words of a secret, masked.
#[derive(Clone, Copy)]
pub struct Needles {
    pub mask: u64,
    pub words: [u64; NEEDLES],
}

impl Needles {
    /// Asks S for them: the words themselves never leave S.
    pub fn of(s: &TestPal) -> anyhow::Result<Self> {
        let mask = random()?;
        let mut bytes = [0; 4096];
        s.masked_secret(Out(&mut bytes), mask)?;
        let mut words = [0; NEEDLES];
        let (all, _) = bytes.as_chunks::<8>();
        for (word, bytes) in words.iter_mut().zip(all.iter().step_by(pattern::WORDS / NEEDLES)) {
            *word = u64::from_le_bytes(*bytes);
        }
        Ok(Self { mask, words })
    }

    pub fn count_in(&self, bytes: &[u8]) -> u64 {
        let masked = |word: &[u8; 8]| u64::from_le_bytes(*word) ^ self.mask;
        bytes.as_chunks::<8>().0.iter().filter(|word| self.words.contains(&masked(word))).count() as u64
    }

    /// Marks which of the words are there.
    pub fn mark(&self, bytes: &[u8], found: &mut [bool; NEEDLES]) {
        for word in bytes.as_chunks::<8>().0 {
            let word = u64::from_le_bytes(*word) ^ self.mask;
            if let Some(at) = self.words.iter().position(|wanted| *wanted == word) {
                found[at] = true;
            }
        }
    }
}

/// A process that keeps the same secret as S in its own memory.
fn control(seed: u64) -> anyhow::Result<Child> {
    let pipe = Pipe::new()?;
    let child = Child::fork(|| {
        let mut words = Box::new([0; pattern::WORDS]);
        pattern::words(seed, &mut words);
        pipe.signal()?;
        sleep(LIMIT);
        ensure!(std::hint::black_box(&words)[0] != 0, "no secret");
        Ok(())
    })?;
    pipe.wait()?;
    Ok(child)
}

pub fn proc_mem() -> anyhow::Result<()> {
    let s = register()?;
    let seed = random()?;
    s.set_secret(seed)?;
    let needles = Needles::of(&s)?;
    let ours = std::process::id() as i32;
    Child::fork(|| {
        let (read, hits) = read_process(ours, &needles)?;
        println!("tvtest: root reads {} KiB of S's owner and finds {hits} words of the secret", read >> 10);
        ensure!(read > 1 << 20, "only {read} bytes of the owner could be read");
        ensure!(hits == 0, "the secret is in the owner's memory");
        Ok(())
    })?
    .join(LIMIT)?;

    let control = control(seed)?;
    let (_, hits) = read_process(control.pid(), &needles)?;
    println!("tvtest: in a process that keeps the secret itself, {hits}");
    ensure!(hits >= NEEDLES as u64, "the reader cannot find anything");
    control.kill()
}

/// Reads all memory of a process through /proc: bytes read and words found.
pub fn read_process(pid: i32, needles: &Needles) -> anyhow::Result<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let (mut read, mut hits) = (0, 0);
    let mut page = [0; 4096];
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').with_context(|| format!("maps: {line:?}"))?;
        let (start, end) = range.split_once('-').with_context(|| format!("maps: {line:?}"))?;
        if !rest.starts_with('r') || rest.ends_with("[vvar]") || rest.ends_with("[vsyscall]") {
            continue;
        }
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        for address in (start..end).step_by(page.len()) {
            memory.read_exact_at(&mut page, address).with_context(|| format!("reading {line:?}"))?;
            read += page.len() as u64;
            hits += needles.count_in(&page);
        }
    }
    Ok((read, hits))
}

pub fn physical_memory() -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    let s = register()?;
    let seed = random()?;
    s.set_secret(seed)?;
    let needles = Needles::of(&s)?;

    let (read, hits) = read_physical(&kernel, &needles)?;
    println!(
        "tvtest: the kernel reads {} MiB of physical memory and finds {hits} words of the secret",
        read >> 20
    );
    ensure!(hits == 0, "the secret is in the OS's memory");

    // S is frozen with its secret in its registers again and again while the kernel reads.
    let done = Mapping::shared_anonymous(1)?;
    let stirrer = Child::fork(|| {
        let s = register()?;
        s.set_secret(seed)?;
        while done.read(0) == 0 {
            s.stir_secret(2_000)?;
        }
        Ok(s.unregister()?)
    })?;
    sleep(Duration::from_millis(200));
    let (_, hits) = read_physical(&kernel, &needles)?;
    println!("tvtest: while S runs, {hits}");
    ensure!(hits == 0, "the secret of a running S is in the OS's memory");
    done.write(0, 1);
    stirrer.join(LIMIT)?;

    let control = control(seed)?;
    let (_, hits) = read_physical(&kernel, &needles)?;
    println!("tvtest: with a process that keeps the secret itself, {hits}");
    ensure!(hits >= NEEDLES as u64, "the reader cannot find anything");
    control.kill()
}

/// Has the kernel read all RAM, the first MiB and the reserve: bytes read and words found.
pub fn read_physical(kernel: &Kernel, needles: &Needles) -> anyhow::Result<(u64, u64)> {
    let mut ranges = vec![(0, 1 << 20)];
    if let Ok(info) = trustvisor::info() {
        ranges.push((info.reserve_base, info.reserve_base + info.reserve_size));
    }
    for range in memory_map()?.iter().filter(|r| r.top && r.name == "System RAM" && r.end > 1 << 20) {
        ranges.push((range.start.max(1 << 20).next_multiple_of(4096), range.end & !0xfff));
    }
    let (mut read, mut hits) = (0, 0);
    for (start, end) in ranges {
        let scan = Scan {
            start,
            length: end - start,
            mask: needles.mask,
            needles: needles.words,
            ..Default::default()
        };
        let found = kernel.ask(scan).with_context(|| format!("reading {start:#x}..{end:#x}"))?;
        ensure!(
            found.words * 8 == end - start,
            "the kernel read {} words of {start:#x}..{end:#x}",
            found.words
        );
        read += end - start;
        hits += found.hits;
    }
    Ok((read, hits))
}
