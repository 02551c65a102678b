//! Sequences that S and the program that tests it both know (xorshift64*). This file is part of both.

/// Words of a secret.
pub const WORDS: usize = 512;

struct Generator(u64);

impl Generator {
    fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

pub fn words(seed: u64, out: &mut [u64; WORDS]) {
    let mut generator = Generator::new(seed);
    out.fill_with(|| generator.next());
}

pub fn bytes(seed: u64, out: &mut [u8]) {
    let mut generator = Generator::new(seed);
    out.fill_with(|| (generator.next() >> 56) as u8);
}

pub fn compute(rounds: u64) -> u64 {
    let mut generator = Generator::new(rounds);
    (0..rounds).fold(0, |sum: u64, _| sum.wrapping_add(generator.next()))
}

/// Reads a buffer again and again; returns how often it had changed.
pub fn watched(data: &[u8], rounds: u64) -> u64 {
    let sum = || data.iter().fold(0u64, |sum, byte| sum.rotate_left(1) ^ u64::from(look(byte)));
    let first = sum();
    (0..rounds).filter(|_| sum() != first).count() as u64
}

fn look(byte: &u8) -> u8 {
    // SAFETY: a valid reference. Volatile: somebody may try to change it meanwhile.
    unsafe { core::ptr::from_ref(byte).read_volatile() }
}

/// Reads the clock so many times; the least distance of two readings between which something else ran.
pub fn least_gap(rounds: u64) -> u64 {
    /// Two readings of this loop alone are closer.
    const OTHERS: u64 = 100;
    // SAFETY: RDTSC reads a counter.
    let now = || unsafe { core::arch::x86_64::_rdtsc() };
    let (mut last, mut least) = (now(), u64::MAX);
    for _ in 0..rounds {
        let this = now();
        let gap = this.wrapping_sub(last);
        if gap > OTHERS {
            least = least.min(gap);
        }
        last = this;
    }
    least
}
