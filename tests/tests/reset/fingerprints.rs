//! What TrustVisor keeps, without knowing what it is: all in its own data, stacks and pool that looks random and is nowhere else, neither in
//! its image nor in the OS's memory. The root's states and the identity's, the random number generator (all three in the runtime's static
//! `HYPERVISOR`), what S keeps, and the registers of a frozen S are among it. Taken while all is well, looked for afterwards.

use hypervisor::launch::{RUNTIME_END, RUNTIME_OFFSET};
use std::collections::HashSet;
use std::ops::Range;

/// 16 bytes at a multiple of 8.
type Chunk = [u64; 2];

/// Of 16 random bytes fewer are different in one case of 10^6; two addresses, or texts, have fewer.
const DIFFERENT: u32 = 12;

/// Where TrustVisor is.
#[derive(Clone, Copy, Debug)]
pub struct Reserve {
    pub base: u64,
    pub size: u64,
    pub pool: u64,
}

/// Chunks to be looked for.
pub struct Fingerprints {
    all: HashSet<Chunk>,
    /// Of these, the runtime's: the rest is the pool's.
    runtime: HashSet<Chunk>,
    /// Of these, what is in `HYPERVISOR`: the root and the keys.
    keys: HashSet<Chunk>,
    /// Whether a chunk may begin with this: most of memory is passed by quickly.
    low_half: Vec<bool>,
}

impl Fingerprints {
    /// Of a whole memory. `keys` is where `HYPERVISOR` is in the reserve.
    pub fn take(memory: &[u8], reserve: Reserve, image: &[u8], keys: Range<u64>) -> Self {
        let part = |from: u64, to: u64| &memory[from as usize..to as usize];
        let end = reserve.base + reserve.size;
        let runtime = part(reserve.base + RUNTIME_OFFSET, reserve.base + RUNTIME_END);
        let telling = |bytes| chunks(bytes).map(|(_, chunk)| chunk).filter(is_random).collect();
        let mut found = Self {
            all: telling(runtime),
            runtime: telling(runtime),
            keys: telling(part(reserve.base + keys.start, reserve.base + keys.end)),
            low_half: Vec::new(),
        };
        found.all.extend(telling(part(reserve.pool, end)));
        found.index();
        let elsewhere = [image, part(0, reserve.base), part(end, memory.len() as u64)];
        let public: Vec<_> = elsewhere.into_iter().flat_map(|bytes| found.find(bytes)).collect();
        for (_, chunk) in public {
            found.all.remove(&chunk);
            found.runtime.remove(&chunk);
            found.keys.remove(&chunk);
        }
        found.index();
        found
    }

    fn index(&mut self) {
        self.low_half = vec![false; 1 << 16];
        self.all.iter().for_each(|chunk| self.low_half[chunk[0] as usize & 0xffff] = true);
    }

    /// Where they are.
    pub fn find(&self, bytes: &[u8]) -> Vec<(usize, Chunk)> {
        let quick = |chunk: &Chunk| self.low_half[chunk[0] as usize & 0xffff];
        chunks(bytes).filter(|(_, chunk)| quick(chunk) && self.all.contains(chunk)).collect()
    }

    /// How many there are: the runtime's, of these the keys', and the pool's.
    pub fn count(&self) -> [usize; 3] {
        [self.runtime.len(), self.keys.len(), self.all.len() - self.runtime.len()]
    }

    /// First halves of some of the keys', for who can look for so many words.
    pub fn some_keys<const N: usize>(&self) -> Option<[u64; N]> {
        let words: Vec<u64> = self.keys.iter().map(|chunk| chunk[0]).collect();
        words.first_chunk().copied()
    }
}

fn chunks(bytes: &[u8]) -> impl Iterator<Item = (usize, Chunk)> {
    let (words, _) = bytes.as_chunks::<8>();
    let chunk = |pair: &[[u8; 8]]| [u64::from_le_bytes(pair[0]), u64::from_le_bytes(pair[1])];
    words.windows(2).enumerate().map(move |(at, pair)| (at * 8, chunk(pair)))
}

fn is_random(chunk: &Chunk) -> bool {
    let mut seen = [0u64; 4];
    for byte in chunk.iter().flat_map(|word| word.to_le_bytes()) {
        seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    seen.iter().map(|bits| bits.count_ones()).sum::<u32>() >= DIFFERENT
}
