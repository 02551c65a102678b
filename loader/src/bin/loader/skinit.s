# From long mode down to SKINIT, what happens where there is none, and a console for 32-bit code.

.section .rodata
.balign 8
idt_pointer_32:
    .short 32 * 8 - 1
    .long IDT_32
no_skinit_text:
    .ascii "loader: warning: this processor has no SKINIT: the SLB is started without a dynamic launch\r\n"
    .asciz "loader: warning: PCR 17 will show so; nothing that was sealed under a dynamic launch opens\r\n"
exception_text:
    .asciz "loader: refused: exception before SKINIT\r\nloader: stopped\r\n"

.section .bss
.balign 4
slb_base:
    .skip 4
slb_entry:
    .skip 4
console_port:
    .skip 4

.text
# skinit(edi: SLB, esi: its entry, edx: port of the console or 0) -> !
.code64
.global skinit
skinit:
    cli
    mov dword ptr [slb_base], edi
    mov dword ptr [slb_entry], esi
    mov dword ptr [console_port], edx
    push 0x08
    lea rax, [rip + .Lprotected]
    push rax
    retfq
.code32
.Lprotected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, offset stack_end

    # AMD APM vol. 2, 14.7 and 15.27.3: paging off (PE and ET stay), EFER.SVME alone, nothing in CR4.
    mov eax, 0x11
    mov cr0, eax
    lidt [idt_pointer_32]
    xor eax, eax
    mov cr4, eax
    mov cr3, eax
    mov ecx, 0xc0000080
    mov eax, 1 << 12
    xor edx, edx
    wrmsr
    mov eax, dword ptr [slb_base]
.global skinit_instruction
skinit_instruction:
    .byte 0x0f, 0x01, 0xde
    jmp halt_32

# The state of AMD APM vol. 2, 15.27.4, made by hand: GIF and EFER 0, EAX SLB, EDX family/model/stepping, ESP its end.
.global on_undefined_opcode_32
on_undefined_opcode_32:
    cmp dword ptr [esp], offset skinit_instruction
    jne on_exception_32
    mov esi, offset no_skinit_text
    call say_32
    mov ebp, dword ptr [slb_base]
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
    mov eax, dword ptr [slb_base]
    lea esp, [eax + {slb_size}]
    mov ebx, 0
    mov ecx, 0
    mov esi, 0
    mov edi, 0
    mov ebp, 0
    jmp dword ptr [slb_entry]

.global on_exception_32
on_exception_32:
    mov esi, offset exception_text
    call say_32
halt_32:
    cli
    hlt
    jmp halt_32

# edx: port of a UART; 115200 baud, 8N1, no interrupts (National PC16550D, table II).
open_port_32:
    mov dword ptr [console_port], edx
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
say_32:
    mov edx, dword ptr [console_port]
    test edx, edx
    jz .Lsaid
.Lnext_byte:
    lodsb
    test al, al
    jz .Lsaid
    mov bl, al
    mov ecx, 1 << 20
    add edx, 5
.Lfull:
    in al, dx
    test al, 0x20
    jnz .Lsend
    dec ecx
    jnz .Lfull
.Lsend:
    sub edx, 5
    mov al, bl
    out dx, al
    jmp .Lnext_byte
.Lsaid:
    ret
