//! Attested calls: TrustVisor itself hashes what S is given and what it answers, in S's own memory, and reports it when asked, so that
//! a verifier has to believe nothing of what S says about itself. Format: [`abi::quote`].
//!
//! Each piece of a buffer is hashed in S's memory, which the OS does not reach: input when it has been fetched, output when it is
//! delivered.

use super::call::{Progress, Step};
use super::{Caller, HASH_SLICE, Hardware, Outcome, Pals, SLICE};
use abi::Status;
use abi::image::{MAX_ARGS, arg};
use abi::quote::{AttestedCall, TAG_CALL};
use core::mem::take;
use sha2::{Digest, Sha256};
use utpm::quote::call_digest;

/// What is attested of a PAL's calls.
#[derive(Default)]
pub struct Attestation {
    /// The call under way, if that is attested.
    pub(super) running: Option<Running>,
    /// The last call that was attested, and its digest.
    last: Option<(AttestedCall, [u8; 32])>,
    chain: [u8; 32],
}

/// An attested call under way.
pub(super) struct Running {
    entry: u16,
    kinds: [u8; MAX_ARGS],
    nonce: [u8; 32],
    hash: Sha256,
    input: [u8; 32],
}

impl Attestation {
    /// The next bytes of a buffer.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some(running) = &mut self.running {
            running.hash.update(bytes);
        }
    }

    /// All of the input is hashed.
    pub(super) fn end_input(&mut self) {
        if let Some(running) = &mut self.running {
            running.input = take(&mut running.hash).finalize().into();
        }
    }

    /// All of the output is hashed: this was call `number` of the PAL.
    pub(super) fn end_output(&mut self, number: u64) {
        let Some(running) = self.running.take() else { return };
        let output_hash = running.hash.finalize().into();
        let call = AttestedCall { input_hash: running.input, output_hash, number, chain: self.chain };
        let digest = call_digest(running.entry, &running.kinds, &running.nonce, &call);
        self.chain = Sha256::new().chain_update(self.chain).chain_update(digest).finalize().into();
        self.last = Some((call, digest));
    }
}

impl Pals {
    /// `CALL_ATTESTED`.
    pub fn call_attested(&self, caller: &mut Caller<impl Hardware>, entry: u16) -> Outcome {
        let mut pal = self.begin(caller, entry)?;
        let kinds = self.header(&pal).entries[usize::from(entry)].args;
        let args = &caller.cpu.regs;
        let nonce = zerocopy::transmute!([args.r12, args.r13, args.r14, args.r15]);
        let mut hash = Sha256::new();
        for (value, kind) in pal.regs.arguments().into_iter().zip(kinds) {
            let address = matches!(kind, arg::IN | arg::OUT | arg::IN_OUT);
            hash.update(if address { 0 } else { value }.to_le_bytes());
        }
        pal.attestation.running = Some(Running { entry, kinds, nonce, hash, input: [0; 32] });
        // Hashing takes its time: with so much to do no token is out before a slice.
        pal.call.total *= SLICE / HASH_SLICE;
        pal.state = Progress::at(Step::Zero);
        self.continue_call(caller, &mut pal)
    }

    /// `CALL_REPORT`: the last attested call of this PAL, and a report on it.
    pub fn call_report(
        &self,
        caller: &Caller<impl Hardware>,
        what: u64,
    ) -> Result<(AttestedCall, utpm::quote::Report), Status> {
        let pal = self.open(caller)?;
        // The micro-PCRs are as they are now: S may not have run since.
        let last = pal.attestation.last.filter(|(call, _)| call.number == pal.calls);
        let (call, digest) = last.ok_or(Status::Unsupported)?;
        let report = self.report(&pal, what, (TAG_CALL, &digest), caller.hardware.now_ms())?;
        Ok((call, report))
    }
}
