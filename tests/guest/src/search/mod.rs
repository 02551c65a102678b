//! What root looks for when it wants a server's private key: `tvtest search MODULUS [DISK]` (an RSA modulus, in hexadecimal) reads all
//! physical memory, the memory of every process and the whole disk, and tells where there is a prime factor of the modulus: as bytes in
//! either order, at any address, or inside a PEM file.
//!
//! What is found is not judged here. The search's own process is left out of the processes; in physical memory it cannot be, but it has
//! no factor before it found one.

mod divisors;
mod pem;
mod places;

use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::process::ExitCode;

use divisors::Divisors;

/// The argument that asks for this.
pub const SEARCH: &str = "search";
/// More than a private key's PEM file.
const OVERLAP: usize = 8 << 10;
const PIECE: usize = 1 << 20;

pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let arguments: Vec<_> = arguments.collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match carry_out(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("search: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(words: &[&str]) -> anyhow::Result<()> {
    let (modulus, disk) = match words {
        [modulus] => (modulus, None),
        [modulus, disk] => (modulus, Some(disk)),
        _ => bail!("search MODULUS [DISK]"),
    };
    let mut search = Search::new(modulus)?;
    search.place("physical memory", places::physical_memory)?;
    search.place("processes", places::processes)?;
    if let Some(disk) = disk {
        search.place("the disk", |sink| places::disk(disk, sink))?;
    }
    println!("search: {} factors found", search.factors.len());
    Ok(())
}

/// Takes bytes from an address on, which continue what it took before if `address` does.
pub type Sink<'a> = dyn FnMut(u64, &[u8]) + 'a;

struct Search {
    divisors: Divisors,
    factors: Vec<Vec<u8>>,
}

impl Search {
    fn new(modulus: &str) -> anyhow::Result<Self> {
        Ok(Self { divisors: Divisors::of(&digits(modulus)?)?, factors: Vec::new() })
    }

    fn place(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Sink) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (mut stream, mut total) = (Stream::default(), 0);
        read(&mut |address, bytes| {
            total += bytes.len() as u64;
            stream.take(&self.divisors, address, bytes);
        })
        .with_context(|| name.to_owned())?;
        let first = stream
            .hits
            .first_key_value()
            .map_or_else(String::new, |(at, how)| format!(", the first {how} at {at:#x}"));
        println!("search: {name}: {} MiB, {} hits{first}", total >> 20, stream.hits.len());
        for factor in stream.factors {
            if !self.factors.contains(&factor) {
                self.factors.push(factor);
            }
        }
        Ok(())
    }
}

/// Bytes that come in pieces; a factor that lies across two is found.
#[derive(Default)]
struct Stream {
    /// The end of what came last, and then what came now.
    bytes: Vec<u8>,
    /// The address after the last byte.
    end: u64,
    hits: BTreeMap<u64, &'static str>,
    factors: Vec<Vec<u8>>,
}

impl Stream {
    fn take(&mut self, divisors: &Divisors, address: u64, bytes: &[u8]) {
        if self.end == address {
            let kept = self.bytes.len().min(OVERLAP);
            self.bytes.drain(..self.bytes.len() - kept);
        } else {
            self.bytes.clear();
        }
        let start = address - self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        self.end = address + bytes.len() as u64;
        // The overlap was searched, but for what only now has an end.
        let searched = (address - start).saturating_sub(divisors.size() as u64 - 1) as usize;
        for (at, factor) in divisors.inside(&self.bytes[searched..]) {
            self.hits.insert(start + (searched + at) as u64, "as bytes");
            self.factors.push(factor);
        }
        for (at, contents) in pem::files(&self.bytes) {
            for (_, factor) in divisors.inside(&contents) {
                self.hits.insert(start + at as u64, "in a PEM file");
                self.factors.push(factor);
            }
        }
        self.factors.sort();
        self.factors.dedup();
    }
}

fn digits(word: &str) -> anyhow::Result<Vec<u8>> {
    if !word.len().is_multiple_of(2) {
        bail!("half a byte");
    }
    let pairs = word.as_bytes().as_chunks::<2>().0.iter();
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

#[cfg(test)]
mod tests;
