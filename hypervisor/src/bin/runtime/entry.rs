//! The runtime's first instructions, its segments, and the parts of its image.

use hypervisor::launch::RUNTIME_MAGIC;
use hypervisor::paging::{EXECUTE, Part, READ, WRITE};

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
    xor ebp, ebp
    call {main}
    ud2

    // Writable: #VMEXIT demands it of the host's tables (APM vol. 2, 15.6).
    .section .data
    .balign 8
runtime_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
3:  .word 23
    .quad runtime_gdt
"#,
    magic = const u64::from_le_bytes(RUNTIME_MAGIC),
    code = const CODE,
    data = const 0x10,
    main = sym crate::start::main,
);

/// Selector of 64-bit code in the GDT above.
pub const CODE: u16 = 0x08;

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
        part(&raw const __runtime_start, &raw const __text_start, READ),
        part(&raw const __text_start, &raw const __data_start, EXECUTE),
        part(&raw const __data_start, &raw const __guard_start, WRITE),
        part(&raw const __stack_start, &raw const __stack_end, WRITE),
    ]
}
