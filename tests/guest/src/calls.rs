//! S's functions do what they say, however their arguments travel, and nothing else of the caller changes.

use crate::support::{IMAGE, TestPal, call_entry, entry, expect_error, leaving_nothing, pattern, register};
use anyhow::ensure;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::arch::global_asm;
use trustvisor::abi::{Digests, Status, number};
use trustvisor::{Out, image};

pub fn run() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let s = register()?;
        ensure!(s.pal().info()?.measurement == image::measure(IMAGE), "the measurement is another");
        ensure!(s.weigh(1, 2, 3, 4, 5, 6)? == 654_321, "six integers do not arrive in order");
        ensure!(s.count()? == 1 && s.count()? == 2, "S does not keep its data");

        let data: Vec<u8> = (0..9_999u32).map(|i| (i * 7) as u8).collect();
        ensure!(
            s.sum(&data[1..])? == data[1..].iter().map(|b| u64::from(*b)).sum(),
            "an in-buffer arrives wrong"
        );
        ensure!(s.sum(&[])? == 0, "an empty buffer is not empty");

        let mut out = vec![0xaa; 9_001];
        let mut wanted = vec![0; 9_001];
        pattern::bytes(5, &mut wanted);
        ensure!(s.fill(Out(&mut out), 5)? == 0, "S finds an out-buffer that is not zeroed");
        ensure!(out == wanted, "an out-buffer comes back wrong");
        ensure!(s.fill(Out(&mut []), 5)? == 0, "an empty out-buffer is not empty");

        s.reverse(&mut out)?;
        wanted.reverse();
        ensure!(out == wanted, "an in-out-buffer comes back wrong");

        let (mut b, mut sums) = (vec![1; 5_000], vec![0; 5_001]);
        s.add_bytes(&data[..5_000], &mut b, Out(&mut sums))?;
        ensure!(
            sums.iter().zip(&data).take(5_000).all(|(sum, a)| *sum == a.wrapping_add(1)),
            "three buffers: out"
        );
        ensure!(b == data[..5_000] && sums[5_000] == 0, "three buffers: in-out");

        let info = s.pal().info()?;
        ensure!(info.calls == 9, "TrustVisor counts {} calls", info.calls);
        let too_large = vec![0; 161 << 10];
        expect_error("a buffer larger than the parameter section", s.sum(&too_large), Status::TooLarge)?;
        s.unregister()?;
        Ok(())
    })
}

pub fn pcrs() -> anyhow::Result<()> {
    let s = register()?;
    ensure!(read(&s, 0)? == image::measure(IMAGE), "PCR 0 is not the measurement");
    let mut wanted = Digests { sha1: [0; 20], sha256: [0; 32] };
    ensure!(read(&s, 1)? == wanted && read(&s, 7)? == wanted, "a fresh PCR is not zero");
    for step in 1..=3u8 {
        let digests: [u8; 52] = std::array::from_fn(|i| i as u8 ^ step);
        ensure!(s.pcr_extend(7, &digests)? == Status::Ok as u64, "PCR 7 cannot be extended");
        wanted.sha1 = Sha1::new().chain_update(wanted.sha1).chain_update(&digests[..20]).finalize().into();
        wanted.sha256 =
            Sha256::new().chain_update(wanted.sha256).chain_update(&digests[20..]).finalize().into();
        ensure!(read(&s, 7)? == wanted, "PCR 7 holds something else after extend {step}");
    }
    let another = register()?;
    ensure!(read(&another, 7)?.sha256 == [0; 32], "another PAL has the PCR of the first");

    let refused = |what: &str, status: u64, wanted: Status| {
        ensure!(status == wanted as u64, "{what}: status {status} instead of {wanted:?}");
        Ok(())
    };
    refused("extending PCR 0", s.pcr_extend(0, &[0; 52])?, Status::BadArgument)?;
    refused("extending PCR 8", s.pcr_extend(8, &[0; 52])?, Status::BadArgument)?;
    refused("reading PCR 8", s.pcr_read(8, Out(&mut [0; 52]))?, Status::BadArgument)?;
    let (pcr_read, pcr_extend) = (number::PCR_READ.into(), number::PCR_EXTEND.into());
    let ours = &raw const s as u64;
    for pointer in [0, ours, 0x4000_0000, 0x7fff_ffff, u64::MAX - 20, 1 << 47, 0xffff_8880_0000_0000] {
        refused("PCR_READ to a bad pointer", s.hypercall(pcr_read, 1, pointer)?, Status::BadAddress)?;
    }
    for pointer in [0, ours, 0x3fff_ffff, u64::MAX - 20, 1 << 47, 0xffff_8880_0000_0000] {
        refused("PCR_EXTEND from a bad pointer", s.hypercall(pcr_extend, 1, pointer)?, Status::BadAddress)?;
    }
    for unknown in
        [0, number::INFO.into(), number::UNREGISTER.into(), 0x80, 0x8a, u64::MAX, pcr_read | 1 << 16]
    {
        refused("an unknown number from S", s.hypercall(unknown, 0, 0)?, Status::UnknownCall)?;
    }
    Ok(())
}

fn read(s: &TestPal, index: u32) -> anyhow::Result<Digests> {
    let mut bytes = [0; 52];
    ensure!(s.pcr_read(index, Out(&mut bytes))? == Status::Ok as u64, "PCR {index} cannot be read");
    let mut digests = Digests { sha1: [0; 20], sha256: [0; 32] };
    digests.sha1.copy_from_slice(&bytes[..20]);
    digests.sha256.copy_from_slice(&bytes[20..]);
    Ok(digests)
}

/// All registers of a program: RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15, XMM0 to XMM15.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Everything {
    pub general: [u64; 15],
    pub flags: u64,
    pub sse: [[u64; 2]; 16],
}

pub const RAX: usize = 0;
pub const RDX: usize = 3;

global_asm!(
    ".globl tvtest_vmmcall_with_everything",
    "tvtest_vmmcall_with_everything:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movups xmm\\n, [rdi + 128 + 16 * \\n]",
    ".endr",
    "mov rax, [rdi]",
    "mov rbx, [rdi + 8]",
    "mov rcx, [rdi + 16]",
    "mov rdx, [rdi + 24]",
    "mov rsi, [rdi + 32]",
    "mov rbp, [rdi + 48]",
    ".irp n, 8, 9, 10, 11, 12, 13, 14, 15",
    "mov r\\n, [rdi + 8 * (\\n - 1)]",
    ".endr",
    "push [rdi + 120]",
    "mov rdi, [rdi + 40]",
    "popfq",
    "vmmcall",
    "pushfq",
    "push rax",
    "mov rax, [rsp + 16]",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movups [rax + 128 + 16 * \\n], xmm\\n",
    ".endr",
    "mov [rax + 8], rbx",
    "mov [rax + 16], rcx",
    "mov [rax + 24], rdx",
    "mov [rax + 32], rsi",
    "mov [rax + 40], rdi",
    "mov [rax + 48], rbp",
    ".irp n, 8, 9, 10, 11, 12, 13, 14, 15",
    "mov [rax + 8 * (\\n - 1)], r\\n",
    ".endr",
    "pop [rax]",
    "pop [rax + 120]",
    "pop rdi",
    "cld",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

// SAFETY: the routine of the assembly above takes its argument so.
unsafe extern "C" {
    pub fn tvtest_vmmcall_with_everything(state: *mut Everything);
}

/// RFLAGS: IF, DF, OF, SF, ZF, AF, PF, CF and the bit that is always 1.
const FLAGS: u64 = 0xed7;

/// After a call, interrupted or not, every register but RAX and RDX is what it was, the flags and SSE registers too.
pub fn registers() -> anyhow::Result<()> {
    let s = register()?;
    let handle = s.pal().handle();
    let compute = call_entry(entry::COMPUTE);
    for rounds in [1, 3_000_000] {
        let mut general: [u64; 15] = std::array::from_fn(|i| 0x0101_0101_0101_0101 * (i as u64 + 1));
        general[RAX] = compute;
        general[5] = rounds;
        general[9] = handle.low;
        general[10] = handle.high;
        let sse = std::array::from_fn(|i| [0xabcd_0000 + i as u64, !(i as u64)]);
        let before = Everything { general, flags: FLAGS, sse };
        let mut after = before;
        // SAFETY: `s` is registered, so TrustVisor is there; the call takes an integer.
        unsafe { tvtest_vmmcall_with_everything(&mut after) };
        ensure!(after.general[RDX] == 0, "status {}", after.general[RDX]);
        ensure!(after.general[RAX] == pattern::compute(rounds), "S computes something else");
        for register in (0..15).filter(|r| ![RAX, RDX].contains(r)) {
            ensure!(after.general[register] == before.general[register], "register {register} has changed");
        }
        ensure!(after.flags == before.flags, "flags {:#x} are {:#x} after it", before.flags, after.flags);
        ensure!(after.sse == before.sse, "an SSE register has changed");
    }
    Ok(())
}
