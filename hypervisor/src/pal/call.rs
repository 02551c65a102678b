//! The way into S and back: the one path that every call takes.
//!
//! A call goes through the [`Step`]s in order. A call without buffers has two of them, [`Step::Run`] and the end; what is long
//! (buffers, see [`super::buffers`]) stops after a slice and goes on with the token, and so does S when an interrupt comes. S runs in
//! [`Step::Run`] and in no other step, so nothing that happens before or after can make it run twice.
//!
//! Nothing is allocated here, and no lock is taken but the slot's own, which nobody waits for.

use super::space::PalFrames;
use super::{Caller, Hardware, Outcome, Pal, Pals, SLICE, State, Stop};
use crate::addr::{Gva, Hpa, PAGE_SIZE};
use crate::asid::Incarnation;
use crate::gprs::Gprs;
use crate::memory::DirectMap;
use crate::vmcb::{Vmcb, exit_code};
use abi::Status;
use abi::image::{Entry, HEADER_SIZE, MAX_ARGS, MAX_ENTRIES, SENTINEL, arg};
use core::mem::{offset_of, size_of};
use spin::MutexGuard;

/// What a call does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
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
    pub(super) step: Step,
    pub(super) buffer: u8,
    pub(super) offset: u64,
}

impl Progress {
    pub(super) fn at(step: Step) -> State {
        State::InCall(Self { step, buffer: 0, offset: 0 })
    }
}

/// A buffer argument: captured once, when the call begins.
#[derive(Clone, Copy, Default)]
pub(super) struct Buffer {
    pub kind: u8,
    pub gva: Gva,
    pub length: u64,
    /// Where it lies in the parameter section.
    pub param: u64,
}

/// A call's captured arguments.
#[derive(Clone, Copy, Default)]
pub struct Call {
    pub(super) incarnation: Incarnation,
    entry: u64,
    buffers: [Buffer; MAX_ARGS / 2],
    /// How many of them there are.
    count: usize,
    /// Bytes that are gone through before S runs: the last call's to be zeroed, and all buffers.
    pub(super) total: u64,
    value: u64,
}

impl Call {
    pub(super) fn buffers(&self) -> &[Buffer] {
        self.buffers.get(..self.count).unwrap_or(&[])
    }
}

impl Pals {
    /// `CALL`.
    #[inline(always)]
    pub fn call(&self, caller: &mut Caller<impl Hardware>, entry: u16) -> Outcome {
        let mut pal = self.begin(caller, entry)?;
        // 4. Without buffers, S runs. With buffers, one step after another.
        if pal.call.count != 0 || pal.param_used != 0 {
            pal.state = Progress::at(Step::Zero);
            return self.continue_call(caller, &mut pal);
        }
        self.start(&mut pal);
        self.run(caller, &mut pal)?;
        finish(&mut pal)
    }

    /// What every call begins with.
    #[inline(always)]
    pub(super) fn begin(
        &self,
        caller: &mut Caller<impl Hardware>,
        entry: u16,
    ) -> Result<MutexGuard<'_, Pal>, Stop> {
        // 1. The caller's own PAL, which nobody else has now.
        let mut pal = self.open(caller)?;
        // 2. Nobody wants it gone, and it is not in a call.
        if self.is_dying(&pal) {
            return Err(self.wipe_for(caller, &mut pal, Status::NoSuchPal.into()));
        }
        match pal.state {
            State::Idle => {}
            State::InCall(_) => return Err(Status::Busy.into()),
            _ => return Err(Status::NoSuchPal.into()),
        }
        // 3. The arguments, once.
        self.capture(&mut pal, entry, &caller.cpu.regs)?;
        pal.suspect_since_ms = None;
        pal.last_used_ms = caller.hardware.now_ms();
        Ok(pal)
    }

    /// Looks the entry up, puts its arguments into S's registers, and lays its buffers out in the parameter section.
    #[inline(always)]
    fn capture(&self, pal: &mut Pal, entry: u16, args: &Gprs) -> Result<(), Status> {
        if usize::from(entry) >= MAX_ENTRIES {
            return Err(Status::BadArgument);
        }
        const { assert!(HEADER_SIZE <= PAGE_SIZE as usize && offset_of!(Entry, args) == 8) };
        let offset = offset_of!(abi::image::Header, entries) + usize::from(entry) * size_of::<Entry>();
        let place = pal.frames.header + offset as u64;
        let (addr, kinds) = (self.mem.read_u64(place), self.mem.read_u64(place + 8));
        if addr == 0 {
            return Err(Status::BadArgument);
        }
        let call = &mut pal.call;
        (call.entry, call.count, call.total) = (addr, 0, pal.param_used.next_multiple_of(PAGE_SIZE));
        pal.regs = Gprs::default();
        let [first, ..] = kinds.to_le_bytes();
        if first == arg::NONE {
            return Ok(());
        }
        lay_out(pal, kinds, args.arguments())
    }

    /// Goes through the steps until the call is finished or has to stop.
    #[inline(never)]
    pub(super) fn continue_call(&self, caller: &mut Caller<impl Hardware>, pal: &mut Pal) -> Outcome {
        if self.is_dying(pal) {
            return Err(self.wipe_for(caller, pal, Status::Lost.into()));
        }
        pal.last_used_ms = caller.hardware.now_ms();
        let mut budget = SLICE;
        loop {
            let State::InCall(progress) = pal.state else { return Err(Status::Lost.into()) };
            let step = match progress.step {
                Step::Run => {
                    self.run(caller, pal)?;
                    pal.attestation.update(&pal.call.value.to_le_bytes());
                    Ok(true)
                }
                Step::Zero => Ok(self.zero_params(pal, progress, &mut budget)),
                _ => self.move_buffers(caller, pal, progress, &mut budget),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Err(Stop::Again(pal.next_token())),
                Err(fault) => return self.call_fault(pal, fault),
            }
            let has_buffers = pal.call.count > 0;
            let next = match progress.step {
                Step::Zero if has_buffers => Step::Fetch,
                Step::Fetch => Step::Probe,
                Step::Zero | Step::Probe => {
                    pal.attestation.end_input();
                    self.start(pal);
                    continue;
                }
                Step::Run if has_buffers => Step::ProbeAgain,
                Step::ProbeAgain => Step::Deliver,
                Step::Run | Step::Deliver => {
                    pal.attestation.end_output(pal.calls);
                    return finish(pal);
                }
            };
            pal.state = Progress::at(next);
        }
    }

    /// Puts S at its entry.
    #[inline(always)]
    fn start(&self, pal: &mut Pal) {
        self.mem.write_u64(pal.frames.stack_top, SENTINEL);
        // What S may write counts as used, whether it does or not.
        if let Some(last) = pal.call.buffers().last() {
            pal.param_used = pal.param_used.max(last.param + last.length);
        }
        let (entry, rsp) = (pal.call.entry, pal.frames.rsp);
        vmcb(self.mem, &mut pal.frames).start_call(entry, rsp);
        if pal.frames.fpu != Hpa(0) {
            make_initial(self.mem, pal.frames.fpu);
        }
        pal.calls += 1;
        pal.state = Progress::at(Step::Run);
    }

    /// Runs S until it returns; else what the caller is told: S was interrupted, or is gone.
    #[inline(always)]
    fn run(&self, caller: &mut Caller<impl Hardware>, pal: &mut Pal) -> Result<(), Stop> {
        caller.hardware.run_pal(&pal.frames, pal.call.incarnation, &mut pal.regs);
        if self.has_returned(pal) && !self.is_dying(pal) {
            return Ok(());
        }
        self.after_another_exit(caller, pal)
    }

    /// S has left otherwise than by returning. After a hypercall it goes on.
    #[inline(never)]
    fn after_another_exit(&self, caller: &mut Caller<impl Hardware>, pal: &mut Pal) -> Result<(), Stop> {
        loop {
            let code = vmcb(self.mem, &mut pal.frames).exit_code();
            if code == exit_code::MACHINE_CHECK {
                caller.cpu.machine_check.set(true);
            }
            if self.is_dying(pal) {
                return Err(self.wipe_for(caller, pal, Status::Lost.into()));
            }
            match code {
                exit_code::INTR | exit_code::NMI | exit_code::INIT => {
                    return Err(Stop::Again(pal.next_token()));
                }
                exit_code::VMMCALL if self.serve(pal, caller.hardware) => {}
                exit_code::VMMCALL => return Err(Stop::Again(pal.next_token())),
                _ if self.has_returned(pal) => return Ok(()),
                _ => {
                    let faulted = Stop::Failed(cause(code), Status::Faulted);
                    return Err(self.wipe_for(caller, pal, faulted));
                }
            }
            caller.hardware.run_pal(&pal.frames, pal.call.incarnation, &mut pal.regs);
        }
    }

    /// Whether the last exit is S's return; takes its value.
    #[inline(always)]
    fn has_returned(&self, pal: &mut Pal) -> bool {
        let rsp = pal.frames.rsp;
        let vmcb = vmcb(self.mem, &mut pal.frames);
        let returned = vmcb.is_return(rsp);
        if returned {
            pal.call.value = vmcb.save.rax;
        }
        returned
    }
}

/// Captures the arguments: buffers get their places in the parameter section, S's registers what S is passed.
#[inline(never)]
fn lay_out(pal: &mut Pal, kinds: u64, args: [u64; MAX_ARGS]) -> Result<(), Status> {
    let call = &mut pal.call;
    let mut passed = [0; MAX_ARGS];
    let mut used = 0u64;
    for (i, kind) in kinds.to_le_bytes().iter().take(MAX_ARGS).enumerate() {
        match *kind {
            arg::INT | arg::LEN => passed[i] = args[i],
            arg::IN | arg::OUT | arg::IN_OUT => {
                let length = args.get(i + 1).copied().ok_or(Status::BadArgument)?;
                let end = used.checked_add(length).filter(|end| *end <= pal.frames.param_size);
                let Some(end) = end else { return Err(Status::TooLarge) };
                let buffer = call.buffers.get_mut(call.count).ok_or(Status::BadArgument)?;
                *buffer = Buffer { kind: *kind, gva: Gva(args[i]), length, param: used };
                passed[i] = pal.frames.param_addr + used;
                call.count += 1;
                // An in-out buffer is gone through twice.
                call.total += if *kind == arg::IN_OUT { 2 * length } else { length };
                used = end.next_multiple_of(16).min(pal.frames.param_size);
            }
            _ => break,
        }
    }
    pal.regs = Gprs::with_arguments(passed);
    Ok(())
}

/// What `Faulted` says of the exit that S died of: the exception's vector, or the exit code above 100h.
fn cause(code: u32) -> u64 {
    match code {
        exit_code::EXCEPTION_0..=exit_code::EXCEPTION_31 => u64::from(code - exit_code::EXCEPTION_0),
        _ => 0x100 + u64::from(code),
    }
}

/// The call is over, results and all.
fn finish(pal: &mut Pal) -> Outcome {
    pal.state = State::Idle;
    pal.tokens += 1;
    Ok(pal.call.value)
}

/// The PAL's VMCB.
pub(super) fn vmcb(mem: DirectMap, frames: &mut PalFrames) -> &mut Vmcb {
    // SAFETY: page aligned pool memory that this PAL owns until it is wiped. Whoever has its `frames` exclusively holds the
    // slot's lock, and the reference borrows them, so there is one at a time.
    unsafe { &mut *mem.pointer(frames.vmcb, PAGE_SIZE).cast::<Vmcb>() }
}

/// Makes the XSAVE area of a PAL with an FPU (APM vol. 2, 11.5.2) say that every component is in its initial state: by a zero header.
/// MXCSR is loaded even so.
fn make_initial(mem: DirectMap, area: Hpa) {
    const MXCSR: u64 = 24;
    const MXCSR_RESET: u32 = 0x1f80;
    const HEADER: u64 = 512;
    const HEADER_SIZE: u64 = 64;
    mem.zero(area + HEADER, HEADER_SIZE);
    mem.write_u32(area + MXCSR, MXCSR_RESET);
}
