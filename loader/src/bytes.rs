//! Little-endian fields out of bytes somebody else wrote: what is not there is `None`, never a panic. And [`Memory`],
//! through which the parsers follow physical addresses, so that a host can test them.

/// Physical memory to read from.
pub trait Memory {
    /// The bytes at this address, if they can be addressed at all.
    fn bytes(&self, addr: u64, len: u64) -> Option<&[u8]>;
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

/// The 16-bit field at this offset.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_le_bytes)
}

/// The 32-bit field at this offset.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_le_bytes)
}

/// The 64-bit field at this offset.
pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_le_bytes)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A few pieces of memory at chosen addresses; everything else is missing.
    #[derive(Default)]
    pub struct Pieces(pub Vec<(u64, Vec<u8>)>);

    impl Memory for Pieces {
        fn bytes(&self, addr: u64, len: u64) -> Option<&[u8]> {
            self.0.iter().find_map(|(base, piece)| {
                let from = usize::try_from(addr.checked_sub(*base)?).ok()?;
                piece.get(from..from.checked_add(usize::try_from(len).ok()?)?)
            })
        }
    }

    #[test]
    fn fields() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(u16_at(&bytes, 1), Some(0x0302));
        assert_eq!(u32_at(&bytes, 5), Some(0x0908_0706));
        assert_eq!(u64_at(&bytes, 1), Some(0x0908_0706_0504_0302));
        assert_eq!(u32_at(&bytes, 6), None);
        assert_eq!(u16_at(&bytes, usize::MAX), None);
    }
}
