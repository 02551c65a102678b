//! The few requests of GDB's remote protocol that the SKINIT stand-in needs, as QEMU's stub answers them.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// Registers by the stub's numbers (QEMU's target description for x86-64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    Rax = 0,
    Rbx = 1,
    Rcx = 2,
    Rdx = 3,
    Rsi = 4,
    Rdi = 5,
    Rbp = 6,
    Rsp = 7,
    Rip = 16,
    Eflags = 17,
    Ds = 20,
    Es = 21,
    Fs = 22,
    Gs = 23,
    Cr0 = 27,
    Cr2 = 28,
    Cr3 = 29,
    Cr4 = 30,
    Efer = 32,
}

impl Register {
    fn bytes(self) -> usize {
        match self {
            Self::Eflags | Self::Ds | Self::Es | Self::Fs | Self::Gs => 4,
            _ => 8,
        }
    }
}

pub(crate) struct Gdb {
    stream: UnixStream,
}

const LIMIT: Duration = Duration::from_secs(10);
/// The stub takes packets of up to 4 KiB, two digits a byte.
const PIECE: usize = 1024;

impl Gdb {
    /// Attaches to the stub behind a socket, waiting for it to appear.
    pub(crate) fn attach(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(e) if Instant::now() > deadline => {
                    return Err(anyhow!(e).context("QEMU's gdb stub does not appear"));
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(LIMIT))?;
        let mut gdb = Self { stream };
        // Attaching stops the machine, and the stub may say so unasked.
        gdb.send("qSupported")?;
        while !gdb.receive()?.contains("PacketSize=") {}
        // Without this the stub knows no single registers.
        gdb.request("qXfer:features:read:target.xml:0,ffb")?;
        Ok(gdb)
    }

    /// Another handle to the connection, to end it with.
    pub(crate) fn closer(&self) -> Result<Closer> {
        Ok(Closer(self.stream.try_clone()?))
    }

    pub(crate) fn read(&mut self, register: Register) -> Result<u64> {
        let answer = self.request(&format!("p{:x}", register as u8))?;
        let mut value = [0; 8];
        let bytes = from_hex(&answer).with_context(|| format!("{register:?} reads as {answer:?}"))?;
        ensure!(bytes.len() <= 8, "{register:?} has {} bytes", bytes.len());
        value[..bytes.len()].copy_from_slice(&bytes);
        Ok(u64::from_le_bytes(value))
    }

    pub(crate) fn write(&mut self, register: Register, value: u64) -> Result<()> {
        let digits = to_hex(&value.to_le_bytes()[..register.bytes()]);
        self.command(&format!("P{:x}={digits}", register as u8))
            .with_context(|| format!("writing {register:?}"))
    }

    pub(crate) fn read_memory(&mut self, address: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let piece = (length - bytes.len()).min(PIECE);
            let answer = self.request(&format!("m{:x},{piece:x}", address + bytes.len() as u64))?;
            let read = from_hex(&answer).filter(|read| read.len() == piece);
            bytes.extend(read.with_context(|| format!("memory at {address:#x} answers {answer:?}"))?);
        }
        Ok(bytes)
    }

    pub(crate) fn write_memory(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        for (address, piece) in (address..).step_by(PIECE).zip(bytes.chunks(PIECE)) {
            self.command(&format!("M{address:x},{:x}:{}", piece.len(), to_hex(piece)))?;
        }
        Ok(())
    }

    pub(crate) fn insert_breakpoint(&mut self, address: u64) -> Result<()> {
        self.command(&format!("Z1,{address:x},1")).context("setting a breakpoint")
    }

    pub(crate) fn remove_breakpoint(&mut self, address: u64) -> Result<()> {
        self.command(&format!("z1,{address:x},1")).context("removing a breakpoint")
    }

    /// Stops after an instruction that reads one of these bytes.
    pub(crate) fn insert_read_watch(&mut self, bytes: &Range<u64>) -> Result<()> {
        self.command(&format!("Z3,{:x},{:x}", bytes.start, bytes.end - bytes.start))
            .context("setting a watch")
    }

    pub(crate) fn remove_read_watch(&mut self, bytes: &Range<u64>) -> Result<()> {
        self.command(&format!("z3,{:x},{:x}", bytes.start, bytes.end - bytes.start))
            .context("removing a watch")
    }

    /// Runs until a stop; `None` if the machine ends first.
    pub(crate) fn go_on(&mut self) -> Result<Option<String>> {
        self.send("c")?;
        self.next_stop()
    }

    /// Waits for a stop; `None` if the machine ends first.
    pub(crate) fn next_stop(&mut self) -> Result<Option<String>> {
        self.stream.set_read_timeout(None)?;
        let stop = self.receive();
        self.stream.set_read_timeout(Some(LIMIT))?;
        match stop {
            Ok(stop) if stop.starts_with('W') => Ok(None),
            Ok(stop) => Ok(Some(stop)),
            Err(_) => Ok(None),
        }
    }

    /// Lets the stub's other requests mean the processor that stopped.
    pub(crate) fn select(&mut self, stop: &str) -> Result<()> {
        let thread = stop.split_once("thread:").and_then(|(_, rest)| rest.split(';').next());
        let thread = thread.with_context(|| format!("the stub stops with {stop:?}"))?.to_owned();
        self.command(&format!("Hg{thread}"))?;
        self.command(&format!("Hc{thread}"))
    }

    /// Executes one instruction.
    pub(crate) fn step(&mut self) -> Result<()> {
        self.request("s").map(drop)
    }

    fn command(&mut self, request: &str) -> Result<()> {
        let answer = self.request(request)?;
        ensure!(answer == "OK", "the stub answers {answer:?}");
        Ok(())
    }

    fn request(&mut self, request: &str) -> Result<String> {
        self.send(request)?;
        self.receive().with_context(|| format!("no answer to {:?}", &request[..request.len().min(20)]))
    }

    fn send(&mut self, request: &str) -> Result<()> {
        write!(self.stream, "${request}#{:02x}", checksum(request.as_bytes()))?;
        Ok(())
    }

    fn receive(&mut self) -> Result<String> {
        loop {
            match self.byte()? {
                b'+' => {}
                b'$' => break,
                other => bail!("the stub sends {other:#x} between packets"),
            }
        }
        let mut text = Vec::new();
        loop {
            match self.byte()? {
                b'#' => break,
                byte => text.push(byte),
            }
        }
        let sum = [self.byte()?, self.byte()?];
        ensure!(sum[..] == *format!("{:02x}", checksum(&text)).as_bytes(), "a packet with a wrong checksum");
        self.stream.write_all(b"+")?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        Ok(byte[0])
    }
}

/// Ends a connection when dropped, whoever is reading from it.
pub(crate) struct Closer(UnixStream);

impl Drop for Closer {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |d: u8| char::from(d).to_digit(16);
    let byte = |pair: &[u8]| Some((digit(pair[0])? << 4 | digit(*pair.get(1)?)?) as u8);
    digits.as_bytes().chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal() {
        assert_eq!(from_hex(&to_hex(&[0, 0x7f, 0xff])), Some(vec![0, 0x7f, 0xff]));
        assert_eq!(from_hex("E01"), None);
        assert_eq!(from_hex("xx"), None);
    }

    #[test]
    fn packets_are_framed_and_checked() {
        let (ours, mut stub) = UnixStream::pair().unwrap();
        let mut gdb = Gdb { stream: ours };
        stub.write_all(b"+$OK#9a").unwrap();
        gdb.command("Z1,0,1").unwrap();
        let mut sent = [0; 11];
        stub.read_exact(&mut sent).unwrap();
        assert_eq!(&sent, b"$Z1,0,1#44+");
        stub.write_all(b"+$OK#00").unwrap();
        assert!(gdb.command("Z1,0,1").is_err());
    }
}
