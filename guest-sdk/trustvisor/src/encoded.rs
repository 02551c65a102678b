//! The application's half of calls with encoded arguments ([`trustvisor_pal::encoded`]).

use crate::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use trustvisor_pal::Out;
use trustvisor_pal::args::{Argument, Registers};
use trustvisor_pal::encoded::{Answer, decode, encode, size};
use zeroize::Zeroizing;

/// The buffers of such a call. Both are wiped when it is over: what goes to S and comes from it may be secret.
#[doc(hidden)]
pub struct Encoded {
    arguments: Zeroizing<Vec<u8>>,
    value: Zeroizing<Vec<u8>>,
}

impl Encoded {
    /// Of these arguments, with so much room for the value.
    pub fn new(arguments: &impl Serialize, room: usize) -> Result<Self, Error> {
        // As long as it will be, so that no copy is left behind.
        let length = size(arguments).ok_or(Error::Unencodable)?;
        let mut bytes = Zeroizing::new(vec![0; length]);
        if encode(arguments, &mut bytes) != Some(length) {
            return Err(Error::Unencodable);
        }
        Ok(Self { arguments: bytes, value: Zeroizing::new(vec![0; room]) })
    }

    /// The first registers of the call.
    pub fn registers(&mut self) -> Registers<'_> {
        let mut registers = Registers::default();
        self.arguments.as_slice().put(&mut registers);
        Out(&mut self.value).put(&mut registers);
        registers
    }

    /// What S answered, RAX being `raw`.
    pub fn value<T: DeserializeOwned>(&self, raw: u64) -> Result<T, Error> {
        match Answer::new(raw) {
            Answer::Malformed => Err(Error::Malformed),
            Answer::NoRoom(needed) => Err(Error::ValueTooLarge { needed, room: self.value.len() }),
            Answer::Bytes(length) => self.value.get(..length).and_then(decode).ok_or(Error::BadValue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trustvisor_pal::encoded::{MALFORMED, NO_ROOM};

    #[test]
    fn what_s_answers_becomes_a_value_or_an_error() {
        let mut encoded = Encoded::new(&("name", 5u8), 4).unwrap();
        assert_eq!(*encoded.arguments, *b"\x04name\x05");
        encoded.value.copy_from_slice(&[0x80, 0x01, 0, 0]);
        assert_eq!(encoded.value::<u32>(2).unwrap(), 128);
        assert!(matches!(encoded.value::<u32>(1), Err(Error::BadValue)));
        assert!(matches!(encoded.value::<u32>(3), Err(Error::BadValue)), "a byte too many");
        assert!(matches!(encoded.value::<u32>(5), Err(Error::BadValue)), "more than there is room");
        assert!(matches!(encoded.value::<u32>(MALFORMED), Err(Error::Malformed)));
        let needed = encoded.value::<u32>(NO_ROOM | 9);
        assert!(matches!(needed, Err(Error::ValueTooLarge { needed: 9, room: 4 })));
    }
}
