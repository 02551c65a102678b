//! The file that GRUB hands in: the root as the hardware TPM sealed it, while it is to go to a newer release that one's manifest, and
//! the RSA identity key.
//!
//! A file is there until the new one is safe: without the root, nothing that was sealed opens any more.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use trustvisor::Quoting;
use trustvisor::abi::quote::KEY_BLOB;
use trustvisor::abi::{RootState, seal};

use crate::command::info::root_state;

/// First bytes of a saved root (of a TPM 1.2, of a TPM 2.0), and of a manifest; bytes of one that nobody signed.
const ROOT_MAGICS: [&[u8]; 2] = [b"TVROOT1\x01", b"TVROOT2\x01"];
const MANIFEST_MAGIC: &[u8] = b"TVNEXT\0\x01";
const UNSIGNED: usize = 64;
/// Bytes of the longest signature with P-256, in DER.
const SIGNATURE: usize = 72;

/// Saves this launch's, with its RSA key.
pub fn save(file: &Path, force: bool) -> anyhow::Result<()> {
    ensure!(
        state()? != Some(RootState::HandedOver),
        "this launch's root is for a newer release (see `trustvisor root migrate`); the saved one stays good"
    );
    let mut root = trustvisor::saved_root().context("there is no root to save (see `trustvisor info`)")?;
    root.extend(rsa_key(file, &root)?);
    // A root that was saved without its RSA key gets it.
    let old = existing(file)?;
    ensure!(
        force || old.is_none_or(|old| root.starts_with(&old)),
        "cannot write {}: another root is there (--force replaces it)",
        file.display()
    );
    replace(file, &root)
}

/// Removes it, and the counters.
pub fn reset(file: &Path) -> anyhow::Result<()> {
    let there = is_saved_root(file).with_context(|| file.display().to_string())?;
    trustvisor::remove_counters().context("the counters are still there")?;
    if there {
        fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    let removed = if there {
        "counters and saved root are removed"
    } else {
        "the counters are removed, but there is no such file"
    };
    println!("{}: {removed}; a boot without a saved root makes a new one", file.display());
    Ok(())
}

/// Asks the next launch to hand the root to the release of this manifest, or, if this launch did so, writes the root for it.
pub fn migrate(manifest: &Path, file: &Path, new: &Path) -> anyhow::Result<()> {
    let to = fs::read(manifest).with_context(|| manifest.display().to_string())?;
    ensure!(to.starts_with(MANIFEST_MAGIC), "{} is no manifest of a release", manifest.display());
    ensure!(to.len() > UNSIGNED, "{} is not signed", manifest.display());
    ensure!(to.len() <= UNSIGNED + SIGNATURE, "{} is too long", manifest.display());
    let saved = fs::read(file).with_context(|| file.display().to_string())?;
    ensure!(is_root(&saved), "{} is no saved root", file.display());
    let (blob, asked, key) = parts(&saved);
    match state()? {
        Some(RootState::HandedOver) if asked == to => {
            let root = trustvisor::saved_root()?;
            let there = existing(new)?.is_some_and(|there| there != root);
            ensure!(!there, "{} is there: name a new file", new.display());
            replace(new, &root)?;
            println!(
                "{} is the root for the newer release: boot that with it, and save it there",
                new.display()
            );
        }
        Some(RootState::NotHandedOver) if asked == to => bail!(
            "this release does not hand its root to that one: the manifest is not signed for it, or its security version is lower"
        ),
        _ => {
            replace(file, &[blob, &to, key].concat())?;
            println!("boot this release once more with {}, then say this again", file.display());
        }
    }
    Ok(())
}

fn is_root(saved: &[u8]) -> bool {
    ROOT_MAGICS.iter().any(|magic| saved.starts_with(magic))
}

/// The root's blob, a manifest and the RSA key, as they stand in the file.
fn parts(saved: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let key = saved.len().checked_sub(KEY_BLOB).filter(|at| saved[*at..].starts_with(&seal::MAGIC));
    let (root, key) = saved.split_at(key.unwrap_or(saved.len()));
    let manifest = root.windows(MANIFEST_MAGIC.len()).position(|window| window == MANIFEST_MAGIC);
    let (blob, manifest) = root.split_at(manifest.unwrap_or(root.len()));
    (blob, manifest, key)
}

fn state() -> anyhow::Result<Option<RootState>> {
    Ok(root_state(&trustvisor::info()?).map(|(state, _)| state))
}

/// The RSA identity key that belongs to the root: this launch's, or the one in the file, or a new one.
fn rsa_key(file: &Path, root: &[u8]) -> anyhow::Result<Vec<u8>> {
    if let Ok(key) = trustvisor::saved_key() {
        return Ok(key);
    }
    match fs::read(file) {
        Ok(saved) if saved.starts_with(root) && saved.len() == root.len() + KEY_BLOB => {
            Ok(saved[root.len()..].to_vec())
        }
        _ => Quoting::register()?.generate().context("no RSA identity key"),
    }
}

/// Whether a saved root is there. An error: it is something else, or there must be one elsewhere.
fn is_saved_root(file: &Path) -> anyhow::Result<bool> {
    if let Some(saved) = existing(file)? {
        ensure!(is_root(&saved), "this is no saved root");
        return Ok(true);
    }
    ensure!(
        !state()?.is_some_and(RootState::is_old),
        "it is not there, but this launch's root came out of a file"
    );
    Ok(false)
}

/// What is in a file, if there is one.
fn existing(file: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}

pub fn replace(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        let new = file.with_added_extension("tmp");
        fs::write(&new, bytes)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, file)?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_apart() {
        let blob = [ROOT_MAGICS[1], &[1; 400]].concat();
        let manifest = [MANIFEST_MAGIC, &[2; 130]].concat();
        let key = [&seal::MAGIC[..], &[3; KEY_BLOB - 8]].concat();
        for manifest in [&manifest[..], &[]] {
            for key in [&key[..], &[]] {
                assert_eq!(parts(&[&blob, manifest, key].concat()), (&blob[..], manifest, key));
            }
        }
    }
}
