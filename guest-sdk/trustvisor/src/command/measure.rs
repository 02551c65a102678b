//! `trustvisor measure`.

use super::Print;
use anyhow::Context;
use std::fs;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Example, for `[[pal]]` in a verifier's policy:
  trustvisor measure my.pal --json")]
pub struct Arguments {
    /// The image
    image: PathBuf,
}

pub(super) fn run(Arguments { image }: &Arguments, print: Print) -> anyhow::Result<()> {
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    trustvisor::image::header(&bytes)
        .map_err(trustvisor::Error::Image)
        .with_context(|| image.display().to_string())?;
    print.digests(&trustvisor::image::measure(&bytes));
    Ok(())
}
