//! What the user chose, as the loader understood the command line.
//!
//! Guarantees: SLB and runtime go by no value that is not listed here ([`Options::are_known`]); [`Options::measured`] depends on the
//! security-relevant options alone, in their one encoding. The text of the command line is the loader's business.

use log::LevelFilter;

/// `console=com1`.
pub const COM1: u32 = 0x3f8;
/// `console=com2`.
pub const COM2: u32 = 0x2f8;
/// `console=none`.
pub const NO_CONSOLE: u32 = 0;

/// The options, as numbers: anything may stand there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// 1: `dma=unprotected`, nothing keeps devices out of the reserve, and the user has said that this is understood. 0: devices must
    /// be kept out, or the launch is refused.
    pub dma_unprotected: u32,
    /// 1: `tpm=none`, to go without a hardware TPM: no root that lasts, no quotes. 0: the launch is refused without one.
    pub tpm_none: u32,
    /// `console=`: where TrustVisor prints, the port of [`COM1`] or [`COM2`], or [`NO_CONSOLE`].
    pub console: u32,
    /// `log=`: a number of [`LevelFilter`], 1 (error) to 4 (debug); `debug` also speaks after the guest has started.
    pub log: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { dma_unprotected: 0, tpm_none: 0, console: COM1, log: LevelFilter::Info as u32 }
    }
}

impl Options {
    /// Whether each has a value that means something.
    pub fn are_known(&self) -> bool {
        self.dma_unprotected <= 1
            && self.tpm_none <= 1
            && [COM1, COM2, NO_CONSOLE].contains(&self.console)
            && (1..=LevelFilter::Debug as u32).contains(&self.log)
    }

    /// Which lines of the log are wanted.
    pub fn level(&self) -> LevelFilter {
        LevelFilter::iter().nth(self.log as usize).unwrap_or(LevelFilter::Info)
    }

    /// The bytes whose digest goes into PCR 18: the security-relevant options in their one encoding. A verifier computes
    /// the same from the configuration it is ready to trust.
    pub fn measured(&self) -> &'static [u8] {
        match (self.dma_unprotected != 0, self.tpm_none != 0) {
            (false, false) => b"dma=protected\ntpm=required\n",
            (false, true) => b"dma=protected\ntpm=none\n",
            (true, false) => b"dma=unprotected\ntpm=required\n",
            (true, true) => b"dma=unprotected\ntpm=none\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_else_is_known(numbers in prop::array::uniform4(prop_oneof![0u32..6, Just(COM1), Just(COM2), any::<u32>()])) {
            let [dma_unprotected, tpm_none, console, log] = numbers;
            let options = Options { dma_unprotected, tpm_none, console, log };
            let known = [0, 1].contains(&dma_unprotected)
                && [0, 1].contains(&tpm_none)
                && [0, 0x3f8, 0x2f8].contains(&console)
                && [1, 2, 3, 4].contains(&log);
            prop_assert_eq!(options.are_known(), known);
        }

        #[test]
        fn other_options_are_not_measured(dma_unprotected in 0..=1u32, tpm_none in 0..=1u32, console: u32, log: u32) {
            let relevant = Options { dma_unprotected, tpm_none, ..Options::default() };
            prop_assert_eq!(Options { console, log, ..relevant }.measured(), relevant.measured());
        }
    }

    #[test]
    fn each_value_that_is_known_is_the_one_that_is_meant() {
        assert!(Options::default().are_known());
        let one_off = [
            Options { dma_unprotected: 2, ..Options::default() },
            Options { tpm_none: 2, ..Options::default() },
            Options { console: 0x3e8, ..Options::default() },
            Options { log: 0, ..Options::default() },
            Options { log: 5, ..Options::default() },
        ];
        assert!(one_off.iter().all(|options| !options.are_known()));
        let levels = [1, 2, 3, 4].map(|log| Options { log, ..Options::default() }.level());
        assert_eq!(levels, [LevelFilter::Error, LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug]);
    }

    #[test]
    fn measured_bytes_are_fixed() {
        let measured = |dma_unprotected, tpm_none| {
            Options { dma_unprotected, tpm_none, ..Options::default() }.measured()
        };
        assert_eq!(measured(0, 0), b"dma=protected\ntpm=required\n");
        assert_eq!(measured(0, 1), b"dma=protected\ntpm=none\n");
        assert_eq!(measured(1, 0), b"dma=unprotected\ntpm=required\n");
        assert_eq!(measured(1, 1), b"dma=unprotected\ntpm=none\n");
    }
}
