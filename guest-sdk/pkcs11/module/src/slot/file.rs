//! The token's file and S's state, kept the same whatever ends when.
//!
//! A change is written beside the present file (`token-N.new`) and made durable; then S counts it, and from then on takes nothing else;
//! then it is renamed. So one of the two files is always the one that S takes: who finds that it is not the present one looks at the other,
//! with the lock held, and finishes what somebody else began. Nobody writes `token-N.new` before that is done.

use super::folder::{Lock, Stamp};
use super::{Token, remembered};
use crate::backend::Failure;
use crate::outcome::plain;
use crate::trouble;
use cryptoki_sys::*;
use std::io::ErrorKind;
use token::protocol::{Answer, Error, Loaded, Request, Response};

/// What S was given of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is not known.
    Unknown,
    /// Nothing: there is no file.
    Nothing,
    /// The file with this stamp.
    File(Stamp),
    /// What was read before this user could not read it any more; and what can be seen of the file, if anything.
    Remembered(Option<Stamp>),
}

/// The points of a change at which a test ends the process.
#[derive(Clone, Copy)]
enum Point {
    Asked = 1,
    Written,
    Committed,
    Renamed,
}

/// Ends the process here, if a test asks for it.
fn point(_here: Point) {
    #[cfg(feature = "software")]
    if std::env::var("TRUSTVISOR_END_AT").is_ok_and(|at| at == (_here as u8).to_string()) {
        // SAFETY: ends the process, as a crash would.
        unsafe { libc::_exit(99) };
    }
}

impl Token {
    /// Makes sure that S has the present file. With the lock held nobody else can change it after that.
    pub fn refresh(&mut self, lock: &Lock) -> Result<(), Failure> {
        let same = match (self.folder.stamp(), self.seen) {
            (Ok(Some(stamp)), Seen::File(seen)) => stamp == seen,
            (stamp, Seen::Remembered(seen)) => stamp.ok().flatten() == seen,
            (Err(error), Seen::Nothing) => error.kind() == ErrorKind::NotFound && !self.folder.has_file(),
            _ => false,
        };
        if same && !(lock.held() && matches!(self.seen, Seen::File(_)) && !self.is_current()?) {
            return Ok(());
        }
        self.seen = Seen::Unknown;
        self.load(lock)
    }

    fn is_current(&mut self) -> Result<bool, Failure> {
        Ok(matches!(self.exchange(&Request::Current)?, Ok(Answer::Loaded(Loaded::Current))))
    }

    fn load(&mut self, lock: &Lock) -> Result<(), Failure> {
        let refused = match self.folder.read() {
            Ok((file, stamp)) => match self.take(&file)? {
                Loaded::Current => {
                    self.seen = Seen::File(stamp);
                    remembered::remember(self.number, self.folder.file(), file);
                    return Ok(());
                }
                refused => Some(refused),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return self.load_remembered(&error),
        };
        if !lock.held() && (refused.is_some() || self.folder.has_file()) {
            // Somebody is in the middle of a change, or did not get to its end.
            let lock = self.folder.lock(false);
            if lock.held() {
                return self.load(&lock);
            }
        }
        if let Ok(file) = self.folder.read_new()
            && self.take(&file)? == Loaded::Current
        {
            trouble::say(format_args!("token {}: a change that was interrupted is finished", self.number));
            match self.folder.rename_new() {
                Ok(stamp) => self.seen = Seen::File(stamp),
                Err(error) => trouble::say(format_args!("token {}: {error}", self.number)),
            }
            remembered::remember(self.number, self.folder.file(), file);
            return Ok(());
        }
        match refused {
            Some(refused) => self.refuse(refused),
            None if !lock.held() && self.remembered().is_some() => {
                self.load_remembered(&ErrorKind::NotFound.into())
            }
            None => {
                self.seen = Seen::Nothing;
                Ok(())
            }
        }
    }

    /// What was read of this very file, here or in a process that this one was forked from.
    pub fn remembered(&self) -> Option<&Vec<u8>> {
        remembered::recall(self.number, self.folder.file())
    }

    /// What was read before, as the file cannot be read now.
    fn load_remembered(&mut self, why: &std::io::Error) -> Result<(), Failure> {
        let Some(file) = self.remembered().cloned() else {
            trouble::say(format_args!("token {}: {why}", self.number));
            return Err(Failure::Refused(CKR_TOKEN_NOT_RECOGNIZED));
        };
        match self.take(&file)? {
            Loaded::Current => {
                self.seen = Seen::Remembered(self.folder.stamp().ok().flatten());
                Ok(())
            }
            loaded => self.refuse(loaded),
        }
    }

    fn refuse(&self, loaded: Loaded) -> Result<(), Failure> {
        let why = match loaded {
            Loaded::DoesNotOpen => "is another token's, another machine's, or damaged",
            _ => "is not the last state of this token: somebody brought back an old one",
        };
        trouble::say(format_args!("token {}: {} {why}", self.number, self.folder.file().display()));
        Err(Failure::Refused(CKR_TOKEN_NOT_RECOGNIZED))
    }

    /// Gives S a file.
    fn take(&mut self, file: &[u8]) -> Result<Loaded, Failure> {
        match self.exchange(&Request::Load { file: file.to_vec() })? {
            Ok(Answer::Loaded(loaded)) => Ok(loaded),
            Ok(_) => Err(Failure::Refused(CKR_GENERAL_ERROR)),
            Err(error) => Err(Failure::Refused(plain(error))),
        }
    }

    /// Makes a change of S's durable, and S's: what S has to say to it. A login succeeds without: what it would have had kept is that the
    /// PIN was right.
    pub fn change(&mut self, request: &Request, lock: &Lock, bytes: &[u8]) -> Result<Response, Failure> {
        point(Point::Asked);
        let finished = !matches!(self.seen, Seen::Unknown);
        let written = if lock.held() && finished {
            self.folder.write_new(bytes)
        } else {
            Err(ErrorKind::PermissionDenied.into())
        };
        if let Err(error) = written {
            trouble::say(format_args!("token {}: {error}", self.number));
            if lock.held() && finished {
                self.folder.remove_unfinished();
            }
            let abandoned = self.exchange(&Request::Abandon)?;
            if matches!(request, Request::Login { .. }) {
                return Ok(abandoned);
            }
            let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            return Ok(Err(Error::Rv(if full { CKR_DEVICE_MEMORY } else { CKR_TOKEN_WRITE_PROTECTED })));
        }
        point(Point::Written);
        let answer = self.exchange(&Request::Commit)?;
        if answer.is_err() {
            self.seen = Seen::Unknown;
            return Ok(answer);
        }
        point(Point::Committed);
        self.seen = match self.folder.rename_new() {
            Ok(stamp) => Seen::File(stamp),
            Err(error) => {
                trouble::say(format_args!("token {}: {error}", self.number));
                Seen::Unknown
            }
        };
        point(Point::Renamed);
        remembered::remember(self.number, self.folder.file(), bytes.to_vec());
        Ok(answer)
    }
}
