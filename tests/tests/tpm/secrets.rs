//! What TrustVisor keeps, looked for in all memory the guest can read and on its disk: S's secret, the root and what it gives, the primes
//! of the RSA identity key. The same search finds them where they may be, in the reserve, and another RSA key in a file of the guest's.
//!
//! Of a key only the public part is known here. A prime is known by dividing the modulus; the P-256 key by its public point; the root's
//! state (of HMAC, keyed by HKDF) by giving that key; the root itself by giving that state.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::iter::successors;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use base64ct::{Base64, Encoding};
use hkdf::Hkdf;
use machine::Machine;
use p256::elliptic_curve::Group;
use p256::{ProjectivePoint, PublicKey};
use sha2::Sha256;
use sha2::block_api::compress256;
use trustvisor_tests::SOON;

use super::{PAGE, from_hex};

/// Bytes of a prime of RSA-2048, and the 64-bit words of it and of the modulus.
const PRIME: usize = 128;
const HALF: usize = PRIME / 8;

/// An RSA-2048 modulus, least word first.
struct Modulus([u64; 2 * HALF]);

impl Modulus {
    /// From its big-endian form.
    fn new(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() == 2 * PRIME && bytes[0] & 0x80 != 0, "no modulus of 2048 bits");
        let mut words = [0; 2 * HALF];
        for (word, bytes) in words.iter_mut().rev().zip(bytes.as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        Ok(Self(words))
    }

    /// Whether an odd number of 1024 bits divides it.
    fn divides(&self, divisor: &[u64; HALF]) -> bool {
        // The quotient from below, if there is one (division modulo 2^1024): each of its words makes the lowest word left zero.
        let inverse = inverse(divisor[0]);
        let (mut left, mut quotient) = (self.0, [0; HALF]);
        for at in 0..HALF {
            quotient[at] = left[at].wrapping_mul(inverse);
            // The upper half is needed only if the quotient is one.
            subtract(&mut left[at..HALF], divisor, quotient[at]);
        }
        // Most are no quotient: it would be of 1024 bits.
        if quotient[HALF - 1] >> 63 == 0 {
            return false;
        }
        let mut left = self.0;
        (0..HALF).for_each(|at| subtract(&mut left[at..], divisor, quotient[at]));
        left == [0; 2 * HALF]
    }
}

/// `left -= number * factor`, as far as `left` goes.
fn subtract(left: &mut [u64], number: &[u64; HALF], factor: u64) {
    let mut carry = 0;
    let mut digits = number.iter();
    for word in left {
        let product = digits.next().map_or(0, |digit| u128::from(*digit) * u128::from(factor)) + carry;
        let (difference, borrow) = word.overflowing_sub(product as u64);
        *word = difference;
        carry = (product >> 64) + u128::from(borrow);
    }
}

/// Of an odd number modulo 2^64: each step doubles the bits that are right, three at first.
fn inverse(odd: u64) -> u64 {
    (0..5).fold(odd, |x, _| x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x))))
}

/// A prime has more different bytes than this, but for one in 10^12.
const DIFFERENT_IN_PRIME: usize = 70;

/// Where a prime of the modulus starts, at any byte, in either byte order.
fn primes(bytes: &[u8], modulus: &Modulus) -> Vec<usize> {
    let mut found = Vec::new();
    let (mut counts, mut different) = ([0u8; 256], 0);
    for (at, byte) in bytes.iter().enumerate() {
        let count = &mut counts[usize::from(*byte)];
        different += usize::from(*count == 0);
        *count += 1;
        if let Some(left) = at.checked_sub(PRIME) {
            let count = &mut counts[usize::from(bytes[left])];
            *count -= 1;
            different -= usize::from(*count == 0);
        }
        let Some(window) = bytes[..=at].last_chunk::<PRIME>() else { continue };
        if different < DIFFERENT_IN_PRIME {
            continue;
        }
        let words = window.as_chunks().0;
        let little = window[0] & 1 == 1
            && window[PRIME - 1] & 0x80 != 0
            && modulus.divides(&std::array::from_fn(|at| u64::from_le_bytes(words[at])));
        let big = window[PRIME - 1] & 1 == 1
            && window[0] & 0x80 != 0
            && modulus.divides(&std::array::from_fn(|at| u64::from_be_bytes(words[HALF - 1 - at])));
        if little || big {
            found.push(at + 1 - PRIME);
        }
    }
    found
}

/// What the PEM texts in it say.
fn pem(bytes: &[u8]) -> Vec<u8> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let mut decoded = Vec::new();
    for start in (0..bytes.len()).filter(|at| bytes[*at..].starts_with(BEGIN)) {
        let text = String::from_utf8_lossy(&bytes[start..bytes.len().min(start + 8192)]).into_owned();
        let body: String = text.lines().skip(1).take_while(|line| !line.starts_with('-')).collect();
        decoded.extend(Base64::decode_vec(&body).unwrap_or_default());
    }
    decoded
}

/// A secret of 32 random bytes has as many different ones, but for one in a million.
const DIFFERENT: u32 = 23;

/// Windows of 32 bytes that could be a secret, each `step` bytes.
fn windows(bytes: &[u8], step: usize) -> impl Iterator<Item = (usize, &[u8; 32])> {
    (0..bytes.len().saturating_sub(31)).step_by(step).filter_map(|at| {
        let window: &[u8; 32] = bytes[at..].first_chunk()?;
        // Cheap, and true of most memory.
        if window[..8] == [0; 8] {
            return None;
        }
        let mut seen = [0u64; 4];
        window.iter().for_each(|byte| seen[usize::from(byte >> 6)] |= 1 << (byte & 63));
        let different: u32 = seen.iter().map(|bits| bits.count_ones()).sum();
        (different >= DIFFERENT).then_some((at, window))
    })
}

/// The private key of a P-256 point, at any byte. A window's point follows from that of the window a byte before: 256 times that one, less what
/// has left at the front, and what has come at the end.
fn private_key(bytes: &[u8], public: &[u8; 64]) -> Result<Option<[u8; 32]>> {
    let sec1 = [&[4][..], public].concat();
    let wanted = PublicKey::from_sec1_bytes(&sec1).context("no point")?.to_projective();
    let shifted = |point: ProjectivePoint, bits| (0..bits).fold(point, |point, _| point.double());
    let multiples = |point: ProjectivePoint| -> Vec<_> {
        successors(Some(ProjectivePoint::IDENTITY), |sum| Some(sum + &point)).take(256).collect()
    };
    let coming = multiples(ProjectivePoint::GENERATOR);
    let leaving = multiples(shifted(ProjectivePoint::GENERATOR, 256));
    let mut point = ProjectivePoint::IDENTITY;
    for (at, byte) in bytes.iter().enumerate() {
        point = shifted(point, 8) + coming[usize::from(*byte)];
        if let Some(start) = at.checked_sub(32) {
            point -= leaving[usize::from(bytes[start])];
        }
        if point == wanted {
            return Ok(bytes[..=at].last_chunk().copied());
        }
    }
    Ok(None)
}

/// `utpm::Root`: HKDF-SHA-256's salt, and the purposes of the P-256 key (its first candidate), which is the identity half's, and of what
/// opens the counters, which is the storage half's.
const SALT: &[u8] = b"TrustVisor root 1";
const P256: &[u8] = b"P-256 identity\0";
const COUNTERS: &[u8] = b"counters";
/// Bytes between one half's states and the other's, at most.
const HALVES: usize = 256;

/// The P-256 key and what opens the counters, as this half of a root gives them.
fn given_by(half: &[u8; 32]) -> [[u8; 32]; 2] {
    let hkdf = Hkdf::<Sha256>::new(Some(SALT), half);
    [P256, COUNTERS].map(|purpose| {
        let mut key = [0; 32];
        hkdf.expand(purpose, &mut key).expect("32 bytes");
        key
    })
}

/// The states of an HMAC after its key's two blocks, where they give such a key: as SHA-256's words lie in memory, near each other.
fn hmac_states(bytes: &[u8], purpose: &[u8], is_key: impl Fn(&[u8; 32]) -> bool) -> Option<[[u8; 32]; 2]> {
    const NEAR: usize = 128;
    // T(1) of RFC 5869, 2.3, is HMAC(PRK, info || 1).
    let inner_block = padded(&[purpose, &[1]].concat());
    let candidates: Vec<_> = windows(bytes, 4).collect();
    for (i, (at, inner)) in candidates.iter().enumerate() {
        let block = padded(&hash(inner, &inner_block));
        let before = candidates[..i].iter().rev().take_while(|(other, _)| at - other <= NEAR);
        let after = candidates[i + 1..].iter().take_while(|(other, _)| other - at <= NEAR);
        if let Some((_, outer)) = before.chain(after).find(|(_, outer)| is_key(&hash(outer, &block))) {
            return Some([**inner, **outer]);
        }
    }
    None
}

/// The key that these states give.
fn hmac_key([inner, outer]: &[[u8; 32]; 2], purpose: &[u8]) -> [u8; 32] {
    hash(outer, &padded(&hash(inner, &padded(&[purpose, &[1]].concat()))))
}

/// The last block of a message whose first was the key's.
fn padded(message: &[u8]) -> [u8; 64] {
    let mut block = [0; 64];
    block[..message.len()].copy_from_slice(message);
    block[message.len()] = 0x80;
    block[56..].copy_from_slice(&(8 * (64 + message.len() as u64)).to_be_bytes());
    block
}

/// A state, as it lies in memory, gone on with by a block: the digest.
fn hash(state: &[u8; 32], block: &[u8; 64]) -> [u8; 32] {
    let words = state.as_chunks().0;
    let mut state = std::array::from_fn(|at| u32::from_le_bytes(words[at]));
    compress256(&mut state, &[*block]);
    state.map(u32::to_be_bytes).as_flattened().try_into().expect("32 bytes")
}

/// Whether it is there in one of the orders of bytes and words that programs use.
fn contains(bytes: &[u8], secret: &[u8; 32]) -> bool {
    let reversed: Vec<u8> = secret.iter().rev().copied().collect();
    let words: Vec<u8> =
        secret.as_chunks::<4>().0.iter().flat_map(|word| word.iter().rev().copied()).collect();
    [&secret[..], &reversed, &words].iter().any(|form| find(bytes, form))
}

fn find(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window[0] == wanted[0] && window == wanted)
}

/// The words of S's secret, by what `tvtest hold` says: a mask, then the words masked.
fn words(line: &str) -> Result<BTreeSet<u64>> {
    let words = line.split_whitespace().skip(2).map(|w| u64::from_str_radix(w.trim_start_matches("0x"), 16));
    let words = words.collect::<Result<Vec<_>, _>>()?;
    let (mask, words) = words.split_first().context("no mask")?;
    ensure!(words.len() == 16, "{} words of the secret", words.len());
    Ok(words.iter().map(|word| word ^ mask).collect())
}

fn words_in(bytes: &[u8], wanted: &BTreeSet<u64>) -> usize {
    let here = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    here.filter(|word| *word != 0 && wanted.contains(word)).collect::<BTreeSet<_>>().len()
}

/// The pages that are not zero.
fn used(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(PAGE).filter(|page| page.iter().any(|byte| *byte != 0)).flatten().copied().collect()
}

/// The machine's RAM, and which part of it is TrustVisor's.
fn memory(machine: &Machine, size: u64) -> Result<(Vec<u8>, Range<usize>)> {
    let info = machine.succeed("trustvisor info", SOON)?;
    let line = info.iter().find_map(|line| line.strip_prefix("reserve: ")).context("no reserve")?;
    let (mib, base) = line.split_once(" MiB at 0x").context("no reserve")?;
    let (mib, base) = (mib.parse::<usize>()?, usize::from_str_radix(base, 16)?);
    Ok((machine.memory_dump(0, size)?, base..base + (mib << 20)))
}

/// The public keys of the identity: the RSA modulus, the P-256 point without compression.
pub struct Keys<'a> {
    pub modulus: &'a [u8],
    pub point: &'a [u8; 64],
}

/// An RSA key in a file on the guest's disk.
pub struct Pem {
    modulus: Vec<u8>,
}

impl Pem {
    const AT: usize = 8;

    /// Makes it and writes it to the disk.
    pub fn on(disk: &Path) -> Result<Self> {
        let openssl = |arguments: &[&str]| -> Result<String> {
            let output = Command::new("openssl").args(arguments).output().context("openssl")?;
            ensure!(output.status.success(), "openssl {arguments:?}");
            Ok(String::from_utf8(output.stdout)?)
        };
        let text = openssl(&["genrsa", "2048"])?;
        ensure!(text.len() <= PAGE, "a key of {} bytes", text.len());
        OpenOptions::new().write(true).open(disk)?.write_all_at(text.as_bytes(), (Self::AT * PAGE) as u64)?;
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), text)?;
        let path = file.path().to_str().context("a path of UTF-8")?;
        let modulus = openssl(&["rsa", "-in", path, "-noout", "-modulus"])?;
        Ok(Self { modulus: from_hex(modulus.trim().strip_prefix("Modulus=").context("no modulus")?)? })
    }

    /// The guest reads and decodes it, as a program would that uses it.
    fn read(machine: &Machine) -> Result<()> {
        let command = format!(
            "dd if=/dev/vda bs={PAGE} skip={} count=1 2>/dev/null | tr -d '\\0' | grep -v -- - | base64 -d >/tmp/key",
            Self::AT
        );
        machine.succeed(&command, SOON).map(drop)
    }
}

/// Looks for everything in a machine with this much RAM and this disk.
pub fn search(machine: &Machine, ram: u64, disk: &Path, keys: &Keys<'_>, other: &Pem) -> Result<()> {
    Pem::read(machine)?;
    machine.send("tvtest hold &")?;
    let secret = words(&machine.wait_for("tvtest: holds ", SOON)?.text)?;
    let (memory, reserve) = memory(machine, ram)?;
    machine.send("touch /tmp/release")?;
    machine.wait_for("tvtest: released", SOON)?;
    let start = Instant::now();
    let kept = &used(&memory[reserve.clone()])[..];
    let disk = &fs::read(disk)?[..];
    let seen = [used(&memory[..reserve.start]), used(&memory[reserve.end..]), disk.to_vec()];
    println!(
        "{} MiB of memory that the guest sees are in use, {} KiB of the reserve",
        (seen[0].len() + seen[1].len()) >> 20,
        kept.len() >> 10
    );

    ensure!(words_in(kept, &secret) == 16, "S's secret is not where it belongs");
    let found: usize = seen.iter().map(|part| words_in(part, &secret)).sum();
    ensure!(found == 0, "{found} words of S's secret can be seen");

    let key = private_key(kept, keys.point)?.context("the P-256 key is not found in the reserve")?;
    println!("the P-256 key is found in the reserve after {:.1} s", start.elapsed().as_secs_f32());
    let lost = "the root's state is not found in the reserve";
    let identity = hmac_states(kept, P256, |given| *given == key).context(lost)?;
    let at = kept.windows(32).position(|window| window == identity[0]).context(lost)?;
    let near = &kept[at.saturating_sub(HALVES)..kept.len().min(at + HALVES)];
    let words: BTreeSet<_> = windows(kept, 8).map(|(_, window)| window).collect();
    // What opens the counters is kept as well, for their increments.
    let storage = hmac_states(near, COUNTERS, |given| words.contains(given)).context(lost)?;
    println!("the root's state is found in the reserve after {:.1} s", start.elapsed().as_secs_f32());
    let opens = hmac_key(&storage, COUNTERS);
    let states = [identity, storage].concat().into_iter().map(|state| ("root's state", state));
    for (what, secret) in states.chain([("P-256 key", key), ("counters' authorisation", opens)]) {
        ensure!(contains(kept, &secret), "the {what} is not found again in the reserve");
        ensure!(!seen.iter().any(|part| contains(part, &secret)), "the {what} can be seen");
    }
    for part in &seen {
        let is_half = |half| {
            let [first, second] = given_by(half);
            first == key || second == opens
        };
        ensure!(!windows(part, 4).any(|(_, window)| is_half(window)), "half of the root can be seen");
    }
    println!("the root is not seen after {:.1} s", start.elapsed().as_secs_f32());

    let (ours, theirs) = (Modulus::new(keys.modulus)?, Modulus::new(&other.modulus)?);
    for part in &seen {
        for bytes in [part, &pem(part)] {
            ensure!(primes(bytes, &ours).is_empty(), "a prime of the RSA identity key can be seen");
        }
    }
    println!("no prime is seen after {:.1} s", start.elapsed().as_secs_f32());
    ensure!(primes(disk, &theirs).is_empty() && primes(&pem(disk), &theirs).len() == 2, "the PEM file");
    let found: usize = seen[..2].iter().map(|part| primes(part, &theirs).len()).sum();
    ensure!(found >= 2, "{found} primes of the decoded key are found in memory");
    println!("another key's primes are found {found} times after {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

#[test]
fn the_search_finds_what_is_hidden_in_noise() -> Result<()> {
    use p256::SecretKey;
    use p256::elliptic_curve::sec1::ToSec1Point;

    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    fs::write(&disk, [])?;
    let pem = Pem::on(&disk)?;
    let modulus = Modulus::new(&pem.modulus)?;
    let key = self::pem(&fs::read(&disk)?);
    let places = primes(&key, &modulus);
    ensure!(places.len() == 2, "{places:?} in the decoded file");
    let mut noise: Vec<u8> =
        (0..60_000u32).map(|at| (at.wrapping_mul(0x9e37_79b1) >> 11) as u8 | 1).collect();
    ensure!(primes(&noise, &modulus).is_empty(), "primes in noise");
    for (at, place) in [(1001, places[0]), (20_002, places[1]), (40_003, places[0])] {
        noise[at..at + PRIME].copy_from_slice(&key[place..place + PRIME]);
    }
    noise[40_003..40_003 + PRIME].reverse();
    ensure!(primes(&noise, &modulus) == [1001, 20_002, 40_003], "found {:?}", primes(&noise, &modulus));
    // One bit, and it is none.
    noise[20_010] ^= 4;
    ensure!(primes(&noise, &modulus) == [1001, 40_003], "a number that does not divide is found");

    // The root's keys are those of utpm.
    let secret: [u8; 64] = std::array::from_fn(|at| (at as u8 + 3).wrapping_mul(0x95));
    let [storage, root] = [&secret[..32], &secret[32..]].map(|half| *half.first_chunk().expect("32 bytes"));
    let theirs = utpm::Root::new(&secret, [0; 32]);
    ensure!(*theirs.counters_auth() == given_by(&storage)[1], "something else opens the counters");
    let theirs = utpm::Identity::new(&theirs, &[7; 32], utpm::digest(b"quoting"), &[]);
    let key = given_by(&root)[0];
    ensure!(theirs.quoting_keys()[32..] == key, "another key of the root");
    let public = SecretKey::from_slice(&key)?.public_key().to_sec1_point(false);
    let public = public.as_bytes()[1..].try_into()?;
    ensure!(private_key(&noise[..3000], public)?.is_none(), "a private key in noise");
    noise[2001..2033].copy_from_slice(&key);
    ensure!(private_key(&noise[..3000], public)? == Some(key), "the private key");
    noise[2001] ^= 1;
    noise[333..365].copy_from_slice(&root);
    ensure!(windows(&noise, 1).any(|(at, window)| at == 333 && given_by(window)[0] == key), "the root");
    ensure!(contains(&noise, &root) && !contains(&noise, &key), "found wrongly");
    Ok(())
}
