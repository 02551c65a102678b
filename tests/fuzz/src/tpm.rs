//! A TPM, and whoever sits on its bus, answering anything at all.
//!
//! Demanded: every wait ends (the number of looks at the bus, and of commands sent, is bounded); only the registers of the locality
//! that was asked for are written, and of these only those of a command; a PCR's value that is believed stood in the last answer,
//! which said success; random bytes that are believed came from the TPM, all of them; so did a root that is taken for the saved one, and
//! what is to be saved of a new one (TPM 1.2).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use abi::{Digests, RootState};
use hypervisor::release::RELEASE;
use hypervisor::tpm::clock::Clock;
use hypervisor::tpm::root::Blob;
use hypervisor::tpm::tis::{Registers, Tis};
use hypervisor::tpm::{Algorithm, Error, Family, Tpm, Transport};

use crate::input::Input;
use crate::root::entropy;
use utpm::Root;

/// A command is sent again 200 times at most; opening takes eight commands, the root fewer than twenty, the rest one, two and one for each
/// random byte.
const MOST_COMMANDS: usize = 201 * (8 + 20 + 1 + 2 + RANDOM);
const RANDOM: usize = 32;
/// Looks at the bus for one command: a few for each byte of the longest command and answer.
const MOST_LOOKS: usize = 2 * 512 * 32;

/// The first byte chooses whether the others are messages or what the bus says.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.bool() { bus(input) } else { messages(input) }
}

/// A command and its answer.
type Exchange = (Vec<u8>, Vec<u8>);

/// Answers as messages, of the size that their header says, as a transport promises.
struct Messages<'a> {
    input: Input<'a>,
    exchanges: Rc<RefCell<Vec<Exchange>>>,
}

impl Transport for Messages<'_> {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Result<usize, Error> {
        if self.input.is_empty() {
            return Err(Error::Timeout("the input is used up"));
        }
        // What was sealed is longer than the others.
        let longer = if command.get(6..10) == Some(&SEAL) { 256 } else { 0 };
        let size = (10 + usize::from(self.input.u8()) + longer).min(answer.len());
        answer.fill(0xee);
        answer[..size].fill(0);
        let body = self.input.take(size);
        answer[..body.len()].copy_from_slice(body);
        answer[2..6].copy_from_slice(&(size as u32).to_be_bytes());
        self.exchanges.borrow_mut().push((command.to_vec(), answer[..size].to_vec()));
        Ok(size)
    }

    fn pause(&mut self, ms: u64) {
        assert!((1..=10).contains(&ms));
    }

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

fn messages(mut input: Input) {
    let seed = input.u8();
    let exchanges = Rc::new(RefCell::new(Vec::new()));
    if let Ok(mut tpm) = Tpm::open(Messages { input, exchanges: Rc::clone(&exchanges) }) {
        assert!(tpm.banks.iter().any(|bank| [4, 11].contains(&bank.number())));
        assert!(tpm.banks.iter().all(|bank| bank.size() > 0));
        let digests = Digests { sha1: [seed; 20], sha256: [!seed; 32] };
        if tpm.extend(17, &digests).is_ok() {
            was_extended(&exchanges.borrow(), &tpm, &digests);
        }
        exchanges.borrow_mut().clear();
        if let Ok(value) = tpm.read(18) {
            was_read(&exchanges.borrow(), &tpm, &value);
        }
        exchanges.borrow_mut().clear();
        let drawn = tpm.random(&mut entropy());
        // A TPM 2.0 encrypts them, under a key that this one does not know: see target `root`.
        if let Ok(bytes) = drawn {
            assert_eq!(tpm.family, Family::V12);
            was_drawn(&exchanges.borrow(), &*bytes);
        }
        if tpm.family == Family::V12 {
            exchanges.borrow_mut().clear();
            root(&exchanges, &mut tpm, seed);
        }
    }
    assert!(exchanges.borrow().len() <= MOST_COMMANDS);
}

/// TPM_ORD_Seal, TPM_ORD_Unseal (TPM Main 1.2 part 2, 17).
const SEAL: [u8; 4] = [0, 0, 0, 0x17];
const UNSEAL: [u8; 4] = [0, 0, 0, 0x18];

/// A saved root for PCRs that are all zero (TPM_STORED_DATA12 with TPM_PCR_INFO_LONG), good or with one bit flipped, or none.
fn saved(seed: u8) -> Vec<u8> {
    let select = [0, 3, 0, 0, 0b1110];
    let pcrs = utpm::digest(&[&select[..], &[0, 0, 0, 60], &[0; 60]].concat()).sha1;
    let head = b"TVROOT1\x01\0\x16\0\0\0\0\0\x36\0\x06\x02\x02";
    let mut saved = [&head[..], &select, &select, &pcrs, &pcrs, &[0, 0, 1, 0], &[7; 256]].concat();
    match seed {
        0..64 => saved.clear(),
        64..150 => saved[usize::from(seed - 64)] ^= 1,
        _ => {}
    }
    saved
}

fn root(exchanges: &RefCell<Vec<Exchange>>, tpm: &mut Tpm<Messages>, seed: u8) {
    let (saved, new) = (saved(seed), [0x55; Root::SIZE]);
    let (mut secret, mut blob) = (new, Blob::new());
    let state = tpm.root(&mut entropy(), &RELEASE, &saved, &mut secret, &mut blob);
    let exchanges = exchanges.borrow();
    let last = |code| exchanges.iter().rev().find(|exchange| exchange.0.get(6..10) == Some(code));
    match state {
        Ok(RootState::Opened) => {
            let told =
                last(&UNSEAL).is_some_and(|exchange| succeeded(exchange) && holds(&exchange.1, &secret));
            assert!(told && blob.as_slice() == saved, "a root that the TPM did not open");
        }
        Ok(_) => {
            let made = last(&SEAL).is_some_and(|exchange| {
                succeeded(exchange) && holds(&exchange.0, &new) && holds(&exchange.1, &blob[8..])
            });
            assert!(made && secret == new, "a root that the TPM did not seal");
        }
        Err(_) => {}
    }
}

/// Whether an answer says success. The code comes after tag and size.
fn succeeded((_, answer): &Exchange) -> bool {
    answer[6..10] == [0; 4]
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The last command carried a digest of each bank, and succeeded.
fn was_extended(exchanges: &[Exchange], tpm: &Tpm<Messages>, digests: &Digests) {
    let Some(last) = exchanges.last() else { panic!("extended without a command") };
    assert!(succeeded(last), "an extension that failed is believed");
    for bank in &tpm.banks {
        let digest = match bank.number() {
            4 => &digests.sha1[..],
            11 => &digests.sha256[..],
            _ => &Algorithm::CAP[..bank.size()],
        };
        assert!(holds(&last.0, digest), "a bank is left out");
    }
}

/// The value of each bank stood in an answer of its own.
fn was_read(exchanges: &[Exchange], tpm: &Tpm<Messages>, value: &Digests) {
    let mut good = exchanges.iter().filter(|exchange| succeeded(exchange));
    for (bank, digest) in [(4, &value.sha1[..]), (11, &value.sha256[..])] {
        if tpm.banks.iter().any(|b| b.number() == bank) {
            assert!(good.next().is_some_and(|(_, answer)| holds(answer, digest)), "a value that nobody gave");
        } else {
            assert!(digest.iter().all(|byte| *byte == 0));
        }
    }
}

/// All of the bytes stood in the answers, in their order.
fn was_drawn(exchanges: &[Exchange], bytes: &[u8]) {
    let mut rest = bytes;
    for (_, answer) in exchanges.iter().filter(|exchange| succeeded(exchange)) {
        let given = (1..=rest.len()).rev().find(|n| answer.ends_with(&rest[..*n]));
        let Some(given) = given else { panic!("random bytes that nobody gave") };
        rest = &rest[given..];
    }
    assert!(rest.is_empty(), "{} bytes were not drawn", rest.len());
}

/// A bus that answers anything.
struct Bus<'a> {
    input: Input<'a>,
    looks: Rc<Cell<usize>>,
    page: u16,
}

impl Registers for Bus<'_> {
    fn read8(&mut self, offset: u16) -> u8 {
        assert_eq!(offset & 0xf000, self.page);
        self.looks.set(self.looks.get() + 1);
        match offset & 0xfff {
            // Mostly the locality is held.
            0 => {
                if self.input.u8() == 255 {
                    self.input.u8()
                } else {
                    0xa0
                }
            }
            0x24 => self.input.u8(),
            other => panic!("byte register {other:#x}"),
        }
    }

    fn write8(&mut self, offset: u16, value: u8) {
        assert_eq!(offset & 0xf000, self.page);
        match offset & 0xfff {
            0 => assert!(matches!(value, 0x02 | 0x08 | 0x20), "access {value:#x}"),
            0x18 => assert!(matches!(value, 0x20 | 0x40), "status {value:#x}"),
            0x24 => {}
            other => panic!("writes to {other:#x}"),
        }
    }

    fn read32(&mut self, offset: u16) -> u32 {
        self.looks.set(self.looks.get() + 1);
        match offset & 0xfff {
            0x18 => {
                // Valid, ready, with a burst; expecting and having data as the fuzzer likes.
                let bits = self.input.u8();
                let burst = u32::from(self.input.u8());
                burst << 8 | u32::from(bits)
            }
            0xf00 => 0x0001_1014,
            0x30 => self.input.u32(),
            other => panic!("register {other:#x}"),
        }
    }
}

/// A clock that jumps, so that waits do not take long.
struct Jumps(Cell<u64>);

impl Clock for Jumps {
    fn ms(&self) -> u64 {
        self.0.set(self.0.get() + 250);
        self.0.get()
    }
}

fn bus(mut input: Input) {
    let locality = input.u8() % 4;
    let looks = Rc::new(Cell::new(0));
    let bus = Bus { input, looks: Rc::clone(&looks), page: u16::from(locality) << 12 };
    let Ok(mut tis) = Tis::request(bus, Jumps(Cell::new(0)), locality) else { return };
    let mut answer = [0xee; 64];
    for _ in 0..4 {
        looks.set(0);
        if let Ok(size) = tis.exchange(&[0x80; 22], &mut answer) {
            assert!((10..=answer.len()).contains(&size));
            assert_eq!(answer[2..6], (size as u32).to_be_bytes());
        }
        assert!(looks.get() <= MOST_LOOKS, "{} looks for one command", looks.get());
    }
    if let Ok(tpm) = Tpm::open(tis) {
        assert!(matches!(tpm.family, Family::V12 | Family::V20));
        let _ = tpm.close();
    }
}
