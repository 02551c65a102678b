//! The runtime's first instructions, its descriptor tables, and what happens to an exception in the hypervisor itself: it is a
//! bug, and ends like a panic.

use core::mem::size_of;
use hypervisor::idt::Idt;
use hypervisor::launch::{RUNTIME_MAGIC, RuntimeHeader};
use hypervisor::paging::{Part, Use};
use hypervisor::place::Place;

core::arch::global_asm!(
    r#"
    .section .header, "a"
    .quad {magic}
    .quad __image_size
    .quad __mem_size
    .quad runtime_entry

    .section .text
    .global runtime_entry
runtime_entry:
    lea rsp, [rip + __stack_end]
    lgdt [rip + 3f]
    push {code}
    lea rax, [rip + 2f]
    push rax
    retfq
2:
    mov eax, {data}
    mov ss, eax
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    xor ebp, ebp
    call {main}
    ud2

    // Writable: #VMEXIT demands it of the host's tables (APM vol. 2, 15.6).
    .section .data
    .balign 8
4:  .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
3:  .word 23
    .quad 4b

    // A stub for each exception: vector and, where the processor pushes none, an error code of 0.
    .section .text
    .balign 16
    .global exception_stubs
exception_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 && vector != 29 && vector != 30
    push 0
    .endif
    push vector
    jmp exception_common
    .set vector, vector + 1
    .endr
exception_common:
    // #GP at `trustvisor_try_rdmsr` and `trustvisor_try_wrmsr`: they say so.
    push rax
    cmp qword ptr [rsp + 8], 13
    jne 5f
    lea rax, [rip + try_rdmsr_at]
    cmp rax, [rsp + 24]
    je 4f
    lea rax, [rip + try_wrmsr_at]
    cmp rax, [rsp + 24]
    jne 5f
4:  lea rax, [rip + try_msr_failed]
    mov [rsp + 24], rax
    pop rax
    add rsp, 16
    iretq
5:  pop rax
    cld
    mov rdi, [rsp]
    mov rsi, [rsp + 8]
    mov rdx, [rsp + 16]
    and rsp, -16
    call {exception}
    ud2

    // fn trustvisor_try_rdmsr(edi: register, rsi: *mut u64) -> bool
    .global trustvisor_try_rdmsr
trustvisor_try_rdmsr:
    mov ecx, edi
try_rdmsr_at:
    rdmsr
    mov [rsi], eax
    mov [rsi + 4], edx
    mov eax, 1
    ret

    // fn trustvisor_try_wrmsr(edi: register, rsi: value) -> bool
    .global trustvisor_try_wrmsr
trustvisor_try_wrmsr:
    mov ecx, edi
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
try_wrmsr_at:
    wrmsr
    mov eax, 1
    ret
try_msr_failed:
    xor eax, eax
    ret
"#,
    magic = const u64::from_le_bytes(RUNTIME_MAGIC),
    code = const CODE,
    data = const 0x10,
    main = sym crate::start::main,
    exception = sym exception,
);

const _: () = assert!(size_of::<RuntimeHeader>() == 4 * 8);

/// Selector of 64-bit code in the GDT above.
const CODE: u16 = 0x08;

extern "C" fn exception(vector: u64, error_code: u64, rip: u64) -> ! {
    let cr2 = x86_64::registers::control::Cr2::read_raw();
    panic!("exception {vector} (error code {error_code:#x}, CR2 {cr2:#x}) at {rip:#x}");
}

static IDT: Place<Idt> = Place::new();

/// Has exceptions end in [`exception`].
pub fn catch_exceptions() {
    // SAFETY: a label of the assembly above; only its address is used.
    unsafe extern "C" {
        static exception_stubs: u8;
    }
    let idt = IDT.put(Idt::new(CODE, (&raw const exception_stubs) as u64, 16));
    // SAFETY: the stubs are made for exceptions.
    unsafe { idt.load() }
}

/// Reads an MSR; None where the processor has none of this number.
pub fn try_rdmsr(msr: u32) -> Option<u64> {
    // SAFETY: symbols of the assembly above, of these types.
    unsafe extern "C" {
        fn trustvisor_try_rdmsr(msr: u32, value: *mut u64) -> bool;
    }
    let mut value = 0;
    // SAFETY: the routine writes to `value` alone; the exception handler returns from its one instruction that can fault.
    unsafe { trustvisor_try_rdmsr(msr, &mut value) }.then_some(value)
}

/// Writes an MSR; false where the processor has none of this number, or refuses the value.
///
/// # Safety
/// Nothing that the hypervisor relies on depends on the register.
pub unsafe fn try_wrmsr(msr: u32, value: u64) -> bool {
    // SAFETY: a symbol of the assembly above, of this type.
    unsafe extern "C" {
        fn trustvisor_try_wrmsr(msr: u32, value: u64) -> bool;
    }
    // SAFETY: the caller's contract; the exception handler returns from the routine's one instruction that can fault.
    unsafe { trustvisor_try_wrmsr(msr, value) }
}

/// The parts of the runtime's image, as the linker script lays them out.
pub fn parts() -> [Part; 4] {
    // SAFETY: symbols of the assembly above, of these types.
    unsafe extern "C" {
        static __runtime_start: u8;
        static __text_start: u8;
        static __data_start: u8;
        static __guard_start: u8;
        static __stack_start: u8;
        static __stack_end: u8;
    }
    let part = |start: *const u8, end: *const u8, usage| Part { start: start as u64, end: end as u64, usage };
    [
        part(&raw const __runtime_start, &raw const __text_start, Use::Read),
        part(&raw const __text_start, &raw const __data_start, Use::Execute),
        part(&raw const __data_start, &raw const __guard_start, Use::Write),
        part(&raw const __stack_start, &raw const __stack_end, Use::Write),
    ]
}

/// The runtime's writable data without its stack: addresses.
pub fn data() -> core::ops::Range<u64> {
    let [_, _, data, _] = parts();
    data.start..data.end
}
