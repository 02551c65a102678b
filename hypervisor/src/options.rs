//! The command line of TrustVisor (GRUB gives it to the loader, which hands it on).
//!
//! Guarantees: every word is understood or refused by name, nothing is given twice; [`Options::measured`] depends on the
//! security-relevant options alone, not on their order, their spelling or anything else. Relies on nothing; loader and
//! SLB parse the same text with the same code, the SLB its own copy.

use core::fmt;

use log::LevelFilter;

use crate::addr::LARGE_PAGE;
use crate::launch::{DEFAULT_RESERVE, MAX_RESERVE, MIN_RESERVE};

/// Where TrustVisor prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Port 3F8.
    Com1,
    /// Port 2F8.
    Com2,
    /// Nowhere.
    None,
}

/// What is known about devices that read and write memory on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dma {
    /// Nothing keeps them out of the reserve, and the user has said that this is understood.
    Unprotected,
}

/// Whether there must be a hardware TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tpm {
    /// The launch is refused without one.
    Required,
    /// None is used, even if there is one: no root, no quotes.
    None,
}

/// A command line that was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `reserve=SIZE`: bytes of the reserve.
    pub reserve: u64,
    /// `dma=unprotected`; absent, devices must be kept out, or the launch is refused.
    pub dma: Option<Dma>,
    /// `console=com1|com2|none`.
    pub console: Console,
    /// `tpm=none`.
    pub tpm: Tpm,
    /// `log=error|warn|info|debug`; `debug` also speaks after the guest has started.
    pub log: LevelFilter,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            reserve: DEFAULT_RESERVE,
            dma: None,
            console: Console::Com1,
            tpm: Tpm::Required,
            log: LevelFilter::Info,
        }
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

impl Options {
    /// Understands a command line: words of the form `name=value`, separated by white space.
    pub fn parse(line: &str) -> Result<Self, OptionsError<'_>> {
        let mut options = Self::default();
        let mut seen = 0u8;
        for word in line.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').ok_or(OptionsError::Unknown(word))?;
            let index = NAMES.iter().position(|n| *n == name).ok_or(OptionsError::Unknown(word))?;
            if seen & 1 << index != 0 {
                return Err(OptionsError::Twice(name));
            }
            seen |= 1 << index;
            options.set(name, value).map_err(|expected| OptionsError::BadValue { word, expected })?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "reserve" => {
                self.reserve = size(value)
                    .filter(|s| (MIN_RESERVE..=MAX_RESERVE).contains(s) && s.is_multiple_of(LARGE_PAGE))
                    .ok_or("16M to 1G, a multiple of 2M")?;
            }
            "dma" => {
                self.dma = Some(choose(value, &[("unprotected", Dma::Unprotected)]).ok_or("unprotected")?);
            }
            "console" => {
                let consoles = [("com1", Console::Com1), ("com2", Console::Com2), ("none", Console::None)];
                self.console = choose(value, &consoles).ok_or("com1, com2 or none")?;
            }
            "tpm" => self.tpm = choose(value, &[("none", Tpm::None)]).ok_or("none")?,
            _ => {
                let levels = [
                    ("error", LevelFilter::Error),
                    ("warn", LevelFilter::Warn),
                    ("info", LevelFilter::Info),
                    ("debug", LevelFilter::Debug),
                ];
                self.log = choose(value, &levels).ok_or("error, warn, info or debug")?;
            }
        }
        Ok(())
    }

    /// The bytes whose digest goes into PCR 18: the security-relevant options in their one encoding. A verifier computes
    /// the same from the configuration it is ready to trust.
    pub fn measured(&self) -> &'static [u8] {
        match (self.dma, self.tpm) {
            (None, Tpm::Required) => b"dma=protected\ntpm=required\n",
            (None, Tpm::None) => b"dma=protected\ntpm=none\n",
            (Some(Dma::Unprotected), Tpm::Required) => b"dma=unprotected\ntpm=required\n",
            (Some(Dma::Unprotected), Tpm::None) => b"dma=unprotected\ntpm=none\n",
        }
    }
}

const NAMES: [&str; 5] = ["reserve", "dma", "console", "tpm", "log"];
const _: () = {
    assert!(NAMES.len() <= u8::BITS as usize);
    // The text of the error of `reserve=`.
    assert!(MIN_RESERVE == 16 << 20 && MAX_RESERVE == 1 << 30 && LARGE_PAGE == 2 << 20);
};

fn choose<T: Copy>(value: &str, choices: &[(&str, T)]) -> Option<T> {
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
        assert_eq!(Options::parse(" \t\n"), Ok(Options::default()));
    }

    #[test]
    fn all_options() {
        let options =
            Options::parse("reserve=128M dma=unprotected  console=com2 tpm=none log=debug").unwrap();
        let expected = Options {
            reserve: 128 << 20,
            dma: Some(Dma::Unprotected),
            console: Console::Com2,
            tpm: Tpm::None,
            log: LevelFilter::Debug,
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("16777216", 16 << 20), ("32768K", 32 << 20), ("18M", 18 << 20), ("1G", 1 << 30)]
        {
            assert_eq!(Options::parse(&format!("reserve={text}")).unwrap().reserve, bytes);
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
            let error = Options::parse(&word).unwrap_err();
            assert!(matches!(error, OptionsError::BadValue { word: w, .. } if w == word), "{error}");
        }
    }

    #[test]
    fn refusals_name_the_word() {
        let text = |line| Options::parse(line).unwrap_err().to_string();
        assert_eq!(text("dma=unprotected quiet"), "unknown option quiet");
        assert_eq!(text("DMA=unprotected"), "unknown option DMA=unprotected");
        assert_eq!(text("console=com1 console=com1"), "option console given twice");
        assert_eq!(text("dma=off"), "bad value in dma=off (expected unprotected)");
        assert_eq!(text("tpm=required"), "bad value in tpm=required (expected none)");
        assert_eq!(text("log=trace"), "bad value in log=trace (expected error, warn, info or debug)");
    }

    #[test]
    fn measured_bytes_are_fixed() {
        let measured = |line| Options::parse(line).unwrap().measured();
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
            let options = Options::parse(&words.join(" ")).unwrap();
            let relevant = Options {
                dma: words.contains(&"dma=unprotected").then_some(Dma::Unprotected),
                tpm: if words.contains(&"tpm=none") { Tpm::None } else { Tpm::Required },
                ..Options::default()
            };
            prop_assert_eq!(options.measured(), relevant.measured());
        }

        #[test]
        fn any_text_is_understood_or_refused(line in "\\PC{0,200}|([a-z]{3,7}=[a-z0-9KMG]{0,12} ?){0,8}") {
            if let Err(error) = Options::parse(&line) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
