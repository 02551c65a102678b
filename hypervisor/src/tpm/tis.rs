//! The FIFO interface of the TPM at one locality (TCG PC Client TIS 1.3, 5.2; unchanged in PTP 1.05, 6.5.2).
//!
//! Guarantees: every wait ends after the time the specification allows, and no answer is taken that is longer than its
//! header or its buffer. A failed exchange leaves the TPM with the command aborted, so the next one starts afresh.

use super::clock::Clock;
use super::wire::HEADER;
use super::{Done, Error, Transport};

/// Access to the registers of all localities, by offset from FED4_0000.
pub trait Registers {
    /// Reads a byte.
    fn read8(&mut self, offset: u16) -> u8;
    /// Writes a byte.
    fn write8(&mut self, offset: u16, value: u8);
    /// Reads four bytes, aligned, little-endian.
    fn read32(&mut self, offset: u16) -> u32;
}

/// Register offsets in a locality's page (TIS 1.3, table 10; PTP 1.05, table 19).
mod register {
    pub const ACCESS: u16 = 0x00;
    pub const STS: u16 = 0x18;
    pub const DATA_FIFO: u16 = 0x24;
    pub const INTERFACE_ID: u16 = 0x30;
    pub const DID_VID: u16 = 0xf00;
}

/// TPM_ACCESS (TIS 1.3, table 14).
mod access {
    pub const VALID: u8 = 0x80;
    pub const ACTIVE: u8 = 0x20;
    pub const SEIZE: u8 = 0x08;
    pub const REQUEST: u8 = 0x02;
}

/// TPM_STS (TIS 1.3, table 16).
mod sts {
    pub const VALID: u32 = 0x80;
    pub const READY: u32 = 0x40;
    pub const GO: u32 = 0x20;
    pub const DATA: u32 = 0x10;
    pub const EXPECT: u32 = 0x08;
}

/// Time-outs in milliseconds (TIS 1.3, table 8), the longest of what the specifications' versions allow;
/// `TIMEOUT` is A, C and D.
const TIMEOUT: u64 = 750;
const TIMEOUT_B: u64 = 2000;
/// No command that TrustVisor sends generates keys; the longest starts a self test.
const DURATION: u64 = 20_000;

/// TPM_INTERFACE_ID.InterfaceType (PTP 1.05, table 23): command response buffer.
const INTERFACE_CRB: u32 = 1;

/// How long a look at it may wait while the OS runs, which waits as well. What takes longer is waited for by looking now and then.
const PATIENCE: u64 = 10;

/// A locality of the TPM.
pub struct Tis<R, C> {
    registers: R,
    clock: C,
    page: u16,
    until: u64,
}

impl<R: Registers, C: Clock> Tis<R, C> {
    /// Takes a locality (0 to 3): asks for it, and seizes it from a lower one that does not let go.
    pub fn request(registers: R, clock: C, locality: u8) -> Done<Self> {
        let mut tis = Self { until: u64::MAX, ..Self::beside_the_os(registers, clock, locality) };
        let id = tis.registers.read32(register::DID_VID);
        if tis.access() == 0xff || id == 0 || id == u32::MAX {
            // A TPM that speaks CRB alone keeps its identity elsewhere.
            let crb = tis.registers.read32(register::INTERFACE_ID) & 0xf == INTERFACE_CRB;
            return Err(if crb { Error::CommandBuffer } else { Error::Absent });
        }
        tis.wait(TIMEOUT, "access", |t| t.access() & access::VALID != 0)?;
        for ask in [access::REQUEST, access::SEIZE] {
            if tis.held() {
                break;
            }
            tis.registers.write8(tis.page | register::ACCESS, ask);
            let _ = tis.wait(TIMEOUT, "locality", Self::held);
        }
        if tis.held() { Ok(tis) } else { Err(Error::Locality(locality)) }
    }

    /// A locality that is had, or not, while the OS runs and has locality 0: [`Self::ask`] for it. For one look.
    pub fn beside_the_os(registers: R, clock: C, locality: u8) -> Self {
        let until = clock.ms().saturating_add(PATIENCE);
        Self { registers, clock, page: u16::from(locality & 3) << 12, until }
    }

    /// Asks for the locality: it is granted when no other has the TPM any more.
    pub fn ask(&mut self) {
        self.registers.write8(self.page | register::ACCESS, access::REQUEST);
    }

    fn access(&mut self) -> u8 {
        self.registers.read8(self.page | register::ACCESS)
    }

    /// Whether the locality has been granted.
    pub fn held(&mut self) -> bool {
        let held = access::VALID | access::ACTIVE;
        self.access() & held == held
    }

    fn status(&mut self) -> u32 {
        self.registers.read32(self.page | register::STS)
    }

    fn set_status(&mut self, bit: u32) {
        self.registers.write8(self.page | register::STS, bit as u8);
    }

    fn wait(&mut self, ms: u64, what: &'static str, ready: impl Fn(&mut Self) -> bool) -> Done {
        let end = self.clock.ms().saturating_add(ms).min(self.until);
        loop {
            // Looked at before the register: whoever was away in between still sees the register once more.
            let late = self.clock.ms() > end;
            if ready(self) {
                return Ok(());
            }
            if late {
                return Err(Error::Timeout(what));
            }
            core::hint::spin_loop();
        }
    }

    /// Waits until `bits` of a valid status are as `wanted`.
    fn wait_status(&mut self, ms: u64, what: &'static str, bits: u32, wanted: u32) -> Done {
        self.wait(ms, what, |t| t.status() & (sts::VALID | bits) == sts::VALID | wanted)
    }

    /// How many bytes the FIFO takes or gives at once; at least 1.
    fn burst(&mut self) -> Done<usize> {
        let burst = |status: u32| (status >> 8 & 0xffff) as usize;
        self.wait(TIMEOUT, "burst", |t| burst(t.status()) != 0)?;
        Ok(burst(self.status()).max(1))
    }

    /// From whatever state to the one that takes a command, in a while. After an answer the first write ends in *idle*.
    pub fn make_ready(&mut self) {
        self.set_status(sts::READY);
        if !self.is_ready() {
            self.set_status(sts::READY);
        }
    }

    /// Whether it takes a command.
    pub fn is_ready(&mut self) -> bool {
        self.status() & sts::READY != 0
    }

    fn write(&mut self, mut bytes: &[u8]) -> Done {
        while !bytes.is_empty() {
            let burst = self.burst()?.min(bytes.len());
            let now = bytes.split_off(..burst).unwrap_or_default();
            now.iter().for_each(|byte| self.registers.write8(self.page | register::DATA_FIFO, *byte));
        }
        Ok(())
    }

    /// Gives it a command, which it begins to carry out.
    pub fn send(&mut self, command: &[u8]) -> Done {
        let (last, first) = command.split_last().ok_or(Error::Malformed("empty command"))?;
        self.write(first)?;
        self.wait_status(TIMEOUT, "expect", sts::EXPECT, sts::EXPECT)?;
        self.write(&[*last])?;
        self.wait_status(TIMEOUT, "accept", sts::EXPECT, 0)?;
        self.set_status(sts::GO);
        Ok(())
    }

    /// Whether the answer is there.
    pub fn has_answer(&mut self) -> bool {
        self.status() & (sts::VALID | sts::DATA) == sts::VALID | sts::DATA
    }

    fn read(&mut self, mut bytes: &mut [u8]) -> Done {
        while !bytes.is_empty() {
            self.wait_status(TIMEOUT, "data", sts::DATA, sts::DATA)?;
            let burst = self.burst()?.min(bytes.len());
            let now = bytes.split_off_mut(..burst).unwrap_or_default();
            now.iter_mut().for_each(|byte| *byte = self.registers.read8(self.page | register::DATA_FIFO));
        }
        Ok(())
    }

    /// Takes the answer.
    pub fn receive(&mut self, answer: &mut [u8]) -> Done<usize> {
        let header = answer.get_mut(..HEADER).ok_or(Error::Malformed("buffer"))?;
        self.read(header)?;
        let size = u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize;
        self.read(answer.get_mut(HEADER..size).ok_or(Error::Malformed("size"))?)?;
        self.wait_status(TIMEOUT, "end of the answer", sts::DATA, 0)?;
        Ok(size)
    }
}

impl<R: Registers, C: Clock> Transport for Tis<R, C> {
    fn exchange(&mut self, command: &[u8], answer: &mut [u8]) -> Done<usize> {
        self.make_ready();
        let result = self
            .wait(TIMEOUT_B, "ready", Self::is_ready)
            .and_then(|()| self.send(command))
            .and_then(|()| self.wait(DURATION, "answer", Self::has_answer))
            .and_then(|()| self.receive(answer));
        self.set_status(sts::READY);
        result
    }

    fn pause(&mut self, ms: u64) {
        let _ = self.wait(ms, "pause", |_| false);
    }

    /// A command under way is ended.
    fn close(&mut self) -> Done {
        self.registers.write8(self.page | register::ACCESS, access::ACTIVE);
        self.wait(TIMEOUT, "relinquish", |t| t.access() & access::ACTIVE == 0)
    }
}
