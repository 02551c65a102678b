//! A model of the FIFO interface with a [`Model`] behind it: localities, burst counts, slowness.

use super::model::Model;
use crate::tpm::tis::Registers;

#[derive(Clone, Copy)]
pub struct Quirks {
    pub burst: u16,
    /// Reads of the status that say nothing after each change of state.
    pub slow: u32,
    /// The locality that has the TPM at first.
    pub held_by: Option<u16>,
    /// Register accesses after which nothing changes any more.
    pub stuck_after: Option<u32>,
    /// Bytes that follow an answer.
    pub trailing: usize,
    /// Reads of the status until there is an answer.
    pub thinks: u32,
}

impl Default for Quirks {
    fn default() -> Self {
        Self { burst: 64, slow: 0, held_by: None, stuck_after: None, trailing: 0, thinks: 0 }
    }
}

#[derive(PartialEq, Debug)]
enum State {
    Idle,
    Ready,
    Reception,
    Completion,
}

pub struct Bus {
    pub model: Model,
    pub quirks: Quirks,
    /// The locality that has the TPM, and the one that waits for it.
    pub active: Option<u16>,
    pub asked: Option<u16>,
    state: State,
    silent: u32,
    thinks: u32,
    pub accesses: u32,
    command: Vec<u8>,
    answer: Vec<u8>,
}

impl Bus {
    pub fn new(model: Model, quirks: Quirks) -> Self {
        Self {
            model,
            quirks,
            active: quirks.held_by,
            asked: None,
            state: State::Idle,
            silent: 0,
            thinks: 0,
            accesses: 0,
            command: vec![],
            answer: vec![],
        }
    }

    /// Nobody has it, and no answer lies in it.
    pub fn is_free(&self) -> bool {
        (self.active, self.asked) == (None, None) && self.state != State::Completion
    }

    fn stuck(&mut self) -> bool {
        self.accesses += 1;
        self.quirks.stuck_after.is_some_and(|n| self.accesses > n)
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.silent = self.quirks.slow;
    }

    /// Whether the command has the length its header says.
    fn complete(&self) -> bool {
        self.command.len() >= 6 && {
            let size: [u8; 4] = self.command[2..6].try_into().unwrap();
            u32::from_be_bytes(size) as usize <= self.command.len()
        }
    }

    fn status(&mut self) -> u32 {
        if self.silent > 0 {
            self.silent -= 1;
            return 0;
        }
        let state = match self.state {
            State::Idle => 0,
            State::Ready => 0x40,
            State::Reception if self.complete() => 0,
            State::Reception => 0x08,
            State::Completion if self.answer.is_empty() => 0,
            State::Completion if self.thinks > 0 => {
                self.thinks -= 1;
                0
            }
            State::Completion => 0x10,
        };
        0x80 | state | u32::from(self.quirks.burst) << 8
    }
}

impl Registers for Bus {
    fn read8(&mut self, offset: u16) -> u8 {
        let stuck = self.stuck();
        let mine = self.active == Some(offset >> 12);
        match offset & 0xfff {
            0x00 => 0x80 | if mine { 0x20 } else { 0 },
            0x24 if mine && !stuck && !self.answer.is_empty() => self.answer.remove(0),
            _ => 0xff,
        }
    }

    fn write8(&mut self, offset: u16, value: u8) {
        if self.stuck() {
            return;
        }
        let locality = offset >> 12;
        let mine = self.active == Some(locality);
        match (offset & 0xfff, value) {
            (0x00, 0x02) if self.active.is_none() => self.active = Some(locality),
            (0x00, 0x08) if self.active.is_none_or(|a| a < locality) => self.active = Some(locality),
            (0x00, 0x02) if !mine => self.asked = Some(locality),
            (0x00, 0x20) if mine => self.active = self.asked.take(),
            (0x00, 0x20) if self.asked == Some(locality) => self.asked = None,
            (0x18, 0x40) if mine => {
                self.command.clear();
                self.answer.clear();
                match self.state {
                    State::Ready => {}
                    State::Completion => self.enter(State::Idle),
                    State::Idle | State::Reception => self.enter(State::Ready),
                }
            }
            (0x18, 0x20) if mine && self.state == State::Reception && self.complete() => {
                self.answer = self.model.execute(&self.command);
                self.answer.resize(self.answer.len() + self.quirks.trailing, 0);
                self.enter(State::Completion);
                self.thinks = self.quirks.thinks;
            }
            (0x24, byte) if mine && matches!(self.state, State::Ready | State::Reception) => {
                assert!(!self.complete(), "more bytes than the command has");
                self.command.push(byte);
                if self.state == State::Ready {
                    self.enter(State::Reception);
                }
            }
            _ => {}
        }
    }

    fn read32(&mut self, offset: u16) -> u32 {
        let stuck = self.stuck();
        let mine = self.active == Some(offset >> 12);
        match offset & 0xfff {
            0x18 if mine && !stuck => self.status(),
            0xf00 => 0x0001_1014,
            _ => u32::MAX,
        }
    }
}
