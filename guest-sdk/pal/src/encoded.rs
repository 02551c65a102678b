//! Arguments and values that are ordinary Rust types (serde), as [`entries!`](crate::entries) and `trustvisor::stubs!` carry them.
//!
//! An entry that has any such argument or value, has registers of its own form: all arguments but buffers travel as one tuple in a buffer
//! that S reads, encoded with `postcard`; the value comes back encoded in a buffer that S writes, as large as the entry's list
//! says (`where size <= ...`); one raw buffer of the entry may follow. RAX says how long the value is, or what is wrong.
//!
//! What does not decode is an error of its caller, on either side: S answers [`MALFORMED`] and goes on living.

use serde::{Deserialize, Serialize};

/// Room for a value where the list does not say how much: 1 KiB.
pub const DEFAULT_SIZE: usize = 1024;

/// S cannot decode its arguments.
pub const MALFORMED: u64 = u64::MAX;
/// Set if the value has no room; the other bits say how much it needs, or 0 if it cannot be encoded at all.
pub const NO_ROOM: u64 = 1 << 63;

/// What an encoded call answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value, in so many bytes.
    Bytes(usize),
    /// See [`MALFORMED`].
    Malformed,
    /// See [`NO_ROOM`].
    NoRoom(usize),
}

impl Answer {
    /// From RAX.
    pub fn new(raw: u64) -> Self {
        match raw {
            MALFORMED => Self::Malformed,
            _ if raw & NO_ROOM != 0 => Self::NoRoom((raw & !NO_ROOM) as usize),
            _ => Self::Bytes(raw as usize),
        }
    }
}

/// What these bytes, all of them, encode.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::take_from_bytes(bytes).ok().filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// Encodes `value` into `room`: how long it is.
pub fn encode<T: Serialize>(value: &T, room: &mut [u8]) -> Option<usize> {
    postcard::to_slice(value, room).ok().map(|bytes| bytes.len())
}

/// How long it would be, if it can be encoded.
pub fn size<T: Serialize>(value: &T) -> Option<usize> {
    postcard::experimental::serialized_size(value).ok()
}

/// S's half: encodes what S answers; RAX.
pub fn answer<T: Serialize>(value: &T, room: &mut [u8]) -> u64 {
    match encode(value, room) {
        Some(length) => length as u64,
        None => {
            // What was written of it already is no answer.
            room.fill(0);
            NO_ROOM | size(value).unwrap_or(0) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Request<'a> {
        name: &'a str,
        tries: Option<u32>,
    }

    #[test]
    fn what_is_too_short_or_too_long_does_not_decode() {
        let request = Request { name: "root", tries: Some(300) };
        let mut room = [0; 32];
        let length = encode(&request, &mut room).unwrap();
        assert_eq!(size(&request), Some(length));
        assert_eq!(decode(&room[..length]), Some(request));
        for other in (0..32).filter(|other| *other != length) {
            assert_eq!(decode::<Request<'_>>(&room[..other]), None);
        }
    }

    #[test]
    fn an_answer_without_room_says_how_much_it_needs() {
        let value = [7u8; 20];
        let mut room = [0xee; 19];
        assert_eq!(Answer::new(answer(&value, &mut room)), Answer::NoRoom(20));
        assert_eq!(room, [0; 19]);
        assert_eq!(Answer::new(answer(&value, &mut [0; 20])), Answer::Bytes(20));
        assert_eq!(Answer::new(MALFORMED), Answer::Malformed);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(bytes: Vec<u8>) {
            let _ = decode::<(u64, Option<Request<'_>>, [u16; 3], Vec<Vec<u8>>)>(&bytes);
        }
    }
}
