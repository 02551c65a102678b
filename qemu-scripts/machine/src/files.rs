//! Files written by several processes at once: whole or not at all, and one builder at a time.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Replaces a file, unless it already says just that.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let folder = path.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().permissions(permissions()).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

fn permissions() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o644)
}

/// Reads a file, naming it if that fails.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A folder for the files of a running machine. Folders of processes that ended without cleaning up are removed.
pub(crate) fn run_folder() -> Result<TempDir> {
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let owner = owner(&entry.file_name().to_string_lossy());
        if owner.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // Somebody else may be faster.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(tempfile::Builder::new().prefix(&format!("{RUN}{}-", std::process::id())).tempdir()?)
}

const RUN: &str = "trustvisor-run-";

fn owner(folder: &str) -> Option<u32> {
    folder.strip_prefix(RUN)?.split_once('-')?.0.parse().ok()
}

/// Held while something below this folder is made.
pub(crate) fn lock(folder: &Path) -> Result<File> {
    fs::create_dir_all(folder)?;
    let file = File::create(folder.join(".lock"))?;
    file.lock().with_context(|| format!("cannot lock {}", folder.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_are_removed_and_no_others() {
        let dead = std::env::temp_dir().join(format!("{RUN}{}-x", u32::MAX));
        fs::create_dir_all(&dead).unwrap();
        let first = run_folder().unwrap();
        let second = run_folder().unwrap();
        assert!(!dead.exists() && first.path().exists() && second.path().exists());
        assert_eq!(owner("trustvisor-run-12-abc"), Some(12));
        assert_eq!(owner("trustvisor-12-abc"), None);
    }

    #[test]
    fn a_file_that_says_the_same_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a/b");
        write(&file, b"one").unwrap();
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        write(&file, b"one").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before);
        write(&file, b"two").unwrap();
        assert_eq!(read(&file).unwrap(), b"two");
    }
}
