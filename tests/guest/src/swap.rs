//! With a swap device (`/dev/vda`): an owner page that is swapped out still owns, and a result in shared memory is swapped out with it,
//! not dropped.

use crate::buffers::filled;
use crate::support::{Mapping, PAGE, register, system};
use anyhow::{Context, ensure};
use std::fs::{File, OpenOptions};
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;
use trustvisor::Out;

const DISK: &std::ffi::CStr = c"/dev/vda";
/// Swap pages; what lies above on the disk is another test's.
const SWAP_PAGES: u32 = 4096;

/// The disk as swap space, while it lives.
pub struct Swap;

impl Swap {
    pub const BYTES: usize = SWAP_PAGES as usize * PAGE;

    pub fn on() -> anyhow::Result<Self> {
        // Linux, include/linux/swap.h, union swap_header: version, last page, number of bad pages; the magic ends the page.
        let mut header = [0; PAGE];
        header[1024..1028].copy_from_slice(&1u32.to_le_bytes());
        header[1028..1032].copy_from_slice(&(SWAP_PAGES - 1).to_le_bytes());
        header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
        let disk = OpenOptions::new().write(true).open("/dev/vda").context("/dev/vda")?;
        disk.write_all_at(&header, 0)?;
        disk.sync_all()?;
        // SAFETY: a valid path.
        system("swapon", unsafe { libc::swapon(DISK.as_ptr(), 0) })?;
        Ok(Self)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: a valid path. If it fails, the next `swapon` says so.
        unsafe { libc::swapoff(DISK.as_ptr()) };
    }
}

/// Bits of /proc/PID/pagemap: Linux, Documentation/admin-guide/mm/pagemap.rst.
const SWAPPED: u64 = 1 << 62;
const PRESENT: u64 = 1 << 63;

fn page_state(address: u64) -> anyhow::Result<u64> {
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, address / PAGE as u64 * 8)?;
    Ok(u64::from_le_bytes(entry) & (SWAPPED | PRESENT))
}

fn swapped_out(address: u64) -> anyhow::Result<bool> {
    Ok(page_state(address)? == SWAPPED)
}

fn page_out(address: u64) -> anyhow::Result<()> {
    let page = address as *mut libc::c_void;
    // SAFETY: one mapped page, whose contents stay the same.
    system("madvise", unsafe { libc::madvise(page, PAGE, libc::MADV_PAGEOUT) }).map(drop)
}

pub fn owner() -> anyhow::Result<()> {
    let _swap = Swap::on()?;
    let s = register()?;
    let page = s.pal().owner_page();
    // SAFETY: one mapped page.
    system("munlock", unsafe { libc::munlock(page as *const libc::c_void, PAGE) })?;
    // A page that was just unlocked may still be on its way through the kernel's lists.
    for _ in 0..20 {
        page_out(page)?;
        if swapped_out(page)? {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    ensure!(swapped_out(page)?, "the owner page does not go to the swap device");
    for pause in [1_500, 10_500, 1_000] {
        sleep(Duration::from_millis(pause));
        ensure!(trustvisor::collect()? == 0, "a living owner's PAL was collected");
        ensure!(swapped_out(page)?, "the owner page came back by itself");
    }
    ensure!(s.count()? == 1, "S does not run");
    ensure!(!swapped_out(page)?, "the handle was not read from the owner page");
    s.unregister()?;
    Ok(())
}

/// Shared memory that was only read is writable but not dirty: a result must make it dirty, or reclaim drops it.
pub fn shared_memory() -> anyhow::Result<()> {
    const PAGES: usize = 8;
    let _swap = Swap::on()?;
    let s = register()?;
    // SAFETY: a new anonymous file.
    let descriptor = system("memfd_create", unsafe { libc::memfd_create(c"tvtest".as_ptr(), 0) })?;
    // SAFETY: just opened, and nobody else's.
    let file = unsafe { File::from_raw_fd(descriptor as i32) };
    file.set_len((PAGES * PAGE) as u64)?;
    let memory = Mapping::shared(&file, 0, PAGES)?;
    ensure!(memory.bytes().iter().all(|b| *b == 0), "fresh memory is not zero");

    s.fill(Out(memory.slice()), 11)?;
    // Reclaim takes the pages out of our tables and writes what is dirty to the swap device; what it believes clean it drops.
    memory.advise(libc::MADV_PAGEOUT)?;
    for page in 0..PAGES {
        let state = page_state(memory.address() + (page * PAGE) as u64)?;
        ensure!(state & PRESENT == 0, "page {page} is not reclaimed");
    }
    ensure!(memory.bytes() == filled(11, PAGES * PAGE), "the result did not survive reclaim");
    Ok(())
}
