/* SPDX-License-Identifier: GPL-2.0 */
/*
 * /dev/tvattack: what a hostile kernel can try against TrustVisor, one ioctl an attempt. The program `tvtest` decides what
 * is tried and judges what comes of it; its src/attack.rs mirrors this file.
 */
#ifndef TVATTACK_H
#define TVATTACK_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* In `vector`: no exception. */
#define TV_NO_FAULT 0xffffffff

/* Instructions of TV_EXECUTE. */
enum { TV_VMRUN, TV_VMLOAD, TV_VMSAVE, TV_STGI, TV_CLGI, TV_SKINIT, TV_INVLPGA };

struct tv_execute {
	__u32 instruction;
	__u32 vector;
	__u64 rax;
};

/* VMMCALL at CPL 0. */
struct tv_vmmcall {
	__u64 rax;
	__u64 rdi;
	__u64 rsi;
	__u64 rdx;
	__u32 vector;
	__u32 reserved;
};

/* RDMSR, or WRMSR and then RDMSR. */
struct tv_msr {
	__u32 msr;
	__u32 write;
	__u64 value;
	__s32 read_error;
	__s32 write_error;
};

/* An aligned 8-byte read or write of physical memory. */
struct tv_physical {
	__u64 address;
	__u64 value;
	__u32 write;
	__u32 vector;
};

/* Sets or clears bits of the caller's RFLAGS. */
struct tv_flags {
	__u64 set;
	__u64 clear;
};

/* Replaces an entry of the caller's page tables, level 1 (PTE) or 2 (PMD), by `entry`; answers what was there. */
struct tv_table {
	__u64 address;
	__u64 entry;
	__u32 level;
	__u32 reserved;
};

/* Writes both halves of the local APIC's interrupt command register. */
struct tv_icr {
	__u32 high;
	__u32 low;
	__u32 vector;
	__u32 reserved;
};

/* A 32-bit read or write of a device's register, uncached. */
struct tv_mmio {
	__u64 address;
	__u32 value;
	__u32 write;
	__u32 vector;
	__u32 reserved;
};

/* Selects a register of the I/O APIC and reads it, or writes it and then reads it. */
struct tv_io_apic {
	__u32 index;
	__u32 value;
	__u32 write;
	__u32 vector;
};

/* What TV_CONTROL does. */
enum { TV_CR2, TV_CR3, TV_CR4, TV_WRITE_CR4, TV_TRY_CR3, TV_COPY_CR3, TV_WRITE_XCR0 };

/*
 * Reads a control register, or writes `value` to it. TV_TRY_CR3 takes it back at once. TV_COPY_CR3 goes on in a copy of the
 * top of the page tables, until the kernel switches to another process. What a write finds is left in `value`.
 */
struct tv_control {
	__u64 value;
	__u32 what;
	__u32 vector;
};

/* What TV_SVM tries. */
enum { TV_TRY_VMSAVE, TV_TRY_VMLOAD, TV_TRY_CLGI };

/* An instruction of SVM: its exception, and whether it had its effect. */
struct tv_svm {
	__u32 what;
	__u32 vector;
	__u64 effect;
};

/* INVD. */
struct tv_invd {
	__u64 done;
};

#define TV_NEEDLES 16

/* Looks for any of the words (each XORed with `mask`) in a range of physical memory. */
struct tv_scan {
	__u64 start;
	__u64 length;
	__u64 mask;
	__u64 needles[TV_NEEDLES];
	__u64 words;
	__u64 hits;
	__u64 first_hit;
};

#define TV_EXECUTE _IOWR('T', 1, struct tv_execute)
#define TV_VMMCALL _IOWR('T', 2, struct tv_vmmcall)
#define TV_MSR _IOWR('T', 3, struct tv_msr)
#define TV_PHYSICAL _IOWR('T', 4, struct tv_physical)
#define TV_FLAGS _IOWR('T', 5, struct tv_flags)
#define TV_TABLE _IOWR('T', 6, struct tv_table)
#define TV_ICR _IOWR('T', 7, struct tv_icr)
#define TV_SCAN _IOWR('T', 8, struct tv_scan)
#define TV_MMIO _IOWR('T', 9, struct tv_mmio)
#define TV_IO_APIC _IOWR('T', 10, struct tv_io_apic)
#define TV_CONTROL _IOWR('T', 11, struct tv_control)
#define TV_SVM _IOWR('T', 12, struct tv_svm)
#define TV_INVD _IOWR('T', 13, struct tv_invd)
#define TV_TRIPLE_FAULT _IOWR('T', 14, __u64)

#ifdef __KERNEL__
struct file;
struct vm_area_struct;

int tv_execute(struct tv_execute *request);
int tv_vmmcall(struct tv_vmmcall *request);
int tv_msr(struct tv_msr *request);
int tv_flags(struct tv_flags *request);
int tv_physical(struct tv_physical *request);
int tv_table(struct tv_table *request);
int tv_mmap(struct file *file, struct vm_area_struct *vma);
int tv_icr(struct tv_icr *request);
int tv_scan(struct tv_scan *request);
int tv_mmio(struct tv_mmio *request);
int tv_io_apic(struct tv_io_apic *request);
int tv_control(struct tv_control *request);
int tv_svm(struct tv_svm *request);
int tv_invd(struct tv_invd *request);
int tv_triple_fault(void);

/* A store that may fault: the vector. */
u32 tv_store(void __iomem *address, u32 value);
#endif

#endif
