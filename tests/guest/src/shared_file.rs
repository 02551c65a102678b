//! A result in a shared mapping of a file reaches the file (here `/dev/vda` itself), though its pages were clean.

use crate::buffers::filled;
use crate::support::{Mapping, PAGE, register, tell_kernel};
use anyhow::{Context, ensure};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use trustvisor::Out;

const PAGES: usize = 8;
/// Above what the swap tests use.
const OFFSET: u64 = 32 << 20;

pub fn run() -> anyhow::Result<()> {
    let s = register()?;
    let disk = OpenOptions::new().read(true).write(true).open("/dev/vda").context("/dev/vda")?;
    for seed in [21, 22] {
        let memory = Mapping::shared(&disk, OFFSET, PAGES)?;
        // Paged in by reading, so clean, and for a file write-protected.
        memory.bytes();
        s.fill(Out(memory.slice()), seed)?;
        drop(memory);
        disk.sync_all()?;
        tell_kernel("/proc/sys/vm/drop_caches", "3")?;

        let again = Mapping::shared(&disk, OFFSET, PAGES)?;
        ensure!(!again.resident(0)?, "the pages are still in memory");
        ensure!(again.bytes() == filled(seed, PAGES * PAGE), "the result did not survive reclaim");
        let mut read = vec![0; PAGES * PAGE];
        disk.read_exact_at(&mut read, OFFSET)?;
        ensure!(read == filled(seed, PAGES * PAGE), "the result is not in the file");
    }
    Ok(())
}
