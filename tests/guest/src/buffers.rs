//! Buffers in every state that ordinary memory can be in.

use crate::support::{
    Child, Fault, Mapping, PAGE, Pipe, TestPal, call_entry, entry, expect_error, faulting, pattern, raw,
    register,
};
use anyhow::{bail, ensure};
use std::time::Duration;
use trustvisor::Out;
use trustvisor::abi::Status;

const PAGES: usize = 8;
const LIMIT: Duration = Duration::from_secs(60);

/// What S fills a buffer with.
pub fn filled(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    pattern::bytes(seed, &mut bytes);
    bytes
}

/// Pages that nobody has touched: the kernel brings them, as for any access.
pub fn absent() -> anyhow::Result<()> {
    let s = register()?;
    let (input, output) = (Mapping::anonymous(PAGES)?, Mapping::anonymous(PAGES)?);
    ensure!(s.sum(input.slice())? == 0, "untouched memory is not zero");
    s.fill(Out(output.slice()), 1)?;
    ensure!(output.bytes() == filled(1, PAGES * PAGE), "out-buffer in untouched memory");

    // The zero page, read-only behind a writable mapping.
    let zeroes = Mapping::anonymous(PAGES)?;
    ensure!(zeroes.bytes().iter().all(|b| *b == 0), "fresh memory is not zero");
    s.fill(Out(zeroes.slice()), 2)?;
    ensure!(zeroes.bytes() == filled(2, PAGES * PAGE), "out-buffer on the zero page");

    let program = std::fs::File::open("/proc/self/exe")?;
    let text = Mapping::shared_read_only(&program, PAGES)?;
    crate::support::tell_kernel("/proc/sys/vm/drop_caches", "1")?;
    let sum = s.sum(text.slice())?;
    ensure!(sum == text.bytes().iter().map(|b| u64::from(*b)).sum::<u64>(), "in-buffer in a file");
    Ok(())
}

/// After a fork parent and child share pages until one writes; a result is a write.
pub fn copy_on_write() -> anyhow::Result<()> {
    let s = register()?;
    let buffer = Mapping::anonymous(PAGES)?;
    buffer.fill(&[0x5a; PAGES * PAGE]);
    let pipe = Pipe::new()?;
    let child = Child::fork(|| {
        pipe.wait()?;
        ensure!(buffer.bytes().iter().all(|b| *b == 0x5a), "the result is in the child's memory");
        Ok(())
    })?;
    s.fill(Out(buffer.slice()), 3)?;
    pipe.signal()?;
    child.join(LIMIT)?;
    ensure!(buffer.bytes() == filled(3, PAGES * PAGE), "the result is not in the parent's memory");
    Ok(())
}

/// A result for memory that the caller may not write is SIGSEGV, as a write would be, and S does not run.
pub fn read_only() -> anyhow::Result<()> {
    let s = register()?;
    let buffer = Mapping::anonymous(2)?;
    buffer.fill(&[0x5a; 2 * PAGE]);
    buffer.protect(1, 1, libc::PROT_READ)?;
    let written = Child::fork(|| {
        buffer.write(PAGE, 1);
        Ok(())
    })?
    .join(LIMIT);
    ensure!(written.is_err_and(|e| e.to_string().ends_with("signal 11")), "an ordinary write does not fault");

    let fault = fill_raw(&s, buffer.address(), 2 * PAGE)?;
    let wanted = Fault { address: buffer.address() + PAGE as u64, code: SEGV_ACCERR, at_vmmcall: true };
    ensure!(fault == Some(wanted), "{fault:x?} instead of {wanted:x?}");
    ensure!(buffer.bytes().iter().all(|b| *b == 0x5a), "the buffer has changed");
    ensure!(s.count()? == 1, "S has run");

    buffer.protect(1, 1, libc::PROT_NONE)?;
    let fault = sum_raw(&s, buffer.address(), 2 * PAGE)?;
    ensure!(fault == Some(wanted), "{fault:x?} instead of {wanted:x?}");

    buffer.protect(1, 1, libc::PROT_READ | libc::PROT_WRITE)?;
    s.fill(Out(buffer.slice()), 4)?;
    ensure!(buffer.bytes() == filled(4, 2 * PAGE), "the PAL does not work after a fault");
    Ok(())
}

pub fn half_outside() -> anyhow::Result<()> {
    let s = register()?;
    let buffer = Mapping::anonymous(3)?;
    buffer.fill(&[0x5a; 3 * PAGE]);
    buffer.unmap(1, 2)?;
    let wanted = Fault { address: buffer.address() + PAGE as u64, code: SEGV_MAPERR, at_vmmcall: true };
    let at = buffer.address() + 100;
    for fault in [fill_raw(&s, at, PAGE)?, sum_raw(&s, at, PAGE)?] {
        ensure!(fault == Some(wanted), "{fault:x?} instead of {wanted:x?}");
    }
    ensure!((0..PAGE).all(|i| buffer.read(i) == 0x5a), "the half inside has changed");
    ensure!(s.count()? == 1, "S has run");
    Ok(())
}

/// Buffers of more than a slice: the call is interrupted while it copies.
pub fn large() -> anyhow::Result<()> {
    let s = register()?;
    let length = 159 << 10;
    let mut data = filled(6, length + 1);
    let mut wanted = data.clone();
    wanted[1..].reverse();
    s.reverse(&mut data[1..])?;
    ensure!(data == wanted, "a large buffer comes back wrong");

    // A fault late in a large call leaves it open, which only its owner can end.
    let buffer = Mapping::anonymous(40)?;
    buffer.unmap(39, 1)?;
    let fault = fill_raw(&s, buffer.address(), 40 * PAGE)?;
    ensure!(fault.is_some_and(|f| f.code == SEGV_MAPERR), "{fault:x?} instead of SIGSEGV");
    match s.count() {
        Ok(_) => Ok(()),
        Err(error) if error.status() == Some(Status::Busy) => {
            s.pal().abort()?;
            expect_error("a call after abort", s.count(), Status::NoSuchPal)
        }
        Err(error) => bail!("after a fault: {error}"),
    }
}

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;

fn fill_raw(s: &TestPal, address: u64, length: usize) -> anyhow::Result<Option<Fault>> {
    call_raw(s, entry::FILL, address, length)
}

fn sum_raw(s: &TestPal, address: u64, length: usize) -> anyhow::Result<Option<Fault>> {
    call_raw(s, entry::SUM, address, length)
}

fn call_raw(s: &TestPal, entry: u64, address: u64, length: usize) -> anyhow::Result<Option<Fault>> {
    let handle = s.pal().handle();
    Ok(faulting(|| raw(call_entry(entry), handle, &[address, length as u64, 9]))?.1)
}
