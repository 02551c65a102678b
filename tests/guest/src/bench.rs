//! Numbers for `qemu-scripts/bench`, a line each: `bench NAME VALUE`. Instruction counts are RDTSC differences, exact under
//! QEMU's `-icount shift=0`; the least of many, so that an interrupt in one does not count.

use crate::rsa_operation;
use crate::support::{
    Child, IMAGE, Mapping, NO_HANDLE, PAGE, TestPal, call_entry, entry, header, pattern, raw, register,
};
use anyhow::{Context, ensure};
use std::arch::asm;
use std::arch::x86_64::_rdtsc;
use std::time::{Duration, Instant};
use trustvisor::abi::image::{HEADER_SIZE, Section, kind};
use trustvisor::abi::quote::{MAX_REPORT, key};
use trustvisor::abi::{Handle, Info, Status, exit, number};
use trustvisor::image::header_bytes;
use trustvisor::{Out, Quoting};

const TIME: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(60);

fn report(name: &str, value: u64) {
    println!("bench {name} {value}");
}

/// Exits of the OS but for CPUID's and the local APIC's, which are counted apart, and our own calls.
pub fn other_exits(info: &Info) -> u64 {
    [exit::MSR, exit::NPF, exit::IO, exit::OTHER].iter().map(|kind| info.exits[*kind]).sum()
}

/// What the OS costs in 10 s of two loads.
pub fn guest() -> anyhow::Result<()> {
    report("exits_boot", other_exits(&trustvisor::info()?));

    let before = trustvisor::info()?;
    let start = Instant::now();
    while start.elapsed() < TIME {
        std::hint::black_box(crate::support::pattern::compute(10_000));
    }
    let after = trustvisor::info()?;
    report("exits_cpu_loop_10s", other_exits(&after) - other_exits(&before));

    let before = after;
    let start = Instant::now();
    let mut processes = 0u64;
    while start.elapsed() < TIME {
        Child::fork(|| {
            let program = c"/bin/busybox".as_ptr();
            let arguments = [c"true".as_ptr(), std::ptr::null()];
            // SAFETY: a path and a null-terminated list of arguments.
            unsafe { libc::execv(program, arguments.as_ptr()) };
            anyhow::bail!("exec failed")
        })?
        .join(LIMIT)?;
        processes += 1;
    }
    let after = trustvisor::info()?;
    ensure!(processes > 10, "only {processes} processes in 10 s");
    report("exits_fork_exec_10s", other_exits(&after) - other_exits(&before));
    report("exits_cpuid_10s", after.exits[exit::CPUID] - before.exits[exit::CPUID]);
    report("exits_lapic_10s", after.exits[exit::LAPIC] - before.exits[exit::LAPIC]);
    report("fork_exec_processes_10s", processes);
    Ok(())
}

/// VMMCALL between two RDTSCs: ticks, and status.
#[inline(never)]
fn timed(call: u64, handle: Handle, arguments: [u64; 3]) -> (u64, u64) {
    let (start, end, status): (u64, u64, u64);
    // SAFETY: TrustVisor is there (every caller asked it), and buffers are the caller's mappings.
    unsafe {
        asm!(
            "rdtsc",
            "shl rdx, 32",
            "lea r12, [rax + rdx]",
            "mov rax, r13",
            "mov rdx, r14",
            "vmmcall",
            "mov r13, rdx",
            "rdtsc",
            "shl rdx, 32",
            "add rax, rdx",
            inlateout("r13") call => status,
            in("r14") arguments[2],
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rcx") 0,
            in("r8") 0,
            in("r9") 0,
            in("r10") handle.low,
            in("r11") handle.high,
            out("r12") start,
            lateout("rax") end,
            out("rdx") _,
            options(nostack),
        );
    }
    (end.wrapping_sub(start), status)
}

/// Instructions between the two RDTSCs that are the stub's: SHL, LEA, two MOVs, VMMCALL, MOV, and the second RDTSC.
const STUB: u64 = 7;

/// The least of many.
fn least(call: u64, handle: Handle, arguments: [u64; 3]) -> anyhow::Result<u64> {
    let mut best = u64::MAX;
    for _ in 0..100 {
        let (ticks, status) = timed(call, handle, arguments);
        ensure!(status == 0, "status {status}");
        best = best.min(ticks);
    }
    Ok(best)
}

/// S's part of an empty call: XOR EAX, EAX; RET.
const EMPTY: u64 = 2;

pub fn pal() -> anyhow::Result<()> {
    let s = register()?;
    let handle = s.pal().handle();
    report("vmmcall_null_instructions", least(number::INFO.into(), NO_HANDLE, [0; 3])? - STUB);
    report("pal_call_null_instructions", least(call_entry(entry::NULL), handle, [0; 3])? - STUB - EMPTY);
    report("pal_call_exits", exits_of_a_call(&s)?);

    report("pal_preempt_instructions", preemption(&s)?);
    let with_fpu = TestPal::register(&crate::fpu::image())?;
    let fpu_call = least(call_entry(entry::NULL), with_fpu.pal().handle(), [0; 3])?;
    report("pal_call_fpu_instructions", fpu_call - STUB - EMPTY);

    let buffer = Mapping::anonymous(2)?;
    buffer.fill(&[1; 2 * PAGE]);
    let copy =
        |pages: usize| least(call_entry(entry::IGNORE), handle, [buffer.address(), (pages * PAGE) as u64, 0]);
    report("copy_4k_instructions", copy(2)? - copy(1)?);

    let (few, many) = (1, 33);
    let per_page = |contents: fn(u64) -> u64| -> anyhow::Result<u64> {
        let difference =
            time_to_register(many, contents(many))?.saturating_sub(time_to_register(few, contents(few))?);
        Ok(difference / (many - few))
    };
    let page = per_page(|pages| pages)?;
    let publish = per_page(|_| 1)?;
    report("register_page_instructions", page);
    report("register_page_publish_instructions", publish);
    report("register_page_hash_percent", (page - publish) * 100 / page);
    report("irq_off_max_instructions", trustvisor::info()?.irq_off_max);
    Ok(())
}

/// What the micro-TPM's commands cost, from inside S.
pub fn utpm() -> anyhow::Result<()> {
    let s = register()?;
    for (command, (name, lengths)) in (0..).zip(COMMANDS) {
        for length in lengths {
            let ticks = s.cost(command, *length)?;
            ensure!(ticks != u64::MAX, "{name} of {length} bytes fails");
            let size = if lengths.len() > 1 { format!("_{length}") } else { String::new() };
            report(&format!("utpm_{name}{size}_instructions"), ticks);
        }
    }
    let quoting = Quoting::register()?;
    for (name, kind) in [("p256", key::P256), ("rsa", key::RSA)] {
        let quote = signing(&s, &quoting, kind)?;
        report(&format!("utpm_quote_{name}_instructions"), quote);
        if kind == key::RSA {
            let operation = rsa_operation::instructions()?;
            report("utpm_rsa_operation_instructions", operation);
            report("utpm_quote_rsa_operation_percent", operation * 100 / quote);
        }
    }
    report("utpm_irq_off_max_instructions", trustvisor::info()?.irq_off_max);
    Ok(())
}

/// A quote, once S's report is there: the quoting PAL's work and the way there and back.
fn signing(s: &TestPal, quoting: &Quoting, key: u8) -> anyhow::Result<u64> {
    let mut made = vec![0; MAX_REPORT];
    let length = s.report(u32::from(key) << 8 | 1, &[7; 32], Out(&mut made))?;
    let made = made.get(..length as usize).context("no report")?;
    let mut best = u64::MAX;
    for _ in 0..5 {
        // SAFETY: every processor has a TSC, and Linux lets programs read it.
        let start = unsafe { _rdtsc() };
        quoting.sign(made)?;
        // SAFETY: the same.
        best = best.min(unsafe { _rdtsc() } - start);
    }
    Ok(best)
}

/// By the numbers that S knows them by, and of how many bytes each is tried.
const COMMANDS: [(&str, &[u64]); 6] = [
    ("pcr_read", &[0]),
    ("extend", &[0]),
    ("seal", &[32, 1024]),
    ("unseal", &[32, 1024]),
    ("getrandom", &[32, 512]),
    ("report", &[0]),
];

/// Exits out of the OS and out of S for one call of a function that does nothing.
fn exits_of_a_call(s: &TestPal) -> anyhow::Result<u64> {
    let mut least = u64::MAX;
    for _ in 0..20 {
        let before = trustvisor::info()?;
        s.null()?;
        let after = trustvisor::info()?;
        let exits = |kind: usize| after.exits[kind] - before.exits[kind];
        // Presence is asked by CPUID, so only VMMCALL and PAL exits are the call's; one VMMCALL is the second `info`'s.
        least = least.min(exits(exit::VMMCALL) + exits(exit::PAL) - 1);
    }
    Ok(least)
}

/// Freezing S for an interrupt and going on: what an interrupt takes from S more than from a program that does the same.
fn preemption(s: &TestPal) -> anyhow::Result<u64> {
    const ROUNDS: u64 = 30_000_000;
    let ours = pattern::least_gap(ROUNDS);
    let its = s.least_gap(ROUNDS)?;
    ensure!(ours != u64::MAX && its != u64::MAX, "no interrupt came: {ours}, {its}");
    its.checked_sub(ours).context("an interrupt takes less from S than from a program")
}

/// Ticks to register S with so many pages of data, of which the image holds the first `contents`.
fn time_to_register(pages: u64, contents: u64) -> anyhow::Result<u64> {
    let mut header = header();
    let data = header.sections.iter().position(|s| s.kind == kind::DATA).context("S has data")?;
    let size = pages * PAGE as u64;
    let before = std::mem::replace(&mut header.sections[data].mem_size, size);
    header.sections[data].file_size = contents * PAGE as u64;
    for section in header.sections[data + 1..].iter_mut().filter(|s| **s != Section::default()) {
        section.addr = section.addr + size - before;
    }
    let code = header.sections[..data].iter().map(|s| s.file_size as usize).sum::<usize>();
    let image =
        [&header_bytes(&header), &IMAGE[HEADER_SIZE..][..code], &vec![7; contents as usize * PAGE][..]]
            .concat();

    let owner_page = Mapping::anonymous(1)?;
    owner_page.write(0, 1);
    let mut best = u64::MAX;
    for _ in 0..5 {
        let arguments = [image.as_ptr() as u64, image.len() as u64, owner_page.address()];
        let (ticks, status) = timed(number::REGISTER.into(), NO_HANDLE, arguments);
        ensure!(status == 0, "registering {pages} pages: status {status}");
        best = best.min(ticks);
        let bytes = owner_page.bytes();
        let word =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let status = raw(number::UNREGISTER.into(), Handle { low: word(0), high: word(8) }, &[]).1;
        ensure!(status == Status::Ok, "unregistering: {status:?}");
    }
    Ok(best)
}
