//! `trustvisor quote`.

use super::arguments::{HELP, registers};
use super::{call, from_hex};
use anyhow::Context;
use std::path::PathBuf;
use trustvisor::{Attested, Quoting};

const EXAMPLES: &str = "Example (the nonce is the verifier's, 32 bytes):
  trustvisor quote hello.pal 0 2 3 --nonce $NONCE -o evidence.json
  trustvisor-verify check --policy P.toml --evidence evidence.json --nonce $NONCE ...

What S returned goes to standard error.";

#[derive(clap::Args)]
#[command(after_help = format!("{HELP}\n\n{EXAMPLES}"))]
pub struct Arguments {
    #[command(flatten)]
    call: call::Arguments,
    /// The verifier's nonce, 64 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    nonce: String,
    /// Where to write the evidence (standard output if there is none)
    #[arg(short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let nonce = from_hex(&arguments.nonce).and_then(|nonce| <[u8; 32]>::try_from(nonce).ok());
    let nonce = nonce.context("the nonce is not 64 hexadecimal digits")?;
    let entry = arguments.call.entry;
    let (pal, mut given) = arguments.call.prepare()?;
    let registers = registers(&pal, entry, &mut given)?;
    let returned = pal.call_attested(entry, registers, &nonce)?;
    eprintln!("returned {returned} ({returned:#x})");
    let evidence = Attested::last(&pal, entry, &nonce).evidence(&Quoting::register()?)?;
    match &arguments.output {
        Some(file) => {
            std::fs::write(file, evidence).with_context(|| format!("cannot write {}", file.display()))
        }
        None => {
            print!("{evidence}");
            Ok(())
        }
    }
}
