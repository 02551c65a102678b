//! A slot with its token: S (registered when it is needed), the token's file, and the sessions that the application knows.
//!
//! One lock a slot is held while S is asked, so that requests of several threads follow one another.

mod file;
mod folder;
mod remembered;

use crate::backend::{self, Backend, Failure};
use crate::outcome::{Rv, plain};
use crate::process::SLOTS;
use crate::{template, trouble};
use cryptoki_sys::*;
use file::Seen;
use folder::{Folder, Lock};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use token::protocol::{Answer, Error, Request, Response};
use zeroize::{Zeroize, Zeroizing};

/// A slot.
pub struct Slot {
    number: u32,
    /// How many sessions there have been: no handle is ever another session's.
    sessions: AtomicU64,
    token: Mutex<Option<Token>>,
}

/// The token, between `C_Initialize` and `C_Finalize`.
pub struct Token {
    number: u32,
    folder: Folder,
    s: Option<Box<dyn Backend>>,
    /// What S was given of the file.
    seen: Seen,
    /// By the application's handle.
    sessions: HashMap<CK_SESSION_HANDLE, Session>,
}

/// A session.
pub struct Session {
    /// S's handle.
    pub handle: u64,
    /// What `C_FindObjects` has not said yet, between `C_FindObjectsInit` and `C_FindObjectsFinal`.
    pub found: Option<VecDeque<u64>>,
}

impl Slot {
    pub fn new(number: u32) -> Self {
        Self { number, sessions: AtomicU64::new(0), token: Mutex::new(None) }
    }

    pub fn open(&self, folder: &Path) {
        let folder = Folder::new(folder, self.number);
        *self.guard() = Some(Token {
            number: self.number,
            folder,
            s: None,
            seen: Seen::Unknown,
            sessions: HashMap::new(),
        });
    }

    pub fn close(&self) {
        *self.guard() = None;
    }

    fn guard(&self) -> MutexGuard<'_, Option<Token>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the token, alone.
    pub fn with<T>(&self, work: impl FnOnce(&mut Token) -> Result<T, Rv>) -> Result<T, Rv> {
        work(self.guard().as_mut().ok_or(CKR_CRYPTOKI_NOT_INITIALIZED)?)
    }

    /// Asks what concerns no session.
    pub fn ask(&self, request: Request) -> Result<Answer, Rv> {
        self.with(|token| token.ask(request).map_err(plain))
    }

    /// `C_OpenSession`.
    pub fn open_session(&self, write: bool) -> Result<CK_SESSION_HANDLE, Rv> {
        self.with(|token| {
            let answer = token.ask(Request::OpenSession { write });
            let handle = answer.and_then(crate::outcome::handle).map_err(plain)?;
            let mine = (self.sessions.fetch_add(1, Relaxed) + 1) * SLOTS as u64 + u64::from(self.number);
            token.sessions.insert(mine, Session { handle, found: None });
            Ok(mine)
        })
    }

    /// `C_CloseSession`.
    pub fn close_session(&self, session: CK_SESSION_HANDLE) -> Result<(), Rv> {
        self.with(|token| {
            let Session { handle, .. } = token.sessions.remove(&session).ok_or(CKR_SESSION_HANDLE_INVALID)?;
            token.ask(Request::CloseSession { session: handle }).and_then(crate::outcome::done).map_err(plain)
        })
    }

    /// `C_CloseAllSessions`.
    pub fn close_all_sessions(&self) -> Result<(), Rv> {
        self.with(|token| {
            token.sessions.clear();
            if token.s.is_none() {
                return Ok(());
            }
            token.ask(Request::CloseAllSessions).and_then(crate::outcome::done).map_err(plain)
        })
    }
}

impl Token {
    /// A session of the application's.
    pub fn session(&mut self, session: CK_SESSION_HANDLE) -> Result<&mut Session, Rv> {
        self.sessions.get_mut(&session).ok_or(CKR_SESSION_HANDLE_INVALID)
    }

    /// Whether there is a token, without asking it: it has a file.
    pub fn initialised(&self) -> bool {
        self.folder.has_file() || self.remembered().is_some()
    }

    /// Whether its file can be replaced.
    pub fn writable(&self) -> bool {
        self.folder.writable()
    }

    /// Evidence for a report that S has just made on the hash of what it says.
    pub fn evidence(&self, report: &[u8], statement: &[u8]) -> Result<String, String> {
        let said = statement::Statement::from_bytes(statement).ok_or("S says something else")?;
        self.s.as_ref().ok_or("S is gone")?.evidence(report, &said.digest())
    }

    /// Asks S, after what it needs: that it is there, and has the present file. What it wants written is written.
    pub fn ask(&mut self, mut request: Request) -> Result<Answer, Error> {
        let answer = self.asked_again(&request);
        forget(&mut request);
        answer
    }

    fn asked_again(&mut self, request: &Request) -> Result<Answer, Error> {
        let mut response = self.asked(request);
        if response == Err(Failure::Gone) {
            trouble::say(format_args!("token {}: S is gone, and all sessions with it", self.number));
            self.gone();
            if of_session(request) {
                return Err(Error::Rv(CKR_DEVICE_REMOVED));
            }
            response = self.asked(request);
        }
        match response {
            Ok(response) => response,
            Err(Failure::Refused(rv)) => Err(Error::Rv(rv)),
            Err(Failure::Gone) => {
                self.gone();
                Err(Error::Rv(CKR_DEVICE_ERROR))
            }
        }
    }

    fn asked(&mut self, request: &Request) -> Result<Response, Failure> {
        if continues(request) {
            return self.exchange(request);
        }
        let lock = if writes(request) {
            self.folder.lock(matches!(request, Request::InitToken { .. }))
        } else {
            Lock::none()
        };
        self.start()?;
        self.refresh(&lock)?;
        match self.exchange(request)? {
            Ok(Answer::Write(bytes)) => self.change(request, &lock, &bytes),
            answer => Ok(answer),
        }
    }

    /// Makes sure that there is an S.
    fn start(&mut self) -> Result<(), Failure> {
        if self.s.is_some() {
            return Ok(());
        }
        self.s = Some(backend::start(self.folder.path()).map_err(Failure::Refused)?);
        self.seen = Seen::Unknown;
        let adx = std::arch::is_x86_feature_detected!("adx") && std::arch::is_x86_feature_detected!("bmi2");
        match self.exchange(&Request::Start { token: self.number, adx })? {
            Ok(Answer::Done) => Ok(()),
            Ok(_) => Err(Failure::Refused(CKR_GENERAL_ERROR)),
            Err(error) => {
                self.s = None;
                Err(Failure::Refused(plain(error)))
            }
        }
    }

    fn gone(&mut self) {
        self.s = None;
        self.sessions.clear();
    }

    /// One request to S and its answer.
    fn exchange(&mut self, request: &Request) -> Result<Response, Failure> {
        let broken = Failure::Refused(CKR_GENERAL_ERROR);
        let encoded = Zeroizing::new(postcard::to_allocvec(request).map_err(|_| broken)?);
        let s = self.s.as_mut().ok_or(Failure::Gone)?;
        let answer = Zeroizing::new(s.ask(&encoded)?);
        postcard::from_bytes(&answer).map_err(|_| broken)
    }
}

/// Whether the request goes on with what a session is in the middle of: the file does not matter then.
fn continues(request: &Request) -> bool {
    matches!(
        request,
        Request::Single { .. }
            | Request::Update { .. }
            | Request::Final { .. }
            | Request::Cancel { .. }
            | Request::CloseSession { .. }
            | Request::CloseAllSessions
            | Request::SessionInfo { .. }
            | Request::Random { .. }
    )
}

/// Whether the request may change the file, or must see it as nobody else changes it.
fn writes(request: &Request) -> bool {
    match request {
        Request::InitToken { .. }
        | Request::InitPin { .. }
        | Request::SetPin { .. }
        | Request::Login { .. }
        | Request::CopyObject { .. }
        | Request::DestroyObject { .. }
        | Request::SetAttributes { .. } => true,
        Request::CreateObject { template, .. }
        | Request::GenerateKey { template, .. }
        | Request::UnwrapKey { template, .. }
        | Request::DeriveKey { template, .. } => template::lasting(template),
        Request::GenerateKeyPair { public, private, .. } => {
            template::lasting(public) || template::lasting(private)
        }
        _ => false,
    }
}

/// Whether the request is a session's.
fn of_session(request: &Request) -> bool {
    !matches!(
        request,
        Request::TokenInfo
            | Request::InitToken { .. }
            | Request::OpenSession { .. }
            | Request::CloseAllSessions
            | Request::Start { .. }
            | Request::Load { .. }
            | Request::Current
            | Request::Commit
            | Request::Abandon
    )
}

/// What a request holds of secrets is not left in memory longer than the application leaves it.
fn forget(request: &mut Request) {
    match request {
        Request::InitToken { pin, .. } | Request::InitPin { pin, .. } | Request::Login { pin, .. } => {
            pin.zeroize()
        }
        Request::SetPin { old, new, .. } => {
            old.zeroize();
            new.zeroize();
        }
        Request::CreateObject { template, .. } => template.iter_mut().for_each(|(_, value)| value.zeroize()),
        Request::Single { data, .. } | Request::Update { data, .. } => data.zeroize(),
        _ => {}
    }
}

#[cfg(all(test, feature = "software"))]
mod tests;
