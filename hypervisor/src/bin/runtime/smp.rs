//! The other processors: brought out of INIT once, under SVM, and kept there. They wait in a loop of the hypervisor with GIF = 0, so
//! that no interrupt, NMI or SMI reaches them, and the guest cannot send them INIT or start-up (its ICR writes are filtered).
//!
//! They start in real mode, in a page below 640 KiB that the OS does not have: one may be late, and must not find the OS's bytes.

use core::sync::atomic::{AtomicU32, Ordering};
use hypervisor::addr::{Hpa, PAGE_SIZE};
use hypervisor::lapic;
use hypervisor::memory::DirectMap;

core::arch::global_asm!(
    r#"
    .section .rodata
    .global trustvisor_ap_start, trustvisor_ap_end, trustvisor_ap_patch
    .code16
trustvisor_ap_start:
    cli
    cld
    xorl %ebx, %ebx
    movw %cs, %bx
    movw %bx, %ds
    shll $4, %ebx                   // the page
    lgdtl (6f - trustvisor_ap_start)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl *(7f - trustvisor_ap_start)
    .code32
2:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %ss
    movl %cr4, %eax
    orl $0x20, %eax                 // PAE
    movl %eax, %cr4
    movl (8f - trustvisor_ap_start)(%ebx), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          // EFER: LME, NXE, SVME
    rdmsr
    orl $0x1900, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmpl *(9f - trustvisor_ap_start)(%ebx)
    .code64
3:
    movq (8f - trustvisor_ap_start + 8)(%rbx), %rax
    jmpq *%rax

    .balign 8
5:  .quad 0
    .quad 0x00cf9b000000ffff        // 08: 32-bit code
    .quad 0x00cf93000000ffff        // 10: data
    .quad 0x00af9b000000ffff        // 18: 64-bit code
6:  .word 31                        // GDT pointer
    .long 5b - trustvisor_ap_start
    .word 0
trustvisor_ap_patch:
7:  .long 2b - trustvisor_ap_start  // far pointers
    .long 0x08
9:  .long 3b - trustvisor_ap_start
    .long 0x18
8:  .quad 0                         // the SLB's CR3
    .quad 0                         // where to go on
trustvisor_ap_end:

    .section .text
    .global trustvisor_ap_park
trustvisor_ap_park:
    movq trustvisor_ap_cr3(%rip), %rax
    movq %rax, %cr3
    clgi
    lock incl trustvisor_ap_parked(%rip)
4:  cli
    hlt
    jmp 4b
"#,
    options(att_syntax)
);

/// How many processors wait.
#[unsafe(no_mangle)]
static trustvisor_ap_parked: AtomicU32 = AtomicU32::new(0);
/// The runtime's address space, which they wait in.
#[unsafe(no_mangle)]
static trustvisor_ap_cr3: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// Offsets in the page, from the symbols above.
struct Trampoline {
    code: &'static [u8],
    patch: usize,
}

fn trampoline() -> Trampoline {
    // SAFETY: labels of the assembly above; only their addresses are used.
    unsafe extern "C" {
        static trustvisor_ap_start: u8;
        static trustvisor_ap_end: u8;
        static trustvisor_ap_patch: u8;
    }
    let (start, end) = (&raw const trustvisor_ap_start, &raw const trustvisor_ap_end);
    let length = end as usize - start as usize;
    let patch = (&raw const trustvisor_ap_patch) as usize - start as usize;
    // SAFETY: `start..end` are constants of the assembly above.
    Trampoline { code: unsafe { core::slice::from_raw_parts(start, length) }, patch }
}

/// Milliseconds between INIT and start-up (MultiProcessor Specification 1.4, B.4), and for the processors to arrive.
const INIT_MS: u64 = 10;
const ARRIVE_MS: u64 = 50;
/// The GDT pointer's base stands this far before the patched words.
const GDT_BASE_BEFORE_PATCH: usize = 6;

/// Where the other processors go.
#[derive(Clone, Copy)]
pub struct Place {
    /// The page they start in.
    pub page: Hpa,
    /// The SLB's tables, which map what they need on the way to 64-bit mode.
    pub slb_root: Hpa,
    /// The runtime's tables.
    pub root: Hpa,
}

/// Starts all other processors and parks them; returns how many there are so far. After SKINIT they are in INIT and must not get
/// another one (APM vol. 2, 15.27.8). `wait` waits so many milliseconds.
pub fn park_others(
    mem: DirectMap,
    place: Place,
    in_init: bool,
    ipi: impl Fn(u32),
    wait: impl Fn(u64),
) -> u32 {
    // SAFETY: labels of the assembly above; only their addresses are used.
    unsafe extern "C" {
        static trustvisor_ap_park: u8;
    }
    let page = place.page;
    let Trampoline { code, patch } = trampoline();
    let mut bytes = [0; PAGE_SIZE as usize];
    bytes[..code.len()].copy_from_slice(code);
    let mut add_page = |at: usize| {
        let word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        bytes[at..at + 4].copy_from_slice(&(word + page.0 as u32).to_le_bytes());
    };
    add_page(patch - GDT_BASE_BEFORE_PATCH);
    add_page(patch);
    add_page(patch + 8);
    let park = (&raw const trustvisor_ap_park) as u64;
    bytes[patch + 16..patch + 24].copy_from_slice(&place.slb_root.0.to_le_bytes());
    bytes[patch + 24..patch + 32].copy_from_slice(&park.to_le_bytes());
    mem.copy_to(page, &bytes);
    trustvisor_ap_cr3.store(place.root.0, Ordering::Release);

    if !in_init {
        ipi(lapic::ICR_INIT_OTHERS);
        wait(INIT_MS);
    }
    for _ in 0..2 {
        ipi(lapic::ICR_STARTUP_OTHERS | (page.0 >> 12) as u32);
        wait(1);
    }
    wait(ARRIVE_MS);
    trustvisor_ap_parked.load(Ordering::Acquire)
}
