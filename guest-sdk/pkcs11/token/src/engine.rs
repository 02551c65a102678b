//! Answers requests: state, sessions, logins, and the way of a change into the file. Objects are handled in [`objects`], what is computed
//! with them in [`operations`] and [`keys`].

mod keys;
mod objects;
mod operations;

use crate::ck::{flag, rv, state};
use crate::object::Object;
use crate::operation::{Active, Tools};
use crate::pin::{self, Pin, Role, Tries, padded};
use crate::platform::Platform;
use crate::protocol::{Answer, Error, Loaded, Operation, Request, Response, SessionInfo, TokenInfo, User};
use crate::store::{Store, version_counter};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Tokens are 0 to 3.
pub const TOKENS: u32 = 4;
/// Sessions of a process.
const SESSIONS: usize = 1024;
/// Handles of session objects begin here.
const SESSION_OBJECTS: u64 = 1 << 32;

/// A token in the memory of one process's S.
pub struct Engine<P> {
    tools: Tools<P>,
    token: u32,
    store: Option<Store>,
    pending: Option<Pending>,
    login: Option<Role>,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    /// With the session that each goes with.
    objects: BTreeMap<u64, (u64, Object)>,
    next_object: u64,
}

struct Session {
    write: bool,
    active: BTreeMap<u8, Active>,
    /// The user has shown the PIN for the operation that was begun with a key of `CKA_ALWAYS_AUTHENTICATE`.
    authenticated: bool,
}

/// A change that is not yet durable.
struct Pending {
    store: Store,
    answer: Answer,
    /// Who is logged in then.
    login: Option<Role>,
    /// Whether the token is another one then.
    new: bool,
}

impl<P: Platform> Engine<P> {
    /// Before [`Request::Start`].
    pub const fn new(platform: P) -> Self {
        Self {
            tools: Tools { platform, adx: false, rsa: Vec::new() },
            token: 0,
            store: None,
            pending: None,
            login: None,
            sessions: BTreeMap::new(),
            next_session: 1,
            objects: BTreeMap::new(),
            next_object: SESSION_OBJECTS,
        }
    }

    /// Answers a request.
    pub fn request(&mut self, request: Request) -> Response {
        if !matches!(request, Request::Commit | Request::Abandon) {
            // Whoever does not say what became of a change has not made it durable.
            self.pending = None;
        }
        match request {
            Request::Start { token, adx } => self.start(token, adx),
            Request::Load { file } => self.load(&file),
            Request::Current => self.current(),
            Request::Commit => self.commit(),
            Request::Abandon => {
                // A right PIN is right even where its record cannot be kept.
                if let Some(pending) = self.pending.take().filter(|pending| !pending.new) {
                    self.login = pending.login;
                }
                Ok(Answer::Done)
            }
            Request::TokenInfo => self.token_info(),
            Request::InitToken { pin, label } => self.init_token(&pin, &label),
            Request::InitPin { session, pin } => self.init_pin(session, &pin),
            Request::SetPin { session, old, new } => self.set_pin(session, &old, &new),
            Request::OpenSession { write } => self.open_session(write),
            Request::CloseSession { session } => self.close_session(session),
            Request::CloseAllSessions => {
                self.close_all();
                Ok(Answer::Done)
            }
            Request::SessionInfo { session } => self.session_info(session),
            Request::Login { session, user, pin } => self.login(session, user, &pin),
            Request::Logout { session } => self.logout(session),
            Request::CreateObject { session, template } => self.create_object(session, &template),
            Request::CopyObject { session, object, template } => self.copy_object(session, object, &template),
            Request::DestroyObject { session, object } => self.destroy_object(session, object),
            Request::ObjectSize { session, object } => {
                self.session(session)?;
                Ok(Answer::Handle(self.object(object)?.size() as u64))
            }
            Request::GetAttributes { session, object, types } => {
                self.session(session)?;
                let object = self.object(object)?;
                Ok(Answer::Attributes(types.iter().map(|kind| object.read(*kind)).collect()))
            }
            Request::SetAttributes { session, object, template } => {
                self.set_attributes(session, object, &template)
            }
            Request::FindObjects { session, template } => {
                self.session(session)?;
                Ok(Answer::Handles(self.find_objects(&template)))
            }
            Request::Init { session, operation, mechanism, key } => {
                self.init(session, operation, &mechanism, key)
            }
            Request::Cancel { session, operation } => {
                self.session_mut(session)?.active.remove(&(operation as u8));
                Ok(Answer::Done)
            }
            Request::Single { session, operation, data, signature, room } => {
                self.single(session, operation, &data, &signature, room)
            }
            Request::Update { session, operation, data, room } => {
                self.update(session, operation, &data, room)
            }
            Request::Final { session, operation, signature, room } => {
                self.finish(session, operation, &signature, room)
            }
            Request::DigestKey { session, key } => self.digest_key(session, key),
            Request::GenerateKey { session, mechanism, template } => {
                self.generate_key(session, &mechanism, &template)
            }
            Request::GenerateKeyPair { session, mechanism, public, private } => {
                self.generate_key_pair(session, &mechanism, &public, &private)
            }
            Request::WrapKey { session, mechanism, wrapping, key, room } => {
                self.wrap_key(session, &mechanism, wrapping, key, room)
            }
            Request::UnwrapKey { session, mechanism, unwrapping, data, template } => {
                self.unwrap_key(session, &mechanism, unwrapping, &data, &template)
            }
            Request::DeriveKey { session, mechanism, key, template } => {
                self.derive_key(session, &mechanism, key, &template)
            }
            Request::Random { session, length } => self.random(session, length),
            Request::Evidence { session, key, nonce } => self.evidence(session, key, &nonce),
        }
    }

    fn start(&mut self, token: u32, adx: bool) -> Response {
        if token >= TOKENS {
            return Err(Error::Rv(rv::ARGUMENTS_BAD));
        }
        // Another token's sessions and keys are not this one's.
        if token != self.token {
            self.close_all();
            self.store = None;
        }
        (self.token, self.tools.adx) = (token, adx);
        Ok(Answer::Done)
    }

    fn load(&mut self, file: &[u8]) -> Response {
        let (loaded, store) = Store::load(file, self.token, &mut self.tools.platform)?;
        if let Some(store) = store {
            let other = self.store.as_ref().is_some_and(|old| old.serial != store.serial);
            if other {
                self.close_all();
            }
            // Who logged in with a PIN that is another one now has to do it again.
            if self
                .login
                .is_some_and(|role| !self.store.as_ref().is_some_and(|old| same_pin(old, &store, role)))
            {
                self.end_login();
            }
            self.store = Some(store);
        }
        Ok(Answer::Loaded(loaded))
    }

    fn current(&mut self) -> Response {
        let version = self.tools.platform.counter(version_counter(self.token))?;
        let current = self.store.as_ref().is_some_and(|store| store.version == version);
        Ok(Answer::Loaded(if current { Loaded::Current } else { Loaded::NotCurrent }))
    }

    /// The token, which must be initialised.
    fn store(&self) -> Result<&Store, Error> {
        self.store.as_ref().ok_or(Error::Rv(rv::TOKEN_NOT_RECOGNIZED))
    }

    /// Begins a change: the answer is given when it is durable.
    fn change(&mut self, mut store: Store, answer: Answer) -> Response {
        self.is_current()?;
        store.version = self.tools.platform.counter(version_counter(self.token))?.saturating_add(1);
        let file = store.encode(&mut self.tools.platform)?;
        self.pending = Some(Pending { store, answer, login: self.login, new: false });
        Ok(Answer::Write(file))
    }

    /// Whether the state here, if there is any, is the present one: what is compared with or built upon must not be old.
    fn is_current(&mut self) -> Result<(), Error> {
        let version = self.tools.platform.counter(version_counter(self.token))?;
        let old = self.store.as_ref().is_some_and(|store| store.version != version);
        if old { Err(Error::Rv(rv::DEVICE_ERROR)) } else { Ok(()) }
    }

    fn commit(&mut self) -> Response {
        let pending = self.pending.as_ref().ok_or(Error::Rv(rv::OPERATION_NOT_INITIALIZED))?;
        let version = pending.store.version;
        if self.tools.platform.counter(version_counter(self.token))?.saturating_add(1) != version {
            self.pending = None;
            return Err(Error::Rv(rv::DEVICE_ERROR));
        }
        // If it is not known to be kept, it can be asked for again.
        let kept = self.tools.platform.increment(version_counter(self.token))?;
        let Some(pending) = self.pending.take().filter(|_| kept == version) else {
            // Somebody else's change has the number.
            return Err(Error::Rv(rv::DEVICE_ERROR));
        };
        if pending.new {
            self.close_all();
        }
        self.store = Some(pending.store);
        self.login = pending.login;
        Ok(pending.answer)
    }

    fn token_info(&mut self) -> Response {
        let sessions = self.sessions.len() as u64;
        let write_sessions = self.sessions.values().filter(|session| session.write).count() as u64;
        let mut info = TokenInfo {
            label: padded(&[]),
            serial: b"0000000000000000".to_vec(),
            flags: flag::RNG | flag::LOGIN_REQUIRED,
            sessions,
            write_sessions,
            pin: pin::LENGTH,
        };
        let Some(store) = &self.store else { return Ok(Answer::Token(info)) };
        info.label.clone_from(&store.label);
        info.serial = store.serial.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex).collect();
        info.flags |= flag::TOKEN_INITIALIZED;
        let user = [flag::USER_PIN_COUNT_LOW, flag::USER_PIN_FINAL_TRY, flag::USER_PIN_LOCKED];
        let officer = [flag::SO_PIN_COUNT_LOW, flag::SO_PIN_FINAL_TRY, flag::SO_PIN_LOCKED];
        let pins = [(Some(&store.officer), Role::Officer, officer), (store.user.as_ref(), Role::User, user)];
        for (pin, role, [low, last, locked]) in pins {
            let Some(pin) = pin else { continue };
            let all = pin::A_LEASE * pin::LEASES;
            info.flags |= match Tries::new(self.token, role).left(pin.since, &mut self.tools.platform)? {
                0 => locked,
                1 => last | low,
                left if left < all / 2 => low,
                _ => 0,
            };
        }
        if store.user.is_some() {
            info.flags |= flag::USER_PIN_INITIALIZED;
        }
        Ok(Answer::Token(info))
    }

    fn init_token(&mut self, pin: &[u8], label: &[u8]) -> Response {
        self.is_current()?;
        if label.len() != 32 {
            return Err(Error::Rv(rv::ARGUMENTS_BAD));
        }
        if !self.sessions.is_empty() {
            return Err(Error::Rv(rv::SESSION_EXISTS));
        }
        let tries = Tries::new(self.token, Role::Officer);
        let officer = match &self.store {
            None => Pin::new(pin, tries, &mut self.tools.platform)?,
            Some(store) => {
                let officer = store.officer.clone();
                officer.check(pin, tries, &mut self.tools.platform)?.unwrap_or(officer)
            }
        };
        let mut serial = [0; 8];
        self.tools.platform.random(&mut serial)?;
        let store = Store {
            token: self.token,
            version: 0,
            serial,
            label: label.to_vec(),
            officer,
            user: None,
            next: 1,
            objects: BTreeMap::new(),
        };
        let answer = self.change(store, Answer::Done)?;
        if let Some(pending) = &mut self.pending {
            (pending.login, pending.new) = (None, true);
        }
        Ok(answer)
    }

    fn init_pin(&mut self, session: u64, pin: &[u8]) -> Response {
        self.is_current()?;
        self.session(session)?;
        if self.login != Some(Role::Officer) {
            return Err(Error::Rv(rv::USER_NOT_LOGGED_IN));
        }
        let mut store = self.store()?.clone();
        store.user = Some(Pin::new(pin, Tries::new(self.token, Role::User), &mut self.tools.platform)?);
        self.change(store, Answer::Done)
    }

    fn set_pin(&mut self, session: u64, old: &[u8], new: &[u8]) -> Response {
        self.is_current()?;
        if !self.session(session)?.write {
            return Err(Error::Rv(rv::SESSION_READ_ONLY));
        }
        let role = self.login.unwrap_or(Role::User);
        let tries = Tries::new(self.token, role);
        let mut store = self.store()?.clone();
        record(&store, role)?.check(old, tries, &mut self.tools.platform)?;
        let pin = Pin::new(new, tries, &mut self.tools.platform)?;
        keep(&mut store, role, pin);
        self.change(store, Answer::Done)
    }

    fn open_session(&mut self, write: bool) -> Response {
        self.store()?;
        if self.login == Some(Role::Officer) && !write {
            return Err(Error::Rv(rv::SESSION_READ_WRITE_SO_EXISTS));
        }
        if self.sessions.len() >= SESSIONS {
            return Err(Error::Rv(rv::SESSION_COUNT));
        }
        let handle = self.next_session;
        self.next_session += 1;
        let session = Session { write, active: BTreeMap::new(), authenticated: false };
        self.sessions.insert(handle, session);
        Ok(Answer::Handle(handle))
    }

    fn close_session(&mut self, session: u64) -> Response {
        self.sessions.remove(&session).ok_or(Error::Rv(rv::SESSION_HANDLE_INVALID))?;
        self.objects.retain(|_, (owner, _)| *owner != session);
        if self.sessions.is_empty() {
            self.login = None;
        }
        Ok(Answer::Done)
    }

    fn close_all(&mut self) {
        self.sessions.clear();
        self.objects.clear();
        self.tools.rsa.clear();
        self.login = None;
    }

    fn session(&self, session: u64) -> Result<&Session, Error> {
        self.sessions.get(&session).ok_or(Error::Rv(rv::SESSION_HANDLE_INVALID))
    }

    fn session_mut(&mut self, session: u64) -> Result<&mut Session, Error> {
        self.sessions.get_mut(&session).ok_or(Error::Rv(rv::SESSION_HANDLE_INVALID))
    }

    fn session_info(&self, session: u64) -> Response {
        let write = self.session(session)?.write;
        let state = match (self.login, write) {
            (None, false) => state::RO_PUBLIC_SESSION,
            (None, true) => state::RW_PUBLIC_SESSION,
            (Some(Role::User), false) => state::RO_USER_FUNCTIONS,
            (Some(Role::User), true) => state::RW_USER_FUNCTIONS,
            (Some(Role::Officer), _) => state::RW_SO_FUNCTIONS,
        };
        let flags = flag::SERIAL_SESSION | if write { flag::RW_SESSION } else { 0 };
        Ok(Answer::Session(SessionInfo { state, flags }))
    }

    fn login(&mut self, session: u64, user: User, pin: &[u8]) -> Response {
        self.is_current()?;
        self.session(session)?;
        let role = match (user, self.login) {
            (User::ContextSpecific, None) => return Err(Error::Rv(rv::USER_NOT_LOGGED_IN)),
            (User::ContextSpecific, Some(role)) => role,
            (User::User, None) => Role::User,
            (User::SecurityOfficer, None) => Role::Officer,
            (User::User, Some(Role::User)) | (User::SecurityOfficer, Some(Role::Officer)) => {
                return Err(Error::Rv(rv::USER_ALREADY_LOGGED_IN));
            }
            _ => return Err(Error::Rv(rv::USER_ANOTHER_ALREADY_LOGGED_IN)),
        };
        if role == Role::Officer && self.sessions.values().any(|session| !session.write) {
            return Err(Error::Rv(rv::SESSION_READ_ONLY_EXISTS));
        }
        let store = self.store()?;
        let record = record(store, role)?.clone();
        let kept = record.check(pin, Tries::new(self.token, role), &mut self.tools.platform)?;
        if user == User::ContextSpecific {
            self.session_mut(session)?.authenticated = true;
            return Ok(Answer::Done);
        }
        let Some(kept) = kept else {
            self.login = Some(role);
            return Ok(Answer::Done);
        };
        let mut store = self.store()?.clone();
        keep(&mut store, role, kept);
        let answer = self.change(store, Answer::Done)?;
        if let Some(pending) = &mut self.pending {
            pending.login = Some(role);
        }
        Ok(answer)
    }

    fn logout(&mut self, session: u64) -> Response {
        self.session(session)?;
        self.login.ok_or(Error::Rv(rv::USER_NOT_LOGGED_IN))?;
        self.end_login();
        Ok(Answer::Done)
    }

    fn end_login(&mut self) {
        self.login = None;
        // Private objects of sessions go with the login, and so does whatever is under way with private keys.
        self.objects.retain(|_, (_, object)| !object.flag(crate::ck::attribute::PRIVATE));
        self.sessions.values_mut().for_each(|session| session.active.clear());
        self.tools.rsa.clear();
    }

    fn random(&mut self, session: u64, length: u64) -> Response {
        /// In one request.
        const MOST: u64 = 64 << 10;
        self.session(session)?;
        if length > MOST {
            return Err(Error::Rv(rv::ARGUMENTS_BAD));
        }
        let mut bytes = alloc::vec![0; length as usize];
        self.tools.platform.random(&mut bytes)?;
        Ok(Answer::Bytes(bytes))
    }

    fn active(&mut self, session: u64, operation: Operation) -> Result<&mut Active, Error> {
        let active = self.session_mut(session)?.active.get_mut(&(operation as u8));
        active.ok_or(Error::Rv(rv::OPERATION_NOT_INITIALIZED))
    }
}

fn same_pin(old: &Store, new: &Store, role: Role) -> bool {
    match (record(old, role), record(new, role)) {
        (Ok(old), Ok(new)) => old.is_of(new),
        _ => false,
    }
}

fn record(store: &Store, role: Role) -> Result<&Pin, Error> {
    match role {
        Role::Officer => Ok(&store.officer),
        Role::User => store.user.as_ref().ok_or(Error::Rv(rv::USER_PIN_NOT_INITIALIZED)),
    }
}

fn keep(store: &mut Store, role: Role, pin: Pin) {
    match role {
        Role::Officer => store.officer = pin,
        Role::User => store.user = Some(pin),
    }
}

fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }
}

/// What fits, or how much room it takes.
fn fits(bytes: Vec<u8>, room: Option<u64>) -> Response {
    match room {
        Some(room) if bytes.len() as u64 <= room => Ok(Answer::Bytes(bytes)),
        _ => Err(Error::TooSmall(bytes.len() as u64)),
    }
}
