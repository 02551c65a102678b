# From the boot loader's 32-bit protected mode into long mode with the low 4 GiB mapped by identity, and the stubs of the
# exceptions there. Relies on what multiboot promises: EAX magic, EBX information, flat segments, paging and interrupts off.

# Multiboot2 Specification 2.0, 3.1: header, "modules page aligned", end. No address tags: an ELF64 says where it goes.
.set MULTIBOOT2_MAGIC, 0xe85250d6
.section .multiboot, "a"
.balign 8
multiboot2_header:
    .long MULTIBOOT2_MAGIC, 0, multiboot2_end - multiboot2_header
    .long -(MULTIBOOT2_MAGIC + (multiboot2_end - multiboot2_header))
    .short 6, 0
    .long 8
    .short 0, 0
    .long 8
multiboot2_end:

# Multiboot Specification 0.6.96, 3.1: modules page aligned, memory map, address fields (without them it could not be an ELF64).
.set MULTIBOOT1_MAGIC, 0x1badb002
.set MULTIBOOT1_FLAGS, 1 << 0 | 1 << 1 | 1 << 16
.balign 4
multiboot1_header:
    .long MULTIBOOT1_MAGIC, MULTIBOOT1_FLAGS, -(MULTIBOOT1_MAGIC + MULTIBOOT1_FLAGS)
    .long multiboot1_header, loader_start, loader_data_end, loader_end, loader_entry

.section .rodata
# 0x08: 32-bit code, 0x10: data, 0x18: 64-bit code; all flat, CPL 0, accessed (AMD APM vol. 2, 4.7 and 4.8).
.balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
gdt_pointer:
    .short gdt_pointer - gdt - 1
    .long gdt
no_long_mode_text:
    .asciz "loader: refused: this processor has no long mode (64 bits)\r\nloader: stopped\r\n"

.section .bss
.balign 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
page_directories:
    .skip 4 * 4096
stack:
    .skip 128 << 10
.global stack_end
stack_end:
boot_magic:
    .skip 4
boot_info:
    .skip 4

.text
.code32
.global loader_entry
loader_entry:
    cli
    cld
    mov esp, offset stack_end
    mov dword ptr [boot_magic], eax
    mov dword ptr [boot_info], ebx
    lgdt [gdt_pointer]
    push 0x08
    mov eax, offset .Lflat
    push eax
    retf
.Lflat:
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
    je no_long_mode
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_long_mode
    mov eax, 0x80000001
    cpuid
    bt edx, 29
    jnc no_long_mode

    # Page tables: present, writable; 2 MiB pages (AMD APM vol. 2, 5.3).
    mov eax, offset pdpt + 3
    mov dword ptr [pml4], eax
    mov eax, offset page_directories + 3
    xor ecx, ecx
.Lnext_pdpte:
    mov dword ptr [pdpt + 8 * ecx], eax
    add eax, 4096
    inc ecx
    cmp ecx, 4
    jne .Lnext_pdpte
    mov eax, 0x83
    xor ecx, ecx
.Lnext_pde:
    mov dword ptr [page_directories + 8 * ecx], eax
    add eax, 2 << 20
    inc ecx
    cmp ecx, 4 * 512
    jne .Lnext_pde

    # AMD APM vol. 2, 14.6: CR4.PAE, CR3, EFER.LME, CR0.PG (with PE and ET).
    mov eax, 1 << 5
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1 << 8
    wrmsr
    mov eax, 0x80000011
    mov cr0, eax
    push 0x18
    mov eax, offset .Llong_mode
    push eax
    retf
.code64
.Llong_mode:
    mov edi, dword ptr [boot_magic]
    mov esi, dword ptr [boot_info]
    call loader_main
    ud2

.code32
no_long_mode:
    mov edx, 0x3f8
    call open_port_32
    mov esi, offset no_long_mode_text
    call say_32
    jmp halt_32

# A stub a vector, 16 bytes each: pushes the vector upon the processor's frame.
.code64
.balign 16
.global exception_stubs
exception_stubs:
.set vector, 0
.rept 32
    .balign 16
    push vector
    jmp exception_common
    .set vector, vector + 1
.endr
exception_common:
    cld
    pop rdi
    mov rsi, rsp
    and rsp, -16
    call on_exception
    ud2
