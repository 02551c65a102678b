//! VMMCALL of the guest: who may call, which call it is, and how its outcome reaches the guest's registers.

use crate::addr::Gva;
use crate::cpu::Cpu;
use crate::guest_memory::GuestMemory;
use crate::hypervisor::Hypervisor;
use crate::pal::{Hardware, Outcome, fault_outcome};
use crate::vmcb::{ATTR_LONG, EFER_LMA, RFLAGS_IF, exit_code};
use abi::quote::{AttestedCall, MAX_REPORT};
use abi::{Handle, Status, TOKEN_BIT, number};
use core::sync::atomic::Ordering;

/// Bytes of a VMMCALL.
pub const VMMCALL_LENGTH: u64 = 3;
/// Where RAX has the entry of a `CALL`.
const ENTRY: u64 = 0xffff << 16;

/// Answers a VMMCALL. `pkru` is the guest's.
pub fn vmmcall(hv: &Hypervisor, cpu: &mut Cpu, hardware: &mut impl Hardware, pkru: u32) {
    let outcome = match may_call(cpu).then(|| cpu.caller(hv.pals.mem, &hv.pals.ram, pkru)).flatten() {
        Some(caller) => dispatch(hv, cpu, hardware, &caller),
        None => Outcome::status(Status::BadCaller),
    };
    apply(hv, cpu, outcome);
}

/// CPL 3, 64-bit code, interrupts enabled.
fn may_call(cpu: &Cpu) -> bool {
    let save = &cpu.os.save;
    save.cpl == 3
        && save.efer & EFER_LMA != 0
        && save.cs.attributes & ATTR_LONG != 0
        && save.rflags & RFLAGS_IF != 0
}

fn dispatch(hv: &Hypervisor, cpu: &Cpu, hardware: &mut impl Hardware, caller: &GuestMemory) -> Outcome {
    let rax = cpu.os.save.rax;
    let regs = &cpu.regs;
    let handle = Handle { low: regs.r10, high: regs.r11 };
    if rax & TOKEN_BIT != 0 {
        return hv.pals.resume(hardware, caller, handle, rax);
    }
    // The call that is to be fast comes first.
    if rax & !ENTRY == u64::from(number::CALL) {
        return hv.pals.call(hardware, caller, handle, (rax >> 16) as u16, regs);
    }
    dispatch_others(hv, cpu, hardware, caller, handle)
}

/// Out of the way of the fast call, whose code is the better for it.
#[inline(never)]
fn dispatch_others(
    hv: &Hypervisor,
    cpu: &Cpu,
    hardware: &mut impl Hardware,
    caller: &GuestMemory,
    handle: Handle,
) -> Outcome {
    let regs = &cpu.regs;
    let rax = cpu.os.save.rax;
    if rax & !ENTRY == u64::from(number::CALL_ATTESTED) {
        return hv.pals.call_attested(hardware, caller, handle, (rax >> 16) as u16, regs);
    }
    let Ok(call) = u16::try_from(rax) else { return Outcome::status(Status::UnknownCall) };
    match call {
        number::INFO => give(caller, &info_bytes(&hv.info(cpu)), Gva(regs.rdi), regs.rsi),
        number::REGISTER => {
            hv.pals.register(hardware, caller, Some((Gva(regs.rdi), regs.rsi)), Gva(regs.rdx))
        }
        number::REGISTER_QUOTING => hv.pals.register(hardware, caller, None, Gva(regs.rdx)),
        number::UNREGISTER => hv.pals.unregister(hardware, caller, handle, false),
        number::ABORT => hv.pals.unregister(hardware, caller, handle, true),
        number::COLLECT => hv.pals.collect(hardware),
        number::ROOT_SAVE => give_blob(caller, hv.root_blob.bytes(), Gva(regs.rdi), regs.rsi),
        number::CALL_REPORT => match hv.pals.call_report(hardware, caller, handle, regs.rdi) {
            Ok((call, report)) => {
                let mut bytes = [0; AttestedCall::SIZE + MAX_REPORT];
                let end = AttestedCall::SIZE + report.bytes().len();
                bytes[..AttestedCall::SIZE].copy_from_slice(&call);
                bytes[AttestedCall::SIZE..end].copy_from_slice(report.bytes());
                give_blob(caller, &bytes[..end], Gva(regs.rsi), regs.rdx)
            }
            Err(status) => Outcome::status(status),
        },
        number::KEY_BLOB => give_blob(caller, hv.key_blob.bytes(), Gva(regs.rdi), regs.rsi),
        number::PAL_INFO => match hv.pals.pal_info(caller, handle) {
            Ok(info) => give(caller, &pal_info_bytes(&info), Gva(regs.rdi), regs.rsi),
            Err(status) => Outcome::status(status),
        },
        _ => Outcome::status(Status::UnknownCall),
    }
}

/// Writes a blob, if there is one, whole.
fn give_blob(caller: &GuestMemory, blob: &[u8], buffer: Gva, room: u64) -> Outcome {
    match blob {
        [] => Outcome::status(Status::Unsupported),
        blob if room < blob.len() as u64 => Outcome::status(Status::TooLarge),
        blob => give(caller, blob, buffer, room),
    }
}

/// Writes as much of a structure as the caller has room for.
fn give(caller: &GuestMemory, bytes: &[u8], buffer: Gva, room: u64) -> Outcome {
    let bytes = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
    let written =
        caller.check_writable(buffer, bytes.len() as u64).and_then(|()| caller.write(buffer, bytes));
    match written {
        Ok(()) => Outcome::Done(bytes.len() as u64, Status::Ok),
        Err(fault) => fault_outcome(fault, None),
    }
}

fn info_bytes(info: &abi::Info) -> [u8; size_of::<abi::Info>()] {
    // SAFETY: `Info` consists of integers and arrays of them without padding (abi asserts its size).
    unsafe { core::mem::transmute_copy(info) }
}

fn pal_info_bytes(info: &abi::PalInfo) -> [u8; size_of::<abi::PalInfo>()] {
    // SAFETY: as above.
    unsafe { core::mem::transmute_copy(info) }
}

#[inline(always)]
fn apply(hv: &Hypervisor, cpu: &mut Cpu, outcome: Outcome) {
    let token = match outcome {
        Outcome::Done(value, status) => return finish(cpu, value, status),
        Outcome::Again(token) => {
            cpu.progress();
            if hv.pals.committing.load(Ordering::Relaxed) {
                cpu.os.control.watch(Some(exit_code::INTR));
            }
            Some(token)
        }
        Outcome::Restart => {
            cpu.progress();
            None
        }
        Outcome::Fault { gva, error_code, token } => {
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
