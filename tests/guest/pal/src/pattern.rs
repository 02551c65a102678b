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
