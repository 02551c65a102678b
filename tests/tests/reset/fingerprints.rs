//! What TrustVisor keeps, without knowing what it is: all in its own data, stacks and pool that looks random and is nowhere else, neither in
//! its image nor in the OS's memory. The root's states and the identity's, the random number generator (all three in the runtime's static
//! `HYPERVISOR`), what S keeps, and the registers of a frozen S are among it. Taken while all is well, looked for afterwards.

use hypervisor::launch::{RUNTIME_END, RUNTIME_OFFSET};
use std::collections::HashSet;
use std::ops::Range;

/// 16 bytes at a multiple of 8.
pub type Chunk = [u64; 2];

/// Of 16 random bytes fewer are different in one case of 10^6; two addresses, or texts, have fewer.
const DIFFERENT: u32 = 12;
const DIFFERENT_IN_HALF: u32 = 6;
/// For a half that stands alone.
const DIFFERENT_IN_WORD: u32 = 7;

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
    key_words: Vec<u64>,
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
            key_words: Vec::new(),
            low_half: Vec::new(),
        };
        found.all.extend(telling(part(reserve.pool, end)));
        found.index();
        let elsewhere = [image, part(0, reserve.base), part(end, memory.len() as u64)];
        // At any byte, and without the last one: the hypervisor reads the OS's instructions, 15 bytes at a time.
        let known: HashSet<Chunk> = found.all.iter().map(without_last).collect();
        let shifted = elsewhere.into_iter().flat_map(|bytes| (0..8).filter_map(|shift| bytes.get(shift..)));
        let all = shifted.flat_map(chunks).map(|(_, chunk)| chunk);
        let here = all.filter(|chunk| found.may_begin(chunk)).map(|chunk| without_last(&chunk));
        let public: HashSet<Chunk> = here.filter(|chunk| known.contains(chunk)).collect();
        let own = |chunk: &Chunk| !public.contains(&without_last(chunk));
        found.all.retain(own);
        found.runtime.retain(own);
        found.keys.retain(own);
        found.index();
        let random = |word: &u64| different(&word.to_le_bytes()) >= DIFFERENT_IN_WORD;
        let mut words: HashSet<u64> = found.keys.iter().map(|chunk| chunk[0]).filter(random).collect();
        for word in elsewhere.into_iter().flat_map(words_of) {
            words.remove(&word);
        }
        found.key_words = words.into_iter().collect();
        found
    }

    fn index(&mut self) {
        self.low_half = vec![false; 1 << 16];
        self.all.iter().for_each(|chunk| self.low_half[chunk[0] as usize & 0xffff] = true);
    }

    /// Where they are.
    pub fn find(&self, bytes: &[u8]) -> Vec<(usize, Chunk)> {
        chunks(bytes).filter(|(_, chunk)| self.may_begin(chunk) && self.all.contains(chunk)).collect()
    }

    fn may_begin(&self, chunk: &Chunk) -> bool {
        self.low_half[chunk[0] as usize & 0xffff]
    }

    /// How many there are: the runtime's, of these the keys', and the pool's.
    pub fn count(&self) -> [usize; 3] {
        [self.runtime.len(), self.keys.len(), self.all.len() - self.runtime.len()]
    }

    pub fn is_key(&self, chunk: &Chunk) -> bool {
        self.keys.contains(chunk)
    }

    /// Some of the keys' words, for who can look for so many. Half a chunk says less than a whole one, so of these too none is elsewhere.
    pub fn some_keys<const N: usize>(&self) -> Option<[u64; N]> {
        self.key_words.first_chunk().copied()
    }
}

fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word))
}

fn chunks(bytes: &[u8]) -> impl Iterator<Item = (usize, Chunk)> {
    words_of(bytes).zip(words_of(bytes).skip(1)).enumerate().map(|(at, (low, high))| (at * 8, [low, high]))
}

fn without_last(chunk: &Chunk) -> Chunk {
    [chunk[0], chunk[1] & (u64::MAX >> 8)]
}

/// As a whole, and in both halves: an address beside a secret is none.
fn is_random(chunk: &Chunk) -> bool {
    let bytes = chunk.map(u64::to_le_bytes);
    different(bytes.as_flattened()) >= DIFFERENT
        && bytes.iter().all(|half| different(half) >= DIFFERENT_IN_HALF)
}

/// How many different bytes there are.
fn different(bytes: &[u8]) -> u32 {
    let mut seen = [0u64; 4];
    bytes.iter().for_each(|byte| seen[usize::from(byte >> 6)] |= 1 << (byte & 63));
    seen.iter().map(|bits| bits.count_ones()).sum()
}
