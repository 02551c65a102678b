//! A machine on which S keeps a secret, until root takes the machine out of TrustVisor's hands: what is in its memory before, at the moment
//! when it would reset, sleep or go off (QEMU stops it there), and for a kernel that boots on it next, without TrustVisor.

use crate::fingerprints::{Chunk, Fingerprints, Reserve};
use anyhow::{Context, Result, bail, ensure};
use machine::{Boot, Machine};
use serde_json::json;
use std::fmt::{self, Display};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};
use trustvisor_tests::{SOON, built};

/// Little memory: it is read often.
pub const MEMORY_MIB: u32 = 320;
/// The next kernel leaves the rest as it is.
const SCANNER_MIB: u32 = 128;
pub const WORDS: usize = 16;
/// So many fingerprints are named.
const SHOWN: usize = 12;
/// For S's process to start, and for Linux to sleep or go off.
const LIMIT: Duration = Duration::from_secs(90);

pub fn boot(name: &str) -> Result<Boot> {
    let boot = Boot::new(&format!("reset-{name}"), built()?.as_ref()).memory_mib(MEMORY_MIB);
    Ok(boot.qemu(&["-no-shutdown"]))
}

/// A hypervisor.
pub struct Build {
    image: Vec<u8>,
    /// Where its `HYPERVISOR` is, from the start of the reserve.
    keys: Range<u64>,
}

impl Build {
    /// What is tested.
    pub fn real() -> Result<Self> {
        let image = built()?.hypervisor.clone();
        Ok(Self { image, keys: machine::runtime_static(KEYS)? })
    }

    /// One without something.
    pub fn mutated(name: &str) -> Result<Self> {
        let (image, keys) = machine::mutated_hypervisor_and_static(name, KEYS)?;
        Ok(Self { image, keys })
    }
}

/// The runtime's static that has the root, the identity and the random number generator.
const KEYS: &str = "HYPERVISOR";

/// What was found in a memory.
pub struct Found {
    /// Words of S's secret.
    pub secret: usize,
    pub fingerprints: usize,
    /// Of these, the root's and the keys'.
    keys: usize,
    /// The first fingerprints, and where they are.
    places: Vec<(usize, Chunk)>,
}

impl Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret, fingerprints, keys, places } = self;
        write!(f, "{secret} words of the secret, {fingerprints} fingerprints, of which {keys} of the keys")?;
        if places.is_empty() { Ok(()) } else { write!(f, ", at {places:x?}") }
    }
}

/// The machine, while S keeps its secret.
pub struct Trial {
    pub machine: Machine,
    way: String,
    fingerprints: Fingerprints,
    /// The words of the secret.
    secret: Vec<u64>,
    before: Found,
}

impl Trial {
    /// Boots it, with this hypervisor of these [`machine::mutations`]. `prepare` is a command for the guest.
    pub fn start(way: &str, boot: Boot, hypervisor: &Build, prepare: &str) -> Result<Self> {
        let machine = boot.hypervisor(hypervisor.image.clone()).start()?;
        machine.wait_until_ready()?;
        if !prepare.is_empty() {
            machine.succeed(prepare, SOON)?;
        }
        machine.send(&format!("tvtest lose-control {way} &"))?;
        let reserve = numbers(&machine.wait_for("tvtest: reserve ", LIMIT)?.text)?;
        let [base, size, pool] = reserve[..] else { bail!("the reserve is {reserve:x?}") };
        let masked = numbers(&machine.wait_for("tvtest: holds ", LIMIT)?.text)?;
        let (mask, words) = masked.split_first().context("no mask")?;
        let secret: Vec<_> = words.iter().map(|word| word ^ mask).collect();
        ensure!(secret.len() == WORDS, "{} words of the secret", secret.len());
        let memory = machine.memory_dump(0, u64::from(MEMORY_MIB) << 20)?;
        let fingerprints = Fingerprints::take(
            &memory,
            Reserve { base, size, pool },
            &hypervisor.image,
            hypervisor.keys.clone(),
        );
        let before = find(&memory, &secret, &fingerprints);
        let trial = Self { machine, way: way.to_owned(), fingerprints, secret, before };
        let [runtime, keys, pool] = trial.fingerprints.count();
        let before = &trial.before;
        println!(
            "reset: {way}: before: {before}; {runtime} are the runtime's ({keys} in {KEYS}), {pool} the pool's"
        );
        // The root's two halves are two HMACs of two states of 32 bytes each; S's secret is in the pool.
        ensure!(before.secret == WORDS && keys >= WORDS && pool >= WORDS, "{way}: too little to look for");
        Ok(trial)
    }

    /// Has root go the way.
    pub fn go(&self) -> Result<()> {
        self.machine.send("touch /tmp/release")
    }

    /// Waits until the machine stops: its status, and why. `None` if it goes on, and root says so.
    pub fn wait_for_end(&self) -> Result<Option<(String, String)>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.machine.status()?;
            if status != "running" {
                return Ok(Some((status, self.machine.end()?.unwrap_or_else(|| "no reason".into()))));
            }
            let lines = self.machine.lines();
            if let Some(line) = lines.iter().find(|line| line.contains("tvtest: not lost by ")) {
                println!("reset: {}: {line}", self.way);
                return Ok(None);
            }
            ensure!(Instant::now() < deadline, "it goes on (log: {})", self.machine.log().display());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the hypervisor says that it has a bug and the processor halts for good; stops the machine.
    pub fn wait_for_bug(&self) -> Result<()> {
        self.machine.wait_for("runtime: bug: ", LIMIT)?;
        self.machine.wait_for("runtime: stopped", SOON)?;
        let deadline = Instant::now() + SOON;
        while !self.machine.halted()? {
            ensure!(Instant::now() < deadline, "no halt (log: {})", self.machine.log().display());
            thread::sleep(Duration::from_millis(50));
        }
        self.machine.monitor_command("stop", json!({})).map(drop)
    }

    /// What is in the memory of the stopped machine.
    pub fn look(&self) -> Result<Found> {
        let memory = self.machine.memory_dump(0, u64::from(MEMORY_MIB) << 20)?;
        let found = find(&memory, &self.secret, &self.fingerprints);
        println!("reset: {}: afterwards: {found}", self.way);
        Ok(found)
    }

    /// Boots a kernel on the bare machine, and has it look through all memory: hits of the secret, and of the keys.
    pub fn scan(&self) -> Result<(u64, u64)> {
        let scanner = Boot::new("scanner", built()?.as_ref()).with_hypervisor(false);
        let options = format!("console=ttyS0 loglevel=4 panic=-1 mem={SCANNER_MIB}M");
        self.machine.restart_with(&scanner.kernel_options(&options).run("serve"))?;
        self.machine.wait_until_ready()?;
        let hits = (self.secret_hits()?, self.key_hits()?);
        println!("reset: {}: the next kernel: {} of the secret, {} of the keys", self.way, hits.0, hits.1);
        Ok(hits)
    }

    /// How often the kernel that runs now finds a word of the secret.
    pub fn secret_hits(&self) -> Result<u64> {
        self.hits(self.secret[..].try_into()?)
    }

    fn key_hits(&self) -> Result<u64> {
        self.hits(self.fingerprints.some_keys().context("too few fingerprints")?)
    }

    fn hits(&self, words: [u64; WORDS]) -> Result<u64> {
        // The command must not bring the words into the memory that is searched.
        let mask = 0x5a17_c3b4_96d8_2e7f;
        let words: String = words.iter().map(|word| format!(",{:x}", word ^ mask)).collect();
        let command = format!("MEMORY={MEMORY_MIB} NEEDLES={mask:x}{words} tvtest everywhere");
        let lines = self.machine.succeed(&command, LIMIT)?;
        let line =
            lines.iter().find_map(|line| line.strip_prefix("tvtest: everywhere: ")).context("no answer")?;
        Ok(line.split(' ').next().context("no number")?.parse()?)
    }

    /// As many as there were.
    pub fn are_all_left(&self, found: &Found) -> bool {
        // The stacks in use, and registers of a running S, change.
        found.secret == WORDS && found.fingerprints >= self.before.fingerprints / 2
    }
}

fn find(memory: &[u8], secret: &[u64], fingerprints: &Fingerprints) -> Found {
    let mut found = vec![false; secret.len()];
    for word in memory.as_chunks().0 {
        if let Some(at) = secret.iter().position(|wanted| *wanted == u64::from_le_bytes(*word)) {
            found[at] = true;
        }
    }
    let mut places = fingerprints.find(memory);
    let first = places.iter().take(SHOWN).copied().collect();
    places.sort_unstable_by_key(|place| place.1);
    places.dedup_by_key(|place| place.1);
    let secret = found.into_iter().filter(|found| *found).count();
    Found {
        secret,
        fingerprints: places.len(),
        keys: places.iter().filter(|place| fingerprints.is_key(&place.1)).count(),
        places: first,
    }
}

/// Numbers of a line, its first two words left out.
fn numbers(line: &str) -> Result<Vec<u64>> {
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
    Ok(line.split_whitespace().skip(2).map(number).collect::<Result<_, _>>()?)
}
