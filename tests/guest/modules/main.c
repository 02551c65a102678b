// SPDX-License-Identifier: GPL-2.0
/* The device: copies a request in, has it carried out, copies it back. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "tvattack.h"

union request {
	struct tv_execute execute;
	struct tv_vmmcall vmmcall;
	struct tv_msr msr;
	struct tv_physical physical;
	struct tv_flags flags;
	struct tv_table table;
	struct tv_icr icr;
	struct tv_scan scan;
	struct tv_mmio mmio;
	struct tv_io_apic io_apic;
	struct tv_control control;
	struct tv_svm svm;
	struct tv_invd invd;
};

static int carry_out(unsigned int command, union request *request)
{
	switch (command) {
	case TV_EXECUTE:
		return tv_execute(&request->execute);
	case TV_VMMCALL:
		return tv_vmmcall(&request->vmmcall);
	case TV_MSR:
		return tv_msr(&request->msr);
	case TV_PHYSICAL:
		return tv_physical(&request->physical);
	case TV_FLAGS:
		return tv_flags(&request->flags);
	case TV_TABLE:
		return tv_table(&request->table);
	case TV_ICR:
		return tv_icr(&request->icr);
	case TV_SCAN:
		return tv_scan(&request->scan);
	case TV_MMIO:
		return tv_mmio(&request->mmio);
	case TV_IO_APIC:
		return tv_io_apic(&request->io_apic);
	case TV_CONTROL:
		return tv_control(&request->control);
	case TV_SVM:
		return tv_svm(&request->svm);
	case TV_INVD:
		return tv_invd(&request->invd);
	case TV_TRIPLE_FAULT:
		return tv_triple_fault();
	default:
		return -ENOTTY;
	}
}

static long tv_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	void __user *user = (void __user *)argument;
	union request request;
	int error;

	if (_IOC_SIZE(command) > sizeof(request))
		return -ENOTTY;
	if (copy_from_user(&request, user, _IOC_SIZE(command)))
		return -EFAULT;
	error = carry_out(command, &request);
	if (error)
		return error;
	if (copy_to_user(user, &request, _IOC_SIZE(command)))
		return -EFAULT;
	return 0;
}

static const struct file_operations tv_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = tv_ioctl,
	.mmap = tv_mmap,
};

static struct miscdevice tv_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "tvattack",
	.fops = &tv_operations,
	.mode = 0600,
};

module_misc_device(tv_device);
MODULE_DESCRIPTION("Attacks on TrustVisor, for its tests");
MODULE_LICENSE("GPL");
