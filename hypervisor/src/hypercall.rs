//! VMMCALL of the guest: who may call, which call it is, and how its outcome reaches the guest's registers.

use crate::addr::Gva;
use crate::cpu::Cpu;
use crate::guest_memory::GuestMemory;
use crate::hypervisor::Hypervisor;
use crate::pal::{Caller, Hardware, Outcome, Stop};
use crate::vmcb::{RFLAGS_IF, exit_code};
use abi::quote::{AttestedCall, MAX_REPORT};
use abi::{Status, TOKEN_BIT, number};
use arrayvec::ArrayVec;
use core::sync::atomic::Ordering;
use zerocopy::IntoBytes;

/// Bytes of a VMMCALL.
pub const VMMCALL_LENGTH: u64 = 3;
/// Where RAX has the entry of a `CALL`.
const ENTRY: u64 = 0xffff << 16;

/// Answers a VMMCALL.
pub fn vmmcall(hv: &Hypervisor, cpu: &mut Cpu, hardware: &mut impl Hardware) {
    let outcome = match may_call(cpu) {
        true => dispatch(hv, &mut Caller { cpu, hardware }),
        false => Err(Status::BadCaller.into()),
    };
    apply(hv, cpu, outcome);
}

/// CPL 3, 64-bit code, interrupts enabled.
fn may_call(cpu: &Cpu) -> bool {
    let save = &cpu.os.save;
    save.cpl == 3 && cpu.runs_64_bit_code() && save.rflags & RFLAGS_IF != 0
}

fn dispatch(hv: &Hypervisor, caller: &mut Caller<impl Hardware>) -> Outcome {
    let rax = caller.cpu.os.save.rax;
    if rax & TOKEN_BIT != 0 {
        return hv.pals.resume(caller, rax);
    }
    // The call that is to be fast comes first.
    if rax & !ENTRY == u64::from(number::CALL) {
        return hv.pals.call(caller, (rax >> 16) as u16);
    }
    dispatch_others(hv, caller)
}

/// Out of the way of the fast call, whose code is the better for it.
#[inline(never)]
fn dispatch_others(hv: &Hypervisor, caller: &mut Caller<impl Hardware>) -> Outcome {
    let cpu = caller.cpu;
    let rax = cpu.os.save.rax;
    if rax & !ENTRY == u64::from(number::CALL_ATTESTED) {
        return hv.pals.call_attested(caller, (rax >> 16) as u16);
    }
    let (regs, memory) = (&cpu.regs, caller.memory(&hv.pals));
    let Ok(call) = u16::try_from(rax) else { return Err(Status::UnknownCall.into()) };
    match call {
        number::INFO => give(&memory, hv.info(cpu).as_bytes(), Gva(regs.rdi), regs.rsi),
        number::REGISTER => hv.pals.register(caller, Some((Gva(regs.rdi), regs.rsi)), Gva(regs.rdx)),
        number::REGISTER_QUOTING => hv.pals.register(caller, None, Gva(regs.rdx)),
        number::UNREGISTER => hv.pals.unregister(caller, false),
        number::ABORT => hv.pals.unregister(caller, true),
        number::COLLECT => hv.pals.collect(caller.hardware),
        number::ROOT_SAVE => give_blob(&memory, hv.root_blob.as_slice(), Gva(regs.rdi), regs.rsi),
        number::CALL_REPORT => {
            let (call, report) = hv.pals.call_report(caller, regs.rdi)?;
            let bytes = call.as_bytes().iter().chain(report.bytes()).copied();
            let bytes = ArrayVec::<u8, { size_of::<AttestedCall>() + MAX_REPORT }>::from_iter(bytes);
            give_blob(&memory, &bytes, Gva(regs.rsi), regs.rdx)
        }
        number::KEY_BLOB => give_blob(&memory, hv.key_blob.as_slice(), Gva(regs.rdi), regs.rsi),
        number::PAL_INFO => give(&memory, hv.pals.pal_info(caller)?.as_bytes(), Gva(regs.rdi), regs.rsi),
        _ => Err(Status::UnknownCall.into()),
    }
}

/// Writes a blob, if there is one, whole.
fn give_blob(memory: &GuestMemory, blob: &[u8], buffer: Gva, room: u64) -> Outcome {
    match blob {
        [] => Err(Status::Unsupported.into()),
        blob if room < blob.len() as u64 => Err(Status::TooLarge.into()),
        blob => give(memory, blob, buffer, room),
    }
}

/// Writes as much of a structure as the caller has room for.
fn give(memory: &GuestMemory, bytes: &[u8], buffer: Gva, room: u64) -> Outcome {
    let bytes = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
    memory.check_writable(buffer, bytes.len() as u64)?;
    memory.write(buffer, bytes)?;
    Ok(bytes.len() as u64)
}

#[inline(always)]
fn apply(hv: &Hypervisor, cpu: &mut Cpu, outcome: Outcome) {
    let token = match outcome {
        Ok(value) => return finish(cpu, value, Status::Ok),
        Err(Stop::Failed(value, status)) => return finish(cpu, value, status),
        Err(Stop::Again(token)) => {
            cpu.progress();
            if hv.pals.committing.load(Ordering::Relaxed) {
                cpu.os.control.watch(Some(exit_code::INTR));
            }
            Some(token)
        }
        Err(Stop::Restart) => {
            cpu.progress();
            None
        }
        Err(Stop::Fault { gva, error_code, token }) => {
            // A call that goes on by a token counts its faults itself.
            if !cpu.raise_pf(gva, error_code, token.is_none()) {
                return finish(cpu, gva.0, Status::NoProgress);
            }
            token
        }
    };
    // The guest stays at the VMMCALL. One in the shadow of MOV SS would never let the interrupt in that it is to make way for.
    cpu.os.control.interrupt_shadow = 0;
    if let Some(token) = token {
        cpu.os.save.rax = token;
    }
}

fn finish(cpu: &mut Cpu, value: u64, status: Status) {
    cpu.progress();
    cpu.os.save.rax = value;
    cpu.regs.rdx = status as u64;
    cpu.skip(VMMCALL_LENGTH);
}
