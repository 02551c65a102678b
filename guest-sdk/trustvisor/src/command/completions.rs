//! `trustvisor completions`.

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use std::io::Write;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  trustvisor completions bash >/etc/bash_completion.d/trustvisor
  trustvisor completions zsh >/usr/share/zsh/site-functions/_trustvisor
  trustvisor completions fish >/etc/fish/completions/trustvisor.fish")]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(Arguments { shell }: &Arguments) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(*shell, &mut super::Arguments::command(), "trustvisor", &mut script);
    // Who reads may have read enough.
    Ok(std::io::stdout().write_all(&script)?)
}
