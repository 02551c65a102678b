//! `trustvisor image`.

use super::Print;
use anyhow::Context;
use std::fs;
use std::path::PathBuf;
use trustvisor::abi::image::FLAG_FPU;

#[derive(clap::Args)]
#[command(after_help = "Example:
  cargo bare -p my-pal --release
  trustvisor image target/x86_64-trustvisor/release/my-pal -o my.pal")]
pub struct Arguments {
    /// What the linker made
    elf: PathBuf,
    /// Where to write the image
    #[arg(short)]
    output: PathBuf,
    /// S uses the FPU, SSE or AVX
    #[arg(long)]
    fpu: bool,
}

pub(super) fn run(Arguments { elf, output, fpu }: &Arguments, print: Print) -> anyhow::Result<()> {
    let file = fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let flags = if *fpu { FLAG_FPU } else { 0 };
    let image = trustvisor::image::from_elf(&file, flags).with_context(|| elf.display().to_string())?;
    fs::write(output, &image).with_context(|| format!("cannot write {}", output.display()))?;
    print.digests(&trustvisor::image::measure(&image));
    Ok(())
}
