//! What is copied to disks and over the network. The guest's program includes this file.

/// Bytes of a block.
pub const MIB: usize = 1 << 20;

/// A block in which no two words are the same, nor any word of another block's.
pub fn block(number: u64) -> Vec<u8> {
    let first = number * (MIB as u64 / 8);
    let word = |i: u64| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (first..first + MIB as u64 / 8).flat_map(word).collect()
}
