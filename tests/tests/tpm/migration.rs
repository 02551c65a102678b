//! An upgrade: what was sealed under a release opens under the next, which the first has been shown a signed manifest of.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use machine::{Machine, another_release, manifest, predict};
use trustvisor_tests::{SOON, pcr_in_guest};

use super::{Computer, LATE, PAGE, length, word_after};

/// Where files go to and fro, behind the blob and the root.
const PLACE: u64 = 16;

/// Whoever makes releases.
struct Signer(tempfile::TempDir);

impl Signer {
    fn new() -> Result<Self> {
        let signer = Self(tempfile::tempdir()?);
        signer.openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key"])?;
        Ok(signer)
    }

    fn openssl(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = Command::new("openssl").args(arguments).current_dir(self.0.path()).output()?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }

    /// The public key, as a release has it.
    fn public(&self) -> Result<Vec<u8>> {
        let der = self.openssl(&["ec", "-in", "key", "-pubout", "-outform", "DER"])?;
        Ok(der.last_chunk::<65>().context("a public key")?.to_vec())
    }

    fn sign(&self, body: &[u8]) -> Result<Vec<u8>> {
        fs::write(self.0.path().join("manifest"), body)?;
        let signature = self.openssl(&["dgst", "-sha256", "-sign", "key", "manifest"])?;
        Ok([body, &signature].concat())
    }

    /// The hypervisor of a release.
    fn release(&self, security_version: u32, predecessors: &[&[u8]]) -> Result<Vec<u8>> {
        let mut named = String::new();
        for old in predecessors {
            let pcr17 = predict(old, "")?.pcr17.0;
            named += &format!("Digests {{ sha1: {:?}, sha256: {:?} }},", pcr17.sha1, pcr17.sha256);
        }
        let signer = self.public()?;
        another_release(&format!(
            "Release {{ security_version: {security_version}, signer: Some(&{signer:?}), predecessors: &[{named}] }}"
        ))
    }
}

fn put(machine: &Machine, disk: &Path, bytes: &[u8], file: &str) -> Result<()> {
    fs::OpenOptions::new().write(true).open(disk)?.write_all_at(bytes, PLACE * PAGE as u64)?;
    let (pages, bytes) = (bytes.len().div_ceil(PAGE), bytes.len());
    // Past the guest's cache: the host has written behind its back.
    let copy = format!(
        "sync; echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs={PAGE} skip={PLACE} count={pages} 2>/dev/null | head -c {bytes} >{file}"
    );
    machine.succeed(&copy, SOON).map(drop)
}

fn get(machine: &Machine, disk: &Path, file: &str) -> Result<Vec<u8>> {
    let bytes = length(machine, file)?;
    let copy = format!("dd if={file} of=/dev/vda bs={PAGE} seek={PLACE} conv=sync 2>/dev/null && sync");
    machine.succeed(&copy, SOON)?;
    let mut read = vec![0; bytes];
    fs::File::open(disk)?.read_exact_at(&mut read, PLACE * PAGE as u64)?;
    Ok(read)
}

/// `trustvisor root migrate`: the root's file and the new one as they are then, and what it says.
fn migrate(machine: &Machine, computer: &Computer, to: &[u8]) -> Result<(bool, String, Vec<u8>)> {
    let disk = computer.disk();
    put(machine, &disk, to, "/tmp/manifest")?;
    put(machine, &disk, &computer.root, "/tmp/root")?;
    let said = machine.command("trustvisor root migrate --to /tmp/manifest /tmp/root /tmp/new 2>&1", SOON)?;
    let file = if machine.command("test -e /tmp/new", SOON)?.code == 0 { "/tmp/new" } else { "/tmp/root" };
    Ok((said.code == 0, said.lines.join(" "), get(machine, &disk, file)?))
}

#[test]
fn a_newer_release_takes_over_what_was_sealed() -> Result<()> {
    let signer = Signer::new()?;
    let old = signer.release(1, &[])?;
    let new = signer.release(2, &[&old])?;
    let to_new = signer.sign(&manifest(&new, 2)?)?;
    let mut computer = Computer::new()?;
    let boot =
        |computer: &Computer, hypervisor: &[u8]| anyhow::Ok(computer.boot()?.hypervisor(hypervisor.to_vec()));

    let machine = computer.start(boot(&computer, &old)?, "none was handed in")?;
    let secret = computer.seal(&machine)?;
    let (done, said, _) = migrate(&machine, &computer, &to_new[..64])?;
    ensure!(!done && said.contains("not signed"), "{said:?}");
    let (done, said, asking) = migrate(&machine, &computer, &to_new)?;
    ensure!(
        done && said.contains("once more") && asking.len() == computer.root.len() + to_new.len(),
        "{said:?}"
    );
    computer.root = asking;
    drop(machine);

    // The old release opens it, and seals it for the new one.
    let machine = computer.start(boot(&computer, &old)?, "sealed for a newer release")?;
    let pcr19 = pcr_in_guest(&machine, "sha256", 19)?;
    ensure!(machine.command("trustvisor root save /tmp/root", SOON)?.code != 0, "saved over the old root");
    let (done, said, handed) = migrate(&machine, &computer, &to_new)?;
    ensure!(done && said.contains("for the newer release"), "{said:?}");
    let opened = word_after(&computer.try_blob(&machine, "unseal-later")?, "tvtest: unsealed ")?;
    ensure!(opened == secret, "the old release's own root");
    computer.root = handed;
    drop(machine);

    // The new one takes it over, with another identity.
    let machine = computer.start(boot(&computer, &new)?, "an earlier release's, taken over")?;
    let opened = word_after(&computer.try_blob(&machine, "unseal-later")?, "tvtest: unsealed ")?;
    ensure!(opened == secret, "unsealed {opened} instead of {secret}");
    put(&machine, &computer.disk(), &computer.root, "/tmp/root")?;
    ensure!(
        machine.command("trustvisor root save /tmp/root", LATE)?.code != 0,
        "saved over what was handed in"
    );
    machine.succeed("trustvisor root save /tmp/saved", LATE)?;
    computer.root = get(&machine, &computer.disk(), "/tmp/saved")?;
    // Back to the old one: its security version is lower.
    let to_old = signer.sign(&manifest(&old, 1)?)?;
    let (done, _, asking) = migrate(&machine, &computer, &to_old)?;
    ensure!(done, "a manifest is looked at by TrustVisor alone");
    computer.root = asking;
    drop(machine);

    let machine = computer.start(boot(&computer, &new)?, "NOT handed over")?;
    ensure!(pcr_in_guest(&machine, "sha256", 19)? != pcr19, "the old identity");
    let (done, said, _) = migrate(&machine, &computer, &to_old)?;
    ensure!(!done && said.contains("security version is lower"), "{said:?}");
    let opened = word_after(&computer.try_blob(&machine, "unseal-later")?, "tvtest: unsealed ")?;
    ensure!(opened == secret, "unsealed {opened} instead of {secret}");
    Ok(())
}
