//! PALs that use the FPU: they have registers of their own, and the caller keeps its own.

use crate::support::{IMAGE, call_entry, entry, header, leaving_nothing};
use anyhow::ensure;
use std::arch::asm;
use trustvisor::abi::Status;
use trustvisor::abi::image::{FLAG_FPU, HEADER_SIZE, Header};

const SECRET: u64 = 0x5ec2_e7f0_0d15_ea5e;
/// What the caller has in all its registers.
const MARK: u64 = 0x0123_4567_89ab_cdef;
/// Long enough for several timer interrupts.
const ROUNDS: u64 = 200_000_000;

/// The S of the tests, with the flag set.
pub fn image() -> Vec<u8> {
    let mut header = header();
    header.flags = FLAG_FPU;
    // SAFETY: `Header` is made of integers without padding.
    let bytes: [u8; HEADER_SIZE] = unsafe { std::mem::transmute::<Header, _>(header) };
    [&bytes, &IMAGE[HEADER_SIZE..]].concat()
}

/// Calls S with [`MARK`] in XMM0-15; answers value, status, and what differs from the mark afterwards.
fn call_with_marks(handle: trustvisor::abi::Handle, rounds: u64) -> (u64, u64, u64) {
    let (value, status, differs);
    // SAFETY: a call of S that takes integers only; TrustVisor is there.
    unsafe {
        asm!(
            "movq xmm0, {mark}",
            "punpcklqdq xmm0, xmm0",
            "movdqa xmm1, xmm0", "movdqa xmm2, xmm0", "movdqa xmm3, xmm0", "movdqa xmm4, xmm0",
            "movdqa xmm5, xmm0", "movdqa xmm6, xmm0", "movdqa xmm7, xmm0", "movdqa xmm8, xmm0",
            "movdqa xmm9, xmm0", "movdqa xmm10, xmm0", "movdqa xmm11, xmm0", "movdqa xmm12, xmm0",
            "movdqa xmm13, xmm0", "movdqa xmm14, xmm0", "movdqa xmm15, xmm0",
            "vmmcall",
            // XOR with the mark, and all differences together.
            "movq {differs}, xmm3",
            "xor {differs}, {mark}",
            "movdqa xmm3, xmm15",
            "pxor xmm3, xmm0", "pxor xmm1, xmm2", "pxor xmm4, xmm5", "pxor xmm6, xmm7", "pxor xmm8, xmm9",
            "pxor xmm10, xmm11", "pxor xmm12, xmm13", "pxor xmm14, xmm15",
            "por xmm3, xmm1", "por xmm3, xmm4", "por xmm3, xmm6", "por xmm3, xmm8", "por xmm3, xmm10",
            "por xmm3, xmm12", "por xmm3, xmm14",
            "movq {mark}, xmm3",
            "or {differs}, {mark}",
            "psrldq xmm3, 8",
            "movq {mark}, xmm3",
            "or {differs}, {mark}",
            mark = inout(reg) MARK => _,
            differs = lateout(reg) differs,
            inlateout("rax") call_entry(entry::FPU) => value,
            inlateout("rdx") 0u64 => status,
            in("rdi") SECRET,
            in("rsi") rounds,
            in("r10") handle.low,
            in("r11") handle.high,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
    (value, status, differs)
}

pub fn run() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let s = trustvisor::Pal::register(&image())?;
        // The second call finds nothing that the first one left.
        for rounds in [ROUNDS, 1] {
            let (value, status, differs) = call_with_marks(s.handle(), rounds);
            ensure!(status == Status::Ok as u64, "status {status}, value {value:#x}");
            ensure!(value & 1 == 0, "S found something in its registers");
            ensure!(value & 2 == 0, "a register of S changed while it ran");
            ensure!(differs == 0, "the caller's registers changed by {differs:#x}");
        }
        let exits = trustvisor::info()?.exits[trustvisor::abi::exit::PAL];
        ensure!(exits > 3, "S was never interrupted");
        Ok(s.unregister()?)
    })
}
