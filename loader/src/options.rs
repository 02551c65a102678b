//! The command line of TrustVisor (GRUB gives it to the loader), made into the numbers that SLB and runtime go by.
//!
//! Guarantees: every word is understood or refused by name, nothing is given twice.

use core::fmt;

use hypervisor::addr::LARGE_PAGE;
use hypervisor::launch::{MAX_RESERVE, MIN_RESERVE};
use hypervisor::options::{COM1, COM2, NO_CONSOLE, Options};
use log::LevelFilter;

/// Most bytes of a command line.
pub const MAX_CMDLINE: usize = 1024;

/// Size of the reserve when the command line names none.
pub const DEFAULT_RESERVE: u64 = 64 << 20;

/// A command line that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// `reserve=SIZE`: bytes of the reserve.
    pub reserve: u64,
    /// All others.
    pub options: Options,
}

impl Default for CommandLine {
    fn default() -> Self {
        Self { reserve: DEFAULT_RESERVE, options: Options::default() }
    }
}

/// Why a command line is refused; says which word of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionsError<'a> {
    /// There is no such option.
    Unknown(&'a str),
    /// The option was given before.
    Twice(&'a str),
    /// The option exists, its value does not.
    BadValue {
        /// The whole word.
        word: &'a str,
        /// What would have been understood.
        expected: &'static str,
    },
}

impl fmt::Display for OptionsError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => write!(f, "unknown option {word}"),
            Self::Twice(name) => write!(f, "option {name} given twice"),
            Self::BadValue { word, expected } => write!(f, "bad value in {word} (expected {expected})"),
        }
    }
}

impl CommandLine {
    /// Understands a command line: words of the form `name=value`, separated by white space.
    pub fn parse(line: &str) -> Result<Self, OptionsError<'_>> {
        let mut parsed = Self::default();
        let mut seen = 0u8;
        for word in line.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').ok_or(OptionsError::Unknown(word))?;
            let index = NAMES.iter().position(|n| *n == name).ok_or(OptionsError::Unknown(word))?;
            if seen & 1 << index != 0 {
                return Err(OptionsError::Twice(name));
            }
            seen |= 1 << index;
            parsed.set(name, value).map_err(|expected| OptionsError::BadValue { word, expected })?;
        }
        Ok(parsed)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        let options = &mut self.options;
        match name {
            "reserve" => {
                self.reserve = size(value)
                    .filter(|s| (MIN_RESERVE..=MAX_RESERVE).contains(s) && s.is_multiple_of(LARGE_PAGE))
                    .ok_or("16M to 1G, a multiple of 2M")?;
            }
            "dma" => options.dma_unprotected = choose(value, &[("unprotected", 1)]).ok_or("unprotected")?,
            "console" => {
                let consoles = [("com1", COM1), ("com2", COM2), ("none", NO_CONSOLE)];
                options.console = choose(value, &consoles).ok_or("com1, com2 or none")?;
            }
            "tpm" => options.tpm_none = choose(value, &[("none", 1)]).ok_or("none")?,
            _ => {
                let levels = [
                    ("error", LevelFilter::Error as u32),
                    ("warn", LevelFilter::Warn as u32),
                    ("info", LevelFilter::Info as u32),
                    ("debug", LevelFilter::Debug as u32),
                ];
                options.log = choose(value, &levels).ok_or("error, warn, info or debug")?;
            }
        }
        Ok(())
    }
}

const NAMES: [&str; 5] = ["reserve", "dma", "console", "tpm", "log"];
const _: () = {
    assert!(NAMES.len() <= u8::BITS as usize);
    // The text of the error of `reserve=`.
    assert!(MIN_RESERVE == 16 << 20 && MAX_RESERVE == 1 << 30 && LARGE_PAGE == 2 << 20);
};

fn choose(value: &str, choices: &[(&str, u32)]) -> Option<u32> {
    choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice)
}

/// Decimal bytes, or with the suffix K, M or G.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_given_is_the_default() {
        assert_eq!(CommandLine::parse(" \t\n"), Ok(CommandLine::default()));
    }

    #[test]
    fn all_options() {
        let options =
            CommandLine::parse("reserve=128M dma=unprotected  console=com2 tpm=none log=debug").unwrap();
        let options_expected =
            Options { dma_unprotected: 1, tpm_none: 1, console: COM2, log: LevelFilter::Debug as u32 };
        let expected = CommandLine { reserve: 128 << 20, options: options_expected };
        assert_eq!(options, expected);
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("16777216", 16 << 20), ("32768K", 32 << 20), ("18M", 18 << 20), ("1G", 1 << 30)]
        {
            assert_eq!(CommandLine::parse(&format!("reserve={text}")).unwrap().reserve, bytes);
        }
        for text in [
            "",
            "M",
            "17M",
            "14M",
            "1026M",
            "2G",
            "+16M",
            "0x1000000",
            "99999999999999999999",
            "17179869184G",
        ] {
            let word = format!("reserve={text}");
            let error = CommandLine::parse(&word).unwrap_err();
            assert!(matches!(error, OptionsError::BadValue { word: w, .. } if w == word), "{error}");
        }
    }

    #[test]
    fn refusals_name_the_word() {
        let text = |line| CommandLine::parse(line).unwrap_err().to_string();
        assert_eq!(text("dma=unprotected quiet"), "unknown option quiet");
        assert_eq!(text("DMA=unprotected"), "unknown option DMA=unprotected");
        assert_eq!(text("console=com1 console=com1"), "option console given twice");
        assert_eq!(text("dma=off"), "bad value in dma=off (expected unprotected)");
        assert_eq!(text("tpm=required"), "bad value in tpm=required (expected none)");
        assert_eq!(text("log=trace"), "bad value in log=trace (expected error, warn, info or debug)");
    }

    #[test]
    fn measured_bytes_are_fixed() {
        let measured = |line| CommandLine::parse(line).unwrap().options.measured();
        assert_eq!(measured("dma=unprotected"), b"dma=unprotected\ntpm=required\n");
        assert_eq!(measured("tpm=none dma=unprotected"), b"dma=unprotected\ntpm=none\n");
        assert_ne!(measured(""), measured("dma=unprotected"));
        assert_ne!(measured(""), measured("tpm=none"));
    }

    proptest! {
        #[test]
        fn order_and_other_options_are_not_measured(
            words in Just(vec!["dma=unprotected", "tpm=none", "console=none", "log=warn", "reserve=32M"]).prop_shuffle(),
            keep in 0..=5usize,
        ) {
            let words = &words[..keep];
            let parsed = CommandLine::parse(&words.join(" ")).unwrap();
            let relevant = Options {
                dma_unprotected: words.contains(&"dma=unprotected").into(),
                tpm_none: words.contains(&"tpm=none").into(),
                ..Options::default()
            };
            prop_assert!(parsed.options.are_known());
            prop_assert_eq!(parsed.options.measured(), relevant.measured());
        }

        #[test]
        fn any_text_is_understood_or_refused(line in "\\PC{0,200}|([a-z]{3,7}=[a-z0-9KMG]{0,12} ?){0,8}") {
            if let Err(error) = CommandLine::parse(&line) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
