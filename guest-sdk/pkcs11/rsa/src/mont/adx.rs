//! The multiplication with `MULX`, which leaves the flags alone, and `ADCX` and `ADOX`, which add with a carry of their own each:
//! the low and the high halves of products are added to the same registers, without either chain waiting for the other.
//!
//! Eight limbs of a sum stay in r8 to r15 while eight words are multiplied with eight limbs: each word's row retires the lowest limb to
//! memory, and its register becomes the highest. Rows of blocks are put together in Rust. No instruction depends on a value.

use core::arch::asm;

use super::{BLOCK, POWERS};

/// Of a product of `rdx` and the limb at rsi + `$offset`, the low half to `$low` and the high half to `$high`.
macro_rules! product {
    ($offset:literal $low:literal $high:literal) => {
        concat!(
            "mulx rcx, rax, [rsi + ", $offset, "]\n",
            "adcx ", $low, ", rax\n",
            "adox ", $high, ", rcx\n",
        )
    };
}

/// The last product of a row, at rsi + 56: the high half becomes the new top, which takes both carries. rbp is 0.
macro_rules! last_product {
    ($low:literal $top:literal) => {
        concat!(
            "mulx ",
            $top,
            ", rax, [rsi + 56]\n",
            "adcx ",
            $low,
            ", rax\n",
            "adcx ",
            $top,
            ", rbp\n",
            "adox ",
            $top,
            ", rbp\n",
        )
    };
}

/// The products of `rdx` with eight limbs. What comes between the first product and the others sees the final `$r0`.
macro_rules! row {
    ($between:expr, $r0:literal $r1:literal $r2:literal $r3:literal $r4:literal $r5:literal $r6:literal $r7:literal) => {
        concat!(
            product!(0 $r0 $r1), $between, product!(8 $r1 $r2), product!(16 $r2 $r3), product!(24 $r3 $r4),
            product!(32 $r4 $r5), product!(40 $r5 $r6), product!(48 $r6 $r7), last_product!($r7 $r0),
        )
    };
}

/// One word of `b` (rbx), at this offset. Its predecessor left both carries clear.
macro_rules! multiply_row {
    ($offset:literal $r0:literal $($r:literal)*) => {
        concat!(
            "mov rdx, [rbx + ", $offset, "]\n",
            row!(concat!("mov [rdi + ", $offset, "], ", $r0, "\n"), $r0 $($r)*),
        )
    };
}

/// One word of the reduction: the factor that makes the lowest limb 0 takes its place in memory. rbx is -1/n. The carries are clear.
macro_rules! reduce_row {
    ($offset:literal $r0:literal $($r:literal)*) => {
        concat!(
            "mov rdx, rbx\n",
            "mulx rcx, rdx, ", $r0, "\n",
            "mov [rdi + ", $offset, "], rdx\n",
            row!("", $r0 $($r)*),
        )
    };
}

/// Eight rows; each begins one register further.
macro_rules! rows {
    ($row:ident) => {
        concat!(
            $row!(0 "r8" "r9" "r10" "r11" "r12" "r13" "r14" "r15"),
            $row!(8 "r9" "r10" "r11" "r12" "r13" "r14" "r15" "r8"),
            $row!(16 "r10" "r11" "r12" "r13" "r14" "r15" "r8" "r9"),
            $row!(24 "r11" "r12" "r13" "r14" "r15" "r8" "r9" "r10"),
            $row!(32 "r12" "r13" "r14" "r15" "r8" "r9" "r10" "r11"),
            $row!(40 "r13" "r14" "r15" "r8" "r9" "r10" "r11" "r12"),
            $row!(48 "r14" "r15" "r8" "r9" "r10" "r11" "r12" "r13"),
            $row!(56 "r15" "r8" "r9" "r10" "r11" "r12" "r13" "r14"),
        )
    };
}

/// One instruction for each of the eight registers, and the offset of its limb.
macro_rules! each {
    ($before:literal, $middle:literal, $after:literal) => {
        concat!(
            $before, "r8", $middle, "0", $after, "\n", $before, "r9", $middle, "8", $after, "\n", $before,
            "r10", $middle, "16", $after, "\n", $before, "r11", $middle, "24", $after, "\n", $before, "r12",
            $middle, "32", $after, "\n", $before, "r13", $middle, "40", $after, "\n", $before, "r14",
            $middle, "48", $after, "\n", $before, "r15", $middle, "56", $after, "\n",
        )
    };
}

/// The carry into the lowest of the eight registers.
macro_rules! propagate {
    () => {
        concat!(
            "adc r8, 0\nadc r9, 0\nadc r10, 0\nadc r11, 0\n",
            "adc r12, 0\nadc r13, 0\nadc r14, 0\nadc r15, 0\n",
        )
    };
}

/// The eight registers to t (rdi).
macro_rules! write {
    () => {
        concat!(
            "mov [rdi], r8\nmov [rdi + 8], r9\nmov [rdi + 16], r10\nmov [rdi + 24], r11\n",
            "mov [rdi + 32], r12\nmov [rdi + 40], r13\nmov [rdi + 48], r14\nmov [rdi + 56], r15\n",
        )
    };
}

/// One limb of out (r8) = t (rdi) - n (rsi) times 0 or 1 (rdx).
macro_rules! subtract {
    ($offset:literal) => {
        concat!(
            "mulx r10, r9, [rsi + ",
            $offset,
            "]\n",
            "mov rax, [rdi + ",
            $offset,
            "]\n",
            "sbb rax, r9\n",
            "mov [r8 + ",
            $offset,
            "], rax\n",
        )
    };
}

/// Two limbs of t (rdi), doubled, plus the square of one of a (rsi).
macro_rules! double_and_square {
    ($i:literal) => {
        concat!(
            "mov rdx, [rsi + 8 * ",
            $i,
            "]\n",
            "mulx rdx, rax, rdx\n",
            "mov r8, [rdi + 16 * ",
            $i,
            "]\n",
            "mov r9, [rdi + 16 * ",
            $i,
            " + 8]\n",
            "adcx r8, r8\n",
            "adox r8, rax\n",
            "adcx r9, r9\n",
            "adox r9, rdx\n",
            "mov [rdi + 16 * ",
            $i,
            "], r8\n",
            "mov [rdi + 16 * ",
            $i,
            " + 8], r9\n",
        )
    };
}

/// `asm!` with the eight limbs of `$sum` in r8 to r15.
macro_rules! with_sum {
    ($sum:ident [$($template:expr),* $(,)?] $($operands:tt)*) => {
        asm!(
            $($template,)*
            inout("r8") $sum[0], inout("r9") $sum[1], inout("r10") $sum[2], inout("r11") $sum[3],
            inout("r12") $sum[4], inout("r13") $sum[5], inout("r14") $sum[6], inout("r15") $sum[7],
            $($operands)*
        )
    };
}

/// `asm!` that makes a new [`Sum`] in r8 to r15.
macro_rules! new_sum {
    ([$($template:expr),* $(,)?] $($operands:tt)*) => {{
        let (r8, r9, r10, r11, r12, r13, r14, r15): (u64, u64, u64, u64, u64, u64, u64, u64);
        asm!(
            $($template,)*
            out("r8") r8, out("r9") r9, out("r10") r10, out("r11") r11,
            out("r12") r12, out("r13") r13, out("r14") r14, out("r15") r15,
            $($operands)*
        );
        Self { limbs: [r8, r9, r10, r11, r12, r13, r14, r15], carry: 0 }
    }};
}

/// A sum of eight limbs, and a carry as a mask that belongs to its lowest limb.
struct Sum {
    limbs: [u64; BLOCK],
    carry: u64,
}

impl Sum {
    const ZERO: Self = Self { limbs: [0; BLOCK], carry: 0 };

    /// Adds the eight limbs at `t` and eight at `a` times eight at `b`. The lowest eight limbs of it go to `t`.
    ///
    /// # Safety
    /// Eight limbs each may be read there, and written at `t`.
    #[inline(always)]
    unsafe fn multiply(&mut self, t: *mut u64, a: *const u64, b: *const u64) {
        let Self { limbs, carry } = self;
        // SAFETY: only what the caller allows is touched; rbx, rbp and the stack are put back.
        unsafe {
            with_sum!(
                limbs [
                "push rbx",
                "push rbp",
                "mov rbx, rdx",
                "add rax, rax",
                each!("adc ", ", [rdi + ", "]"),
                "sbb rax, rax",
                "push rax",
                "xor ebp, ebp",
                rows!(multiply_row),
                "pop rax",
                "pop rbp",
                "pop rbx",
                ]
                inout("rax") *carry,
                inout("rdx") b => _,
                out("rcx") _,
                in("rsi") a,
                in("rdi") t,
            );
        }
    }

    /// Starts with the eight limbs at `t`, and adds that multiple of the eight at `n` that makes the lowest eight 0. The multiple goes to `t`.
    ///
    /// # Safety
    /// As for [`Self::multiply`].
    #[inline(always)]
    unsafe fn reduce(t: *mut u64, n: *const u64, n0: u64) -> Self {
        // SAFETY: as in `multiply`.
        unsafe {
            new_sum!(
                [
                "push rbx",
                "push rbp",
                "mov rbx, rdx",
                "xor ebp, ebp",
                each!("mov ", ", [rdi + ", "]"),
                rows!(reduce_row),
                "pop rbp",
                "pop rbx",
                ]
                inout("rdx") n0 => _,
                out("rax") _,
                out("rcx") _,
                in("rsi") n,
                in("rdi") t,
            )
        }
    }

    /// Starts with the eight limbs at `t`, and adds the products of each pair of different limbs of the eight at `a`, once. The lowest eight limbs go to `t`.
    ///
    /// # Safety
    /// As for [`Self::multiply`].
    #[inline(always)]
    unsafe fn pairs(t: *mut u64, a: *const u64) -> Self {
        // SAFETY: as in `multiply`.
        unsafe {
            new_sum!(
                [
                "push rbp",
                each!("mov ", ", [rdi + ", "]"),
                "xor ebp, ebp",
                "mov rdx, [rsi]",
                product!(8 "r9" "r10"), product!(16 "r10" "r11"), product!(24 "r11" "r12"), product!(32 "r12" "r13"),
                product!(40 "r13" "r14"), product!(48 "r14" "r15"), last_product!("r15" "r8"),
                "mov [rdi + 8], r9",
                "mov [rdi + 16], r10",
                "mov rdx, [rsi + 8]",
                product!(16 "r11" "r12"), product!(24 "r12" "r13"), product!(32 "r13" "r14"), product!(40 "r14" "r15"),
                product!(48 "r15" "r8"), last_product!("r8" "r9"),
                "mov [rdi + 24], r11",
                "mov [rdi + 32], r12",
                "mov rdx, [rsi + 16]",
                product!(24 "r13" "r14"), product!(32 "r14" "r15"), product!(40 "r15" "r8"), product!(48 "r8" "r9"),
                last_product!("r9" "r10"),
                "mov [rdi + 40], r13",
                "mov [rdi + 48], r14",
                "mov rdx, [rsi + 24]",
                product!(32 "r15" "r8"), product!(40 "r8" "r9"), product!(48 "r9" "r10"), last_product!("r10" "r11"),
                "mov [rdi + 56], r15",
                "mov rdx, [rsi + 32]",
                product!(40 "r9" "r10"), product!(48 "r10" "r11"), last_product!("r11" "r12"),
                "mov rdx, [rsi + 40]",
                product!(48 "r11" "r12"), last_product!("r12" "r13"),
                "mov rdx, [rsi + 48]",
                last_product!("r13" "r14"),
                "xor r15d, r15d",
                "pop rbp",
                ]
                out("rax") _,
                out("rcx") _,
                out("rdx") _,
                in("rsi") a,
                in("rdi") t,
            )
        }
    }

    /// Writes this to eight limbs at `t`.
    ///
    /// # Safety
    /// Eight limbs may be written there.
    #[inline(always)]
    unsafe fn store(self, t: *mut u64) {
        let Self { mut limbs, carry } = self;
        // SAFETY: only what the caller allows is touched.
        unsafe {
            with_sum!(
                limbs [
                "add rax, rax",
                propagate!(),
                write!(),
                ]
                inout("rax") carry => _,
                in("rdi") t,
            );
        }
        let _ = limbs;
    }

    /// Adds this, and `top`, to the eight limbs at `t`; the carry out of them is the new `top`, a mask.
    ///
    /// # Safety
    /// Eight limbs may be read and written there.
    #[inline(always)]
    unsafe fn add_to(self, t: *mut u64, top: &mut u64) {
        let Self { mut limbs, carry } = self;
        // SAFETY: only what the caller allows is touched.
        unsafe {
            with_sum!(
                limbs [
                "add rax, rax",
                each!("adc ", ", [rdi + ", "]"),
                "sbb rax, rax",
                "add rdx, rdx",
                propagate!(),
                "sbb rdx, rdx",
                "or rdx, rax",
                write!(),
                ]
                inout("rax") carry => _,
                inout("rdx") *top,
                in("rdi") t,
            );
        }
        let _ = limbs;
    }
}

/// `t = a * b`.
///
/// # Safety
/// `b` is as long as `a`, a multiple of [`BLOCK`] and not 0, and `t` twice as long.
pub(super) unsafe fn multiply(t: &mut [u64], a: &[u64], b: &[u64]) {
    let (k, t, a, b) = (a.len(), t.as_mut_ptr(), a.as_ptr(), b.as_ptr());
    // The length of most keys' primes is worth code of its own, without loops.
    match k {
        // SAFETY: as the caller says.
        16 => unsafe { multiply_limbs(16, t, a, b) },
        // SAFETY: as before.
        _ => unsafe { multiply_limbs(k, t, a, b) },
    }
}

#[inline(always)]
unsafe fn multiply_limbs(k: usize, t: *mut u64, a: *const u64, b: *const u64) {
    // SAFETY: `t` is that long.
    unsafe { t.write_bytes(0, k) };
    let mut i = 0;
    while i < k {
        let mut sum = Sum::ZERO;
        let mut j = 0;
        while j < k {
            // SAFETY: i + j + 8 is not more than 2k.
            unsafe { sum.multiply(t.add(i + j), a.add(j), b.add(i)) };
            j += BLOCK;
        }
        // SAFETY: as before, with k for j.
        unsafe { sum.store(t.add(i + k)) };
        i += BLOCK;
    }
}

/// `t = a * a`: each product of two different limbs once, all doubled, and the squares.
///
/// # Safety
/// As for [`multiply`].
pub(super) unsafe fn square(t: &mut [u64], a: &[u64]) {
    let (k, t, a) = (a.len(), t.as_mut_ptr(), a.as_ptr());
    match k {
        // SAFETY: as the caller says.
        16 => unsafe { square_limbs(16, t, a) },
        // SAFETY: as before.
        _ => unsafe { square_limbs(k, t, a) },
    }
}

#[inline(always)]
unsafe fn square_limbs(k: usize, t: *mut u64, a: *const u64) {
    // SAFETY: `t` is that long.
    unsafe { t.write_bytes(0, k) };
    let mut i = 0;
    while i < k {
        // SAFETY: 2i + 8 is less than 2k.
        let mut sum = unsafe { Sum::pairs(t.add(2 * i), a.add(i)) };
        let mut j = i + BLOCK;
        while j < k {
            // SAFETY: i + j + 8 is not more than 2k.
            unsafe { sum.multiply(t.add(i + j), a.add(j), a.add(i)) };
            j += BLOCK;
        }
        // SAFETY: as before, with k for j.
        unsafe { sum.store(t.add(i + k)) };
        i += BLOCK;
    }
    // SAFETY: `t` has 16 limbs for each eight of `a`, and there are k / 8 of these. Both carries live through the loop.
    unsafe {
        asm!(
            "xor eax, eax",
            "2:",
            double_and_square!(0), double_and_square!(1), double_and_square!(2), double_and_square!(3),
            double_and_square!(4), double_and_square!(5), double_and_square!(6), double_and_square!(7),
            "lea rsi, [rsi + 64]",
            "lea rdi, [rdi + 128]",
            "lea rcx, [rcx - 1]",
            "jrcxz 3f",
            "jmp 2b",
            "3:",
            inout("rcx") k / BLOCK => _,
            inout("rsi") a => _,
            inout("rdi") t => _,
            out("rax") _, out("rdx") _, out("r8") _, out("r9") _,
            options(nostack),
        );
    }
}

/// `out = t / R` modulo `n`, less than R.
///
/// # Safety
/// `n` and `out` have one length, a multiple of [`BLOCK`] and not 0, and `t` is twice as long.
pub(super) unsafe fn reduce(out: &mut [u64], t: &mut [u64], n: &[u64], n0: u64) {
    let (k, t, n, out) = (n.len(), t.as_mut_ptr(), n.as_ptr(), out.as_mut_ptr());
    match k {
        // SAFETY: as the caller says.
        16 => unsafe { reduce_limbs(16, out, t, n, n0) },
        // SAFETY: as before.
        _ => unsafe { reduce_limbs(k, out, t, n, n0) },
    }
}

#[inline(always)]
unsafe fn reduce_limbs(k: usize, out: *mut u64, t: *mut u64, n: *const u64, n0: u64) {
    let mut top = 0;
    let mut i = 0;
    while i < k {
        // SAFETY: i + 8 is not more than k, and i + j + 8 not more than 2k.
        unsafe {
            let mut sum = Sum::reduce(t.add(i), n, n0);
            let mut j = BLOCK;
            while j < k {
                sum.multiply(t.add(i + j), n.add(j), t.add(i));
                j += BLOCK;
            }
            sum.add_to(t.add(i + k), &mut top);
        }
        i += BLOCK;
    }
    // SAFETY: there are k / 8 times eight limbs at `out`, `n` and in the upper half of `t`. The borrow lives through the loop.
    unsafe {
        asm!(
            "xor eax, eax",
            "2:",
            subtract!(0), subtract!(8), subtract!(16), subtract!(24),
            subtract!(32), subtract!(40), subtract!(48), subtract!(56),
            "lea rsi, [rsi + 64]",
            "lea rdi, [rdi + 64]",
            "lea r8, [r8 + 64]",
            "lea rcx, [rcx - 1]",
            "jrcxz 3f",
            "jmp 2b",
            "3:",
            inout("rcx") k / BLOCK => _,
            in("rdx") top & 1,
            inout("rdi") t.add(k) => _,
            inout("rsi") n => _,
            inout("r8") out => _,
            out("rax") _, out("r9") _, out("r10") _,
            options(nostack),
        );
    }
}

/// Copies entry `index` of the table; reads all of them, whether the condition of `CMOV` holds or not.
pub(super) fn select(out: &mut [u64; BLOCK], table: &[[u64; BLOCK]; POWERS], index: u64) {
    let mut limbs = [0; BLOCK];
    // SAFETY: reads the table's entries, four at a time. Only the decrement of a 0 has a borrow: at the entry that is looked for.
    unsafe {
        with_sum!(
            limbs [
            "2:",
            "sub rdx, 1", each!("cmovc ", ", [rsi + ", "]"),
            "sub rdx, 1", each!("cmovc ", ", [rsi + 64 + ", "]"),
            "sub rdx, 1", each!("cmovc ", ", [rsi + 128 + ", "]"),
            "sub rdx, 1", each!("cmovc ", ", [rsi + 192 + ", "]"),
            "add rsi, 256",
            "dec ecx",
            "jnz 2b",
            ]
            inout("rcx") POWERS / 4 => _,
            inout("rdx") index => _,
            inout("rsi") table.as_ptr() => _,
            options(nostack, readonly),
        );
    }
    *out = limbs;
}
