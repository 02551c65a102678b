//! The way into S and back: the one path that a call takes.
//!
//! A call goes through the [`Step`]s in order. Small calls pass all of them in one stay; what is long (buffers) stops after
//! a slice and goes on with the token, and so does S when an interrupt comes. S runs in [`Step::Run`] and in no other step,
//! so nothing that happens before or after can make it run twice.

use super::space::PalFrames;
use super::{Hardware, MAX_FAULTS, Outcome, Pal, Pals, Runnable, SLICE, State, fault_outcome};
use crate::addr::{Gva, Hpa, PAGE_SIZE};
use crate::asid::Incarnation;
use crate::caller::Caller;
use crate::gprs::Gprs;
use crate::guest_memory::{Access, Fault};
use crate::memory::DirectMap;
use crate::vmcb::{Vmcb, exit_code};
use abi::image::{Entry, HEADER_SIZE, MAX_ARGS, MAX_ENTRIES, SENTINEL, arg};
use abi::{Digests, Handle, Status, number};
use core::mem::{offset_of, size_of};

/// Where XSAVE keeps MXCSR, and its value after reset; a zero header says that all else is in its initial state (APM vol. 2,
/// 11.5.2).
const MXCSR_OFFSET: u64 = 24;
const MXCSR_RESET: u32 = 0x1f80;

/// What a call does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Zero what the last call left in the parameter section.
    Zero,
    /// Copy in and in-out buffers to the parameter section.
    Fetch,
    /// See that out and in-out buffers can be written, so that S does not run in vain.
    Probe,
    /// Run S.
    Run,
    /// S has returned: see once more, now for all buffers, that the results can be written.
    ProbeAgain,
    /// Copy results to the caller.
    Deliver,
}

/// How far a call has come: the step, and where in its buffers.
#[derive(Clone, Copy)]
pub struct Progress {
    step: Step,
    buffer: usize,
    offset: u64,
    faults: u8,
}

impl Progress {
    fn at(step: Step) -> State {
        State::InCall(Self { step, buffer: 0, offset: 0, faults: 0 })
    }
}

/// A buffer argument: captured once, when the call begins.
#[derive(Clone, Copy, Default)]
struct Buffer {
    kind: u8,
    gva: Gva,
    length: u64,
    /// Where it lies in the parameter section.
    param: u64,
}

/// A call's captured arguments.
#[derive(Clone, Copy)]
pub struct Call {
    pub(super) incarnation: Incarnation,
    entry: u64,
    args: [u64; MAX_ARGS],
    buffers: [Buffer; MAX_ARGS / 2],
    /// How many of them there are.
    count: usize,
    /// Bytes of all buffers, and of the last call's that are to be zeroed.
    total: u64,
    value: u64,
}

impl Call {
    pub(super) const fn none() -> Self {
        const EMPTY: Buffer = Buffer { kind: arg::NONE, gva: Gva(0), length: 0, param: 0 };
        Self {
            incarnation: 0,
            entry: 0,
            args: [0; MAX_ARGS],
            buffers: [EMPTY; MAX_ARGS / 2],
            count: 0,
            total: 0,
            value: 0,
        }
    }
}

impl Pals {
    /// `CALL`.
    pub fn call(
        &self,
        hardware: &mut impl Hardware,
        caller: &Caller,
        handle: Handle,
        entry: u16,
        args: [u64; MAX_ARGS],
    ) -> Outcome {
        let locked = self.find(caller, handle).and_then(|index| Ok((index, self.lock(index)?)));
        let (index, mut pal) = match locked {
            Ok(found) => found,
            Err(status) => return Outcome::status(status),
        };
        match pal.state {
            State::Idle => {}
            State::InCall(_) => return Outcome::status(Status::Busy),
            _ => return Outcome::status(Status::NoSuchPal),
        }
        if self.is_dying(index, &pal) {
            return self.start_wipe(index, &mut pal, Outcome::status(Status::NoSuchPal));
        }
        if let Err(status) = self.capture(&mut pal, entry, args) {
            return Outcome::status(status);
        }
        pal.suspect_since_ms = None;
        pal.state = Progress::at(Step::Zero);
        self.continue_call(hardware, caller, index, &mut pal)
    }

    /// Looks the entry up and lays its buffers out in the parameter section.
    fn capture(&self, pal: &mut Pal, entry: u16, args: [u64; MAX_ARGS]) -> Result<(), Status> {
        if usize::from(entry) >= MAX_ENTRIES {
            return Err(Status::BadArgument);
        }
        let entry = self.entry(pal, entry);
        if entry.addr == 0 {
            return Err(Status::BadArgument);
        }
        let call = &mut pal.call;
        (call.entry, call.count, call.total, call.args) = (entry.addr, 0, pal.param_used, [0; MAX_ARGS]);
        let mut used = 0u64;
        for (i, kind) in entry.args.iter().enumerate() {
            match *kind {
                arg::INT | arg::LEN => call.args[i] = args[i],
                arg::IN | arg::OUT | arg::IN_OUT => {
                    let length = args.get(i + 1).copied().ok_or(Status::BadArgument)?;
                    let end = used.checked_add(length).filter(|end| *end <= pal.frames.param_size);
                    let Some(end) = end else { return Err(Status::TooLarge) };
                    let buffer = call.buffers.get_mut(call.count).ok_or(Status::BadArgument)?;
                    *buffer = Buffer { kind: *kind, gva: Gva(args[i]), length, param: used };
                    call.args[i] = pal.frames.param_addr + used;
                    call.count += 1;
                    call.total += length;
                    used = end.next_multiple_of(16).min(pal.frames.param_size);
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn entry(&self, pal: &Pal, index: u16) -> Entry {
        const { assert!(HEADER_SIZE <= PAGE_SIZE as usize && offset_of!(Entry, args) == 8) };
        let offset = offset_of!(abi::image::Header, entries) + usize::from(index) * size_of::<Entry>();
        let place = pal.frames.header + offset as u64;
        let addr = self.mem.read_u64(place);
        let [args @ .., _, _] = self.mem.read_u64(place + 8).to_le_bytes();
        Entry { addr, args, reserved: 0 }
    }

    /// Goes through the steps until the call is finished or has to stop.
    pub(super) fn continue_call(
        &self,
        hardware: &mut impl Hardware,
        caller: &Caller,
        index: usize,
        pal: &mut Pal,
    ) -> Outcome {
        pal.last_used_ms = hardware.now_ms();
        let mut budget = SLICE;
        loop {
            let State::InCall(progress) = pal.state else { return Outcome::status(Status::Lost) };
            let step = match progress.step {
                Step::Zero => Ok(self.zero_params(pal, progress, &mut budget)),
                Step::Run => match self.run(hardware, index, pal) {
                    None => Ok(true),
                    Some(outcome) => return outcome,
                },
                _ => self.move_buffers(caller, pal, progress, &mut budget),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Outcome::Again(pal.next_token(index)),
                Err(fault) => return self.call_fault(index, pal, fault),
            }
            let has_buffers = pal.call.count > 0;
            let next = match progress.step {
                Step::Zero if has_buffers => Step::Fetch,
                Step::Fetch => Step::Probe,
                Step::Zero | Step::Probe => {
                    self.start(pal);
                    Step::Run
                }
                Step::Run if has_buffers => Step::ProbeAgain,
                Step::ProbeAgain => Step::Deliver,
                Step::Run | Step::Deliver => {
                    pal.state = State::Idle;
                    pal.tokens += 1;
                    return Outcome::Done(pal.call.value, Status::Ok);
                }
            };
            pal.state = Progress::at(next);
        }
    }

    /// Zeroes the next part of what the last call used; true when all is done.
    fn zero_params(&self, pal: &mut Pal, progress: Progress, budget: &mut u64) -> bool {
        let mut offset = progress.offset;
        while offset < pal.param_used {
            if *budget < PAGE_SIZE {
                pal.state = State::InCall(Progress { offset, ..progress });
                return false;
            }
            if let Some(frame) = pal.frames.param_frame(self.mem, offset) {
                self.mem.zero(frame, PAGE_SIZE.min(pal.param_used - offset));
            }
            offset += PAGE_SIZE;
            *budget -= PAGE_SIZE;
        }
        pal.param_used = 0;
        true
    }

    /// Fetches, probes or delivers buffers, page by page, until all are done (true) or the slice is used up (false).
    fn move_buffers(
        &self,
        caller: &Caller,
        pal: &mut Pal,
        mut progress: Progress,
        budget: &mut u64,
    ) -> Result<bool, Fault> {
        while let Some(buffer) = pal.call.buffers[..pal.call.count].get(progress.buffer).copied() {
            let wanted = match progress.step {
                Step::Fetch => matches!(buffer.kind, arg::IN | arg::IN_OUT),
                _ => matches!(buffer.kind, arg::OUT | arg::IN_OUT),
            };
            if !wanted || progress.offset == buffer.length {
                progress = Progress { buffer: progress.buffer + 1, offset: 0, ..progress };
                continue;
            }
            if *budget == 0 {
                pal.state = State::InCall(progress);
                return Ok(false);
            }
            // One piece: up to the next page boundary on either side.
            let param = buffer.param + progress.offset;
            let gva = buffer.gva + progress.offset;
            let piece = (buffer.length - progress.offset)
                .min(PAGE_SIZE - param % PAGE_SIZE)
                .min(PAGE_SIZE - gva.page_offset() as u64)
                .min(*budget);
            let done = self.move_piece(caller, pal, progress.step, gva, param, piece);
            if done.is_err() {
                // The faults so far were for this very spot, or the spot has moved.
                pal.state = State::InCall(progress);
            }
            done?;
            progress.offset += piece;
            progress.faults = 0;
            *budget -= piece;
        }
        Ok(true)
    }

    fn move_piece(
        &self,
        caller: &Caller,
        pal: &mut Pal,
        step: Step,
        gva: Gva,
        param: u64,
        length: u64,
    ) -> Result<(), Fault> {
        let access = if step == Step::Fetch { Access::Read } else { Access::Write };
        let hpa = caller.memory.translate(gva, access, true)?;
        // `capture` kept every buffer inside the parameter section.
        let Some(frame) = pal.frames.param_frame(self.mem, param) else {
            return Err(Fault::BadAddress { gva });
        };
        let frame = frame + param % PAGE_SIZE;
        match step {
            Step::Fetch => {
                self.mem.copy(hpa, frame, length);
                pal.param_used = pal.param_used.max(param + length);
            }
            Step::Deliver => self.mem.copy(frame, hpa, length),
            _ => {}
        }
        Ok(())
    }

    /// A page is missing. Before S has run, and when starting over costs no more than a slice, the call is as if it
    /// had never begun: an application that never comes back leaves no open call.
    fn call_fault(&self, index: usize, pal: &mut Pal, fault: Fault) -> Outcome {
        let State::InCall(progress) = &mut pal.state else { return Outcome::status(Status::Lost) };
        progress.faults += 1;
        let ran = matches!(progress.step, Step::ProbeAgain | Step::Deliver);
        let stuck = progress.faults > MAX_FAULTS;
        let keep = matches!(fault, Fault::Page { .. }) && !stuck && (ran || pal.call.total > SLICE);
        if keep {
            return fault_outcome(fault, Some(pal.next_token(index)));
        }
        pal.state = State::Idle;
        pal.tokens += 1;
        match fault {
            Fault::Page { gva, .. } if stuck => Outcome::Done(gva.0, Status::NoProgress),
            _ => fault_outcome(fault, None),
        }
    }

    /// Puts S at its entry.
    fn start(&self, pal: &mut Pal) {
        let rsp = entry_rsp(pal);
        self.mem.write_u64(pal.frames.stack_frame + rsp % PAGE_SIZE, SENTINEL);
        // What S may write counts as used, whether it does or not.
        let used = pal.call.buffers[..pal.call.count].last().map_or(0, |b| b.param + b.length);
        pal.param_used = pal.param_used.max(used);
        let [rdi, rsi, rdx, rcx, r8, r9] = pal.call.args;
        pal.regs = Gprs { rdi, rsi, rdx, rcx, r8, r9, ..Gprs::zeroed() };
        vmcb(self.mem, &mut pal.frames).start_call(pal.call.entry, rsp);
        if pal.frames.fpu != Hpa(0) {
            self.mem.zero(pal.frames.fpu, PAGE_SIZE);
            self.mem.write_u32(pal.frames.fpu + MXCSR_OFFSET, MXCSR_RESET);
        }
        pal.calls += 1;
    }

    /// Runs S until it returns (None), is interrupted, or has to be wiped.
    fn run(&self, hardware: &mut impl Hardware, index: usize, pal: &mut Pal) -> Option<Outcome> {
        loop {
            let fpu = Some(pal.frames.fpu).filter(|area| *area != Hpa(0));
            let runnable = Runnable { vmcb: pal.frames.vmcb, incarnation: pal.call.incarnation, fpu };
            hardware.run_pal(runnable, &mut pal.regs);
            if self.is_dying(index, pal) {
                return Some(self.start_wipe(index, pal, Outcome::status(Status::Lost)));
            }
            let rsp = entry_rsp(pal);
            let vmcb = vmcb(self.mem, &mut pal.frames);
            match vmcb.exit_code() {
                exit_code::INTR | exit_code::NMI | exit_code::INIT => {
                    return Some(Outcome::Again(pal.next_token(index)));
                }
                exit_code::VMMCALL => self.serve(pal),
                _ if vmcb.is_return(rsp) => {
                    pal.call.value = vmcb.save.rax;
                    pal.regs = Gprs::zeroed();
                    return None;
                }
                code => {
                    if code == exit_code::MACHINE_CHECK {
                        hardware.raise_machine_check();
                    }
                    let cause = match code {
                        exit_code::EXCEPTION_0..=exit_code::EXCEPTION_31 => {
                            u64::from(code - exit_code::EXCEPTION_0)
                        }
                        _ => 0x100 + u64::from(code),
                    };
                    return Some(self.start_wipe(index, pal, Outcome::Done(cause, Status::Faulted)));
                }
            }
        }
    }

    /// A hypercall of S: its micro-TPM.
    fn serve(&self, pal: &mut Pal) {
        let rax = vmcb(self.mem, &mut pal.frames).save.rax;
        let index = pal.regs.rdi;
        let pointer = pal.regs.rsi;
        let status = match u16::try_from(rax) {
            Ok(number::PCR_READ) => match pal.pcrs.as_ref().and_then(|pcrs| pcrs.read(index).ok()) {
                Some(digests) => self.write_digests(pal, pointer, digests),
                None => Status::BadArgument,
            },
            Ok(number::PCR_EXTEND) => match self.read_digests(pal, pointer) {
                Some(digests) => match pal.pcrs.as_mut().and_then(|pcrs| pcrs.extend(index, &digests).ok()) {
                    Some(()) => Status::Ok,
                    None => Status::BadArgument,
                },
                None => Status::BadAddress,
            },
            _ => Status::UnknownCall,
        };
        let vmcb = vmcb(self.mem, &mut pal.frames);
        vmcb.save.rax = 0;
        vmcb.skip(3, false);
        pal.regs.rdx = status as u64;
    }

    fn read_digests(&self, pal: &Pal, pointer: u64) -> Option<Digests> {
        let mut bytes = [0; size_of::<Digests>()];
        let header = self.header(pal);
        for (i, byte) in bytes.iter_mut().enumerate() {
            let addr = pointer.checked_add(i as u64)?;
            let (frame, _) = pal.frames.resolve(self.mem, &header, addr)?;
            self.mem.copy_from(frame + addr % PAGE_SIZE, core::slice::from_mut(byte));
        }
        let mut digests = Digests { sha1: [0; 20], sha256: [0; 32] };
        digests.sha1.copy_from_slice(&bytes[..20]);
        digests.sha256.copy_from_slice(&bytes[20..]);
        Some(digests)
    }

    fn write_digests(&self, pal: &Pal, pointer: u64, digests: &Digests) -> Status {
        let header = self.header(pal);
        for (i, byte) in digests.sha1.iter().chain(&digests.sha256).enumerate() {
            let addr = pointer.wrapping_add(i as u64);
            let Some((frame, true)) = pal.frames.resolve(self.mem, &header, addr) else {
                return Status::BadAddress;
            };
            self.mem.copy_to(frame + addr % PAGE_SIZE, core::slice::from_ref(byte));
        }
        Status::Ok
    }
}

/// The PAL's VMCB.
pub(super) fn vmcb(mem: DirectMap, frames: &mut PalFrames) -> &mut Vmcb {
    // SAFETY: page aligned pool memory that this PAL owns until it is wiped. Whoever has its `frames` exclusively holds the
    // slot's lock, and the reference borrows them, so there is one at a time.
    unsafe { &mut *mem.pointer(frames.vmcb, PAGE_SIZE).cast::<Vmcb>() }
}

/// RSP at the entry: the return address is on the stack, which is aligned as the System V ABI wants it.
fn entry_rsp(pal: &Pal) -> u64 {
    pal.frames.stack_top - 8
}
