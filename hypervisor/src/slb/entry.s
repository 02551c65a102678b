// The SLB's first instructions: from the state that SKINIT leaves (APM vol. 2, 15.27.4: 32-bit protected mode without
// paging, EAX = own address, ESP = end of the block, only CS and SS flat) to 64-bit mode at RESERVE_VA.
// Everything runs where it lies and is written for any address; nothing before `slb_length` is ever written, so what the
// CPU measured is what runs (the GDT's accessed bits are set beforehand for that reason).

.set CODE64, 0x08
.set DATA, 0x10
.set MSR_EFER, 0xc0000080
.set MSR_PAT, 0x277

    .section .slb.entry, "ax"
    .code32
slb_base:
    .short slb_entry - slb_base
    .short slb_length
    .long 0
    .ascii "TVSLB\000\000\001"

    .balign 8
slb_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
slb_gdt_end:

    .globl slb_entry
slb_entry:
    cli
    cld
    movl %eax, %ebp
    leal {SLB_SIZE}(%ebp), %esp
    // The table stays where it is reached by identity, in 64-bit mode as well.
    leal slb_gdt - slb_base(%ebp), %ecx
    movw $slb_gdt_end - slb_gdt - 1, -8(%esp)
    movl %ecx, -6(%esp)
    lgdtl -8(%esp)
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    // Whatever lies above the measured part was not measured.
    leal slb_length(%ebp), %edi
    movl ${SLB_SIZE}, %ecx
    subl $slb_length, %ecx
    xorl %eax, %eax
    rep stosb

    testl ${LARGE_PAGE} - 1, %ebp
    jnz refuse
    // 8000_0001 EDX: bit 29 long mode, bit 26 1 GiB pages, bit 20 NX (APM vol. 3, E.4.2). Whatever has SVM has the leaf.
    movl $0x80000001, %eax
    cpuid
    andl $0x24100000, %edx
    cmpl $0x24100000, %edx
    jne refuse

    // PAT as after a reset, and nothing cached that was so under another: else what is written to a device could stay in a cache.
    movl $MSR_PAT, %ecx
    movl $0x00070406, %eax
    movl %eax, %edx
    wrmsr
    wbinvd

    // Entries of PML4 and PDPT: present, writable (3); 1 GiB and 2 MiB pages: 83, uncached whatever MTRRs say: 9B (APM vol. 2, 5.3, 7.8).
    leal {SLB_TABLES}(%ebp), %edi
    movl %edi, %cr3
    leal 0x1003(%edi), %eax
    movl %eax, (%edi)
    movl %eax, 511 * 8(%edi)
    addl $0x1000, %edi
    movl $0x0000009b, (%edi)
    movl $0x4000009b, 8(%edi)
    movl $0x8000009b, 16(%edi)
    movl $0xc000009b, 24(%edi)
    leal 0x1003(%edi), %eax
    movl %eax, 510 * 8(%edi)
    addl $0x1000, %edi
    leal 0x83(%ebp), %eax
    xorl %edx, %edx
    movl $512, %ecx
2:  movl %eax, (%edi)
    movl %edx, 4(%edi)
    addl ${LARGE_PAGE}, %eax
    adcl $0, %edx
    addl $8, %edi
    loop 2b

    // CR4.PAE alone; EFER.LME, with SVME (bit 12) as it is: clearing it while GIF = 0 is undefined (APM vol. 2, 15.17);
    // CR0: PG, WP, NE, ET, PE, caches on.
    movl $0x20, %eax
    movl %eax, %cr4
    movl $MSR_EFER, %ecx
    rdmsr
    andl $0x1000, %eax
    orl $0x100, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010031, %eax
    movl %eax, %cr0
    leal long_mode - slb_base(%ebp), %ecx
    pushl $CODE64
    pushl %ecx
    lretl

// The loader refuses such a machine, and says why.
refuse:
    hlt
    jmp refuse

    .code64
long_mode:
    movabsq $high, %rax
    jmpq *%rax
high:
    leaq slb_base + {SLB_SIZE}(%rip), %rsp
    movl %ebp, %edi
    xorl %ebp, %ebp
    call slb_main
    ud2

    .text
