// SPDX-License-Identifier: GPL-2.0
/* Privileged instructions. A fault comes back as its vector, by the kernel's exception table. */
#include <linux/ptrace.h>
#include <linux/sched.h>
#include <linux/sched/task_stack.h>
#include <asm/asm.h>
#include <asm/msr.h>

#include "tvattack.h"

/* The exception table's handler puts the vector into EAX. */
#define TRY(instruction, vector, rax)                                                                                  \
	do {                                                                                                           \
		unsigned long ax = (rax);                                                                              \
		asm volatile("xorl %%edx, %%edx\n"                                                                     \
			     "1: " instruction "\n"                                                                    \
			     "movl $-1, %%eax\n"                                                                       \
			     "2:\n" _ASM_EXTABLE_FAULT(1b, 2b)                                                         \
			     : "+a"(ax)                                                                                \
			     : "c"(0)                                                                                  \
			     : "rdx", "memory");                                                                       \
		(vector) = (u32)ax;                                                                                    \
	} while (0)

int tv_execute(struct tv_execute *request)
{
	switch (request->instruction) {
	case TV_VMRUN:
		TRY(".byte 0x0f, 0x01, 0xd8", request->vector, request->rax);
		return 0;
	case TV_VMLOAD:
		TRY(".byte 0x0f, 0x01, 0xda", request->vector, request->rax);
		return 0;
	case TV_VMSAVE:
		TRY(".byte 0x0f, 0x01, 0xdb", request->vector, request->rax);
		return 0;
	case TV_STGI:
		TRY(".byte 0x0f, 0x01, 0xdc", request->vector, request->rax);
		return 0;
	case TV_CLGI:
		TRY(".byte 0x0f, 0x01, 0xdd", request->vector, request->rax);
		return 0;
	case TV_SKINIT:
		TRY(".byte 0x0f, 0x01, 0xde", request->vector, request->rax);
		return 0;
	case TV_INVLPGA:
		TRY(".byte 0x0f, 0x01, 0xdf", request->vector, request->rax);
		return 0;
	default:
		return -EINVAL;
	}
}

int tv_vmmcall(struct tv_vmmcall *request)
{
	unsigned long rax = request->rax, rdx = request->rdx;
	u32 vector = 0;

	asm volatile("1: .byte 0x0f, 0x01, 0xd9\n"
		     "movl $-1, %[vector]\n"
		     "2:\n" _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a"(rax), "+d"(rdx), [vector] "+r"(vector)
		     : "D"(request->rdi), "S"(request->rsi)
		     : "memory");
	request->rax = rax;
	request->rdx = rdx;
	request->vector = vector == TV_NO_FAULT ? vector : (u32)rax;
	return 0;
}

int tv_msr(struct tv_msr *request)
{
	request->write_error = 0;
	if (request->write)
		request->write_error = wrmsrl_safe(request->msr, request->value);
	request->read_error = rdmsrl_safe(request->msr, &request->value);
	return 0;
}

int tv_flags(struct tv_flags *request)
{
	struct pt_regs *user = task_pt_regs(current);

	user->flags = (user->flags & ~request->clear) | request->set;
	return 0;
}
