// SPDX-License-Identifier: GPL-2.0
/* Physical memory by address, and page tables that a sane kernel would not make. */
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <asm/asm.h>

#include "tvattack.h"

int tv_physical(struct tv_physical *request)
{
	void __iomem *mapping;
	unsigned long value = request->value, ax = 0;
	void *address;

	if (request->address % sizeof(u64))
		return -EINVAL;
	mapping = ioremap_cache(request->address & PAGE_MASK, PAGE_SIZE);
	if (!mapping)
		return -ENOMEM;
	address = (void __force *)mapping + offset_in_page(request->address);
	if (request->write)
		asm volatile("1: movq %[value], (%[address])\n"
			     "movl $-1, %%eax\n"
			     "2:\n" _ASM_EXTABLE_FAULT(1b, 2b)
			     : "+a"(ax)
			     : [value] "r"(value), [address] "r"(address)
			     : "memory");
	else
		asm volatile("1: movq (%[address]), %[value]\n"
			     "movl $-1, %%eax\n"
			     "2:\n" _ASM_EXTABLE_FAULT(1b, 2b)
			     : "+a"(ax), [value] "+r"(value)
			     : [address] "r"(address)
			     : "memory");
	iounmap(mapping);
	request->value = value;
	request->vector = (u32)ax;
	return 0;
}

/* The offset is the physical address. */
int tv_mmap(struct file *file, struct vm_area_struct *vma)
{
	return remap_pfn_range(vma, vma->vm_start, vma->vm_pgoff, vma->vm_end - vma->vm_start, vma->vm_page_prot);
}

static u64 *find_entry(struct mm_struct *mm, unsigned long address, unsigned int level)
{
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd;
	pgd_t *pgd = pgd_offset(mm, address);

	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, address);
	if (pud_none(*pud) || pud_large(*pud))
		return NULL;
	pmd = pmd_offset(pud, address);
	if (level == 2)
		return (u64 *)pmd;
	if (level != 1 || pmd_none(*pmd) || pmd_large(*pmd))
		return NULL;
	return (u64 *)pte_offset_kernel(pmd, address);
}

int tv_table(struct tv_table *request)
{
	u64 *entry;
	int error = 0;

	mmap_write_lock(current->mm);
	entry = find_entry(current->mm, request->address, request->level);
	if (entry)
		request->entry = xchg(entry, request->entry);
	else
		error = -ENOENT;
	mmap_write_unlock(current->mm);
	/* Reloading CR3 drops this task's translations; one processor is all there is. */
	write_cr3(__read_cr3());
	return error;
}
