//! A TPM, and whoever sits on its bus, answering anything at all.
//!
//! Demanded: every wait ends (the number of looks at the bus, and of commands sent, is bounded); only the registers of the locality
//! that was asked for are written, and of these only those of a command; a PCR's value that is believed stood in the last answer,
//! which said success; random bytes that are believed came from the TPM, all of them.

use std::cell::Cell;

use abi::Digests;
use hypervisor::tpm::clock::Clock;
use hypervisor::tpm::tis::{Registers, Tis};
use hypervisor::tpm::{Algorithm, Error, Tpm, Transport};

use crate::input::Input;

/// A command is sent again 200 times at most.
const MOST_TRIES: usize = 201;
/// Looks at the bus for one command: two waits for each of its bytes, and of its answer's, at a burst of one.
const MOST_LOOKS: u64 = 4 * 1024 * 20;

/// The first byte chooses whether the bytes are messages or registers.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.bool() { registers(input) } else { messages(input) }
}

/// Answers as messages: 10 bytes at least, and the size in the header true, as a transport promises; the buffer may be longer.
struct Messages<'a> {
    input: Input<'a>,
    sent: usize,
    commands: Vec<u8>,
    last: Vec<u8>,
}

impl Transport for &mut Messages<'_> {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        self.sent += 1;
        self.commands = command.to_vec();
        if self.input.is_empty() {
            return Err(Error::Timeout("the input is used up"));
        }
        let size = 10 + usize::from(self.input.u8());
        let body = self.input.take(size);
        let mut message = vec![0; size];
        message[..body.len()].copy_from_slice(body);
        message[2..6].copy_from_slice(&(size as u32).to_be_bytes());
        answer[..size].copy_from_slice(&message);
        self.last = message;
        Ok(size)
    }

    fn pause(&mut self, ms: u64) {
        assert!(ms <= 10);
    }

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

fn messages(input: Input) {
    let mut bus = Messages { input, sent: 0, commands: Vec::new(), last: Vec::new() };
    let seed = bus.input.u8();
    let opened = Tpm::open(&mut bus).map(|tpm| (tpm.family().number(), *tpm.banks()));
    assert!(bus.sent <= 4 * MOST_TRIES);
    let Ok((_, banks)) = opened else { return };
    assert!(banks.hashable() && banks.algorithms().iter().all(|bank| bank.size() > 0));
    // From here on a TPM that has been opened is needed, and what it says last: the banks are asked for again.
    bus.sent = 0;
    let mut log = Vec::new();
    if let Ok(mut tpm) = Tpm::open(Shared { bus: &mut bus, log: &mut log }) {
        let digests = Digests { sha1: [seed; 20], sha256: [seed; 32] };
        let extended = tpm.extend(17, &digests);
        let read = tpm.read(18);
        let mut random = [0; 70];
        let filled = tpm.random(&mut random);
        let (v20, banks) = (tpm.family().number() == 2, *tpm.banks());
        drop(tpm);
        believed(&log, v20, &banks, &digests, extended.is_ok(), read.ok(), filled.is_ok().then_some(&random));
    }
    assert!(bus.sent <= (4 + 1 + 2 + 70) * MOST_TRIES, "{} commands", bus.sent);
}

/// Notes every command and its answer.
struct Shared<'a, 'b> {
    bus: &'a mut Messages<'b>,
    log: &'a mut Vec<(Vec<u8>, Vec<u8>)>,
}

impl Transport for Shared<'_, '_> {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        let mut bus = &mut *self.bus;
        let size = bus.exchange(command, answer)?;
        self.log.push((self.bus.commands.clone(), self.bus.last.clone()));
        Ok(size)
    }

    fn pause(&mut self, ms: u64) {
        assert!(ms <= 10);
    }

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
