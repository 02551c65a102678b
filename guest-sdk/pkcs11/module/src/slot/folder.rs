//! A token's place in the file system: `token-N`, `token-N.new` while it is being replaced, and `token-N.lock` for who replaces it.

use crate::trouble;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// No token's file is longer.
const MOST: u64 = 1 << 26;

/// The places of one token.
pub struct Folder {
    path: PathBuf,
    file: PathBuf,
    new: PathBuf,
    unfinished: PathBuf,
    lock: PathBuf,
}

/// Which file it is, and in which state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64, u64),
    written: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Self {
        Self {
            file: (file.dev(), file.ino(), file.size()),
            written: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl Folder {
    pub fn new(path: &Path, number: u32) -> Self {
        let at = |ending: &str| path.join(format!("token-{number}{ending}"));
        Self {
            path: path.into(),
            file: at(""),
            new: at(".new"),
            unfinished: at(".unfinished"),
            lock: at(".lock"),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether there is a file, or one that was to become it.
    pub fn has_file(&self) -> bool {
        fs::metadata(&self.file).is_ok() || fs::metadata(&self.new).is_ok()
    }

    /// Whether the file can be replaced: by this user, in this folder (or one that is still to be made).
    pub fn writable(&self) -> bool {
        let Ok(path) = std::ffi::CString::new(self.path.as_os_str().as_bytes()) else { return false };
        // SAFETY: the path ends with a zero byte.
        let denied =
            unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) } != 0;
        !denied || io::Error::last_os_error().kind() == io::ErrorKind::NotFound
    }

    /// The file's stamp, if there is one and no other beside it.
    pub fn stamp(&self) -> io::Result<Option<Stamp>> {
        match fs::metadata(&self.file) {
            Ok(file) => Ok((!fs::exists(&self.new)?).then(|| Stamp::of(&file))),
            Err(error) => Err(error),
        }
    }

    /// What the file holds, and its stamp.
    pub fn read(&self) -> io::Result<(Vec<u8>, Stamp)> {
        read(&self.file)
    }

    /// What the file that was to become it holds.
    pub fn read_new(&self) -> io::Result<Vec<u8>> {
        Ok(read(&self.new)?.0)
    }

    /// Makes the bytes durable beside the present file, of whose owner and mode they are.
    pub fn write_new(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&self.unfinished)?;
        if let Ok(present) = fs::metadata(&self.file) {
            // The owner is as good as it gets: one who may not give files away keeps this one.
            let _ = fchown(&file, Some(present.uid()), Some(present.gid()));
            file.set_permissions(Permissions::from_mode(present.mode() & 0o777))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        // What lies there may be the present state already, for all that is known of the last commit: it is replaced at once, or stays.
        fs::rename(&self.unfinished, &self.new)?;
        self.sync()
    }

    /// Makes `token-N.new` the file.
    pub fn rename_new(&self) -> io::Result<Stamp> {
        fs::rename(&self.new, &self.file)?;
        self.sync()?;
        Ok(Stamp::of(&fs::metadata(&self.file)?))
    }

    /// Takes away what could not be written.
    pub fn remove_unfinished(&self) {
        let _ = fs::remove_file(&self.unfinished);
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Waits until nobody else replaces the file. `make` the folder if there is none.
    pub fn lock(&self, make: bool) -> Lock {
        let open = || {
            let writing =
                File::options().write(true).create(true).truncate(false).mode(0o666).open(&self.lock);
            writing.or_else(|error| File::open(&self.lock).map_err(|_| error))
        };
        let file = match open() {
            Err(error) if make && error.kind() == io::ErrorKind::NotFound => {
                let _ = fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.path);
                open()
            }
            opened => opened,
        };
        match file {
            Ok(file) => Lock::take(file),
            Err(error) => {
                trouble::say(format_args!("{}: {error}", self.lock.display()));
                Lock(None)
            }
        }
    }
}

fn read(path: &Path) -> io::Result<(Vec<u8>, Stamp)> {
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok((bytes, stamp))
}

/// The right to replace the file, if this user may have it.
pub struct Lock(Option<File>);

impl Lock {
    /// None.
    pub fn none() -> Self {
        Self(None)
    }

    fn take(file: File) -> Self {
        loop {
            // SAFETY: the file's own descriptor.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } == 0 {
                return Self(Some(file));
            }
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return Self(None);
            }
        }
    }

    pub fn held(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            // Closing would do, if no child had been forked meanwhile that has it open too.
            // SAFETY: the file's own descriptor.
            unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
        }
    }
}
