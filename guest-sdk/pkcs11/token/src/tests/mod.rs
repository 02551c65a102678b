//! The token as processes use it: engines of one machine, each with its own memory, and a file between them.

mod computing;
mod file;
mod objects;
mod pins;
mod wrapping;

use crate::Engine;
use crate::ck::{attribute, class, key, mechanism as m, rv};
use crate::platform::{Counter, Platform};
use crate::protocol::{
    Answer, Error, Loaded, Mechanism, Operation, Parameter, Request, Response, Template, User,
};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use zeroize::Zeroizing;

pub const OFFICER: &[u8] = b"officer";
pub const USER: &[u8] = b"1234";

/// What a machine's micro-TPM has.
#[derive(Default)]
pub struct Shared {
    pub counters: BTreeMap<Counter, u64>,
    random: u64,
    /// The hardware TPM does not answer.
    pub starved: bool,
    pub lasting_increments: u64,
    /// What happens just after the user's next try has its number.
    pub meanwhile: Option<Box<dyn FnOnce()>>,
}

/// *Used* of the user's tries of token 0.
const USED: Counter = Counter::Launch(3);

/// A machine.
#[derive(Clone, Default)]
pub struct Machine(pub Rc<RefCell<Shared>>);

impl Machine {
    /// The next launch.
    pub fn launch(&self) {
        self.0.borrow_mut().counters.retain(|counter, _| matches!(counter, Counter::Lasting(_)));
    }

    pub fn process(&self) -> Process {
        let mut process = Process { engine: Engine::new(self.clone()) };
        process.ask(Request::Start { token: 0, adx: false }).unwrap();
        process
    }

    /// A process that has loaded the file.
    pub fn process_with(&self, file: &[u8]) -> Process {
        let mut process = self.process();
        assert_eq!(process.load(file), Loaded::Current);
        process
    }

    /// A token with both PINs: a process, and the file.
    pub fn initialised(&self) -> (Process, Vec<u8>) {
        let mut process = self.process();
        let label = [b' '; 32].to_vec();
        process.keep(Request::InitToken { pin: OFFICER.to_vec(), label });
        let session = process.open(true);
        process.keep(Request::Login { session, user: User::SecurityOfficer, pin: OFFICER.to_vec() });
        let (answer, file) = process.keep(Request::InitPin { session, pin: USER.to_vec() });
        assert_eq!(answer, Answer::Done);
        process.ask(Request::Logout { session }).unwrap();
        process.ask(Request::CloseSession { session }).unwrap();
        (process, file.unwrap())
    }
}

impl Machine {
    /// A token with both PINs and a session of the user's: the process, the session, and the present file.
    pub fn in_use(&self) -> (Process, u64, Vec<u8>) {
        let (mut process, file) = self.initialised();
        let session = process.open(true);
        let kept = process.keep(Request::Login { session, user: User::User, pin: USER.to_vec() }).1;
        (process, session, kept.unwrap_or(file))
    }
}

impl Platform for Machine {
    fn random(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        for part in bytes.chunks_mut(32) {
            let mut shared = self.0.borrow_mut();
            shared.random += 1;
            part.copy_from_slice(&Sha256::digest(shared.random.to_be_bytes())[..part.len()]);
        }
        Ok(())
    }

    fn seal(&mut self, key: &[u8; 32]) -> Result<Vec<u8>, Error> {
        Ok(key.iter().map(|byte| byte ^ 0x55).collect())
    }

    fn unseal(&mut self, blob: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
        let key: Vec<u8> = blob.iter().map(|byte| byte ^ 0x55).collect();
        key.try_into().map(Zeroizing::new).map_err(|_| Error::Rv(rv::DEVICE_ERROR))
    }

    fn counter(&mut self, counter: Counter) -> Result<u64, Error> {
        Ok(self.0.borrow().counters.get(&counter).copied().unwrap_or_default())
    }

    fn increment(&mut self, counter: Counter) -> Result<u64, Error> {
        let mut shared = self.0.borrow_mut();
        if let Counter::Lasting(_) = counter {
            if shared.starved {
                return Err(Error::Rv(rv::DEVICE_ERROR));
            }
            shared.lasting_increments += 1;
        }
        let value = shared.counters.entry(counter).or_default();
        *value += 1;
        let value = *value;
        let meanwhile = if counter == USED { shared.meanwhile.take() } else { None };
        drop(shared);
        if let Some(happens) = meanwhile {
            happens();
        }
        Ok(value)
    }

    fn report(&mut self, nonce: &[u8; 32]) -> Result<Vec<u8>, Error> {
        Ok(nonce.to_vec())
    }
}

/// A process, and its S.
pub struct Process {
    pub engine: Engine<Machine>,
}

impl Process {
    pub fn ask(&mut self, request: Request) -> Response {
        self.engine.request(request)
    }

    /// A request, and what becomes of the file if it changes.
    pub fn keep(&mut self, request: Request) -> (Answer, Option<Vec<u8>>) {
        match self.ask(request).unwrap() {
            Answer::Write(file) => (self.ask(Request::Commit).unwrap(), Some(file)),
            answer => (answer, None),
        }
    }

    pub fn load(&mut self, file: &[u8]) -> Loaded {
        match self.ask(Request::Load { file: file.to_vec() }).unwrap() {
            Answer::Loaded(loaded) => loaded,
            other => panic!("{other:?}"),
        }
    }

    pub fn open(&mut self, write: bool) -> u64 {
        handle(self.ask(Request::OpenSession { write }).unwrap())
    }

    /// A session of the user's.
    pub fn user(&mut self) -> u64 {
        let session = self.open(true);
        self.keep(Request::Login { session, user: User::User, pin: USER.to_vec() });
        session
    }

    pub fn create(&mut self, session: u64, template: Template) -> Result<u64, Error> {
        self.ask(Request::CreateObject { session, template }).map(handle)
    }

    pub fn get(&mut self, session: u64, object: u64, kind: u64) -> Option<Vec<u8>> {
        let request = Request::GetAttributes { session, object, types: vec![kind] };
        match self.ask(request).unwrap() {
            Answer::Attributes(values) => match &values[..] {
                [crate::protocol::Value::Is(value)] => Some(value.clone()),
                _ => None,
            },
            other => panic!("{other:?}"),
        }
    }

    /// An operation at once.
    pub fn single(
        &mut self,
        session: u64,
        operation: Operation,
        mechanism: Mechanism,
        key: u64,
        data: &[u8],
        signature: &[u8],
    ) -> Result<Vec<u8>, Error> {
        self.ask(Request::Init { session, operation, mechanism, key })?;
        let request = Request::Single {
            session,
            operation,
            data: data.to_vec(),
            signature: signature.to_vec(),
            room: Some(1 << 20),
        };
        match self.ask(request)? {
            Answer::Bytes(bytes) => Ok(bytes),
            Answer::Done => Ok(Vec::new()),
            other => panic!("{other:?}"),
        }
    }
}

pub fn handle(answer: Answer) -> u64 {
    match answer {
        Answer::Handle(handle) => handle,
        other => panic!("{other:?}"),
    }
}

pub fn handles(answer: Answer) -> Vec<u64> {
    match answer {
        Answer::Handles(handles) => handles,
        other => panic!("{other:?}"),
    }
}

pub fn number(kind: u64, value: u64) -> (u64, Vec<u8>) {
    (kind, value.to_le_bytes().to_vec())
}

pub fn flag(kind: u64, value: bool) -> (u64, Vec<u8>) {
    (kind, vec![u8::from(value)])
}

pub fn plain(mechanism: u64) -> Mechanism {
    Mechanism { mechanism, parameter: Parameter::None }
}

/// An AES key of the session.
pub fn aes(value: &[u8]) -> Template {
    vec![
        number(attribute::CLASS, class::SECRET_KEY),
        number(attribute::KEY_TYPE, key::AES),
        (attribute::VALUE, value.to_vec()),
    ]
}

pub fn generate_aes() -> (Mechanism, Template) {
    (plain(m::AES_KEY_GEN), vec![number(attribute::VALUE_LEN, 32)])
}

pub fn rv(code: u64) -> Error {
    Error::Rv(code)
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
