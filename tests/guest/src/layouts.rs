//! Buffers in every position: overlapping one another, across pages, of no length at all, and at the end of user memory.

use crate::support::{Fault, Mapping, PAGE, Rng, call_entry, entry, faulting, random, raw, register, system};
use anyhow::{Context, ensure};
use trustvisor::abi::Status;

const PAGES: usize = 6;
const ROUNDS: usize = 400;

/// `add_bytes(a, b, out)` with the three anywhere in the same memory: S gets what was there when it was called; `b`'s result is delivered,
/// then `out`'s.
pub fn overlapping() -> anyhow::Result<()> {
    let seed = random()?;
    println!("tvtest: overlapping buffers with seed {seed:#x}");
    let mut rng = Rng::new(seed);
    let s = register()?;
    let memory = Mapping::anonymous(PAGES)?;
    let mut model: Vec<u8> = (0..PAGES * PAGE).map(|_| rng.next() as u8).collect();
    memory.fill(&model);
    for round in 0..ROUNDS {
        // Short and long, on page boundaries and around them.
        let length = match round % 4 {
            0 => rng.within(0..64) as usize,
            1 => PAGE - 2 + rng.within(0..5) as usize,
            _ => rng.within(0..2 * PAGE as u64) as usize,
        };
        let mut place = || rng.within(0..(PAGES * PAGE - length) as u64 + 1) as usize;
        let [a, b, out] = [place(), place(), place()];
        let of = |at: usize| (memory.address() + at as u64, length as u64);
        let ((a_at, len), (b_at, _), (out_at, _)) = (of(a), of(b), of(out));
        let (_, status) =
            raw(call_entry(entry::ADD_BYTES), s.pal().handle(), &[a_at, len, b_at, len, out_at, len]);
        ensure!(status == Status::Ok, "round {round}: {status:?} for {a:#x}, {b:#x}, {out:#x}, {length:#x}");
        let (old_a, old_b) = (model[a..a + length].to_vec(), model[b..b + length].to_vec());
        model[b..b + length].copy_from_slice(&old_a);
        for (i, byte) in model[out..out + length].iter_mut().enumerate() {
            *byte = old_a[i].wrapping_add(old_b[i]);
        }
        ensure!(memory.bytes() == model, "round {round}: wrong for {a:#x}, {b:#x}, {out:#x}, {length:#x}");
    }
    Ok(())
}

/// In-out buffers of every size in memory that nobody has touched: a page is asked for to be read and once more to be written, and some of
/// these sizes are more than one stay in TrustVisor copies.
pub fn untouched() -> anyhow::Result<()> {
    let s = register()?;
    for kib in (2..159).step_by(12) {
        let memory = Mapping::anonymous(40)?;
        s.reverse(&mut memory.slice()[..kib << 10]).with_context(|| format!("{kib} KiB"))?;
        ensure!(memory.bytes().iter().all(|byte| *byte == 0), "{kib} KiB: zeroes come back wrong");
    }
    Ok(())
}

/// A buffer of no bytes may be anywhere.
pub fn empty() -> anyhow::Result<()> {
    let s = register()?;
    for address in [0, 1, 0xfff, 1 << 47, 1 << 63, u64::MAX, 0xffff_8880_0000_0000, 0x4000_0000] {
        for entry in [entry::SUM, entry::FILL, entry::REVERSE] {
            let answer = raw(call_entry(entry), s.pal().handle(), &[address, 0, 7]);
            ensure!(answer.1 == Status::Ok, "entry {entry}, no bytes at {address:#x}: {answer:?}");
        }
    }
    Ok(())
}

/// The last page that Linux gives to user programs with 4-level tables.
const LAST_PAGE: u64 = 0x7fff_ffff_e000;
/// `SEGV_MAPERR`.
const NOT_MAPPED: i32 = 1;

/// A buffer that begins in the last page of user memory and ends in nothing, or beyond what is canonical, or where it began.
pub fn at_the_end() -> anyhow::Result<()> {
    let s = register()?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping where there was none.
    let page = unsafe { libc::mmap(LAST_PAGE as *mut libc::c_void, PAGE, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        println!("tvtest: the last page is in use");
        return Ok(());
    }
    let handle = s.pal().handle();
    for length in [PAGE as u64 + 1, 2 * PAGE as u64 + 1, 4 * PAGE as u64] {
        for entry in [entry::SUM, entry::FILL, entry::REVERSE] {
            // Else this would be one more attempt of the call before.
            trustvisor::info()?;
            let (_, fault) = faulting(|| raw(call_entry(entry), handle, &[LAST_PAGE, length, 7]))?;
            let wanted = Fault { address: LAST_PAGE + PAGE as u64, code: NOT_MAPPED, at_vmmcall: true };
            ensure!(fault == Some(wanted), "entry {entry}: {fault:x?} instead of {wanted:x?}");
        }
    }
    let (value, status) = raw(call_entry(entry::SUM), handle, &[LAST_PAGE, PAGE as u64, 0]);
    ensure!((value, status) == (0, Status::Ok), "the last page: {value:#x}, {status:?}");
    // SAFETY: the page mapped above.
    system("munmap", unsafe { libc::munmap(page, PAGE) })?;
    ensure!(s.count()? == 1, "S wrote something");
    Ok(())
}
