//! A call's buffers on their way between the caller's memory and the parameter section, a slice at a time.
//!
//! Every piece is translated by the caller's tables as they are in the stay that moves it, and lies in one page on either side.

use super::call::{Progress, Step};
use super::{Caller, HASH_SLICE, Hardware, Outcome, Pal, Pals, SLICE, State, Stop};
use crate::addr::{Gva, PAGE_SIZE};
use crate::guest_memory::{Access, Fault, GuestMemory};
use abi::Status;
use abi::image::arg;

impl Pals {
    /// Zeroes the next part of what the last call used; true when all is done.
    #[inline(never)]
    pub(super) fn zero_params(&self, pal: &mut Pal, progress: Progress, budget: &mut u64) -> bool {
        let mut offset = progress.offset;
        while offset < pal.param_used {
            if *budget < PAGE_SIZE {
                pal.state = State::InCall(Progress { offset, ..progress });
                return false;
            }
            if let Some(place) = pal.frames.param(self.mem, offset) {
                self.mem.zero(place, PAGE_SIZE.min(pal.param_used - offset));
            }
            offset += PAGE_SIZE;
            *budget -= PAGE_SIZE;
        }
        pal.param_used = 0;
        true
    }

    /// Fetches, probes or delivers buffers, page by page, until all are done (true) or the slice is used up (false).
    #[inline(never)]
    pub(super) fn move_buffers(
        &self,
        caller: &Caller<impl Hardware>,
        pal: &mut Pal,
        mut progress: Progress,
        budget: &mut u64,
    ) -> Result<bool, Fault> {
        let caller = caller.memory(self);
        let hashes =
            pal.attestation.running.is_some() && matches!(progress.step, Step::Fetch | Step::Deliver);
        let cost = if hashes { SLICE / HASH_SLICE } else { 1 };
        while let Some(buffer) = pal.call.buffers().get(usize::from(progress.buffer)).copied() {
            let wanted = match progress.step {
                Step::Fetch => matches!(buffer.kind, arg::IN | arg::IN_OUT),
                _ => matches!(buffer.kind, arg::OUT | arg::IN_OUT),
            };
            if !wanted || progress.offset == buffer.length {
                progress = Progress { buffer: progress.buffer + 1, offset: 0, ..progress };
                continue;
            }
            // If it stops here, this is where it goes on. The faults so far were for this very spot, or the spot has moved.
            pal.state = State::InCall(progress);
            if *budget < cost {
                return Ok(false);
            }
            // One piece: up to the next page boundary on either side.
            let param = buffer.param + progress.offset;
            let gva = buffer.gva + progress.offset;
            let piece = (buffer.length - progress.offset)
                .min(PAGE_SIZE - param % PAGE_SIZE)
                .min(PAGE_SIZE - gva.page_offset() as u64)
                .min(*budget / cost);
            self.move_piece(&caller, pal, progress.step, gva, param, piece)?;
            progress.offset += piece;
            pal.faults = 0;
            *budget -= piece * cost;
        }
        Ok(true)
    }

    fn move_piece(
        &self,
        caller: &GuestMemory,
        pal: &mut Pal,
        step: Step,
        gva: Gva,
        param: u64,
        length: u64,
    ) -> Result<(), Fault> {
        let access = if step == Step::Fetch { Access::Read } else { Access::Write };
        let hpa = caller.translate(gva, access, true)?;
        // `capture` kept every buffer inside the parameter section.
        let Some(place) = pal.frames.param(self.mem, param) else {
            return Err(Fault { gva, error_code: None });
        };
        match step {
            Step::Fetch => {
                self.mem.copy(hpa, place, length);
                pal.param_used = pal.param_used.max(param + length);
            }
            Step::Deliver => self.mem.copy(place, hpa, length),
            _ => return Ok(()),
        }
        if pal.attestation.running.is_some() {
            self.mem.each_block(place, length, |part| pal.attestation.update(part));
        }
        Ok(())
    }

    /// A page is missing. Before S has run, and when starting over costs no more than a slice (so that no token of this call is
    /// out), the call is as if it had never begun: an application that never comes back leaves no open call.
    #[inline(never)]
    pub(super) fn call_fault(&self, pal: &mut Pal, fault: Fault) -> Outcome {
        let State::InCall(progress) = &pal.state else { return Err(Status::Lost.into()) };
        let ran = matches!(progress.step, Step::ProbeAgain | Step::Deliver);
        let stop = pal.fault(fault, ran || pal.call.total > SLICE);
        if !matches!(stop, Stop::Fault { token: Some(_), .. }) {
            pal.state = State::Idle;
            pal.attestation.running = None;
            pal.tokens += 1;
            pal.faults = 0;
        }
        Err(stop)
    }
}
