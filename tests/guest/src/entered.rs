//! What S finds at its entry: its arguments and constants, however the caller has set up its own flags, stack, segments and protection
//! keys; and the caller finds all that as it was.

use crate::asm_pal::{Asm, AsmPal, PARAM, STACK_TOP, State};
use crate::support::{Mapping, PAGE, call_entry, on_signal, registers};
use anyhow::{Context, ensure};
use std::arch::{asm, global_asm};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use trustvisor::abi::image::SENTINEL;
use trustvisor::abi::{Handle, Status};

/// Flags that CPL 3 can set, and IF and bit 1, which are always set.
const DF: u64 = 1 << 10;
const TF: u64 = 1 << 8;
const AC: u64 = 1 << 18;
const NT: u64 = 1 << 14;
const ID: u64 = 1 << 21;
const ARITHMETIC: u64 = 0x8d5;
const FIXED: u64 = 0x202;

/// A caller's state at the VMMCALL, and what of it is there afterwards.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Hostile {
    flags: u64,
    rsp: u64,
    fs_base: u64,
    gs_base: u64,
    call: u64,
    handle: [u64; 2],
    arguments: [u64; 3],
    /// For DS and ES.
    selector: u64,
    rsp_after: u64,
    flags_after: u64,
    value: u64,
    status: u64,
    fs_base_after: u64,
    gs_base_after: u64,
    selectors_after: [u64; 2],
}

/// In `rsp`: the ordinary one.
const OWN_STACK: u64 = 1;

global_asm!(
    ".globl tvtest_hostile_call, tvtest_hostile_vmmcall, tvtest_hostile_after",
    "tvtest_hostile_call:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rbx, rdi",
    "mov r12, rsp",
    "rdfsbase r13",
    "rdgsbase r14",
    "pushfq",
    "pop r15",
    "mov rcx, [rbx + 16]",
    "wrfsbase rcx",
    "mov rcx, [rbx + 24]",
    "wrgsbase rcx",
    "mov ecx, [rbx + 80]",
    "mov ds, ecx",
    "mov es, ecx",
    "mov rbp, [rbx + 8]",
    "cmp rbp, {own_stack}",
    "cmove rbp, r12",
    "mov rax, [rbx + 32]",
    "mov r10, [rbx + 40]",
    "mov r11, [rbx + 48]",
    "mov rdi, [rbx + 56]",
    "mov rsi, [rbx + 64]",
    "mov rdx, [rbx + 72]",
    "push [rbx]",
    "popfq",
    "mov rsp, rbp",
    "tvtest_hostile_vmmcall:",
    "vmmcall",
    "tvtest_hostile_after:",
    "mov [rbx + 88], rsp",
    "mov rsp, r12",
    "pushfq",
    "pop [rbx + 96]",
    "push r15",
    "popfq",
    "mov [rbx + 104], rax",
    "mov [rbx + 112], rdx",
    "rdfsbase rax",
    "mov [rbx + 120], rax",
    "rdgsbase rax",
    "mov [rbx + 128], rax",
    "mov eax, ds",
    "mov [rbx + 136], rax",
    "mov eax, es",
    "mov [rbx + 144], rax",
    "wrfsbase r13",
    "wrgsbase r14",
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    own_stack = const OWN_STACK,
);

const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Hostile, call) == 32 && offset_of!(Hostile, arguments) == 56);
    assert!(offset_of!(Hostile, selector) == 80 && offset_of!(Hostile, selectors_after) == 136);
};

// SAFETY: the routine above, and two of its labels.
unsafe extern "C" {
    fn tvtest_hostile_call(state: *mut Hostile);
    static tvtest_hostile_vmmcall: u8;
    static tvtest_hostile_after: u8;
}

const HOSTILE: &[(&str, Hostile)] = {
    const PLAIN: Hostile = Hostile {
        flags: FIXED,
        rsp: OWN_STACK,
        fs_base: 0,
        gs_base: 0,
        call: 0,
        handle: [0; 2],
        arguments: [0; 3],
        selector: 0,
        rsp_after: 0,
        flags_after: 0,
        value: 0,
        status: 0,
        fs_base_after: 0,
        gs_base_after: 0,
        selectors_after: [0; 2],
    };
    &[
        ("nothing unusual", PLAIN),
        ("all arithmetic flags", Hostile { flags: FIXED | ARITHMETIC, ..PLAIN }),
        ("DF", Hostile { flags: FIXED | DF, ..PLAIN }),
        ("AC", Hostile { flags: FIXED | AC, ..PLAIN }),
        ("NT", Hostile { flags: FIXED | NT, ..PLAIN }),
        ("ID", Hostile { flags: FIXED | ID, ..PLAIN }),
        ("all flags", Hostile { flags: FIXED | ARITHMETIC | DF | AC | NT | ID, ..PLAIN }),
        ("RSP 0", Hostile { rsp: 0, ..PLAIN }),
        ("RSP 3", Hostile { rsp: 3, ..PLAIN }),
        ("a non-canonical RSP", Hostile { rsp: 1 << 63, ..PLAIN }),
        ("RSP in the kernel", Hostile { rsp: 0xffff_8880_0000_0000, ..PLAIN }),
        ("RSP in S", Hostile { rsp: STACK_TOP - 8, ..PLAIN }),
        ("FS in the kernel", Hostile { fs_base: 0xffff_8880_0000_0000, ..PLAIN }),
        ("GS in the kernel", Hostile { gs_base: 0xffff_ffff_8000_0000, ..PLAIN }),
        ("FS and GS in S", Hostile { fs_base: PARAM, gs_base: STACK_TOP, ..PLAIN }),
        ("DS and ES of flat data", Hostile { selector: 0x2b, ..PLAIN }),
    ]
};

/// The state that S must find.
fn expected(length: u64) -> State {
    const USER_CODE: u64 = 0x33;
    const USER_DATA: u64 = 0x2b;
    let mut state: State = [0; 30];
    (state[4], state[5]) = (length, PARAM);
    (state[15], state[16], state[17]) = (STACK_TOP - 8, SENTINEL, FIXED);
    (state[18], state[19], state[20], state[23]) = (USER_CODE, USER_DATA, USER_DATA, USER_DATA);
    state
}

fn call(hostile: &Hostile, s: &AsmPal, entry: Asm, arguments: [u64; 3]) -> Hostile {
    let mut state = Hostile {
        call: call_entry(entry as u64),
        handle: [s.handle().low, s.handle().high],
        arguments,
        ..*hostile
    };
    // SAFETY: TrustVisor is there, as `s` is registered; the arguments are the caller's own memory. No handler of ours runs
    // meanwhile but those that have a stack of their own; FS and GS are ours again at the end.
    unsafe { tvtest_hostile_call(&mut state) };
    state
}

pub fn run() -> anyhow::Result<()> {
    // SAFETY: asks the kernel for a constant.
    let fsgsbase = unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 != 0;
    ensure!(fsgsbase, "this test needs the instructions for FS and GS bases");
    let s = AsmPal::register()?;
    let rounds = s.rounds_for(Duration::from_millis(50))?;
    let mut calls = s.spin(0)?;
    for (what, hostile) in HOSTILE {
        let mut after = Hostile::default();
        let state = s.state(|address, length| {
            after = call(hostile, &s, Asm::State, [address, length, 0]);
            (after.value, trustvisor::status(after.status).unwrap_or(Status::UnknownCall))
        })?;
        let wanted = expected(size_of::<State>() as u64);
        for (word, (found, wanted)) in state.iter().zip(&wanted).enumerate() {
            ensure!(found == wanted, "{what}: S finds {found:#x} in word {word} instead of {wanted:#x}");
        }
        unchanged(hostile, &after).with_context(|| format!("{what}, after a short call"))?;

        // And with interrupts in the middle.
        calls += 1;
        let after = call(hostile, &s, Asm::Spin, [rounds, 0, 0]);
        ensure!((after.value, after.status) == (calls, 0), "{what}: {} and {}", after.value, after.status);
        unchanged(hostile, &after).with_context(|| format!("{what}, after a long call"))?;
    }
    println!("tvtest: S finds the same for {} kinds of callers", HOSTILE.len());
    single_step(&s, rounds)
}

fn unchanged(before: &Hostile, after: &Hostile) -> anyhow::Result<()> {
    ensure!(after.flags_after == before.flags, "flags {:#x} became {:#x}", before.flags, after.flags_after);
    ensure!(before.rsp == OWN_STACK || after.rsp_after == before.rsp, "RSP became {:#x}", after.rsp_after);
    ensure!(after.fs_base_after == before.fs_base, "the FS base became {:#x}", after.fs_base_after);
    ensure!(after.gs_base_after == before.gs_base, "the GS base became {:#x}", after.gs_base_after);
    ensure!(after.selectors_after == [before.selector; 2], "DS and ES became {:x?}", after.selectors_after);
    Ok(())
}

/// Single-step traps at the VMMCALL, and right after it.
static TRAPS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

extern "C" fn count_trap(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's context; only the labels' addresses are used.
    let (rip, labels) = unsafe {
        let rip = registers(context)[libc::REG_RIP as usize] as u64;
        (rip, [&raw const tvtest_hostile_vmmcall, &raw const tvtest_hostile_after])
    };
    for (count, label) in TRAPS.iter().zip(labels) {
        if rip == label as u64 {
            count.fetch_add(1, SeqCst);
        }
    }
}

/// A caller that has TF set: one trap before and one after the VMMCALL, none in S and none of the freezes.
fn single_step(s: &AsmPal, rounds: u64) -> anyhow::Result<()> {
    on_signal(libc::SIGTRAP, count_trap, 0)?;
    let stepping = Hostile { flags: FIXED | TF, ..HOSTILE[0].1 };
    for rounds in [0, rounds] {
        TRAPS.iter().for_each(|count| count.store(0, SeqCst));
        let after = call_with_own_bases(&stepping, s, rounds);
        ensure!(after.status == 0, "status {} for a caller that single-steps", after.status);
        ensure!(after.flags_after == stepping.flags, "TF: flags {:#x}", after.flags_after);
        let traps = [0, 1].map(|i| TRAPS[i].load(SeqCst));
        ensure!(traps == [1, 1], "{traps:?} traps before and after the VMMCALL");
    }
    Ok(())
}

/// The same with the FS and GS bases of this program, which its signal handlers need.
fn call_with_own_bases(hostile: &Hostile, s: &AsmPal, rounds: u64) -> Hostile {
    let (fs_base, gs_base): (u64, u64);
    // SAFETY: only reads the two bases; `run` has seen that the instructions are there.
    unsafe {
        asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs_base, out(reg) gs_base, options(nomem, nostack));
    }
    call(&Hostile { fs_base, gs_base, ..*hostile }, s, Asm::Spin, [rounds, 0, 0])
}

/// `SEGV_PKUERR`.
const KEY_ERROR: i32 = 4;

/// A protection key that forbids everything, the caller's own stack included, and in the end the buffers: S does not notice, and the
/// caller gets what an access of its own would get. Needs a processor that has them, and a C library that has not registered memory for
/// restartable sequences (`GLIBC_TUNABLES=glibc.pthread.rseq=0`): the kernel itself faults there when it preempts.
pub fn protection_keys() -> anyhow::Result<()> {
    let s = AsmPal::register()?;
    let rounds = s.rounds_for(Duration::from_millis(50))?;
    let calls = s.spin(0)?;
    // SAFETY: a new key.
    let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) };
    let key = crate::support::system("pkey_alloc", key)?;
    for (i, denied) in [0xffff_fffc, 0xffff_ffff, 0xaaaa_aaaa, 0x5555_5555u32].into_iter().enumerate() {
        let (value, status, after) = spin_with_keys(s.handle(), rounds, denied);
        let wanted = calls + 1 + i as u64;
        ensure!((value, status) == (wanted, 0), "PKRU {denied:#x}: value {value}, status {status}");
        ensure!(after == denied, "PKRU {denied:#x} became {after:#x}");
    }

    let buffer = Mapping::anonymous(1)?;
    buffer.fill(&[0; PAGE]);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a page of our own, which keeps its protection.
    let protected =
        unsafe { libc::syscall(libc::SYS_pkey_mprotect, buffer.address(), PAGE, protection, key) };
    crate::support::system("pkey_mprotect", protected)?;
    let rights = read_keys();
    for denied in [1u32, 2] {
        write_keys(rights | denied << (2 * key));
        let fault = crate::support::faulting(|| s.raw(Asm::SlowFill, &[buffer.address(), 64, 0]));
        write_keys(rights);
        let (_, fault) = fault?;
        let fault = fault.context("a result goes to a page whose key forbids it")?;
        ensure!(
            fault.address == buffer.address() && fault.code == KEY_ERROR && fault.at_vmmcall,
            "{fault:x?}"
        );
    }
    ensure!(buffer.bytes() == [0; PAGE], "something was written past a protection key");
    let (_, status) = s.raw(Asm::SlowFill, &[buffer.address(), 64, 0]);
    ensure!(
        status == Status::Ok && buffer.read(0) == crate::asm_pal::FILLED,
        "{status:?} with a key that allows it"
    );
    Ok(())
}

/// A call of `spin` with this PKRU: value, status, and PKRU after it.
fn spin_with_keys(handle: Handle, rounds: u64, denied: u32) -> (u64, u64, u32) {
    let (value, status, after, rights);
    // SAFETY: a call that takes an integer; between the two WRPKRU nothing but registers is used. The kernel needs no user memory
    // to interrupt it.
    unsafe {
        asm!(
            "xor ecx, ecx",
            "rdpkru",
            "mov r12d, eax",
            "mov eax, r8d",
            "xor edx, edx",
            "wrpkru",
            "mov rax, r9",
            "vmmcall",
            "mov r8, rax",
            "mov r9, rdx",
            "xor ecx, ecx",
            "rdpkru",
            "mov r13d, eax",
            "mov eax, r12d",
            "xor edx, edx",
            "wrpkru",
            inout("r8") u64::from(denied) => value,
            inout("r9") call_entry(Asm::Spin as u64) => status,
            in("rdi") rounds,
            in("r10") handle.low,
            in("r11") handle.high,
            out("r12") rights,
            out("r13") after,
            out("rax") _, out("rcx") _, out("rdx") _,
            options(nostack),
        );
    }
    let _: u64 = rights;
    let after: u64 = after;
    (value, status, after as u32)
}

fn read_keys() -> u32 {
    let rights;
    // SAFETY: reads the rights; the processor has them, or `pkey_alloc` had failed.
    unsafe { asm!("rdpkru", in("ecx") 0, out("eax") rights, out("edx") _, options(nomem, nostack)) };
    rights
}

fn write_keys(rights: u32) {
    // SAFETY: forbids at most what the caller does not use until it allows it again.
    unsafe { asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack)) };
}
