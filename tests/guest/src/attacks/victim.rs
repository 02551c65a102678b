//! Whom the attacks on a secret are aimed at: a process whose S keeps it, or that, on a machine without TrustVisor, does so itself.

use crate::secrecy::Needles;
use crate::support::{Child, Mapping, Pipe, TestPal, pattern, random, register};
use anyhow::ensure;
use pattern::WORDS;
use std::hint::black_box;
use std::thread::sleep;
use std::time::Duration;
use trustvisor::Out;

const LIMIT: Duration = Duration::from_secs(60);

pub fn protected() -> bool {
    trustvisor::info().is_ok()
}

/// The secret, where it belongs.
enum Secret {
    InS(TestPal),
    Here(Box<[u64; WORDS]>),
}

impl Secret {
    fn keep(seed: u64) -> anyhow::Result<Self> {
        if protected() {
            let s = register()?;
            s.set_secret(seed)?;
            return Ok(Self::InS(s));
        }
        let mut words = Box::new([0; WORDS]);
        pattern::words(seed, &mut words);
        Ok(Self::Here(words))
    }

    /// All words, each XORed with a mask.
    fn masked(&self, mask: u64) -> anyhow::Result<Vec<u64>> {
        match self {
            Self::InS(s) => {
                let mut bytes = vec![0; WORDS * 8];
                s.masked_secret(Out(&mut bytes), mask)?;
                Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
            }
            Self::Here(words) => Ok(black_box(words).iter().map(|word| word ^ mask).collect()),
        }
    }

    fn work(&self) -> anyhow::Result<()> {
        match self {
            Self::InS(s) => s.stir_secret(200).map(drop).map_err(Into::into),
            Self::Here(words) => {
                black_box(words);
                sleep(Duration::from_millis(1));
                Ok(())
            }
        }
    }
}

/// The process, which works with its secret until it is told to stop and then looks whether it is still the same.
pub struct Victim {
    process: Child,
    pub needles: Needles,
    shared: Mapping,
}

const STOP: usize = 0;
const MASKED: usize = 64;

impl Victim {
    pub fn start() -> anyhow::Result<Self> {
        let shared = Mapping::shared_anonymous(1)?;
        let (ready, mask) = (Pipe::new()?, random()?);
        let process = Child::fork(|| {
            let secret = Secret::keep(random()?)?;
            let before = secret.masked(mask)?;
            let step = WORDS / needles_in(&shared).len();
            for (i, word) in before.iter().step_by(step).enumerate() {
                let at = MASKED + i * 8;
                shared.slice()[at..at + 8].copy_from_slice(&word.to_le_bytes());
            }
            ready.signal()?;
            while shared.read(STOP) == 0 {
                secret.work()?;
            }
            ensure!(secret.masked(mask)? == before, "the secret has changed");
            Ok(())
        })?;
        ready.wait()?;
        let needles = Needles { mask, words: needles_in(&shared) };
        Ok(Self { process, needles, shared })
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Ends the process; whether the secret was still what it was.
    pub fn end_unharmed(self) -> anyhow::Result<bool> {
        self.shared.write(STOP, 1);
        Ok(self.process.join(LIMIT).is_ok())
    }

    pub fn kill(self) -> anyhow::Result<()> {
        self.process.kill()
    }
}

fn needles_in(shared: &Mapping) -> [u64; crate::attack::NEEDLES] {
    let (words, _) = shared.slice()[MASKED..].as_chunks::<8>();
    std::array::from_fn(|i| u64::from_le_bytes(words[i]))
}
