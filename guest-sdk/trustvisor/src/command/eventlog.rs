//! `trustvisor eventlog`.

use anyhow::Context;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  trustvisor eventlog launch.log
  trustvisor eventlog | tpm2_eventlog /dev/stdin")]
pub struct Arguments {
    /// Where to (standard output if there is none)
    file: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let file = arguments.file.as_deref();
    let mut output = std::io::stdout();
    anyhow::ensure!(
        file.is_some() || !output.is_terminal(),
        "the event log is binary, not for a terminal (name a file)"
    );
    let log = trustvisor::event_log()?;
    match file {
        Some(file) => fs::write(file, log).with_context(|| format!("cannot write {}", file.display())),
        None => output.write_all(&log).context("cannot write the event log"),
    }
}
