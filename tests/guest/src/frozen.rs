//! S holds a secret in every register it can reach, and the OS looks whenever S is frozen, and when S has returned: it finds its own
//! registers. Those of the FPU likewise, of a PAL that has one.

use crate::asm_pal::{Asm, AsmPal, SECRET};
use crate::calls::{Everything, RAX, RDX, tvtest_vmmcall_with_everything};
use crate::support::{Timer, call_entry, is_token, on_signal, registers};
use anyhow::{Context, ensure};
use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const LONG: Duration = Duration::from_millis(500);
const OFTEN: Duration = Duration::from_millis(15);

/// What the caller has in its registers, by [`Everything`]'s index; its handle and arguments are in their places.
static OWN: [AtomicU64; 15] = [const { AtomicU64::new(0) }; 15];
/// Freezes that were looked at, and one more than the index of the first register that was wrong.
static LOOKS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);

/// Registers in the order of [`Everything`], without RAX, which holds the token.
const ORDER: [i32; 15] = [
    libc::REG_RAX,
    libc::REG_RBX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_RBP,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn look(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's context.
    let found = unsafe { registers(context) };
    if !is_token(found[libc::REG_RAX as usize] as u64) {
        return;
    }
    LOOKS.fetch_add(1, SeqCst);
    for (index, register) in ORDER.iter().enumerate().skip(1) {
        if found[*register as usize] as u64 != OWN[index].load(SeqCst) {
            WRONG.store(index as u64 + 1, SeqCst);
        }
    }
    if found[libc::REG_EFL as usize] as u64 & FLAGS_OF_INTEREST != FLAGS & FLAGS_OF_INTEREST {
        WRONG.store(100, SeqCst);
    }
    // SAFETY: the same context; the kernel gives the FPU's registers with it.
    let vectors = unsafe {
        let context = &*context.cast::<libc::ucontext_t>();
        &(*context.uc_mcontext.fpregs)._xmm
    };
    for (index, vector) in vectors.iter().enumerate() {
        let halves = vector.element.as_chunks::<2>().0.iter();
        let mut halves = halves.map(|[low, high]| u64::from(*high) << 32 | u64::from(*low));
        if !halves.by_ref().eq(mark(index)) {
            WRONG.store(200 + index as u64, SeqCst);
        }
    }
}

/// IF, and all that S sets but ID, which is not saved everywhere.
const FLAGS_OF_INTEREST: u64 = 0x4_4ed5;
const FLAGS: u64 = 0x246;

/// What the caller has in an SSE register.
fn mark(index: usize) -> [u64; 2] {
    [0xabcd_0000 + index as u64, !(index as u64)]
}

/// A call that is interrupted often, with everything set to what is known.
fn call(s: &AsmPal, entry: Asm, arguments: [u64; 3]) -> anyhow::Result<()> {
    let mut general: [u64; 15] = std::array::from_fn(|i| 0x0101_0101_0101_0101 * (i as u64 + 1));
    general[RAX] = call_entry(entry as u64);
    general[9] = s.handle().low;
    general[10] = s.handle().high;
    [general[5], general[4], general[RDX]] = arguments;
    for (own, value) in OWN.iter().zip(general) {
        own.store(value, SeqCst);
    }
    let before = Everything { general, flags: FLAGS, sse: std::array::from_fn(mark) };
    let mut after = before;
    // SAFETY: `s` is registered, so TrustVisor is there; the arguments are integers, or a buffer of the caller's.
    unsafe { tvtest_vmmcall_with_everything(&mut after) };
    ensure!(after.general[RDX] == 0, "status {}", after.general[RDX]);
    ensure!(after.general[RAX] < 1_000, "value {:#x}", after.general[RAX]);
    for register in (0..15).filter(|r| ![RAX, RDX].contains(r)) {
        let found = after.general[register];
        ensure!(found != SECRET, "S's secret is in register {register}");
        ensure!(found == before.general[register], "register {register} has changed");
    }
    ensure!(after.flags == before.flags, "flags {:#x} are {:#x} after it", before.flags, after.flags);
    ensure!(after.sse == before.sse, "an SSE register has changed");
    Ok(())
}

pub fn run() -> anyhow::Result<()> {
    for s in [AsmPal::register()?, AsmPal::with_fpu()?] {
        let rounds = s.rounds_for(LONG)?;
        LOOKS.store(0, SeqCst);
        WRONG.store(0, SeqCst);
        on_signal(libc::SIGALRM, look, 0)?;
        let timer = Timer::start(OFTEN, OFTEN)?;
        let result = call(&s, Asm::Spin, [rounds, 7, 8]);
        drop(timer);
        result?;
        ensure!(LOOKS.load(SeqCst) >= 3, "S was looked at {} times while frozen", LOOKS.load(SeqCst));
        ensure!(WRONG.load(SeqCst) == 0, "register {} is not the caller's in a freeze", WRONG.load(SeqCst));
    }
    Ok(())
}

/// Where `fpu_state` puts XCR0 and the XSAVE area.
const AREA: usize = 64;
/// Its length with x87, SSE and AVX (AMD APM vol. 2, 11.5.2).
const AREA_SIZE: usize = 832;
const X87_SSE_AVX: u64 = 0b111;
/// FCW and MXCSR after a reset of the FPU.
const FCW: [u8; 2] = [0x7f, 3];
const MXCSR: [u8; 4] = [0x80, 0x1f, 0, 0];

#[repr(C, align(64))]
struct Report([u8; AREA + AREA_SIZE]);

/// A PAL with an FPU finds it as after a reset, every time, and leaves nothing in it for the caller: neither in the halves that only AVX
/// reaches, nor in the control words.
pub fn fpu() -> anyhow::Result<()> {
    let s = AsmPal::with_fpu()?;
    for call in 0..3 {
        let mut report = Report([0; AREA + AREA_SIZE]);
        let (status, upper, control) = call_with_upper_halves(&s, &mut report);
        ensure!(status == 0, "call {call}: status {status}");
        let xcr0 = u64::from_le_bytes(*report.0.first_chunk().context("no XCR0")?);
        ensure!(xcr0 & !X87_SSE_AVX == 0 && xcr0 & 3 == 3, "S has XCR0 {xcr0:#x}");
        let area = &report.0[AREA..];
        ensure!(
            area[..2] == FCW && area[24..28] == MXCSR,
            "FCW {:x?}, MXCSR {:x?}",
            &area[..2],
            &area[24..28]
        );
        // FSW, FTW, FOP, pointers; x87 and SSE registers; the upper halves.
        for part in [2..24, 32..416, 576..AREA_SIZE] {
            let at = part.start;
            let found = area[part].iter().position(|byte| *byte != 0);
            ensure!(found.is_none(), "call {call}: S finds something at {:#x}", at + found.unwrap_or(0));
        }
        ensure!(upper == UPPER, "the upper half of YMM7 became {upper:#x}");
        ensure!(control == OWN_CONTROL, "MXCSR and FCW became {control:x?}");
    }
    s.unregister()
}

const UPPER: u64 = 0x1234_5678_9abc_def0;
/// Another rounding mode in each.
const OWN_CONTROL: (u32, u16) = (0x3f80, 0x0b7f);

/// Calls `fpu_state` with marks in YMM7 and the control words: status, and the three afterwards.
fn call_with_upper_halves(s: &AsmPal, report: &mut Report) -> (u64, u64, (u32, u16)) {
    let (mut mxcsr, mut fcw) = OWN_CONTROL;
    let (mut old_mxcsr, mut old_fcw) = (0u32, 0u16);
    let (status, upper);
    // SAFETY: the machine has AVX, as every AMD processor with SVM that this runs on; the control words are the caller's again at the
    // end. The call writes the report, which is borrowed.
    unsafe {
        asm!(
            "stmxcsr [r12]",
            "fnstcw [r13]",
            "ldmxcsr [r14]",
            "fldcw [r15]",
            "movq xmm7, r8",
            "vinsertf128 ymm7, ymm7, xmm7, 1",
            "vmmcall",
            "stmxcsr [r14]",
            "fnstcw [r15]",
            "vextractf128 xmm7, ymm7, 1",
            "movq r8, xmm7",
            "vzeroupper",
            "ldmxcsr [r12]",
            "fldcw [r13]",
            inout("rax") call_entry(Asm::FpuState as u64) => _,
            inout("rdx") 0u64 => status,
            in("rdi") report.0.as_mut_ptr(),
            in("rsi") report.0.len(),
            in("r10") s.handle().low,
            in("r11") s.handle().high,
            inout("r8") UPPER => upper,
            in("r12") &mut old_mxcsr,
            in("r13") &mut old_fcw,
            in("r14") &mut mxcsr,
            in("r15") &mut fcw,
            out("xmm7") _,
        );
    }
    (status, upper, (mxcsr, fcw))
}
