//! The other processors: brought out of INIT once, under SVM, and kept there. They wait in a loop of the hypervisor with GIF = 0, so
//! that no interrupt, NMI or SMI reaches them, and the guest cannot send them INIT or start-up (its ICR writes are filtered).
//!
//! They start in real mode, in a page below 640 KiB that the OS does not have: one may be late, and must not find the OS's bytes.

use crate::entry::CODE;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hypervisor::addr::Hpa;
use hypervisor::launch::{RESERVE_VA, SLB_TABLES};
use hypervisor::memory::DirectMap;
use hypervisor::tpm::clock::{Clock, TscClock};
use hypervisor::{lapic, npt};
use x86_64::registers::control::Cr3;

core::arch::global_asm!(
    r#"
    .section .rodata
    .global trustvisor_ap_start, trustvisor_ap_words, trustvisor_ap_end, trustvisor_ap_park
    .balign 4
    .code16
trustvisor_ap_start:
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl (5f - trustvisor_ap_start)
    movl %cr4, %eax
    orl $0x20, %eax                 // PAE
    movl %eax, %cr4
    movl (6f - trustvisor_ap_start), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          // EFER: LME, NXE, SVME
    rdmsr
    orl $0x1900, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax           // PG and PE: from real mode to 64-bit mode at once
    movl %eax, %cr0
    ljmpl *(7f - trustvisor_ap_start)
    .balign 4
    .short 0
5:  .short 23                       // GDT pointer: limit and base
trustvisor_ap_words:
    .long 0
6:  .long 0                         // CR3
7:  .long 0                         // far pointer
    .short {CODE}
trustvisor_ap_end:

    .section .text
    .code64
trustvisor_ap_park:
    movq $2f, %rax                  // from the physical address
    jmpq *%rax
2:  movq trustvisor_ap_cr3(%rip), %rax
    movq %rax, %cr3
    clgi
    lock incl trustvisor_ap_parked(%rip)
3:  cli
    hlt
    jmp 3b
"#,
    CODE = const CODE,
    options(att_syntax)
);

// SAFETY: labels of the assembly above and of `entry`; only their addresses are used.
unsafe extern "C" {
    safe static trustvisor_ap_start: u8;
    safe static trustvisor_ap_words: u8;
    safe static trustvisor_ap_end: u8;
    safe static trustvisor_ap_park: u8;
    safe static runtime_gdt: u8;
}

/// How many processors wait.
#[unsafe(no_mangle)]
static trustvisor_ap_parked: AtomicU32 = AtomicU32::new(0);
/// The runtime's address space, which they wait in.
#[unsafe(no_mangle)]
static trustvisor_ap_cr3: AtomicU64 = AtomicU64::new(0);

/// Milliseconds between INIT and start-up (MultiProcessor Specification 1.4, B.4), and for the processors to arrive.
const INIT_MS: u64 = 10;
const ARRIVE_MS: u64 = 50;

/// Starts all other processors and parks them; returns how many there are so far. They start in `page`; in the reserve are
/// the SLB's tables, which map what they need on the way to 64-bit mode. After SKINIT they are in INIT and must not get another one
/// (APM vol. 2, 15.27.8).
pub fn park_others(mem: DirectMap, clock: TscClock, page: Hpa, reserve: Hpa, in_init: bool) -> u32 {
    let start = &raw const trustvisor_ap_start;
    let offset = |label: *const u8| label as usize - start as usize;
    // SAFETY: constants of the assembly above.
    let code = unsafe { core::slice::from_raw_parts(start, offset(&raw const trustvisor_ap_end)) };
    mem.copy_to(page, code);
    let physical = |label: *const u8| reserve + (label as u64 - RESERVE_VA);
    let (gdt, park) = (physical(&raw const runtime_gdt), physical(&raw const trustvisor_ap_park));
    let words = [gdt, reserve + SLB_TABLES, park].map(|word| (word.0 as u32).to_le_bytes());
    mem.copy_to(page + offset(&raw const trustvisor_ap_words) as u64, words.as_flattened());
    trustvisor_ap_cr3.store(Cr3::read().0.start_address().as_u64(), Ordering::Release);

    if !in_init {
        send_ipi(mem, lapic::ICR_INIT_OTHERS);
        wait(clock, INIT_MS);
    }
    for _ in 0..2 {
        send_ipi(mem, lapic::ICR_STARTUP_OTHERS | (page.0 >> 12) as u32);
        wait(clock, 1);
    }
    wait(clock, ARRIVE_MS);
    trustvisor_ap_parked.load(Ordering::Acquire)
}

/// Writes the APIC's command register and waits until the IPI is on its way.
fn send_ipi(mem: DirectMap, command: u32) {
    const COMMAND: Hpa = Hpa(npt::LAPIC.0 + lapic::COMMAND_LOW as u64);
    const PENDING: u32 = 1 << 12;
    const PATIENCE: u32 = 1_000_000;
    mem.write_u32(COMMAND, command);
    let _ = (0..PATIENCE).find(|_| mem.read_u32(COMMAND) & PENDING == 0);
}

fn wait(clock: TscClock, ms: u64) {
    let start = clock.ms();
    while clock.ms() - start <= ms {
        core::hint::spin_loop();
    }
}
