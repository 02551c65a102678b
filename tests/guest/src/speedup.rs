//! The micro-TPM beside the hardware TPM, which is asked by the OS's own driver: the same work, by wall clock, in alternating rounds.

use crate::support::{TestPal, register};
use anyhow::{Context, ensure};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::time::Instant;
use trustvisor::abi::quote::{MAX_REPORT, key};
use trustvisor::abi::seal::OVERHEAD;
use trustvisor::{Out, Quoting};

const ROUNDS: usize = 7;
/// Of each command in a round.
const TIMES: u32 = 10;
/// Bytes that are sealed, and random bytes.
const SIZE: usize = 32;

/// TPM 2.0 Library part 2: TPM_ST (6.9), TPM_CC (6.5.2), TPM_RH (7.4), PCR 16.
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
const CREATE_PRIMARY: u32 = 0x131;
const CREATE: u32 = 0x153;
const LOAD: u32 = 0x157;
const QUOTE: u32 = 0x158;
const UNSEAL: u32 = 0x15e;
const FLUSH_CONTEXT: u32 = 0x165;
const GET_RANDOM: u32 = 0x17b;
const PCR_EXTEND: u32 = 0x182;
const OWNER: u32 = 0x4000_0001;
const ENDORSEMENT: u32 = 0x4000_000b;
const PCR_16: u32 = 16;

/// TPMT_PUBLIC: a storage key on P-256, sealed data, a restricted RSA-2048 signing key (RSASSA with SHA-256).
const PARENT: &[u8] =
    &[0, 0x23, 0, 0x0b, 0, 3, 4, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10, 0, 0, 0, 0];
const SEALED: &[u8] = &[0, 8, 0, 0x0b, 0, 0, 4, 0x52, 0, 0, 0, 0x10, 0, 0];
const RSA: &[u8] = &[0, 1, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0b, 8, 0, 0, 0, 0, 0, 0, 0];
/// TPML_PCR_SELECTION: SHA-256, PCR 17, 18 and 19.
const PCRS: &[u8] = &[0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0b1110];

struct Chip(File);

impl Chip {
    /// What follows the answer's header.
    fn ask(&mut self, code: u32, handle: Option<u32>, parameters: &[u8]) -> anyhow::Result<Vec<u8>> {
        const PASSWORD: &[u8] = &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        let plain = [GET_RANDOM, FLUSH_CONTEXT].contains(&code);
        let (tag, password) = if plain { (NO_SESSIONS, &[][..]) } else { (SESSIONS, PASSWORD) };
        let handle = handle.map(u32::to_be_bytes);
        let handle = handle.as_ref().map_or(&[][..], |handle| handle);
        let length = (10 + handle.len() + password.len() + parameters.len()) as u32;
        let header = [&tag.to_be_bytes()[..], &length.to_be_bytes(), &code.to_be_bytes()].concat();
        self.0.write_all(&[&header, handle, password, parameters].concat())?;
        let mut answer = vec![0; 4096];
        let length = self.0.read(&mut answer)?;
        answer.truncate(length);
        ensure!(answer.get(6..10) == Some(&[0; 4][..]), "command {code:#x} is answered {answer:x?}");
        Ok(answer.split_off(10))
    }

    /// A new object's handle.
    fn primary(&mut self, hierarchy: u32, public: &[u8]) -> anyhow::Result<u32> {
        let made = self.ask(CREATE_PRIMARY, Some(hierarchy), &creation(&[], public))?;
        handle(&made)
    }

    fn flush(&mut self, object: u32) -> anyhow::Result<()> {
        self.ask(FLUSH_CONTEXT, Some(object), &[]).map(drop)
    }
}

fn handle(answer: &[u8]) -> anyhow::Result<u32> {
    Ok(u32::from_be_bytes(*answer.first_chunk().context("a handle")?))
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// Of TPM2_Create and TPM2_CreatePrimary: no authorisation value, the data; the public area; nothing from outside, no PCRs.
fn creation(data: &[u8], public: &[u8]) -> Vec<u8> {
    let sensitive = [&[0, 0][..], &sized(data)].concat();
    [sized(&sensitive), sized(public), vec![0; 6]].concat()
}

/// Milliseconds of one, in rounds of both: the medians.
fn compare(
    mut ours: impl FnMut() -> anyhow::Result<()>,
    mut theirs: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<(f64, f64)> {
    let (mut us, mut them) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (work, times) in
            [(&mut ours as &mut dyn FnMut() -> anyhow::Result<()>, &mut us), (&mut theirs, &mut them)]
        {
            let start = Instant::now();
            (0..TIMES).try_for_each(|_| work())?;
            times.push(start.elapsed().as_secs_f64() * 1e3 / f64::from(TIMES));
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    };
    Ok((median(&mut us), median(&mut them)))
}

fn report(name: &str, (ours, theirs): (f64, f64)) {
    println!("bench utpm_{name}_ms {ours:.3}");
    println!("bench utpm_{name}_hardware_ms {theirs:.3}");
    println!("bench utpm_{name}_speedup {:.1}", theirs / ours);
}

pub fn run() -> anyhow::Result<()> {
    let s = register()?;
    let device = OpenOptions::new().read(true).write(true).open("/dev/tpm0").context("/dev/tpm0")?;
    let chip = &mut Chip(device);
    let digest = [5; 32];

    let extend = [&[0, 0, 0, 1, 0, 0x0b][..], &digest].concat();
    let by_us = || ok(s.pcr_extend(1, &[5; 52])?);
    report("extend", compare(by_us, || chip.ask(PCR_EXTEND, Some(PCR_16), &extend).map(drop))?);

    let by_us = || ok(s.random_bytes(Out(&mut [0; SIZE]))?);
    report("getrandom", compare(by_us, || chip.ask(GET_RANDOM, None, &[0, SIZE as u8]).map(drop))?);

    let parent = chip.primary(OWNER, PARENT)?;
    let create = creation(&[7; SIZE], SEALED);
    let mut blob = vec![0; SIZE + OVERHEAD];
    let by_us = || length(s.seal_for(&[], &[7; SIZE], Out(&mut blob))?, SIZE + OVERHEAD);
    report("seal", compare(by_us, || chip.ask(CREATE, Some(parent), &create).map(drop))?);

    let created = chip.ask(CREATE, Some(parent), &create)?;
    // Behind the size of the parameters: TPM2B_PRIVATE and TPM2B_PUBLIC, as TPM2_Load takes them.
    let mut end = 4;
    for _ in ["private", "public"] {
        let size = created.get(end..end + 2).context("a sealed object")?;
        end += 2 + usize::from(u16::from_be_bytes([size[0], size[1]]));
    }
    let object = handle(&chip.ask(LOAD, Some(parent), created.get(4..end).context("a sealed object")?)?)?;
    let by_us = || length(s.unseal_here(&blob, Out(&mut [0; 32 + SIZE]))?, SIZE);
    report("unseal", compare(by_us, || chip.ask(UNSEAL, Some(object), &[]).map(drop))?);
    chip.flush(object)?;
    chip.flush(parent)?;

    let quoting = Quoting::register()?;
    let made = reported(&s)?;
    let rsa = chip.primary(ENDORSEMENT, RSA)?;
    let quote = [&sized(&digest), &[0, 0x10][..], PCRS].concat();
    let by_us = || Ok(quoting.sign(&made).map(drop)?);
    report("quote_rsa", compare(by_us, || chip.ask(QUOTE, Some(rsa), &quote).map(drop))?);
    chip.flush(rsa)
}

fn ok(status: u64) -> anyhow::Result<()> {
    length(status, 0)
}

fn length(answer: u64, expected: usize) -> anyhow::Result<()> {
    ensure!(answer == expected as u64, "S answers {answer:#x}");
    Ok(())
}

fn reported(s: &TestPal) -> anyhow::Result<Vec<u8>> {
    let mut made = vec![0; MAX_REPORT];
    let length = s.report(u32::from(key::RSA) << 8 | 1, &[7; 32], Out(&mut made))?;
    made.truncate(length as usize);
    Ok(made)
}
