use super::*;
use crate::encoded::{Answer, MALFORMED, encode};
use crate::{Out, encoded};
use abi::image::arg;
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Request<'a> {
    user: &'a str,
    tries: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Refusal {
    Unknown,
    TooOften(u32),
}

fn scale(data: &mut [u8], by: u8) -> u64 {
    data.iter_mut().for_each(|b| *b *= by);
    data.len() as u64
}

fn fill(mut out: Out<'_>, with: u8) {
    out.fill(with);
}

fn check(request: &Request<'_>, most: u32) -> Result<bool, Refusal> {
    match (request.user, request.tries) {
        ("root", tries) if tries > most => Err(Refusal::TooOften(tries)),
        ("root", _) => Ok(true),
        _ => Err(Refusal::Unknown),
    }
}

fn twice(text: &str) -> Vec<u8> {
    text.repeat(2).into_bytes()
}

fn fill_with(pattern: [u8; 2], mut out: Out<'_>) -> usize {
    out.iter_mut().zip(pattern.into_iter().cycle()).for_each(|(to, from)| *to = from);
    out.len()
}

fn flag(on: bool) -> bool {
    !on
}

fn pair() -> (u8, u8) {
    (1, 2)
}

entries! {
    fn scale(data: &mut [u8], by: u8) -> u64;
    fn fill(out: crate::Out<'_>, with: u8,);
    /// With a comment.
    fn check(request: &Request<'_>, most: u32) -> Result<bool, Refusal> where size <= 8;
    fn twice(text: &str) -> Vec<u8>;
    fn fill_with(pattern: [u8; 2], out: Out<'_>) -> usize;
    fn flag(on: bool) -> bool;
    fn pair() -> (u8, u8);
}

// SAFETY: the table that the macro above puts there under this name.
unsafe extern "C" {
    #[link_name = "TRUSTVISOR_ENTRIES"]
    static TABLE: [Record; 7];
}

fn table() -> &'static [Record; 7] {
    // SAFETY: defined by `entries!` above, with this type.
    unsafe { &TABLE }
}

#[test]
fn the_table_holds_the_functions_in_order() {
    let table = table();
    assert_eq!(&table[0].name[..6], b"scale\0");
    assert_eq!(table[0].args, [arg::IN_OUT, arg::LEN, arg::INT, 0, 0, 0]);
    assert_eq!(table[1].args, [arg::OUT, arg::LEN, arg::INT, 0, 0, 0]);
    for encoded in [2, 3, 6] {
        assert_eq!(table[encoded].args, [arg::IN, arg::LEN, arg::OUT, arg::LEN, 0, 0]);
    }
    assert_eq!(table[4].args, [arg::IN, arg::LEN, arg::OUT, arg::LEN, arg::OUT, arg::LEN]);
    assert_eq!(table[5].args, [arg::INT, 0, 0, 0, 0, 0]);

    let mut data = [1u8, 2, 3];
    assert_eq!((table[0].shim)(data.as_mut_ptr() as u64, 3, 5, 0, 0, 0), 3);
    assert_eq!(data, [5, 10, 15]);
    assert_eq!((table[1].shim)(data.as_mut_ptr() as u64, 2, 9, 0, 0, 0), 0);
    assert_eq!(data, [9, 9, 15]);
    assert_eq!(((table[5].shim)(1, 0, 0, 0, 0, 0), (table[5].shim)(0, 0, 0, 0, 0, 0)), (0, 1));
}

/// Calls an entry as TrustVisor does.
fn call(index: usize, arguments: &[u8], room: &mut [u8], buffer: &mut [u8]) -> u64 {
    let [argument, value, more] = [arguments.as_ptr(), room.as_ptr(), buffer.as_ptr()].map(|at| at as u64);
    let lengths = [arguments.len(), room.len(), buffer.len()].map(|length| length as u64);
    (table()[index].shim)(argument, lengths[0], value, lengths[1], more, lengths[2])
}

fn call_with(index: usize, arguments: &impl Serialize, room: &mut [u8], buffer: &mut [u8]) -> Answer {
    let mut bytes = [0; 64];
    let length = encode(arguments, &mut bytes).unwrap();
    Answer::new(call(index, &bytes[..length], room, buffer))
}

#[test]
fn types_of_serde_go_in_and_come_out() {
    let mut room = [0; 8];
    let mut checked = |user, tries| {
        let Answer::Bytes(length) = call_with(2, &(Request { user, tries }, 2u32), &mut room, &mut []) else {
            panic!("no answer")
        };
        encoded::decode(&room[..length])
    };
    assert_eq!(checked("root", 2), Some(Ok::<_, Refusal>(true)));
    assert_eq!(checked("root", 300), Some(Err(Refusal::TooOften(300))));
    assert_eq!(checked("nobody", 0), Some(Err(Refusal::Unknown)));
    assert_eq!(call_with(6, &(), &mut room, &mut []), Answer::Bytes(2));
    assert_eq!(room[..2], [1, 2]);
}

#[test]
fn a_buffer_may_stand_beside_them() {
    let (mut room, mut out) = ([0; 4], [0; 5]);
    assert_eq!(call_with(4, &([1u8, 2],), &mut room, &mut out), Answer::Bytes(1));
    assert_eq!((out, room[0]), ([1, 2, 1, 2, 1], 5));
}

#[test]
fn what_does_not_decode_does_not_reach_the_function() {
    let mut room = [0; 64];
    for bytes in [&[][..], &[200], &[1, 0xff], &[1, b'a', 0]] {
        assert_eq!(call(3, bytes, &mut room, &mut []), MALFORMED, "{bytes:?}");
    }
    assert_eq!(call_with(3, &("ab",), &mut room, &mut []), Answer::Bytes(5));
    assert_eq!(room[..5], *b"\x04abab");
}

#[test]
fn a_value_without_room_is_told() {
    assert_eq!(call_with(3, &("four",), &mut [0; 8], &mut []), Answer::NoRoom(9));
}
