//! The command line against a table of what the README says of it.
//!
//! Demanded: a line is understood exactly if every word is in the table and none twice, and then made into numbers that the SLB
//! knows; what is measured tells of `dma=` and
//! `tpm=` alone, and all there is of them; the order of the words changes nothing; an error names a word of the line.

use hypervisor::options::{COM1, COM2, NO_CONSOLE};
use loader::options::CommandLine;
use log::LevelFilter;

const MIB: u128 = 1 << 20;

/// The bytes are the line.
pub fn check(bytes: &[u8]) {
    let Ok(line) = core::str::from_utf8(bytes) else { return };
    let words: Vec<&str> = line.split(|c: char| c.is_ascii_whitespace()).filter(|w| !w.is_empty()).collect();
    let expected = understood(&words);
    match CommandLine::parse(line) {
        Ok(parsed) => {
            assert_eq!(Some(parsed), expected);
            let options = parsed.options;
            assert!(options.are_known());
            let dma = if options.dma_unprotected != 0 { "dma=unprotected\n" } else { "dma=protected\n" };
            let tpm = if options.tpm_none != 0 { "tpm=none\n" } else { "tpm=required\n" };
            assert_eq!(options.measured(), [dma, tpm].concat().as_bytes());
            let turned: Vec<&str> = words.iter().rev().copied().collect();
            assert_eq!(CommandLine::parse(&turned.join("\t")), Ok(parsed));
        }
        Err(error) => {
            assert_eq!(expected, None, "{error}");
            let text = error.to_string();
            let named = |word: &&str| text.contains(word.split('=').next().unwrap_or(word));
            assert!(words.iter().any(named), "{text}");
        }
    }
}

fn understood(words: &[&str]) -> Option<CommandLine> {
    let mut parsed = CommandLine::default();
    let options = &mut parsed.options;
    let mut names = Vec::new();
    for word in words {
        let (name, value) = word.split_once('=')?;
        if names.contains(&name) {
            return None;
        }
        names.push(name);
        match (name, value) {
            ("reserve", size) => parsed.reserve = reserve(size)?,
            ("dma", "unprotected") => options.dma_unprotected = 1,
            ("console", "com1") => options.console = COM1,
            ("console", "com2") => options.console = COM2,
            ("console", "none") => options.console = NO_CONSOLE,
            ("tpm", "none") => options.tpm_none = 1,
            ("log", "error") => options.log = LevelFilter::Error as u32,
            ("log", "warn") => options.log = LevelFilter::Warn as u32,
            ("log", "info") => options.log = LevelFilter::Info as u32,
            ("log", "debug") => options.log = LevelFilter::Debug as u32,
            _ => return None,
        }
    }
    Some(parsed)
}

/// 16 MiB to 1 GiB, in steps of 2 MiB.
fn reserve(text: &str) -> Option<u64> {
    let (digits, unit) = match text.chars().last()? {
        'K' => (&text[..text.len() - 1], 1 << 10),
        'M' => (&text[..text.len() - 1], MIB),
        'G' => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    if digits.is_empty() || digits.chars().any(|c| !c.is_ascii_digit()) {
        return None;
    }
    // Leading zeroes change nothing; more digits than these are more than 1 GiB.
    let digits = digits.trim_start_matches('0');
    if digits.len() > 20 {
        return None;
    }
    let size = digits.bytes().fold(0u128, |n, digit| n * 10 + u128::from(digit - b'0')) * unit;
    let good = (16 * MIB..=1024 * MIB).contains(&size) && size % (2 * MIB) == 0;
    good.then_some(size as u64)
}
