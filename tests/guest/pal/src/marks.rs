//! A mark in every general register while S works, and at whatever it ends with. This file is part of S and of the program that
//! attacks it, which runs the same code itself where there is no TrustVisor.

#![allow(dead_code, reason = "each of the two uses its part")]

use core::arch::global_asm;

/// How [`marked`] ends: it returns, or does one of these first.
pub const RETURN: u32 = 0;
/// An invalid opcode.
pub const FAULT: u32 = 1;
/// A system call (Linux: getpid).
pub const SYSCALL: u32 = 2;
/// A hypercall that does not exist.
pub const HYPERCALL: u32 = 3;
/// A read at an address made of the mark.
pub const ADDRESS: u32 = 4;

/// What the registers hold: whoever knows the seed alone has it in none of them.
pub const fn mark(seed: u64) -> u64 {
    !seed.rotate_left(17)
}

/// What [`ADDRESS`] reads at.
pub const fn address(seed: u64) -> u64 {
    mark(seed) >> 17
}

global_asm!(
    ".globl tvtest_marked",
    "tvtest_marked:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rcx, rsi",
    "mov rax, rdi",
    "rol rax, 17",
    "not rax",
    ".irp r, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15",
    "mov \\r, rax",
    ".endr",
    "2: dec rcx",
    "jnz 2b",
    "mov rcx, rax",
    "cmp edx, 1",
    "je 21f",
    "cmp edx, 2",
    "je 22f",
    "cmp edx, 3",
    "je 23f",
    "cmp edx, 4",
    "je 24f",
    "3: mov rdx, rsi",
    "xor eax, eax",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    "21: ud2",
    "22: mov eax, 39",
    "syscall",
    "jmp 3b",
    "23: mov eax, 0xffff",
    "vmmcall",
    "jmp 3b",
    "24: shr rax, 17",
    "mov al, [rax]",
    "jmp 3b",
);

// SAFETY: the routine of the assembly above takes its arguments so and keeps what the calling convention asks for.
unsafe extern "C" {
    /// Puts the mark into all registers but RDX and RSP for some rounds, ends as `how` says, and returns 0.
    pub fn tvtest_marked(seed: u64, rounds: u64, how: u32) -> u64;
}

pub fn marked(seed: u64, rounds: u64, how: u32) -> u64 {
    // SAFETY: uses no memory but the stack; what it ends with is its caller's choice.
    unsafe { tvtest_marked(seed, rounds.max(1), how) }
}
