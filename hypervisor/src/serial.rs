//! The console of loader, SLB and runtime: a polled 16550 and the `log` backend over it.
//!
//! Guarantees: one record is one line (`WHO: message`, control characters of the message replaced, so nothing that is
//! quoted from a command line can forge a second line); no call waits for ever, neither for a UART that does not drain
//! nor for the lock, so an exception or panic handler may print from any state; nothing is allocated. Relies on nothing: a
//! machine without the port is silent. No secret may ever be handed to it.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::{Mutex, Once};
use uart_16550::{BaudRate, Config, Uart16550, backend::PioBackend};

use crate::options::{COM1, COM2};

/// Turns of the loops that wait for the UART or the lock: a second at least, then the line is lost or overtakes.
const PATIENCE: u32 = 1 << 22;

/// Base port of the UART, 0 if there is none.
static PORT: AtomicU32 = AtomicU32::new(0);
static WHO: Once<&'static str> = Once::new();
static LINE: Mutex<()> = Mutex::new(());
static LOGGER: Logger = Logger;

/// Sets up the console (see [`crate::options::Options::console`]) and routes `log` to it; may be called again once the options are known (`who` is kept).
pub fn init(console: u32, who: &'static str, level: LevelFilter) {
    open(console, who, level);
    // A second call finds the same logger installed.
    let _ = log::set_logger(&LOGGER);
}

/// Sets up the console for [`say`] and [`line`] alone: `log` keeps its logger in initialised data, and the SLB has none
/// that it could write.
pub fn open(console: u32, who: &'static str, level: LevelFilter) {
    WHO.call_once(|| who);
    PORT.store(0, Ordering::Relaxed);
    if let Some(mut uart) = uart(console) {
        let config = Config { baud_rate: BaudRate::Baud115200, ..Config::DEFAULT };
        if uart.init(config).is_ok() {
            PORT.store(console, Ordering::Relaxed);
        }
    }
    log::set_max_level(level);
}

/// Writes one line, whatever the log level.
pub fn say(message: fmt::Arguments<'_>) {
    put("", message);
}

/// Writes one line if lines of this level are wanted.
pub fn line(level: Level, message: fmt::Arguments<'_>) {
    if level <= log::max_level() {
        let mark = match level {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info | Level::Debug | Level::Trace => "",
        };
        put(mark, message);
    }
}

/// Says why the launch (or the machine) ends here, and stops this processor for ever.
pub fn refuse(reason: impl fmt::Display) -> ! {
    say(format_args!("refused: {reason}"));
    stop()
}

/// Says `stopped` and stops this processor for ever.
pub fn stop() -> ! {
    say(format_args!("stopped"));
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

fn put(mark: &str, message: fmt::Arguments<'_>) {
    let Some(mut uart) = uart(PORT.load(Ordering::Relaxed)) else { return };
    let _guard = (0..PATIENCE).find_map(|_| {
        core::hint::spin_loop();
        LINE.try_lock()
    });
    let who = WHO.get().copied().unwrap_or("");
    let mut patience = PATIENCE;
    let mut send = |byte| {
        while uart.send_bytes(&[byte]) == 0 && patience > 0 {
            patience -= 1;
        }
    };
    write_line(&mut send, who, mark, message);
}

fn uart(port: u32) -> Option<Uart16550<PioBackend>> {
    if ![COM1, COM2].contains(&port) {
        return None;
    }
    // SAFETY: registers of COM1 or COM2 have no effect on memory. Two handles at once (the lock was overtaken) mix up two lines
    // and nothing else.
    unsafe { Uart16550::new_port(port as u16) }.ok()
}

fn write_line(send: &mut dyn FnMut(u8), who: &str, mark: &str, message: fmt::Arguments<'_>) {
    // `Printable` never fails, and a Display that does has lost its line, not ours.
    let _ = write!(Printable(send), "{who}: {mark}{message}");
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

    fn line(who: &str, mark: &str, message: fmt::Arguments<'_>) -> String {
        let mut out = Vec::new();
        write_line(&mut |byte| out.push(byte), who, mark, message);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_record_is_one_line() {
        assert_eq!(line("slb", "", format_args!("PCR {}", 17)), "slb: PCR 17\r\n");
        let forged = "x\r\nruntime: all is well\u{1b}[2J\u{e9}";
        let out = line("slb", "error: ", format_args!("unknown option {forged}"));
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
            assert_eq!(line("w", "", format_args!("{text}")), format!("w: {text}\r\n"));
        }
    }
}
