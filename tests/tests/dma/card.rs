//! A network card (Intel 8255x) that is commanded from outside, by QEMU's `qtest` socket, whether the machine runs or stands still.
//! Its self-test writes [`RESULT`] to any address, at once (8255x Open Source Software Developer Manual, PORT).

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
pub const DEVICE: &str = "i82559a,addr=0x9";
/// PCI 3.0, 3.2.2.3.2 and 6.1: 00:09.0, its command register and its I/O ports.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const FUNCTION: u32 = 1 << 31 | 9 << 11;
const COMMAND: u32 = 0x04;
const PORTS_AND_MASTER: u32 = 1 << 0 | 1 << 2;
const PORTS: u32 = 0x14;
/// The port that starts a self-test, by the lowest bits of what is written.
const PORT: u16 = 8;
const SELF_TEST: u32 = 1;

/// What it writes, 16-byte aligned: a signature, and that nothing is wrong.
pub const RESULT: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

pub struct Card {
    qtest: BufReader<UnixStream>,
    port: u16,
}

impl Card {
    /// While the machine stands still, after firmware.
    pub fn new(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("QEMU's qtest socket")?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut card = Self { qtest: BufReader::new(stream), port: 0 };
        let before = card.inl(CONFIG_ADDRESS)?;
        card.outl(CONFIG_ADDRESS, FUNCTION | COMMAND)?;
        card.outl(CONFIG_DATA, PORTS_AND_MASTER)?;
        card.outl(CONFIG_ADDRESS, FUNCTION | PORTS)?;
        card.port = u16::try_from(card.inl(CONFIG_DATA)? & !3)? + PORT;
        card.outl(CONFIG_ADDRESS, before)?;
        Ok(card)
    }

    /// Has it write.
    pub fn write(&mut self, address: u64) -> Result<()> {
        self.outl(self.port, u32::try_from(address)? | SELF_TEST)
    }

    fn outl(&mut self, port: u16, value: u32) -> Result<()> {
        self.ask(&format!("outl {port:#x} {value:#x}")).map(drop)
    }

    fn inl(&mut self, port: u16) -> Result<u32> {
        let answer = self.ask(&format!("inl {port:#x}"))?;
        Ok(u32::from_str_radix(answer.trim().trim_start_matches("0x"), 16)?)
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.qtest.get_mut(), "{command}")?;
        let mut line = String::new();
        self.qtest.read_line(&mut line)?;
        let answer = line.strip_prefix("OK").with_context(|| format!("{command}: QEMU answers {line:?}"))?;
        ensure!(line.ends_with('\n'), "{command}: QEMU has ended");
        Ok(answer.to_owned())
    }
}
