// SPDX-License-Identifier: GPL-2.0
/*
 * Searches physical memory for words that this file knows only XORed with a mask, so that it does not find itself. RAM and the first
 * MiB are read through the kernel's direct map, everything else through mappings made for it.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sizes.h>

#include "tvattack.h"

static void look(const u64 *words, u64 address, struct tv_scan *scan, const bool *low_byte)
{
	unsigned int i, j;

	for (i = 0; i < PAGE_SIZE / sizeof(u64); i++) {
		u64 masked = READ_ONCE(words[i]) ^ scan->mask;

		if (likely(!low_byte[masked & 0xff]))
			continue;
		for (j = 0; j < TV_NEEDLES; j++) {
			if (masked != scan->needles[j])
				continue;
			if (!scan->hits++)
				scan->first_hit = address + i * sizeof(u64);
		}
	}
	scan->words += PAGE_SIZE / sizeof(u64);
}

int tv_scan(struct tv_scan *scan)
{
	u64 address, end = scan->start + scan->length;
	bool low_byte[256] = {};
	unsigned int i;

	if ((scan->start | scan->length) & ~PAGE_MASK)
		return -EINVAL;
	for (i = 0; i < TV_NEEDLES; i++)
		low_byte[scan->needles[i] & 0xff] = true;
	scan->words = 0;
	scan->hits = 0;
	for (address = scan->start; address < end; address += PAGE_SIZE) {
		if (address < SZ_1M || page_is_ram(PHYS_PFN(address))) {
			look(__va(address), address, scan, low_byte);
		} else {
			void *mapping = memremap(address, PAGE_SIZE, MEMREMAP_WB);

			if (!mapping)
				return -EIO;
			look(mapping, address, scan, low_byte);
			memunmap(mapping);
		}
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}
