//! Reports, as S asks for them, and the quoting PAL.

use super::super::*;
use super::REPORT_KEY;
use super::machine::*;
use super::sealing::{AT, CODE, Memory, ask};
use crate::addr::PAGE_SIZE;
use abi::MAX_RANDOM;
use abi::number::{PCR_READ, QUOTE, QUOTING_KEYS, RANDOM};
use abi::quote::{MAX_NONCE, MAX_REPORT, TAG_QUOTE, key};
use std::vec::Vec;

const NONCE: u64 = AT + PAGE_SIZE - 3;
const REPORT: u64 = AT + 4 * PAGE_SIZE - 50;
const ROOM: u64 = MAX_REPORT as u64;
const P256: u64 = (key::P256 as u64) << 8;

fn nothing(_: &Memory<'_>) {}

/// A TPMS_ATTEST for a nonce of so many bytes.
fn length(nonce: u64) -> u64 {
    33 + 6 + 36 + 3 + nonce + 17 + 8 + 10 + 34
}

#[test]
fn a_report_says_who_asks_and_what_it_wants_to_say() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let nonce: Vec<u8> = (0..MAX_NONCE as u8).collect();
    let put = |memory: &Memory<'_>| memory.put(NONCE, &nonce);
    let identity = m.info(handle).measurement.sha256;
    let genuine = |memory: &Memory<'_>| {
        let report = memory.get(REPORT, length(64) as usize);
        let (kind, attest) = utpm::quote::genuine(&REPORT_KEY, &report).expect("not genuine");
        assert_eq!(kind, key::P256);
        assert_eq!(attest[..6], *b"\xffTCG\x80\x18");
        assert_eq!(attest[42..45], [0, 65, TAG_QUOTE]);
        assert_eq!(attest[45..109], nonce);
        assert_eq!(attest[117..121], [0, 0, 0, 3], "launches so far");
        let digest = utpm::digest(&identity).sha256;
        assert_eq!(attest[attest.len() - 32..], digest);
    };
    let all = P256 | 0xff;
    ask(
        &mut m,
        handle,
        &[
            (QUOTE, [P256 | 1, NONCE, 64, REPORT, ROOM], &put, (Status::Ok, length(64)), &genuine),
            (QUOTE, [all, NONCE, 0, REPORT, length(0)], &nothing, (Status::Ok, length(0)), &nothing),
        ],
    );
}

#[test]
fn what_cannot_be_quoted_gets_a_status() {
    let mut m = Machine::new();
    let handle = m.register(OWNER);
    let untouched = |memory: &Memory<'_>| assert_eq!(memory.get(REPORT, MAX_REPORT), [0; MAX_REPORT]);
    let refused = |status| (status, 0);
    let (argument, address) = (refused(Status::BadArgument), refused(Status::BadAddress));
    let unsupported = refused(Status::Unsupported);
    let one = P256 | 1;
    let asks: &[([u64; 5], (Status, u64))] = &[
        ([one, NONCE, MAX_NONCE as u64 + 1, REPORT, ROOM], argument),
        ([one, NONCE, u64::MAX, REPORT, ROOM], argument),
        ([P256 | 0xfe, NONCE, 8, REPORT, ROOM], argument),
        ([1 << 16 | one, NONCE, 8, REPORT, ROOM], argument),
        ([1 << 63 | one, NONCE, 8, REPORT, ROOM], argument),
        ([1, NONCE, 8, REPORT, ROOM], unsupported),
        ([u64::from(key::RSA_SHA1) << 8 | 1, NONCE, 8, REPORT, ROOM], unsupported),
        ([3 << 8 | 1, NONCE, 8, REPORT, ROOM], unsupported),
        ([one, u64::MAX - 3, 8, REPORT, ROOM], address),
        ([one, NONCE, 8, REPORT, length(8) - 1], refused(Status::TooLarge)),
        ([one, NONCE, 8, CODE, ROOM], address),
    ];
    for (arguments, answer) in asks {
        ask(&mut m, handle, &[(QUOTE, *arguments, &nothing, *answer, &untouched)]);
    }
}

/// Only what runs from the runtime's own copy of the image gets the keys, not the same image out of an application's memory.
#[test]
fn the_keys_are_the_quoting_pal_s() {
    let mut m = Machine::new();
    let same_image = m.register(OWNER);
    let none = |memory: &Memory<'_>| assert_eq!(memory.get(REPORT, 64), [0; 64]);
    let refused = (Status::Unsupported, 0);
    ask(&mut m, same_image, &[(QUOTING_KEYS, [REPORT, 0, 0, 0, 0], &nothing, refused, &none)]);

    let quoting = m.register_quoting(OWNER + PAGE_SIZE);
    let info = |m: &Machine, handle| m.info(handle);
    assert_eq!(info(&m, same_image).measurement, info(&m, quoting).measurement);
    let keys = |memory: &Memory<'_>| {
        let keys = memory.get(REPORT, 64);
        assert_eq!(keys[..32], REPORT_KEY);
        assert_ne!(keys[32..], [0; 32]);
    };
    ask(
        &mut m,
        quoting,
        &[
            (QUOTING_KEYS, [CODE, 0, 0, 0, 0], &nothing, (Status::BadAddress, 0), &nothing),
            (QUOTING_KEYS, [REPORT, 0, 0, 0, 0], &nothing, (Status::Ok, 0), &keys),
            (PCR_READ, [0, REPORT, 0, 0, 0], &nothing, (Status::Ok, 0), &nothing),
            (RANDOM, [REPORT, MAX_RANDOM as u64 + 1, 0, 0, 0], &nothing, (Status::BadArgument, 0), &nothing),
        ],
    );
    // A slot that held the quoting PAL gives the next one nothing.
    assert_eq!(m.all(What::Unregister(quoting, false), OWNER), Ok(0));
    let next = m.register(OWNER + PAGE_SIZE);
    ask(&mut m, next, &[(QUOTING_KEYS, [REPORT, 0, 0, 0, 0], &nothing, refused, &none)]);
}
