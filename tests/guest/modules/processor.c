// SPDX-License-Identifier: GPL-2.0
/* Control registers, SVM's instructions for what they do rather than whether they fault, and the end of the machine. */
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/preempt.h>
#include <asm/asm.h>
#include <asm/desc.h>
#include <asm/fpu/xcr.h>
#include <asm/msr.h>
#include <asm/special_insns.h>

#include "tvattack.h"

/* AMD APM vol. 2, appendix B: CSTAR in the state save area. */
#define VMCB_CSTAR 0x610
#define CHANGED_BITS 0xfff000UL
/* Longer than any tick of Linux. */
#define SPIN_MS 100

#define SVM(opcode, vector, rax)                                                                                       \
	do {                                                                                                           \
		unsigned long ax = (rax);                                                                              \
		asm volatile("1: .byte 0x0f, 0x01, " opcode "\n"                                                       \
			     "movl $-1, %%eax\n"                                                                       \
			     "2:\n" _ASM_EXTABLE_FAULT(1b, 2b)                                                         \
			     : "+a"(ax)                                                                                \
			     :                                                                                         \
			     : "memory");                                                                              \
		(vector) = (u32)ax;                                                                                    \
	} while (0)

static u32 try_cr3(__u64 *value)
{
	unsigned long before = __read_cr3(), ax = 0, flags;

	local_irq_save(flags);
	asm volatile("1: movq %[value], %%cr3\n"
		     "movl $-1, %%eax\n"
		     "2:\n" _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a"(ax)
		     : [value] "r"(before | *value)
		     : "memory");
	*value = __read_cr3();
	write_cr3(before);
	local_irq_restore(flags);
	return (u32)ax;
}

static int copy_cr3(__u64 *before)
{
	static void *copy;
	unsigned long flags;

	if (!copy)
		copy = (void *)get_zeroed_page(GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	local_irq_save(flags);
	*before = __read_cr3();
	memcpy(copy, __va(*before & PAGE_MASK), PAGE_SIZE);
	write_cr3(virt_to_phys(copy));
	local_irq_restore(flags);
	return 0;
}

int tv_control(struct tv_control *request)
{
	unsigned long value = request->value, ax = 0;

	request->vector = TV_NO_FAULT;
	switch (request->what) {
	case TV_CR2:
		request->value = native_read_cr2();
		return 0;
	case TV_CR3:
		request->value = __read_cr3();
		return 0;
	case TV_CR4:
		request->value = native_read_cr4();
		return 0;
	case TV_WRITE_CR4:
		asm volatile("1: movq %[value], %%cr4\n"
			     "movl $-1, %%eax\n"
			     "2:\n" _ASM_EXTABLE_FAULT(1b, 2b)
			     : "+a"(ax)
			     : [value] "r"(value)
			     : "memory");
		request->vector = (u32)ax;
		return 0;
	case TV_TRY_CR3:
		request->vector = try_cr3(&request->value);
		return 0;
	case TV_COPY_CR3:
		return copy_cr3(&request->value);
	case TV_WRITE_XCR0:
		request->value = xgetbv(XCR_XFEATURE_ENABLED_MASK);
		xsetbv(XCR_XFEATURE_ENABLED_MASK, value);
		return 0;
	default:
		return -EINVAL;
	}
}

/* VMSAVE writes parts of the processor's state to a page: `effect` tells whether it did. */
static void try_vmsave(struct tv_svm *request, u8 *page)
{
	SVM("0xdb", request->vector, virt_to_phys(page));
	request->effect = memchr_inv(page, 0, PAGE_SIZE) != NULL;
}

/* VMLOAD loads them: `effect` tells whether a register that was changed in the page has changed in the processor. */
static void try_vmload(struct tv_svm *request, u8 *page)
{
	u64 before, after, *cstar = (u64 *)(page + VMCB_CSTAR);
	u32 vector;

	rdmsrl(MSR_CSTAR, before);
	SVM("0xdb", vector, virt_to_phys(page));
	*cstar = before ^ CHANGED_BITS;
	SVM("0xda", request->vector, virt_to_phys(page));
	rdmsrl(MSR_CSTAR, after);
	wrmsrl(MSR_CSTAR, before);
	request->effect = after != before;
}

/* CLGI holds interrupts off whatever RFLAGS.IF is: `effect` tells whether time stood still. */
static void try_clgi(struct tv_svm *request)
{
	unsigned long start = jiffies;
	u64 until = rdtsc() + (u64)tsc_khz * SPIN_MS;
	u32 vector;

	preempt_disable();
	SVM("0xdd", request->vector, 0);
	while (rdtsc() < until)
		cpu_relax();
	request->effect = READ_ONCE(jiffies) == start;
	SVM("0xdc", vector, 0);
	preempt_enable();
}

/* Each with EFER.SVME set, if the processor takes it. */
int tv_svm(struct tv_svm *request)
{
	u8 *page = (u8 *)get_zeroed_page(GFP_KERNEL);
	unsigned long flags;
	u64 efer;

	if (!page)
		return -ENOMEM;
	rdmsrl(MSR_EFER, efer);
	wrmsrl_safe(MSR_EFER, efer | EFER_SVME);
	if (request->what == TV_TRY_CLGI) {
		try_clgi(request);
	} else {
		local_irq_save(flags);
		if (request->what == TV_TRY_VMSAVE)
			try_vmsave(request, page);
		else
			try_vmload(request, page);
		local_irq_restore(flags);
	}
	wrmsrl_safe(MSR_EFER, efer);
	free_page((unsigned long)page);
	return 0;
}

int tv_invd(struct tv_invd *request)
{
	unsigned long flags;

	/* What is in the caches and must not be lost goes to memory first. */
	local_irq_save(flags);
	wbinvd();
	asm volatile("invd" ::: "memory");
	local_irq_restore(flags);
	request->done = 1;
	return 0;
}

/* Does not return: without an interrupt table the breakpoint's fault, and the double fault after it, have no handler. */
int tv_triple_fault(void)
{
	const struct desc_ptr none = { 0, 0 };

	local_irq_disable();
	load_idt(&none);
	asm volatile("int3");
	return -EIO;
}
