//! Reading structures of the TPM, big-endian throughout (TCG TPM 2.0 Library part 1, 5.2). Guarantees: no panic on any bytes, and
//! whoever ends with [`Reader::end`] has left none.

/// Why bytes or text that somebody else wrote were not even read.
///
/// ```
/// let error = trustvisor_verify::Evidence::parse(b"{}").unwrap_err();
/// assert_eq!(error.to_string(), "byte 1 of the file: \"version\" expected");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// More than is read at all.
    #[error("{field} has {found} bytes, at most {most} are read")]
    TooLong {
        /// What is too long.
        field: &'static str,
        /// Its bytes.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// The file is not the one form of JSON that evidence has.
    #[error("byte {at} of the file: {expected} expected")]
    Json {
        /// Where, counted from 0.
        at: usize,
        /// What had to be there.
        expected: String,
    },
    /// A text is not the one way to write some bytes.
    #[error("{field} is not canonical {encoding}")]
    Encoding {
        /// The text.
        field: &'static str,
        /// Base64 or hexadecimal.
        encoding: &'static str,
    },
    /// A structure ends too early.
    #[error("{field} ends within its {within}")]
    Short {
        /// The structure.
        field: &'static str,
        /// The part of it that is not whole.
        within: &'static str,
    },
    /// Something follows a structure.
    #[error("{field} is followed by {count} more bytes")]
    Trailing {
        /// The structure.
        field: &'static str,
        /// Bytes that are too many.
        count: usize,
    },
    /// A value that this structure cannot have here.
    #[error("{field}: {part} is {found:#x}, not {expected}")]
    Value {
        /// The structure.
        field: &'static str,
        /// The part of it.
        part: &'static str,
        /// Its value.
        found: u64,
        /// What it has to be.
        expected: &'static str,
    },
}

pub(crate) struct Reader<'a> {
    field: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(field: &'static str, bytes: &'a [u8]) -> Self {
        Self { field, rest: bytes }
    }

    pub(crate) fn take(&mut self, count: usize, within: &'static str) -> Result<&'a [u8], Malformed> {
        let short = Malformed::Short { field: self.field, within };
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, within: &'static str) -> Result<[u8; N], Malformed> {
        let short = Malformed::Short { field: self.field, within };
        let (taken, rest) = self.rest.split_first_chunk().ok_or(short)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, within: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(within).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, within: &'static str) -> Result<u16, Malformed> {
        self.array(within).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, within: &'static str) -> Result<u32, Malformed> {
        self.array(within).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, within: &'static str) -> Result<u64, Malformed> {
        self.array(within).map(u64::from_be_bytes)
    }

    /// A TPM2B: length and bytes.
    pub(crate) fn sized(&mut self, most: usize, within: &'static str) -> Result<&'a [u8], Malformed> {
        let size = usize::from(self.u16(within)?);
        if size > most {
            return Err(self.value(within, size as u64, "a length that fits"));
        }
        self.take(size, within)
    }

    /// A number that is the same in all structures of this kind.
    pub(crate) fn fixed(
        &mut self,
        part: &'static str,
        expected: u16,
        name: &'static str,
    ) -> Result<(), Malformed> {
        match self.u16(part)? {
            found if found == expected => Ok(()),
            found => Err(self.value(part, found.into(), name)),
        }
    }

    pub(crate) fn value(&self, part: &'static str, found: u64, expected: &'static str) -> Malformed {
        Malformed::Value { field: self.field, part, found, expected }
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Malformed::Trailing { field: self.field, count }),
        }
    }
}
