//! The command `trustvisor-token`: what the PKCS#11 token can do that PKCS#11 has no function for.

use clap::{Parser, Subcommand};
use std::fs;
use std::path::PathBuf;
use trustvisor_pkcs11::evidence::{Evidence, evidence};

/// The PKCS#11 token of TrustVisor
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the evidence that a private key was made in the token and never leaves it
    ///
    /// Who connects to a server with that key checks it against the server's certificate:
    /// trustvisor-verify key --statement S --certificate C --policy P --evidence E --nonce HEX
    Evidence {
        /// The token's number (its slot)
        #[arg(long, default_value_t = 0)]
        token: u32,
        /// A file with the user's PIN (a newline at its end does not count)
        #[arg(long)]
        pin: PathBuf,
        /// The key's label
        #[arg(long)]
        label: String,
        /// The verifier's nonce: 16 to 64 bytes in hexadecimal
        #[arg(long)]
        nonce: String,
        /// Where to write what S says of the key
        #[arg(long)]
        statement: PathBuf,
        /// Where to write the evidence
        #[arg(long)]
        evidence: PathBuf,
    },
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Command::Evidence { token, pin, label, nonce, statement, evidence: file } =
        Arguments::parse().command;
    let pin = fs::read(&pin).map_err(|error| format!("cannot read {}: {error}", pin.display()))?;
    let nonce = unhex(&nonce).ok_or("the nonce is not hexadecimal")?;
    let Evidence { statement: said, json } =
        evidence(token, pin.strip_suffix(b"\n").unwrap_or(&pin), &label, &nonce)?;
    fs::write(&statement, said).map_err(|error| format!("cannot write {}: {error}", statement.display()))?;
    fs::write(&file, json).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    Ok(())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok())
        .collect()
}
