//! Attacks by the caller's own page tables, which its kernel can make as it likes: TrustVisor follows them for the caller, and must not be
//! led to where the caller could not go itself.

use super::Attack;
use crate::attack::{Kernel, Table};
use crate::moving;
use crate::support::{Mapping, PAGE, call_entry, entry, faulting, raw, register};
use anyhow::ensure;
use trustvisor::abi::Status;

pub const ATTACKS: &[Attack] = &[
    (
        "page-in-reserve",
        "an argument's page is one of the pool: S gets nothing of another's",
        page_in_reserve,
    ),
    ("table-in-reserve", "an argument's page table is TrustVisor's: it is not followed", table_in_reserve),
    ("result-in-reserve", "a result's page is another PAL's: nothing is written", result_in_reserve),
    (
        "supervisor-page",
        "an argument's page is the kernel's: the program does not get it by way of S",
        supervisor_page,
    ),
    (
        "read-only-page",
        "a result's page is one that the caller cannot write: neither can TrustVisor for it",
        read_only_page,
    ),
    (
        "result-protected",
        "gives up the right to write a result's file while S computes it: the file stays as it is",
        moving::no_longer_writable,
    ),
];

/// Present, writable, user, accessed, dirty.
const ENTRY: u64 = 0x67;
const USER: u64 = 1 << 2;
const LARGE: u64 = 2 << 20;

/// 2 MiB with a page table of their own.
struct Place {
    _room: Mapping,
    at: u64,
    kernel: Kernel,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let room = Mapping::anonymous(2 * LARGE as usize / PAGE)?;
        room.advise(libc::MADV_NOHUGEPAGE)?;
        let at = room.address().next_multiple_of(LARGE);
        room.write((at - room.address()) as usize, 1);
        Ok(Self { _room: room, at, kernel: Kernel::open()? })
    }

    /// With another entry for the place, at this level.
    fn with_entry<T>(
        &self,
        level: u32,
        change: impl FnOnce(u64) -> u64,
        f: impl FnOnce() -> T,
    ) -> anyhow::Result<T> {
        let table = |entry| Table { address: self.at, entry, level, reserved: 0 };
        let before = self.kernel.ask(table(0))?.entry;
        self.kernel.ask(table(change(before)))?;
        let result = f();
        self.kernel.ask(table(before))?;
        Ok(result)
    }
}

fn page_in_reserve() -> anyhow::Result<()> {
    let (s, place, info) = (register()?, Place::new()?, trustvisor::info()?);
    let handle = s.pal().handle();
    for frame in 0..info.frames_total {
        let target = (info.pool_base + frame * PAGE as u64) | ENTRY;
        let (sum, status) =
            place.with_entry(1, |_| target, || raw(call_entry(entry::SUM), handle, &[place.at, 64]))?;
        ensure!(status != Status::Ok || sum == 0, "S is given what is another's in the pool");
    }
    ensure!(s.count()? == 1, "S does not run after it");
    Ok(())
}

/// The table is TrustVisor's own for the OS's first GiB, whose entries, taken for those of a page table, name RAM. Where it lies is no
/// secret: the same build puts it at the same place.
fn table_in_reserve() -> anyhow::Result<()> {
    const TABLES: u64 = 2 << 20;
    const FIRST_GIB: u64 = TABLES + 4 * PAGE as u64;
    const RAM: u64 = 8;
    let (s, place, info) = (register()?, Place::new()?, trustvisor::info()?);
    let handle = s.pal().handle();
    let target = (info.reserve_base + FIRST_GIB) | ENTRY;
    let argument = [place.at + RAM * PAGE as u64, 64];
    let status = place.with_entry(2, |_| target, || raw(call_entry(entry::SUM), handle, &argument).1)?;
    ensure!(status != Status::Ok, "TrustVisor follows a page table in its own memory");
    ensure!(status == Status::BadAddress, "the call comes to {status:?}");
    Ok(())
}

fn result_in_reserve() -> anyhow::Result<()> {
    let (s, place, info) = (register()?, Place::new()?, trustvisor::info()?);
    let handle = s.pal().handle();
    // The last frame of the pool: nobody's, so that whoever writes there harms nobody in this test.
    let target = (info.reserve_base + info.reserve_size - PAGE as u64) | ENTRY;
    let status =
        place.with_entry(1, |_| target, || raw(call_entry(entry::FILL), handle, &[place.at, 64, 1]).1)?;
    ensure!(status != Status::Ok, "a result is written to TrustVisor's memory");
    Ok(())
}

fn supervisor_page() -> anyhow::Result<()> {
    let (s, place) = (register()?, Place::new()?);
    let handle = s.pal().handle();
    let ((sum, status), fault) = place.with_entry(
        1,
        |entry| entry & !USER,
        || faulting(|| raw(call_entry(entry::SUM), handle, &[place.at, 64])),
    )??;
    ensure!(fault.is_some() || status != Status::Ok, "S is given a page of the kernel: sum {sum}");
    Ok(())
}

fn read_only_page() -> anyhow::Result<()> {
    let s = register()?;
    let buffer = Mapping::anonymous(1)?;
    buffer.fill(&[0x5a; PAGE]);
    buffer.protect(0, 1, libc::PROT_READ)?;
    let handle = s.pal().handle();
    faulting(|| raw(call_entry(entry::FILL), handle, &[buffer.address(), PAGE as u64, 9]))?;
    ensure!(
        buffer.bytes().iter().all(|byte| *byte == 0x5a),
        "a result is in a page that the caller cannot write"
    );
    Ok(())
}
