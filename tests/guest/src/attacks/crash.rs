//! The crash image: the kernel panics, and a crash kernel, started by it in memory of its own (kexec), finds all of the old one's in
//! `/proc/vmcore`.

use super::ends::tell;
use super::victim::Victim;
use crate::everywhere::parse;
use crate::hold::wait;
use crate::secrecy::Needles;
use crate::support::{system, tell_kernel};
use anyhow::{Context, bail, ensure};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread::sleep;
use std::time::Duration;

/// What the crash kernel is to look for: the mask and the words, on its command line.
const NEEDLES: &str = "tv.needles=";

/// Loads the crash kernel, and crashes.
pub fn crash() -> anyhow::Result<()> {
    let victim = Victim::start()?;
    let Needles { mask, words } = &victim.needles;
    let words: String = words.iter().map(|word| format!(",{word:x}")).collect();
    // Linux, include/uapi/linux/kexec.h.
    const KEXEC_FILE_ON_CRASH: u64 = 2;
    load(
        KEXEC_FILE_ON_CRASH,
        &format!("console=ttyS0 panic=-1 tv.run=tvtest,vmcore {NEEDLES}{mask:x}{words}"),
    )?;
    tell(&victim.needles);
    wait()?;
    tell_kernel("/proc/sysrq-trigger", "c")?;
    sleep(Duration::from_secs(5));
    bail!("the machine goes on")
}

/// Loads another kernel: the disk has the lengths of a kernel and an initrd, and then both.
pub fn load(flags: u64, options: &str) -> anyhow::Result<()> {
    let mut disk = File::open("/dev/vda")?;
    let mut lengths = [[0; 8]; 2];
    lengths.iter_mut().try_for_each(|length| disk.read_exact(length))?;
    let [kernel, initrd] = lengths.map(u64::from_le_bytes);
    let (kernel, initrd) = (in_memory(&mut disk, kernel)?, in_memory(&mut disk, initrd)?);
    let options = CString::new(options)?;
    // SAFETY: loads a kernel, for a crash where the running one set memory aside for it; the options are of the length given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.as_raw_fd(),
            options.as_bytes_with_nul().len(),
            options.as_ptr(),
            flags,
        )
    };
    system("kexec_file_load", result).map(drop)
}

fn in_memory(from: &mut File, length: u64) -> anyhow::Result<File> {
    // SAFETY: makes a file.
    let descriptor = system("memfd_create", unsafe { libc::memfd_create(c"part".as_ptr(), 0) })?;
    // SAFETY: just opened, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(descriptor as i32) };
    let copied = std::io::copy(&mut from.take(length), &mut file)?;
    ensure!(copied == length, "the disk ends after {copied} of {length} bytes");
    file.flush()?;
    Ok(file)
}

/// In the crash kernel: looks for the words in the memory of the one that crashed.
pub fn vmcore() -> anyhow::Result<()> {
    let options = fs::read_to_string("/proc/cmdline")?;
    let list = options.split_whitespace().find_map(|word| word.strip_prefix(NEEDLES)).context(NEEDLES)?;
    let (mask, words) = parse(list)?;
    let needles = Needles { mask, words };
    let mut core = File::open("/proc/vmcore")?;
    let (mut found, mut read) = ([false; crate::attack::NEEDLES], 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        // The image is whole pages; a read ends at one, or at the image's end.
        let length = core.read(&mut piece)?;
        if length == 0 {
            break;
        }
        read += length;
        needles.mark(&piece[..length], &mut found);
    }
    ensure!(read > 64 << 20, "the crash image has only {read} bytes");
    println!("tvtest: crash image: {} words of the secret", found.into_iter().filter(|found| *found).count());
    Ok(())
}
