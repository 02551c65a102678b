//! Attested calls: what is hashed, when, and what is said of it.

use super::super::*;
use super::REPORT_KEY;
use super::gaps::s_sees;
use super::machine::*;
use crate::addr::{Hpa, PAGE_SIZE};
use abi::image::{self, arg};
use abi::quote::{TAG_CALL, key};
use std::vec::Vec;
use utpm::digest;

const NONCE: [u8; 32] = [0x77; 32];
const P256: u64 = (key::P256 as u64) << 8 | 1;
const INTS: [u8; 6] = [arg::INT, arg::INT, 0, 0, 0, 0];
const BUFFERS: [u8; 6] = [arg::IN, arg::LEN, arg::IN_OUT, arg::LEN, arg::OUT, arg::LEN];
/// S's parameter section.
const PARAM: u64 = image::WINDOW_BASE + 3 * PAGE_SIZE;

/// As [`abi::quote::AttestedCall`] says.
fn fields(
    entry: u16,
    kinds: [u8; 6],
    nonce: [u8; 32],
    (input, output): (&[u8], &[u8]),
    number: u64,
    chain: &[u8],
) -> Vec<u8> {
    let parts: [&[u8]; 8] = [
        &1u32.to_be_bytes(),
        &entry.to_be_bytes(),
        &kinds,
        &nonce,
        &digest(input).sha256,
        &digest(output).sha256,
        &number.to_be_bytes(),
        chain,
    ];
    parts.iter().flat_map(|part| [&(part.len() as u16).to_be_bytes()[..], part].concat()).collect()
}

/// The digest that the last call's report is on; checks that the report is genuine and what comes with it.
fn reported(m: &mut Machine, handle: Handle) -> Vec<u8> {
    let (call, report) = m.report(handle, P256).unwrap();
    assert_eq!(call.len(), 104);
    let (_, attest) = utpm::quote::genuine(&REPORT_KEY, &report).expect("genuine");
    assert_eq!(attest[42..45], [0, 33, TAG_CALL]);
    attest[45..77].to_vec()
}

#[test]
fn integers_and_value_are_hashed_and_calls_chained() {
    let mut m = Machine::new();
    let handle = m.register_with(&[INTS]);
    assert_eq!(m.report(handle, P256), Err(Status::Unsupported), "nothing attested yet");
    let call = |m: &mut Machine, args: [u64; 6], value: u64| {
        let outcome = m.run_attested(handle, (0, args), NONCE, |vmcb, _| vmcb.save.rax = value);
        assert_eq!(outcome, Ok(value));
    };
    // What the signature does not name is not passed, so it does not count.
    call(&mut m, [3, 4, 99, 99, 99, 99], 7);
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let input = words(&[3, 4, 0, 0, 0, 0]);
    let first = digest(&fields(0, INTS, NONCE, (&input, &words(&[7])), 1, &[0; 32])).sha256;
    assert_eq!(reported(&mut m, handle), first);
    // After an ordinary call the micro-PCRs may be others: no report on the one before.
    assert_eq!(m.run(handle, 0, [5; 6], |vmcb, _| vmcb.save.rax = 1), Ok(1));
    assert_eq!(m.report(handle, P256), Err(Status::Unsupported));
    call(&mut m, [3, 4, 0, 0, 0, 0], 8);
    let chain = digest(&[&[0; 32][..], &first].concat()).sha256;
    let second = digest(&fields(0, INTS, NONCE, (&input, &words(&[8])), 3, &chain)).sha256;
    assert_eq!(reported(&mut m, handle), second);
    let (call, _) = m.report(handle, P256).unwrap();
    assert_eq!(call[..32], digest(&input).sha256);
    assert_eq!(call[32..64], digest(&words(&[8])).sha256);
    assert_eq!((&call[64..72], &call[72..]), (&3u64.to_le_bytes()[..], &chain[..]));
}

#[test]
fn buffers_are_hashed_as_s_got_and_left_them() {
    let mut m = Machine::new();
    let handle = m.register_with(&[INTS, BUFFERS]);
    let mem = m.memory.map();
    mem.copy_to(Hpa(0x19_0000), b"input");
    mem.copy_to(Hpa(0x19_1000), b"both ways");
    let args = [BUFFER, 5, BUFFER + PAGE_SIZE, 9, BUFFER + 2 * PAGE_SIZE, 3];
    let outcome = m.run_attested(handle, (1, args), NONCE, |vmcb, _| {
        let place = |at: u64| s_sees(mem, vmcb, at).unwrap().0;
        // The OS changes its copy; S and the hash have theirs.
        mem.copy_to(Hpa(0x19_0000), b"other");
        mem.copy_to(place(PARAM + 16), b"changed  ");
        mem.copy_to(place(PARAM + 32), b"out");
        vmcb.save.rax = 1;
    });
    assert_eq!(outcome, Ok(1));
    let registers: Vec<u8> = [0u64, 5, 0, 9, 0, 3].iter().flat_map(|word| word.to_le_bytes()).collect();
    let input = [&registers[..], b"input", b"both ways"].concat();
    let output = [&1u64.to_le_bytes()[..], b"changed  ", b"out"].concat();
    let expected = digest(&fields(1, BUFFERS, NONCE, (&input, &output), 1, &[0; 32])).sha256;
    assert_eq!(reported(&mut m, handle), expected);
}

/// Long buffers are hashed a slice at a time, with interrupts let in, and a page that is missing meanwhile changes nothing.
#[test]
fn long_buffers_in_slices() {
    let mut m = Machine::new();
    let handle = m.register_with(&[INTS, BUFFERS]);
    let mem = m.memory.map();
    let bytes: Vec<u8> = (0..2 * PAGE_SIZE).map(|i| (i / 7) as u8).collect();
    mem.copy_to(Hpa(0x19_0000), &bytes);
    m.acts = std::vec![Act::Interrupt, Act::Return(2)];
    let args = [BUFFER, 5000, BUFFER + 100, 6000, BUFFER + 100, 7000];
    let mut outcome = m.one(What::CallAttested(handle, 1, args));
    let mut stays = 1;
    while let Err(Stop::Again(token)) = outcome {
        stays += 1;
        outcome = m.one(What::Resume(token));
    }
    assert_eq!(outcome, Ok(2));
    // 11,000 bytes before S runs and 13,000 after, 4 KiB in a stay, and one interrupt.
    assert!(stays >= 7, "{stays} stays");
    let registers: Vec<u8> =
        [0u64, 5000, 0, 6000, 0, 7000].iter().flat_map(|word| word.to_le_bytes()).collect();
    let input = [&registers[..], &bytes[..5000], &bytes[100..6100]].concat();
    let output = [&2u64.to_le_bytes()[..], &bytes[100..6100], &[0; 7000]].concat();
    let expected = digest(&fields(1, BUFFERS, [4; 32], (&input, &output), 1, &[0; 32])).sha256;
    assert_eq!(reported(&mut m, handle), expected);
}

/// What is not there is asked for when a token is out already: the call goes on with it.
#[test]
fn a_page_that_is_missing_after_a_slice() {
    let mut m = Machine::new();
    let handle = m.register_with(&[INTS, BUFFERS]);
    m.map(BUFFER + 2 * PAGE_SIZE, 0, 0);
    let args = [BUFFER, 5000, BUFFER, 9, BUFFER + 2 * PAGE_SIZE, 3];
    let Err(Stop::Again(token)) = m.one(What::CallAttested(handle, 1, args)) else { panic!("no slice") };
    let outcome = m.one(What::Resume(token));
    let Err(Stop::Fault { token: Some(token), .. }) = outcome else { panic!("{outcome:?}") };
    m.map(BUFFER + 2 * PAGE_SIZE, 0x19_2000, 0x67);
    assert_eq!(m.all(What::Resume(token), OWNER), OK);
    assert_eq!(reported(&mut m, handle).len(), 32);
}

/// A call that never began leaves nothing behind that would attest the next one.
#[test]
fn a_call_that_did_not_begin_is_not_attested() {
    let mut m = Machine::new();
    let handle = m.register_with(&[INTS, BUFFERS]);
    m.map(BUFFER + PAGE_SIZE, 0, 0);
    let args = [BUFFER, 5, BUFFER + PAGE_SIZE, 9, BUFFER, 3];
    let outcome = m.one(What::CallAttested(handle, 1, args));
    assert!(matches!(outcome, Err(Stop::Fault { token: None, .. })), "{outcome:?}");
    m.map(BUFFER + PAGE_SIZE, 0x19_1000, 0x67);
    assert_eq!(m.all(What::Call(handle, 1, args), OWNER), OK);
    assert_eq!(m.report(handle, P256), Err(Status::Unsupported));
    assert_eq!(m.all(What::CallAttested(handle, 1, args), OWNER), OK);
    assert_eq!(reported(&mut m, handle).len(), 32);
    assert_eq!(m.report(handle, P256 & !1), Err(Status::BadArgument));
    assert_eq!(m.report(handle, 1), Err(Status::Unsupported), "no RSA key");
    // A PAL registered in the same slot has attested nothing.
    assert_eq!(m.all(What::Unregister(handle, false), OWNER), OK);
    let next = m.register_with(&[INTS, BUFFERS]);
    assert_eq!(m.report(next, P256), Err(Status::Unsupported));
    assert_eq!(m.report(handle, P256), Err(Status::NoSuchPal));
}
