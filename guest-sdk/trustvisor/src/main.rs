//! The command `trustvisor`: asks TrustVisor, calls PALs, and makes and measures PAL images (which needs no TrustVisor).

mod command;
mod saved_root;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    command::Arguments::parse().run()
}
