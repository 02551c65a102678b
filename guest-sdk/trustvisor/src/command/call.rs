//! `trustvisor call`.

use super::Print;
use super::arguments::{Given, HELP, registers, show};
use anyhow::Context;
use std::fs;
use std::path::PathBuf;
use trustvisor::Pal;

const EXAMPLES: &str = "Examples:
  trustvisor call hello.pal 0 2 3                      add(2, 3)
  trustvisor call hello.pal 1 in:/etc/passwd           sum(data)
  trustvisor call hello.pal 3 out:32                   digest(out)
  trustvisor call my.pal 5 -1                          a negative number

S is registered for this one call, and wiped after it.";

#[derive(clap::Args)]
#[group(id = "call")]
#[command(after_help = format!("{HELP}\n\n{EXAMPLES}"))]
pub struct Arguments {
    /// The image of S
    pub image: PathBuf,
    /// Which entry of S, the first being 0
    pub entry: u16,
    /// What the entry takes
    #[arg(allow_negative_numbers = true)]
    pub arguments: Vec<String>,
}

impl Arguments {
    /// Registers S; what it is to be given.
    pub(super) fn prepare(&self) -> anyhow::Result<(Pal, Vec<Given>)> {
        let given = self.arguments.iter().map(|word| Given::parse(word)).collect::<Result<_, _>>()?;
        let image = fs::read(&self.image).with_context(|| format!("cannot read {}", self.image.display()))?;
        Ok((Pal::register(&image).with_context(|| self.image.display().to_string())?, given))
    }
}

pub(super) fn run(arguments: &Arguments, print: Print) -> anyhow::Result<()> {
    let (pal, mut given) = arguments.prepare()?;
    let registers = registers(&pal, arguments.entry, &mut given)?;
    let returned = pal.call(arguments.entry, registers)?;
    show(print, returned, &given)
}
