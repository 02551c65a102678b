//! The console of loader, SLB and runtime: a polled 16550 and the `log` backend over it.
//!
//! Guarantees: one record is one line (`WHO: message`, control characters of the message replaced, so nothing that is
//! quoted from a command line can forge a second line); no call waits for ever, neither for a UART that does not drain
//! nor for a lock, so an exception or panic handler may print from any state; nothing is allocated. Relies on one processor
//! alone running loader, SLB or runtime; a machine without the port is silent. No secret may ever be handed to it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Once;
use uart_16550::{BaudRate, Config, Uart16550, backend::PioBackend};

use crate::options::{COM1, COM2, NO_CONSOLE};

/// Turns of the loop that waits for the UART: a second at least, then the line is lost.
const PATIENCE: u32 = 1 << 22;

/// Base port of the UART, or [`NO_CONSOLE`].
static PORT: AtomicU32 = AtomicU32::new(NO_CONSOLE);
static WHO: Once<&'static str> = Once::new();

/// Sets up the console (see [`crate::options::Options::console`]) and routes `log` to it; may be called again once the options are known (`who` is kept).
pub fn init(console: u32, who: &'static str, level: LevelFilter) {
    open(console, who, level);
    // A second call finds the same logger installed.
    let _ = log::set_logger(&Logger);
}

/// Sets up the console for [`say`] and [`line`] alone: `log` keeps its logger in initialised data, and the SLB has none
/// that it could write.
pub fn open(console: u32, who: &'static str, level: LevelFilter) {
    WHO.call_once(|| who);
    let config = Config { baud_rate: BaudRate::Baud115200, ..Config::DEFAULT };
    let there = uart(console).is_some_and(|mut uart| uart.init(config).is_ok());
    PORT.store(if there { console } else { NO_CONSOLE }, Ordering::Relaxed);
    log::set_max_level(level);
}

/// Writes one line, whatever the log level.
pub fn say(message: fmt::Arguments<'_>) {
    let Some(mut uart) = uart(PORT.load(Ordering::Relaxed)) else { return };
    let mut patience = PATIENCE;
    let mut send = |byte| {
        while uart.send_bytes(&[byte]) == 0 && patience > 0 {
            patience -= 1;
        }
    };
    write_line(&mut send, WHO.get().copied().unwrap_or(""), message);
}

/// Writes one line if lines of this level are wanted.
pub fn line(level: Level, message: fmt::Arguments<'_>) {
    match level {
        _ if level > log::max_level() => {}
        Level::Error => say(format_args!("error: {message}")),
        Level::Warn => say(format_args!("warning: {message}")),
        Level::Info | Level::Debug | Level::Trace => say(message),
    }
}

/// Says why the launch (or the machine) ends here, and stops this processor for ever.
pub fn refuse(reason: impl fmt::Display) -> ! {
    say(format_args!("refused: {reason}"));
    stop()
}

/// Says `stopped`, and stops this processor for ever.
pub fn stop() -> ! {
    stopped();
    halt()
}

/// Says what is the last line.
pub fn stopped() {
    say(format_args!("stopped"));
}

/// Stops this processor for ever.
pub fn halt() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

fn uart(port: u32) -> Option<Uart16550<PioBackend>> {
    if ![COM1, COM2].contains(&port) {
        return None;
    }
    // SAFETY: registers of COM1 or COM2 have no effect on memory. Two handles at once (a handler prints over a line) mix up two
    // lines and nothing else.
    unsafe { Uart16550::new_port(port as u16) }.ok()
}

fn write_line(send: &mut dyn FnMut(u8), who: &str, message: fmt::Arguments<'_>) {
    // `Printable` never fails, and a Display that does has lost its line, not ours.
    let _ = write!(Printable(send), "{who}: {message}");
    send(b'\r');
    send(b'\n');
}

/// Text as printable ASCII.
struct Printable<'a>(&'a mut dyn FnMut(u8));

impl Write for Printable<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            (self.0)(if matches!(byte, b' '..=b'~') { byte } else { b'?' });
        }
        Ok(())
    }
}

/// Bytes in lower-case hexadecimal.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        line(record.level(), *record.args());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(who: &str, message: fmt::Arguments<'_>) -> String {
        let mut out = Vec::new();
        write_line(&mut |byte| out.push(byte), who, message);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_record_is_one_line() {
        assert_eq!(line("slb", format_args!("PCR {}", 17)), "slb: PCR 17\r\n");
        let forged = "x\r\nruntime: all is well\u{1b}[2J\u{e9}";
        let out = line("slb", format_args!("error: unknown option {forged}"));
        assert_eq!(out, "slb: error: unknown option x??runtime: all is well?[2J??\r\n");
    }

    #[test]
    fn hex() {
        assert_eq!(Hex(&[0, 0xa5, 0xff]).to_string(), "00a5ff");
    }

    #[test]
    fn long_lines_are_complete() {
        for length in 0..100 {
            let text = "a".repeat(length);
            assert_eq!(line("w", format_args!("{text}")), format!("w: {text}\r\n"));
        }
    }
}
