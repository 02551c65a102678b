// SPDX-License-Identifier: GPL-2.0
/* Registers of devices, by physical address. */
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/mm.h>
#include <asm/asm.h>

#include "tvattack.h"

/* 82093AA data sheet, 3.1. */
#define IO_APIC_BASE 0xfec00000
#define IO_APIC_SELECT 0x00
#define IO_APIC_WINDOW 0x10

u32 tv_store(void __iomem *address, u32 value)
{
	u32 ax = 0;

	asm volatile("1: movl %[value], (%[address])\n"
		     "movl $-1, %%eax\n"
		     "2:\n" _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a"(ax)
		     : [value] "r"(value), [address] "r"(address)
		     : "memory");
	return ax;
}

int tv_mmio(struct tv_mmio *request)
{
	void __iomem *page, *address;

	if (request->address % sizeof(u32))
		return -EINVAL;
	page = ioremap(request->address & PAGE_MASK, PAGE_SIZE);
	if (!page)
		return -ENOMEM;
	address = page + offset_in_page(request->address);
	request->vector = TV_NO_FAULT;
	if (request->write)
		request->vector = tv_store(address, request->value);
	else
		request->value = readl(address);
	iounmap(page);
	return 0;
}

/* Interrupts stay off: the kernel uses the same two registers. */
int tv_io_apic(struct tv_io_apic *request)
{
	void __iomem *apic = ioremap(IO_APIC_BASE, PAGE_SIZE);
	unsigned long flags;

	if (!apic)
		return -ENOMEM;
	local_irq_save(flags);
	request->vector = tv_store(apic + IO_APIC_SELECT, request->index);
	if (request->write && request->vector == TV_NO_FAULT)
		request->vector = tv_store(apic + IO_APIC_WINDOW, request->value);
	request->value = readl(apic + IO_APIC_WINDOW);
	local_irq_restore(flags);
	iounmap(apic);
	return 0;
}
