//! Every kind of memory that Linux gives to a program, as the source of a registration, as what S reads and as where its result goes. What the
//! result's memory is seen through another mapping, or by reading the file, is what counts.

use crate::buffers::filled;
use crate::support::{IMAGE, Mapping, PAGE, TestPal, register, system, tell_kernel};
use anyhow::{Context, ensure};
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;
use trustvisor::{Out, image};

/// Bytes that S reads and writes; not a whole number of pages.
const LENGTH: usize = 9 * PAGE + 123;
const PAGES: usize = LENGTH.div_ceil(PAGE) + 1;

fn register_from(memory: &Mapping, what: &str) -> anyhow::Result<()> {
    memory.slice()[..IMAGE.len()].copy_from_slice(IMAGE);
    let s = TestPal::register(&memory.slice()[..IMAGE.len()]).with_context(|| format!("from {what}"))?;
    ensure!(s.pal().info()?.measurement == image::measure(IMAGE), "{what}: another measurement");
    Ok(s.unregister()?)
}

/// S reads from the memory and writes to it; `seen` is another view of its first bytes.
fn use_it(
    s: &TestPal,
    what: &str,
    memory: &Mapping,
    seen: impl Fn(&mut [u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let slice = &mut memory.slice()[7..7 + LENGTH];
    for seed in [1, 2] {
        s.fill(Out(slice), seed).with_context(|| format!("a result in {what}"))?;
        ensure!(slice == filled(seed, LENGTH), "{what}: the result is wrong");
        let mut view = vec![0; 7 + LENGTH];
        seen(&mut view)?;
        ensure!(view[7..] == filled(seed, LENGTH), "{what}: another view shows something else");
        let sum = slice.iter().map(|b| u64::from(*b)).sum::<u64>();
        ensure!(s.sum(slice)? == sum, "{what}: S reads something else");
        s.reverse(slice)?;
        let mut wanted = filled(seed, LENGTH);
        wanted.reverse();
        ensure!(slice == wanted, "{what}: in-out is wrong");
    }
    Ok(())
}

fn by_mapping(memory: &Mapping) -> impl Fn(&mut [u8]) -> anyhow::Result<()> + '_ {
    |view| {
        view.iter_mut().enumerate().for_each(|(i, byte)| *byte = memory.read(i));
        Ok(())
    }
}

fn memory_file(flags: u32) -> anyhow::Result<File> {
    // SAFETY: a new anonymous file.
    let descriptor = system("memfd_create", unsafe { libc::memfd_create(c"tvtest".as_ptr(), flags) })?;
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { File::from_raw_fd(descriptor as i32) })
}

fn pages_for_image() -> usize {
    PAGES.max(IMAGE.len().div_ceil(PAGE))
}

/// Shared memory, files on tmpfs, private mappings of files, pages that KSM has merged.
pub fn shared() -> anyhow::Result<()> {
    let s = register()?;
    let pages = pages_for_image();
    let size = (pages * PAGE) as u64;

    let memory = Mapping::shared_anonymous(pages)?;
    register_from(&memory, "shared anonymous memory")?;
    use_it(&s, "shared anonymous memory", &memory, by_mapping(&memory))?;

    let file = memory_file(0)?;
    file.set_len(size)?;
    let (memory, other) = (Mapping::shared(&file, 0, pages)?, Mapping::shared(&file, 0, pages)?);
    register_from(&memory, "a memory file")?;
    use_it(&s, "a memory file", &memory, by_mapping(&other))?;

    let path = Path::new("/tmp/kinds");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(size)?;
    let memory = Mapping::shared(&file, 0, pages)?;
    register_from(&memory, "a file on tmpfs")?;
    use_it(&s, "a file on tmpfs", &memory, |view| Ok(fs::File::open(path)?.read_exact_at(view, 0)?))?;

    // A private mapping: the result is the process's alone.
    let before = fs::read(path)?;
    let memory = Mapping::private(&file, 0, pages)?;
    use_it(&s, "a private mapping of a file", &memory, by_mapping(&memory))?;
    ensure!(fs::read(path)? == before, "a result in a private mapping is in the file");
    fs::remove_file(path)?;
    merged(&s)
}

/// Identical pages, which the kernel merges and write-protects.
fn merged(s: &TestPal) -> anyhow::Result<()> {
    let (memory, twin) = (Mapping::anonymous(PAGES)?, Mapping::anonymous(PAGES)?);
    for mapping in [&memory, &twin] {
        mapping.fill(&[0x77; PAGES * PAGE]);
        mapping.advise(libc::MADV_MERGEABLE)?;
    }
    tell_kernel("/sys/kernel/mm/ksm/pages_to_scan", "1000")?;
    tell_kernel("/sys/kernel/mm/ksm/run", "1")?;
    let sharing = || -> anyhow::Result<u64> {
        Ok(fs::read_to_string("/sys/kernel/mm/ksm/pages_sharing")?.trim().parse()?)
    };
    for _ in 0..100 {
        if sharing()? as usize >= PAGES {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    ensure!(sharing()? as usize >= PAGES, "KSM does not merge pages");
    let result = use_it(s, "merged pages", &memory, by_mapping(&memory));
    tell_kernel("/sys/kernel/mm/ksm/run", "2")?;
    result?;
    ensure!(twin.bytes() == [0x77; PAGES * PAGE], "a result is in the twin's page");
    Ok(())
}

const LARGE: usize = 2 << 20;

/// 2 MiB pages, transparent and from hugetlbfs, with buffers across the boundary between two.
pub fn large_pages() -> anyhow::Result<()> {
    let s = register()?;
    let room = Mapping::anonymous(3 * LARGE / PAGE)?;
    room.advise(libc::MADV_HUGEPAGE)?;
    for at in (0..3 * LARGE).step_by(PAGE) {
        room.write(at, 1);
    }
    ensure!(huge_pages("AnonHugePages:")? > 0, "Linux gives no transparent huge pages");
    let middle = room.address().next_multiple_of(LARGE as u64) - room.address() + LARGE as u64;
    across(&s, "transparent huge pages", &room, middle as usize)?;

    tell_kernel("/proc/sys/vm/nr_hugepages", "4")?;
    let file = memory_file(libc::MFD_HUGETLB | libc::MFD_HUGE_2MB)?;
    file.set_len(2 * LARGE as u64)?;
    let memory = Mapping::shared(&file, 0, 2 * LARGE / PAGE)?;
    register_from(&memory, "a 2 MiB page")?;
    across(&s, "2 MiB pages", &memory, LARGE)?;
    use_it(&s, "2 MiB pages", &memory, by_mapping(&Mapping::shared(&file, 0, 2 * LARGE / PAGE)?))?;
    drop((memory, file));
    tell_kernel("/proc/sys/vm/nr_hugepages", "0")
}

const HUGE: usize = 1 << 30;

/// A 1 GiB page. The kernel must have kept one (`hugepagesz=1G hugepages=1`).
pub fn huge_page() -> anyhow::Result<()> {
    let s = register()?;
    let file = memory_file(libc::MFD_HUGETLB | libc::MFD_HUGE_1GB)?;
    file.set_len(HUGE as u64)?;
    let memory = Mapping::shared(&file, 0, HUGE / PAGE)?;
    register_from(&memory, "a 1 GiB page")?;
    use_it(&s, "a 1 GiB page", &memory, by_mapping(&memory))?;
    across(&s, "a 1 GiB page", &memory, 300 << 20)?;
    across(&s, "the end of a 1 GiB page", &memory, HUGE - LENGTH)
}

/// A buffer around the boundary at `middle`.
fn across(s: &TestPal, what: &str, memory: &Mapping, middle: usize) -> anyhow::Result<()> {
    let at = middle - LENGTH / 2;
    s.fill(Out(&mut memory.slice()[at..at + LENGTH]), 5).with_context(|| what.to_owned())?;
    ensure!((at..at + LENGTH).map(|i| memory.read(i)).eq(filled(5, LENGTH)), "{what}: a result across them");
    let sum = filled(5, LENGTH).iter().map(|b| u64::from(*b)).sum::<u64>();
    ensure!(s.sum(&memory.slice()[at..at + LENGTH])? == sum, "{what}: S reads something else across them");
    Ok(())
}

/// The sum of all lines of this name in this process's map, in KiB.
fn huge_pages(name: &str) -> anyhow::Result<u64> {
    let map = fs::read_to_string("/proc/self/smaps")?;
    let lines = map.lines().filter_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
    Ok(lines.filter_map(|kib| kib.trim().parse::<u64>().ok()).sum())
}

const FILE_SYSTEM: &str = "/tmp/disk";

/// A file on a disk (`/dev/vdb`): its pages come from the page cache, results reach the disk.
pub fn file_on_disk() -> anyhow::Result<()> {
    let s = register()?;
    run("mke2fs", &["-F", "/dev/vdb"])?;
    fs::create_dir_all(FILE_SYSTEM)?;
    run("mount", &["-t", "ext4", "/dev/vdb", FILE_SYSTEM])?;
    let result = on_disk(&s);
    run("umount", &[FILE_SYSTEM])?;
    result
}

fn on_disk(s: &TestPal) -> anyhow::Result<()> {
    let path = Path::new(FILE_SYSTEM).join("file");
    let pages = pages_for_image();
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    file.set_len((pages * PAGE) as u64)?;
    let memory = Mapping::shared(&file, 0, pages)?;
    register_from(&memory, "a file on a disk")?;
    use_it(s, "a file on a disk", &memory, |view| Ok(file.read_exact_at(view, 0)?))?;
    // Clean and out of memory: what comes back comes from the disk.
    for seed in [8, 9] {
        s.fill(Out(&mut memory.slice()[..LENGTH]), seed)?;
        file.sync_all()?;
        memory.advise(libc::MADV_DONTNEED)?;
        // SAFETY: advice about an open file.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        ensure!(!memory.resident(0)?, "the file is still in memory");
        let sum = filled(seed, LENGTH).iter().map(|b| u64::from(*b)).sum::<u64>();
        ensure!(s.sum(&memory.slice()[..LENGTH])? == sum, "the disk has something else");
    }
    Ok(())
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new(program).args(arguments).stdout(std::process::Stdio::null()).status();
    let status = status.with_context(|| program.to_owned())?;
    ensure!(status.success(), "{program} {}: {status}", arguments.join(" "));
    Ok(())
}

/// Memory that only a kernel with 5-level tables gives, and the same tests of calls with those tables.
pub fn five_levels() -> anyhow::Result<()> {
    let flags = fs::read_to_string("/proc/cpuinfo")?;
    ensure!(flags.split_whitespace().any(|flag| flag == "la57"), "Linux has 4-level tables");
    let s = register()?;
    let pages = pages_for_image();
    for at in [1u64 << 47, 1 << 50, (1 << 56) - (1 << 30)] {
        let memory = Mapping::at(at, pages)?;
        ensure!(memory.address() >= 1 << 47, "Linux maps {at:#x} at {:#x}", memory.address());
        register_from(&memory, "memory above 2^47")?;
        use_it(&s, "memory above 2^47", &memory, by_mapping(&memory))?;
    }
    Ok(())
}
