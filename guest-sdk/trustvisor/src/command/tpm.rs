//! `trustvisor tpm`.

use super::{Print, hex};
use crate::saved_root;
use anyhow::Context;
use clap::Subcommand;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use trustvisor::Provision;

#[derive(Subcommand)]
#[command(after_help = "Examples:
  trustvisor tpm provision                             before the first `trustvisor root save`
  trustvisor tpm aik                                   for `[[hardware_key]]` in a verifier's policy")]
pub enum Command {
    /// Says what its owner has to do before TrustVisor can keep a root in it (exit code 1: something)
    Provision,
    /// Prints the Name of the key that signs its quotes, for a verifier's policy. A TPM 1.2 makes the key first, if there is none
    Aik {
        /// What a TPM 1.2 needs to make it: a file with its owner's password (else the well-known secret: `tpm_takeownership -y`)
        #[arg(long, value_name = "FILE")]
        owner_password: Option<PathBuf>,
    },
}

pub(super) fn run(command: &Command, print: Print) -> anyhow::Result<()> {
    match command {
        Command::Provision => provision(print),
        Command::Aik { owner_password } => {
            let key = match trustvisor::attestation_key() {
                Err(trustvisor::Error::NoAttestationKey) => make_attestation_key(owner_password.as_deref())?,
                key => key?,
            };
            let name = format!("000b{}", hex(&Sha256::digest(&key)));
            print.value(&name, &json!({ "name": name, "public": hex(&key) }));
            Ok(())
        }
    }
}

fn provision(print: Print) -> anyhow::Result<()> {
    let found = trustvisor::provision()?;
    let (ready, text) = PROVISION
        .iter()
        .find(|(state, ..)| *state == found)
        .map_or_else(|| (false, format!("{found:?}")), |(_, ready, text)| (*ready, (*text).into()));
    print.value(&text, &json!({ "ready": ready, "text": text }));
    anyhow::ensure!(ready, "the hardware TPM cannot keep a root yet");
    Ok(())
}

/// Of a TPM 1.2, which keeps none itself.
fn make_attestation_key(owner_password: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let secret = match owner_password {
        None => [0; 20],
        Some(file) => {
            let password = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Sha1::digest(password.strip_suffix(b"\n").unwrap_or(&password)).into()
        }
    };
    let key = trustvisor::make_attestation_key(&secret)?;
    let file = Path::new(trustvisor::AIK);
    fs::create_dir_all(file.parent().unwrap_or(file)).with_context(|| trustvisor::AIK)?;
    saved_root::replace(file, &key)?;
    Ok(trustvisor::attestation_key()?)
}

const PROVISION: [(Provision, bool, &str); 5] = [
    (Provision::Ready, true, "TPM 2.0: its owner authorisation is empty, as it must stay"),
    (
        Provision::OwnerAuth,
        false,
        "TPM 2.0: its owner authorisation must be empty (`tpm2_changeauth -c owner -p OLD`)",
    ),
    (Provision::LockedOut, false, "TPM 2.0: it is locked out (wait, or `tpm2_dictionarylockout -c`)"),
    (
        Provision::NoOwner,
        false,
        "TPM 1.2: it has no owner (`tpm_takeownership -z`: the storage root key has the well-known secret then)",
    ),
    (
        Provision::Owned,
        true,
        "TPM 1.2: it has an owner. Its storage root key must have the well-known secret: if `trustvisor info` says that there is no root, \
         `tpm_changeownerauth -s -r`",
    ),
];
