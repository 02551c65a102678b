//! Debian's Apache in the full guest, with a private key that is a file or a token's (`debian/apache.sh` is the guest's side), and a client
//! on this machine.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use crate::machine::Machine;
use crate::process;

/// Where the server's private key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Key {
    /// A PEM file
    Pem,
    /// SoftHSM, a token in the process that uses it
    Softhsm,
    /// Ours, a token in S
    Trustvisor,
}

impl Key {
    /// What the guest calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pem => "pem",
            Self::Softhsm => "softhsm",
            Self::Trustvisor => "trustvisor",
        }
    }

    /// The token's module in the guest.
    pub fn module(self) -> Option<&'static str> {
        match self {
            Self::Pem => None,
            Self::Softhsm => Some("/usr/lib/softhsm/libsofthsm2.so"),
            Self::Trustvisor => Some("/usr/local/lib/libtrustvisor_pkcs11.so"),
        }
    }

    /// The page that the server has.
    pub fn page(self) -> String {
        format!("served by Apache, key: {}\n", self.name())
    }
}

/// The port that it listens on, in the guest.
pub const HTTPS: u16 = 443;
const LIMIT: Duration = Duration::from_secs(300);
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// Starts Apache with such a key, which is made if it was not before. The certificate (PEM).
pub fn start(machine: &Machine, key: Key) -> Result<String> {
    machine.succeed(&format!("with-apache {} 2>&1", key.name()), LIMIT)?;
    let lines = machine.succeed(&format!("cat /etc/with-apache/{}/certificate", key.name()), LIMIT)?;
    Ok(lines.join("\n") + "\n")
}

/// The modulus of a certificate in the guest, in hexadecimal.
pub fn modulus(machine: &Machine, key: Key) -> Result<String> {
    let certificate = format!("/etc/with-apache/{}/certificate", key.name());
    let lines = machine.succeed(&format!("openssl x509 -noout -modulus -in {certificate}"), LIMIT)?;
    let modulus = lines.iter().find_map(|line| line.strip_prefix("Modulus=")).context("no modulus")?;
    Ok(modulus.to_lowercase())
}

/// What curl on this machine shows of the server's page, over just this version of TLS (1.2 or 1.3), if the server has this certificate.
pub fn fetch(machine: &Machine, certificate: &str, version: &str) -> Result<String> {
    let mut file = NamedTempFile::new()?;
    file.write_all(certificate.as_bytes())?;
    let mut curl = client(machine, file.path())?;
    curl.args(["--tls-max", version, &format!("--tlsv{version}")]);
    let page = process::output("curl", curl, FETCH_LIMIT)?;
    ensure!(!page.is_empty(), "an empty page");
    Ok(page)
}

/// A command that fetches the page.
pub fn client(machine: &Machine, certificate: &Path) -> Result<Command> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(certificate);
    curl.arg(format!("https://127.0.0.1:{}/", machine.forwarded()?));
    Ok(curl)
}
