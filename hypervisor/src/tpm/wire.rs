//! Building commands, having them carried out and taking answers apart, the same for both families: big-endian, a header of tag, size and
//! code (1.2 part 2, 6; 2.0 part 1, 18). Nothing here indexes past what it was given.

use super::{Done, Error, Transport};

/// Bytes of the header of commands and answers.
pub const HEADER: usize = 10;
/// Bytes of the longest command; an answer is twice as long at most.
pub const MESSAGE: usize = 512;

/// Codes of TPMs that want to be asked again: of TPM 1.2 (part 2, 16) if it is busy or at its self test; of TPM 2.0 (part 2, 6.6.3) if it was
/// suspended, is testing, spares its memory, or just says so.
const AGAIN: [u32; 6] = [0x800, 0x802, 0x908, 0x90a, 0x920, 0x922];
/// How often that is done, and the time between: two seconds together.
const RETRIES: u32 = 200;
const RETRY_MS: u64 = 10;

/// A command being built, and its answer.
pub struct Command {
    bytes: [u8; MESSAGE],
    used: usize,
    answer: [u8; 2 * MESSAGE],
}

impl Command {
    /// A command without parameters yet. Written where it is returned to: the SLB's stack has no room for two.
    pub fn new(tag: u16, code: u32) -> Self {
        // Tag and code around a size that is not known yet.
        let header = (u128::from(tag) << 112 | u128::from(code) << 48).to_be_bytes();
        let bytes = core::array::from_fn(|at| header.get(at).copied().unwrap_or(0));
        Self { bytes, used: HEADER, answer: [0; 2 * MESSAGE] }
    }

    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// A TPM2B: its size, then the bytes.
    pub fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        self.u16(bytes.len() as u16).bytes(bytes)
    }

    /// Appends; what does not fit any more is found by [`Self::finish`].
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let end = self.used.saturating_add(bytes.len());
        if let Some(room) = self.bytes.get_mut(self.used..end) {
            room.copy_from_slice(bytes);
        }
        self.used = end;
        self
    }

    /// Its code.
    pub fn code(&self) -> u32 {
        u32::from_be_bytes([self.bytes[6], self.bytes[7], self.bytes[8], self.bytes[9]])
    }

    /// What follows the header.
    pub fn body(&mut self) -> Done<&mut [u8]> {
        self.bytes.get_mut(HEADER..self.used).ok_or(Error::Malformed("command too long"))
    }

    /// The command with its size filled in.
    pub fn finish(&mut self) -> Done<&[u8]> {
        self.bytes[2..6].copy_from_slice(&(self.used as u32).to_be_bytes());
        self.bytes.get(..self.used).ok_or(Error::Malformed("command too long"))
    }

    /// Sends it as often as the TPM asks for it; the answer's code is the caller's to judge.
    pub fn exchange(&mut self, tpm: &mut impl Transport) -> Done<Answer<'_>> {
        self.finish()?;
        let command = self.bytes.get(..self.used).unwrap_or_default();
        let mut tries = 0..RETRIES;
        loop {
            let length = tpm.exchange(command, &mut self.answer)?;
            if !AGAIN.contains(&Answer::parse(&self.answer, length)?.code) || tries.next().is_none() {
                return Answer::parse(&self.answer, length);
            }
            tpm.pause(RETRY_MS);
        }
    }

    /// Has it carried out; the parameters of the answer.
    pub fn run(&mut self, tpm: &mut impl Transport) -> Done<Reader<'_>> {
        // The tags of TPM 1.2 (part 2, 6.1 and 6.2); TPM 2.0 answers with the same.
        let tag = match u16::from_be_bytes([self.bytes[0], self.bytes[1]]) {
            request @ 0xc1..=0xc3 => request + 3,
            tag => tag,
        };
        self.exchange(tpm)?.success(tag)
    }
}

/// An answer whose header has been checked.
pub struct Answer<'a> {
    pub tag: u16,
    pub code: u32,
    pub body: Reader<'a>,
}

impl<'a> Answer<'a> {
    /// `length` is what the transport received.
    pub fn parse(bytes: &'a [u8], length: usize) -> Done<Self> {
        let mut reader = Reader(bytes.get(..length).ok_or(Error::Malformed("length"))?);
        let (tag, size, code) = (reader.u16()?, reader.u32()?, reader.u32()?);
        if u32::try_from(length) != Ok(size) {
            return Err(Error::Malformed("length"));
        }
        Ok(Self { tag, code, body: reader })
    }

    /// The parameters of an answer that says success with this tag.
    pub fn success(self, tag: u16) -> Done<Reader<'a>> {
        match (self.code, self.tag) {
            (0, t) if t == tag => Ok(self.body),
            (0, _) => Err(Error::Malformed("tag")),
            (code, _) => Err(Error::Refused(code)),
        }
    }
}

/// What has not been read yet of an answer.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    /// The parameters of a 2.0 answer with sessions; what follows them is the sessions'.
    pub fn parameters(&mut self) -> Done<Self> {
        let size = self.u32()?;
        self.take(size as usize).map(Self)
    }

    /// What a TPM2B holds.
    pub fn sized(&mut self) -> Done<&'a [u8]> {
        let size = self.u16()?;
        self.take(size.into())
    }

    /// The same, of this size.
    pub fn sized_array<const N: usize>(&mut self) -> Done<[u8; N]> {
        self.sized()?.try_into().map_err(|_| Error::Malformed("size"))
    }

    pub fn take(&mut self, count: usize) -> Done<&'a [u8]> {
        self.0.split_off(..count).ok_or(Error::Malformed("too short"))
    }

    pub fn array<const N: usize>(&mut self) -> Done<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| Error::Malformed("size"))
    }

    pub fn u8(&mut self) -> Done<u8> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Done<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Done<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Nothing may be left.
    pub fn end(self) -> Done {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Malformed("too long")) }
    }
}
