//! PAL images ([`abi::image`]) on the application's side: made from S's ELF file, taken apart, measured.

mod elf;

use abi::Digests;
use abi::image::{HEADER_SIZE, Header, MEASUREMENT_PREFIX};
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub use elf::{ElfError, from_elf};

/// The header of an image that obeys the rules.
pub fn header(image: &[u8]) -> Result<Header, &'static str> {
    let bytes = image.get(..HEADER_SIZE).ok_or("shorter than its header")?;
    // SAFETY: `bytes` is as long as a header, which is made of integers without padding (abi asserts its
    // size), so every bit pattern is one; the read does not need alignment.
    let header = unsafe { bytes.as_ptr().cast::<Header>().read_unaligned() };
    header.check(image.len() as u64)?;
    Ok(header)
}

/// A header's bytes in an image. The header need not obey the rules.
pub fn header_bytes(header: &Header) -> [u8; HEADER_SIZE] {
    // SAFETY: a header is made of integers without padding, so all its bytes are initialised.
    unsafe { (&raw const *header).cast::<[u8; HEADER_SIZE]>().read() }
}

/// The identity that TrustVisor gives to a PAL of this image: its micro-PCR 0.
pub fn measure(image: &[u8]) -> Digests {
    Digests {
        sha1: Sha1::new().chain_update(MEASUREMENT_PREFIX).chain_update(image).finalize().into(),
        sha256: Sha256::new().chain_update(MEASUREMENT_PREFIX).chain_update(image).finalize().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measurement_covers_prefix_and_image() {
        // By coreutils: printf 'TrustVisor PAL 1abc' | sha1sum, sha256sum.
        let digests = measure(b"abc");
        assert_eq!(digests.sha1[..4], [0x9a, 0x44, 0x98, 0x6c]);
        assert_eq!(digests.sha256[..4], [0xb7, 0xf5, 0x15, 0x53]);
    }

    #[test]
    fn what_is_shorter_than_a_header_or_breaks_a_rule_is_no_image() {
        assert_eq!(header(&[0; HEADER_SIZE - 1]), Err("shorter than its header"));
        assert_eq!(header(&[0; HEADER_SIZE]), Err("magic"));
    }
}
