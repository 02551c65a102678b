# From long mode down to SKINIT, what happens where there is none, and a console for 32-bit code.

.section .rodata
.balign 8
loader_idt_pointer_32:
    .short 32 * 8 - 1
    .long LOADER_IDT_32
loader_no_skinit_text:
    .ascii "loader: warning: this processor has no SKINIT: the SLB is started without a dynamic launch\r\n"
    .asciz "loader: warning: PCR 17 will show so; nothing that was sealed under a dynamic launch opens\r\n"
loader_exception_text:
    .asciz "loader: refused: exception before SKINIT\r\nloader: stopped\r\n"

.section .bss
.balign 4
loader_slb_base:
    .skip 4
loader_slb_entry:
    .skip 4
loader_console_port:
    .skip 4

.text
# loader_skinit(edi: SLB, esi: its entry, edx: port of the console or 0) -> !
.code64
.global loader_skinit
loader_skinit:
    cli
    mov dword ptr [loader_slb_base], edi
    mov dword ptr [loader_slb_entry], esi
    mov dword ptr [loader_console_port], edx
    push 0x08
    lea rax, [rip + loader_protected]
    push rax
    retfq
.code32
loader_protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, offset loader_stack_end

    # AMD APM vol. 2, 14.7 and 15.27.3: paging off (PE and ET stay), EFER.SVME alone, nothing in CR4.
    mov eax, 0x11
    mov cr0, eax
    lidt [loader_idt_pointer_32]
    xor eax, eax
    mov cr4, eax
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 1 << 12
    xor edx, edx
    wrmsr
    mov eax, dword ptr [loader_slb_base]
.global skinit_instruction
skinit_instruction:
    .byte 0x0f, 0x01, 0xde
    jmp loader_halt_32

# The state of AMD APM vol. 2, 15.27.4, made by hand: GIF and EFER 0, EAX SLB, EDX family/model/stepping, ESP its end.
.global loader_on_undefined_opcode_32
loader_on_undefined_opcode_32:
    cmp dword ptr [esp], offset skinit_instruction
    jne loader_on_exception_32
    mov esi, offset loader_no_skinit_text
    call loader_say_32
    mov ebp, dword ptr [loader_slb_base]
    mov dword ptr [ebp + {skinit_missing}], 1
    clgi
    mov ecx, 0xc0000080
    xor eax, eax
    xor edx, edx
    wrmsr
    mov eax, 1
    cpuid
    mov edx, eax
    push 2
    popfd
    mov eax, dword ptr [loader_slb_base]
    lea esp, [eax + {slb_size}]
    mov ebx, 0
    mov ecx, 0
    mov esi, 0
    mov edi, 0
    mov ebp, 0
    jmp dword ptr [loader_slb_entry]

.global loader_on_exception_32
loader_on_exception_32:
    mov esi, offset loader_exception_text
    call loader_say_32
loader_halt_32:
    cli
    hlt
    jmp loader_halt_32

# edx: port of a UART; 115200 baud, 8N1, no interrupts (National PC16550D, table II).
loader_open_port_32:
    mov dword ptr [loader_console_port], edx
    inc edx
    xor eax, eax
    out dx, al
    add edx, 2
    mov al, 0x80
    out dx, al
    sub edx, 3
    mov al, 1
    out dx, al
    inc edx
    mov al, 0
    out dx, al
    add edx, 2
    mov al, 3
    out dx, al
    ret

# esi: text that ends with NUL. Waits for the UART, but not for ever.
loader_say_32:
    mov edx, dword ptr [loader_console_port]
    test edx, edx
    jz loader_said
loader_next_byte:
    lodsb
    test al, al
    jz loader_said
    mov bl, al
    mov ecx, 1 << 20
    add edx, 5
loader_full:
    in al, dx
    test al, 0x20
    jnz loader_send
    dec ecx
    jnz loader_full
loader_send:
    sub edx, 5
    mov al, bl
    out dx, al
    jmp loader_next_byte
loader_said:
    ret

# Whatever the compiler assembles next is 64-bit code.
.code64
