//! The FPU of a PAL that declared its use.

use core::arch::asm;

/// What [`fpu`] found: registers that were not zero when S began, a register that changed while S ran.
const NOT_ZERO: u64 = 1;
const CHANGED: u64 = 2;

/// Looks at XMM0-15, keeps `value` in XMM3 for some rounds, and leaves it there. Returns 0 if all was as it should be.
pub fn fpu(value: u64, rounds: u64) -> u64 {
    let (found, kept): (u64, u64);
    // SAFETY: registers only; a PAL has no code of the compiler's that uses them.
    unsafe {
        asm!(
            "por xmm0, xmm1", "por xmm0, xmm2", "por xmm0, xmm3", "por xmm0, xmm4", "por xmm0, xmm5",
            "por xmm0, xmm6", "por xmm0, xmm7", "por xmm0, xmm8", "por xmm0, xmm9", "por xmm0, xmm10",
            "por xmm0, xmm11", "por xmm0, xmm12", "por xmm0, xmm13", "por xmm0, xmm14", "por xmm0, xmm15",
            "movq {found}, xmm0",
            "psrldq xmm0, 8",
            "movq {kept}, xmm0",
            "or {found}, {kept}",
            "movq xmm3, {value}",
            "2: dec {rounds}",
            "jnz 2b",
            "movq {kept}, xmm3",
            found = out(reg) found,
            kept = out(reg) kept,
            value = in(reg) value,
            rounds = inout(reg) rounds.max(1) => _,
            options(nomem, nostack),
        );
    }
    let mut wrong = 0;
    if found != 0 {
        wrong |= NOT_ZERO;
    }
    if kept != value {
        wrong |= CHANGED;
    }
    wrong
}
