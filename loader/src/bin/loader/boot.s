# From the boot loader's 32-bit protected mode into long mode with the low 4 GiB mapped by identity, and the stubs of the
# exceptions there. Relies on what multiboot promises: EAX magic, EBX information, flat segments, paging and interrupts off.

# Multiboot2 Specification 2.0, 3.1: header, "modules page aligned", end. No address tags: an ELF64 says where it goes.
.set LOADER_MULTIBOOT2_MAGIC, 0xe85250d6
.section .multiboot, "a"
.balign 8
loader_multiboot2_header:
    .long LOADER_MULTIBOOT2_MAGIC, 0, loader_multiboot2_end - loader_multiboot2_header
    .long -(LOADER_MULTIBOOT2_MAGIC + (loader_multiboot2_end - loader_multiboot2_header))
    .short 6, 0
    .long 8
    .short 0, 0
    .long 8
loader_multiboot2_end:

# Multiboot Specification 0.6.96, 3.1: modules page aligned, memory map, address fields (without them it could not be an ELF64).
.set LOADER_MULTIBOOT1_MAGIC, 0x1badb002
.set LOADER_MULTIBOOT1_FLAGS, 1 << 0 | 1 << 1 | 1 << 16
.balign 4
loader_multiboot1_header:
    .long LOADER_MULTIBOOT1_MAGIC, LOADER_MULTIBOOT1_FLAGS, -(LOADER_MULTIBOOT1_MAGIC + LOADER_MULTIBOOT1_FLAGS)
    .long loader_multiboot1_header, loader_start, loader_data_end, loader_end, loader_entry

.section .rodata
# 0x08: 32-bit code, 0x10: data, 0x18: 64-bit code; all flat, CPL 0, accessed (AMD APM vol. 2, 4.7 and 4.8).
.balign 8
loader_gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
loader_gdt_pointer:
    .short loader_gdt_pointer - loader_gdt - 1
    .long loader_gdt
loader_no_long_mode_text:
    .asciz "loader: refused: this processor has no long mode (64 bits)\r\nloader: stopped\r\n"

.section .bss
.balign 4096
loader_pml4:
    .skip 4096
loader_pdpt:
    .skip 4096
loader_page_directories:
    .skip 4 * 4096
loader_stack:
    .skip 128 << 10
.global loader_stack_end
loader_stack_end:
loader_boot_magic:
    .skip 4
loader_boot_info:
    .skip 4

.text
.code32
.global loader_entry
loader_entry:
    cli
    cld
    mov esp, offset loader_stack_end
    mov dword ptr [loader_boot_magic], eax
    mov dword ptr [loader_boot_info], ebx
    lgdt [loader_gdt_pointer]
    push 0x08
    mov eax, offset loader_flat
    push eax
    retf
loader_flat:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax

    # AMD APM vol. 3, 3.1: CPUID is there if EFLAGS.ID can be changed; long mode is 8000_0001 EDX[29].
    pushfd
    pop ecx
    mov eax, ecx
    xor eax, 1 << 21
    push eax
    popfd
    pushfd
    pop eax
    cmp eax, ecx
    je loader_no_long_mode
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb loader_no_long_mode
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc loader_no_long_mode

    # Page tables: present, writable; 2 MiB pages (AMD APM vol. 2, 5.3).
    mov eax, offset loader_pdpt + 3
    mov dword ptr [loader_pml4], eax
    mov eax, offset loader_page_directories + 3
    xor ecx, ecx
loader_next_pdpte:
    mov dword ptr [loader_pdpt + 8 * ecx], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jne loader_next_pdpte
    mov eax, 0x83
    xor ecx, ecx
loader_next_pde:
    mov dword ptr [loader_page_directories + 8 * ecx], eax
    add eax, 2 << 20
    inc ecx
    cmp ecx, 4 * 512
    jne loader_next_pde

    # AMD APM vol. 2, 14.6: CR4.PAE, CR3, EFER.LME, CR0.PG (with PE and ET).
    mov eax, 1 << 5
    mov cr4, eax
    mov eax, offset loader_pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1 << 8
    wrmsr
    mov eax, 0x80000011
    mov cr0, eax
    push 0x18
    mov eax, offset loader_long_mode
    push eax
    retf
.code64
loader_long_mode:
    mov edi, dword ptr [loader_boot_magic]
    mov esi, dword ptr [loader_boot_info]
    call loader_main
    ud2

.code32
loader_no_long_mode:
    mov edx, 0x3f8
    call loader_open_port_32
    mov esi, offset loader_no_long_mode_text
    call loader_say_32
    jmp loader_halt_32

# A stub a vector, 16 bytes each: pushes the vector upon the processor's frame.
.code64
.balign 16
.global loader_exception_stubs
loader_exception_stubs:
.set loader_vector, 0
.rept 32
    .balign 16
    push loader_vector
    jmp loader_exception
    .set loader_vector, loader_vector + 1
.endr
loader_exception:
    cld
    pop rdi
    mov rsi, rsp
    and rsp, -16
    call loader_on_exception
    ud2
