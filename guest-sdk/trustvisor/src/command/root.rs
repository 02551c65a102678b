//! `trustvisor root`.

use crate::saved_root;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Subcommand)]
#[command(after_help = "Examples:
  trustvisor root save /boot/trustvisor-root           then, in GRUB's entry: module2 /trustvisor-root trustvisor-root
  trustvisor root migrate --to release.manifest /boot/trustvisor-root /boot/new-root
  trustvisor root reset /boot/trustvisor-root          everything that was sealed is lost")]
pub enum Command {
    /// Saves it, sealed by the hardware TPM: GRUB hands it in at the next boot (`module2 FILE trustvisor-root`)
    Save {
        /// Where to
        file: PathBuf,
        /// Replace another root: what was sealed under that one will not open any more
        #[arg(long)]
        force: bool,
    },
    /// Hands it to a newer release: what was sealed, and counters, are that one's as well. Called twice, with a reboot of this release between:
    /// the first call says so
    Migrate {
        /// The newer release's manifest, signed
        #[arg(long)]
        to: PathBuf,
        /// The saved root, which GRUB hands in
        file: PathBuf,
        /// Where to write the root for the newer release
        new: PathBuf,
    },
    /// Removes the saved root and the counters in the hardware TPM: the next boot begins anew, with new identity keys. What was sealed will
    /// never open again
    Reset {
        /// The saved root
        file: PathBuf,
    },
}

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Save { file, force } => saved_root::save(file, *force),
        Command::Reset { file } => saved_root::reset(file),
        Command::Migrate { to, file, new } => saved_root::migrate(to, file, new),
    }
}
