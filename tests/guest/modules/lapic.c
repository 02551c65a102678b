// SPDX-License-Identifier: GPL-2.0
/* Interprocessor interrupts that the kernel itself would send only to start a processor. AMD APM vol. 2, 16.5. */
#include <linux/io.h>
#include <linux/irqflags.h>
#include <asm/apicdef.h>

#include "tvattack.h"

int tv_icr(struct tv_icr *request)
{
	void __iomem *apic = ioremap(APIC_DEFAULT_PHYS_BASE, PAGE_SIZE);
	unsigned long flags;

	if (!apic)
		return -ENOMEM;
	local_irq_save(flags);
	request->vector = tv_store(apic + APIC_ICR2, request->high);
	if (request->vector == TV_NO_FAULT)
		request->vector = tv_store(apic + APIC_ICR, request->low);
	local_irq_restore(flags);
	iounmap(apic);
	return 0;
}
