//! Attacks on the way into S and back: who calls, what is called, with what, and how S comes back. Some are by S itself.

use super::Attack;
use crate::callers;
use crate::support::{
    IMAGE, Mapping, NO_HANDLE, PAGE, TestPal, call_entry, entry, expect, faulting, header, raw, register,
};
use anyhow::{bail, ensure};
use sha2::{Digest, Sha256};
use trustvisor::Out;
use trustvisor::abi::image::{HEADER_SIZE, Header, MAX_ENTRIES, MEASUREMENT_PREFIX};
use trustvisor::abi::{Handle, PalInfo, Status, number};
use trustvisor::image::header_bytes;

pub const ATTACKS: &[Attack] = &[
    ("kernel-calls", "calls from the kernel: only programs call", callers::kernel),
    ("compat-calls", "calls from 32-bit code: only 64-bit code calls", callers::compat),
    (
        "masked-calls",
        "calls with interrupts off, to hold them off for long: refused",
        callers::interrupts_off,
    ),
    ("entry-numbers", "enters S where there is no entry: S does not run", entry_numbers),
    ("large-arguments", "gives S a buffer larger than its room: refused", large_arguments),
    ("old-arguments", "looks for the last call's argument in this call's output: zero", old_arguments),
    ("image-changed", "changes the image after it was looked at: what was measured runs", image_changed),
    ("smashed-return", "S returns with another stack: dead", || dies(7, "S returns as it likes")),
    ("code-written", "S writes to its code: dead", || dies(11, "S writes to its code")),
    ("data-executed", "S runs its data: dead", || dies(6, "S runs its data")),
    ("cpuid-in-s", "S asks for the processor, which answers what the hypervisor sees: dead", || {
        dies(19, "S sees the processor as the hypervisor does")
    }),
    ("fpu-in-s", "S, which did not declare it, uses the FPU, where the OS's registers are: dead", || {
        dies(26, "S uses the OS's FPU registers")
    }),
];

fn entry_numbers() -> anyhow::Result<()> {
    let s = register()?;
    let handle = s.pal().handle();
    for number in (entry::COUNT..MAX_ENTRIES as u64 + 64).chain([0xff, 0x7fff, 0xffff]) {
        let status = raw(call_entry(number), handle, &[]).1;
        ensure!(status == Status::BadArgument, "S is entered at entry {number}");
    }
    ensure!(s.count()? == 1, "S has run");
    Ok(())
}

fn large_arguments() -> anyhow::Result<()> {
    let s = register()?;
    s.set_secret(1)?;
    let secret = |s: &TestPal| {
        let mut bytes = vec![0; 4096];
        s.masked_secret(Out(&mut bytes), 0).map(|()| bytes)
    };
    let before = secret(&s)?;
    let large = vec![0xa5; 200 << 10];
    let status =
        raw(call_entry(entry::SUM), s.pal().handle(), &[large.as_ptr() as u64, large.len() as u64]).1;
    ensure!(status == Status::TooLarge, "S is given more than it has room for");
    ensure!(secret(&s)? == before, "S's data have changed");
    Ok(())
}

fn old_arguments() -> anyhow::Result<()> {
    let s = register()?;
    s.ignore(&[0xa5; 3 * PAGE])?;
    let mut out = vec![0; 3 * PAGE];
    ensure!(s.fill(Out(&mut out), 1)? == 0, "S finds what the last call was given");
    Ok(())
}

/// The image's last page is away until registration has begun and asks for it; then the header, which was read and checked, is changed:
/// two entries change places.
fn image_changed() -> anyhow::Result<()> {
    let pages = IMAGE.len().div_ceil(PAGE);
    let (image, owner_page) = (Mapping::anonymous(pages)?, Mapping::anonymous(1)?);
    image.slice()[..IMAGE.len()].copy_from_slice(IMAGE);
    image.protect(pages - 1, 1, libc::PROT_NONE)?;
    let arguments = [image.address(), IMAGE.len() as u64, owner_page.address()];
    let ((token, _), fault) = faulting(|| raw(number::REGISTER.into(), NO_HANDLE, &arguments))?;
    ensure!(fault.is_some(), "the registration did not wait");
    let mut changed: Header = header();
    changed.entries.swap(entry::NULL as usize, entry::COUNTING as usize);
    image.slice()[..HEADER_SIZE].copy_from_slice(&header_bytes(&changed));
    image.protect(pages - 1, 1, libc::PROT_READ | libc::PROT_WRITE)?;
    expect("the registration", raw(token, NO_HANDLE, &arguments).1, Status::Ok)?;

    let handle = owner_page.slice().as_chunks::<8>().0;
    let handle = Handle { low: u64::from_le_bytes(handle[0]), high: u64::from_le_bytes(handle[1]) };
    let mut info = vec![0; size_of::<PalInfo>()];
    raw(number::PAL_INFO.into(), handle, &[info.as_mut_ptr() as u64, info.len() as u64]);
    let counts = raw(call_entry(entry::COUNTING), handle, &[]).0;
    expect("UNREGISTER", raw(number::UNREGISTER.into(), handle, &[]).1, Status::Ok)?;
    let measured = Sha256::new().chain_update(MEASUREMENT_PREFIX).chain_update(IMAGE).finalize();
    ensure!(info[20..52] == measured[..], "the measurement is another");
    ensure!(counts == 1, "another S than the one that was measured runs");
    Ok(())
}

fn dies(way: u32, else_seen: &'static str) -> anyhow::Result<()> {
    let s = register()?;
    if s.die(way).is_ok() {
        bail!(else_seen);
    }
    ensure!(s.count().is_err(), "S lives");
    Ok(())
}
