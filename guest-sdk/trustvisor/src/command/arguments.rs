//! The arguments of a call of S, as words of the command line, and what S makes of them.

use super::{Print, from_hex, hex};
use anyhow::{Context, bail, ensure};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use trustvisor::abi::image::{MAX_ARGS, arg};
use trustvisor::args::{Argument, Registers};
use trustvisor::{Out, Pal};

/// For `--help`.
pub const HELP: &str = "An argument is
  42, 0x2a, -1       an integer
  text:HELLO         a buffer that S reads, with these characters
  hex:00ff           or these bytes
  in:FILE            or what is in a file
  out:BYTES          a buffer that S writes, printed in hexadecimal
  out:BYTES:FILE     or written to a file
  inout:FILE:TO      a buffer with a file's contents, which S changes, and the file for the result";

/// The longest buffer: what all of S's memory may be.
const MOST: usize = 16 << 20;

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub enum Given {
    Int(u64),
    In(Vec<u8>),
    Out(Vec<u8>, Option<PathBuf>),
    InOut(Vec<u8>, PathBuf),
}

impl Given {
    pub fn parse(word: &str) -> anyhow::Result<Self> {
        let (kind, rest) = word.split_once(':').unwrap_or(("", word));
        let read = |file: &str| fs::read(file).with_context(|| format!("cannot read {file}"));
        let given = match kind {
            "" => Self::Int(integer(word).with_context(|| format!("{word:?} is no argument (see --help)"))?),
            "text" => Self::In(rest.into()),
            "hex" => Self::In(from_hex(rest).with_context(|| format!("{rest:?} is not hexadecimal"))?),
            "in" => Self::In(read(rest)?),
            "out" => {
                let (bytes, file) =
                    rest.split_once(':').map_or((rest, None), |(bytes, file)| (bytes, Some(file)));
                let length = integer(bytes).filter(|bytes| *bytes <= MOST as u64);
                let length = length.with_context(|| format!("{bytes:?} is no length of a buffer"))?;
                Self::Out(vec![0; length as usize], file.map(PathBuf::from))
            }
            "inout" => {
                let (from, to) =
                    rest.split_once(':').with_context(|| format!("{word:?} names no second file"))?;
                Self::InOut(read(from)?, to.into())
            }
            _ => bail!("{word:?} is no argument (see --help)"),
        };
        Ok(given)
    }

    fn registers(&self) -> usize {
        if matches!(self, Self::Int(_)) { 1 } else { 2 }
    }
}

/// Decimal or hexadecimal; negative numbers are extended.
fn integer(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    text.parse().ok().or_else(|| text.parse::<i64>().ok().map(|number| number as u64))
}

/// The registers of a call with these arguments, if S's entry takes such.
pub fn registers<'a>(pal: &Pal, entry: u16, given: &'a mut [Given]) -> anyhow::Result<Registers<'a>> {
    let wanted = pal.signature(entry).with_context(|| format!("S has no entry {entry}"))?;
    let fits = given.iter().map(Given::registers).sum::<usize>() <= MAX_ARGS;
    let mut registers = Registers::default();
    if fits {
        given.iter_mut().for_each(|given| match given {
            Given::Int(value) => value.put(&mut registers),
            Given::In(bytes) => bytes.as_slice().put(&mut registers),
            Given::Out(bytes, _) => Out(bytes).put(&mut registers),
            Given::InOut(bytes, _) => bytes.as_mut_slice().put(&mut registers),
        });
    }
    ensure!(fits && registers.kinds() == wanted, "entry {entry} takes {}", signature(&wanted));
    Ok(registers)
}

/// In words.
fn signature(kinds: &[u8; MAX_ARGS]) -> String {
    let word = |kind: &u8| match *kind {
        arg::INT => Some("an integer"),
        arg::IN => Some("a buffer to read (text:, hex:, in:)"),
        arg::OUT => Some("a buffer to write (out:)"),
        arg::IN_OUT => Some("a buffer to change (inout:)"),
        _ => None,
    };
    let words: Vec<_> = kinds.iter().filter_map(word).collect();
    if words.is_empty() { "no arguments".into() } else { words.join(", ") }
}

/// Prints what S returned and wrote; files get theirs.
pub fn show(print: Print, returned: u64, given: &[Given]) -> anyhow::Result<()> {
    let (mut text, mut buffers) = (format!("returned {returned} ({returned:#x})\n"), Vec::new());
    for given in given {
        match given {
            Given::Out(bytes, Some(file)) | Given::InOut(bytes, file) => {
                fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
            }
            Given::Out(bytes, None) => {
                text += &format!("{}\n", hex(bytes));
                buffers.push(hex(bytes));
            }
            Given::Int(_) | Given::In(_) => {}
        }
    }
    print.value(&text, &json!({ "returned": returned, "buffers": buffers }));
    Ok(())
}
