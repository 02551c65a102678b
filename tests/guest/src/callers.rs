//! Callers that are not CPL 3 in 64-bit mode with interrupts on: a status, whatever they ask.

use crate::attack::{Flags, INTERRUPTS, Kernel, NO_FAULT, Vmmcall};
use crate::support::{Mapping, NO_HANDLE, expect, leaving_nothing, raw, register};
use anyhow::ensure;
use std::arch::asm;
use trustvisor::abi::{Status, number};

/// 32-bit code: MOV EAX, 1 (INFO); XOR EDI, EDI; XOR ESI, ESI; VMMCALL; a far JMP, whose target follows.
const CODE_32: [u8; 13] = [0xb8, 1, 0, 0, 0, 0x31, 0xff, 0x31, 0xf6, 0x0f, 0x01, 0xd9, 0xea];
/// 64-bit code: JMP R15.
const CODE_64: [u8; 3] = [0x41, 0xff, 0xe7];
/// Linux: `__USER32_CS` and `__USER_CS`.
const USER32_CS: u16 = 0x23;
const USER_CS: u16 = 0x33;

/// A far address: offset, then selector (AMD APM vol. 3, JMP (Far)).
fn far(offset: u64, selector: u16) -> [u8; 6] {
    let mut bytes = [0; 6];
    bytes[..4].copy_from_slice(&(offset as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&selector.to_le_bytes());
    bytes
}

/// A program that has switched to 32-bit code (compatibility mode).
pub fn compat() -> anyhow::Result<()> {
    trustvisor::info()?;
    let memory = Mapping::low(1)?;
    let code_32 = [&CODE_32[..], &far(memory.address() + 64, USER_CS)].concat();
    for (at, bytes) in [(0, &code_32[..]), (64, &CODE_64[..]), (128, &far(memory.address(), USER32_CS)[..])] {
        bytes.iter().enumerate().for_each(|(i, byte)| memory.write(at + i, *byte));
    }
    memory.protect(0, 1, libc::PROT_READ | libc::PROT_EXEC)?;
    let status: u64;
    // SAFETY: the far jump enters the 32-bit code above, which makes one hypercall without an address and comes back to
    // R15 by the 64-bit code. R14 keeps the stack pointer, whose upper half 32-bit code may lose.
    unsafe {
        asm!(
            "mov r14, rsp",
            "lea r15, [rip + 2f]",
            // JMP FAR, m16:32 at RAX.
            ".byte 0xff, 0x28",
            "2:",
            "mov rsp, r14",
            inlateout("rax") memory.address() + 128 => _,
            out("rcx") _,
            out("rdx") status,
            out("rsi") _,
            out("rdi") _,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
            out("r14") _,
            out("r15") _,
        );
    }
    ensure!(status as u32 == Status::BadCaller as u32, "a 32-bit caller gets status {status}");
    Ok(())
}

/// A program that runs with interrupts off, which only a hostile kernel can arrange.
pub fn interrupts_off() -> anyhow::Result<()> {
    let s = register()?;
    let kernel = Kernel::open()?;
    let handle = s.pal().handle();
    leaving_nothing(|_| {
        // INFO first: without the check, a call into S would wait for ever for an interrupt that the caller does not take.
        for call in [number::INFO, number::CALL, number::UNREGISTER, number::COLLECT] {
            kernel.ask(Flags { set: 0, clear: INTERRUPTS })?;
            let status = raw(call.into(), handle, &[]).1;
            kernel.ask(Flags { set: INTERRUPTS, clear: 0 })?;
            expect("a caller with interrupts off", status, Status::BadCaller)?;
        }
        Ok(())
    })?;
    ensure!(s.count()? == 1, "S has run, or is gone");
    Ok(())
}

/// The kernel itself.
pub fn kernel() -> anyhow::Result<()> {
    trustvisor::info()?;
    let kernel = Kernel::open()?;
    let target = Mapping::anonymous(1)?;
    target.write(0, 0);
    leaving_nothing(|_| {
        for call in [number::INFO, number::REGISTER, number::CALL, number::COLLECT, 0, 0xffff] {
            let request = Vmmcall { rax: call.into(), rdi: target.address(), rsi: 64, ..Default::default() };
            let answer = kernel.ask(request)?;
            ensure!(answer.vector == NO_FAULT, "VMMCALL of the kernel: exception {}", answer.vector);
            ensure!(
                answer.rdx == Status::BadCaller as u64,
                "call {call} of the kernel: status {}",
                answer.rdx
            );
        }
        Ok(())
    })?;
    ensure!(target.bytes().iter().all(|b| *b == 0), "the kernel's call wrote something");
    expect("INFO after it", raw(number::INFO.into(), NO_HANDLE, &[]).1, Status::Ok)
}
