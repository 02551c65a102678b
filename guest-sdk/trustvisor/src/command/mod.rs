//! The command line, a file for each command.

mod arguments;
mod call;
mod collect;
mod completions;
mod eventlog;
mod image;
pub mod info;
mod measure;
mod quote;
mod root;
mod tpm;

use clap::{Parser, Subcommand};
use serde_json::Value;
use trustvisor::abi::Digests;

/// TrustVisor's command: in the guest, and wherever PALs are built.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  trustvisor info                                      is TrustVisor there, and in what state?
  trustvisor image target/x86_64-trustvisor/release/my-pal -o my.pal
  trustvisor call my.pal 0 2 3                         call S's first entry with two integers
  trustvisor completions bash >/etc/bash_completion.d/trustvisor

`trustvisor help COMMAND` has more of them. The exit code is 0 if what was asked for was done, 1 if not, 2 for a wrong command line."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print values as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Says whether TrustVisor runs here, and in what state it is
    Info,
    /// Makes a PAL image from S's ELF file
    Image(image::Arguments),
    /// Prints the identity of a PAL image
    Measure(measure::Arguments),
    /// Registers an image, calls an entry of S, and prints what it answers
    Call(call::Arguments),
    /// Does the same and writes evidence of it, for `trustvisor-verify`
    Quote(quote::Arguments),
    /// Writes the TCG event log of the launch: what PCRs 17 to 19 were extended with, for a verifier to replay
    Eventlog(eventlog::Arguments),
    /// The root, on which all that is sealed depends
    Root {
        #[command(subcommand)]
        command: root::Command,
    },
    /// The hardware TPM, in which the root is kept
    Tpm {
        #[command(subcommand)]
        command: tpm::Command,
    },
    /// Frees PALs whose process is gone (needs two calls, 10 s apart)
    Collect,
    /// Prints a script that completes this command's words in a shell
    Completions(completions::Arguments),
}

impl Arguments {
    /// Does what is asked for.
    pub fn run(self) -> anyhow::Result<()> {
        let print = Print { json: self.json };
        match self.command {
            Command::Info => info::run(print),
            Command::Image(arguments) => image::run(&arguments, print),
            Command::Measure(arguments) => measure::run(&arguments, print),
            Command::Call(arguments) => call::run(&arguments, print),
            Command::Quote(arguments) => quote::run(&arguments),
            Command::Eventlog(arguments) => eventlog::run(&arguments),
            Command::Root { command } => root::run(&command),
            Command::Tpm { command } => tpm::run(&command, print),
            Command::Collect => collect::run(print),
            Command::Completions(arguments) => completions::run(&arguments),
        }
    }
}

/// How values are printed.
#[derive(Clone, Copy)]
struct Print {
    json: bool,
}

impl Print {
    /// One or the other.
    fn value(self, text: &str, json: &Value) {
        if self.json { println!("{json:#}") } else { println!("{}", text.trim_end()) }
    }

    fn digests(self, digests: &Digests) {
        let (sha1, sha256) = (hex(&digests.sha1), hex(&digests.sha256));
        self.value(
            &format!("sha1   {sha1}\nsha256 {sha256}"),
            &serde_json::json!({ "sha1": sha1, "sha256": sha256 }),
        );
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The reverse. None: these are no bytes.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().map(|digit| char::from(digit).to_digit(16)).collect::<Option<Vec<_>>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect())
}

#[cfg(test)]
mod tests;
