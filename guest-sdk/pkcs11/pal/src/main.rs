//! The S of `libtrustvisor_pkcs11.so`: the token (`guest-sdk/pkcs11/token`) above the micro-TPM.

#![no_std]
#![no_main]

extern crate alloc;

mod micro_tpm;

use alloc::vec::Vec;
use micro_tpm::MicroTpm;
use token::Engine;
use token::ck::rv;
use token::protocol::{Error, Request, Response};
use trustvisor_pal::{Out, State};
use zeroize::Zeroizing;

static ENGINE: State<Engine<MicroTpm>> = State::new(Engine::new(MicroTpm));
static ANSWER: State<Vec<u8>> = State::new(Vec::new());

/// Answers a request; how long the answer is, of which the buffer has what fits. Both are encoded by postcard.
fn request(input: &[u8], out: Out<'_>) -> u64 {
    let response: Response = match postcard::from_bytes::<Request>(input) {
        Ok(request) => ENGINE.with(|engine| engine.request(request)),
        Err(_) => Err(Error::Rv(rv::ARGUMENTS_BAD)),
    };
    let answer = postcard::to_allocvec(&response).unwrap_or_default();
    // The last one may have been a key that somebody read.
    drop(Zeroizing::new(ANSWER.replace(answer)));
    more(0, out)
}

/// The rest of the last answer, from an offset on; how long it is as a whole.
fn more(offset: u64, mut out: Out<'_>) -> u64 {
    ANSWER.with(|answer| {
        let rest = usize::try_from(offset).ok().and_then(|offset| answer.get(offset..)).unwrap_or_default();
        let length = rest.len().min(out.len());
        out[..length].copy_from_slice(&rest[..length]);
        answer.len() as u64
    })
}

trustvisor_pal::entries! {
    fn request(input: &[u8], out: Out<'_>) -> u64;
    fn more(offset: u64, out: Out<'_>) -> u64;
}
