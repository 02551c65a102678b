//! The serial console of a running machine: made readable, kept line by line with its time, logged, and waited upon.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A line of the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was complete, since the machine was started.
    pub at: Duration,
    /// Its text, without control characters.
    pub text: String,
}

/// What of the console goes to our own standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    Nothing,
    Lines,
    /// Every byte, for somebody who types.
    Raw,
}

#[derive(Clone)]
pub(crate) struct Console(Arc<Shared>);

struct Shared {
    start: Instant,
    input: UnixStream,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    lines: Vec<Line>,
    log: File,
    echo: Echo,
    /// Why nothing more is to be expected.
    end: Option<String>,
}

/// Lines after which waiting for anything else is pointless.
const HOPELESS: [&str; 2] = [": stopped", "Kernel panic - not syncing"];

impl Console {
    pub(crate) fn open(stream: UnixStream, log: File, echo: Echo) -> Result<Self> {
        let output = stream.try_clone()?;
        let state = State { lines: Vec::new(), log, echo, end: None };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        let console = Self(Arc::new(Shared { start: Instant::now(), input: stream, state, changed }));
        let reader = console.clone();
        thread::spawn(move || reader.read(output));
        Ok(console)
    }

    fn read(&self, mut output: UnixStream) {
        let mut cleaner = Cleaner::default();
        let mut buffer = [0; 4096];
        loop {
            let count = match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if self.state().echo == Echo::Raw {
                let mut stdout = io::stdout().lock();
                let _ = stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush());
            }
            for line in buffer[..count].iter().filter_map(|b| cleaner.push(*b)) {
                self.note(line);
            }
        }
        if let Some(rest) = cleaner.finish() {
            self.note(rest);
        }
        self.end("the machine is off");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a line.
    pub(crate) fn note(&self, text: String) {
        let line = Line { at: self.0.start.elapsed(), text };
        let mut state = self.state();
        // The log is for a person who looks for a failure's cause; its own failure must not hide that cause.
        let _ = writeln!(state.log, "[{:8.3}] {}", line.at.as_secs_f64(), line.text);
        if state.echo == Echo::Lines {
            println!("{}", line.text);
        }
        state.lines.push(line);
        self.0.changed.notify_all();
    }

    /// Says that nothing more will come; the first reason counts.
    pub(crate) fn end(&self, reason: &str) {
        let mut state = self.state();
        if state.end.is_none() {
            state.end = Some(reason.into());
        }
        self.0.changed.notify_all();
    }

    pub(crate) fn ended(&self) -> Option<String> {
        self.state().end.clone()
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.state().lines.clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.state().lines.len()
    }

    /// The first line at or after index `from` that contains `pattern`, and its index.
    pub(crate) fn wait(&self, from: usize, pattern: &str, limit: Duration) -> Result<(usize, Line), String> {
        let deadline = Instant::now() + limit;
        let mut looked_at = from;
        let mut state = self.state();
        loop {
            for index in looked_at..state.lines.len() {
                let line = &state.lines[index];
                if line.text.contains(pattern) {
                    return Ok((index, line.clone()));
                }
                if HOPELESS.iter().any(|h| line.text.contains(h)) {
                    return Err(line.text.clone());
                }
            }
            looked_at = state.lines.len().max(from);
            if let Some(end) = &state.end {
                return Err(end.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("nothing for {} s", limit.as_secs()));
            }
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> Result<()> {
        (&self.0.input).write_all(bytes).context("cannot write to the machine's console")
    }
}

/// Takes terminal control sequences (GRUB's, mostly) out of a stream of bytes and cuts it into lines.
#[derive(Default)]
struct Cleaner {
    state: Sequence,
    line: Vec<u8>,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    Escape,
    /// ESC [ ... letter (ECMA-48, 5.4).
    Control,
    /// ESC ( letter: a character set.
    Charset,
}

const ESCAPE: u8 = 0x1b;

impl Cleaner {
    fn push(&mut self, byte: u8) -> Option<String> {
        match (self.state, byte) {
            (_, ESCAPE) => self.state = Sequence::Escape,
            (Sequence::Escape, b'[') => self.state = Sequence::Control,
            (Sequence::Escape, b'(' | b')') => self.state = Sequence::Charset,
            (Sequence::Escape | Sequence::Charset, _) => self.state = Sequence::None,
            (Sequence::Control, 0x40..=0x7e) => {
                self.state = Sequence::None;
                // Whatever follows stands elsewhere on the screen.
                if matches!(byte, b'H' | b'J') {
                    return self.finish();
                }
            }
            (Sequence::Control, _) => {}
            (Sequence::None, b'\n') => return self.take(),
            (Sequence::None, b'\t') => self.line.push(byte),
            (Sequence::None, 0..0x20 | 0x7f) => {}
            (Sequence::None, _) => self.line.push(byte),
        }
        None
    }

    /// What stands on an unfinished line.
    fn finish(&mut self) -> Option<String> {
        if self.line.iter().all(u8::is_ascii_whitespace) {
            self.line.clear();
            return None;
        }
        self.take()
    }

    fn take(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(bytes: &[u8]) -> Vec<String> {
        let mut cleaner = Cleaner::default();
        let mut lines: Vec<_> = bytes.iter().filter_map(|b| cleaner.push(*b)).collect();
        lines.extend(cleaner.finish());
        lines
    }

    #[test]
    fn control_sequences_vanish() {
        assert_eq!(clean(b"\x1b[0m\x1b(B\x1b[2J\x1b[1;1Hloader: \x1b[1mhere\x1b[0m\r\n"), ["loader: here"]);
        assert_eq!(clean(b"one\x1b[5;1Htwo\n\n"), ["one", "two", ""]);
        assert_eq!(clean(b"\xff\x00ok"), ["\u{fffd}ok"]);
    }

    fn console() -> (Console, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Console::open(ours, tempfile::tempfile().unwrap(), Echo::Nothing).unwrap(), theirs)
    }

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn waiting_finds_the_line_or_says_why_not() {
        let (console, mut machine) = console();
        machine.write_all(b"guest: exit 0\nrest").unwrap();
        let (index, line) = console.wait(0, "exit", LONG).unwrap();
        assert_eq!((index, line.text.as_str()), (0, "guest: exit 0"));
        assert_eq!(console.wait(1, "exit", SHORT).unwrap_err(), "nothing for 0 s");
        drop(machine);
        assert_eq!(console.wait(1, "exit", LONG).unwrap_err(), "the machine is off");
        assert_eq!(console.lines()[1].text, "rest");
    }

    #[test]
    fn a_stop_ends_waiting_at_once_but_can_be_waited_for() {
        let (console, mut machine) = console();
        machine.write_all(b"slb: stopped\n").unwrap();
        assert!(console.wait(0, "slb: stopped", LONG).is_ok());
        assert_eq!(console.wait(0, "guest", LONG).unwrap_err(), "slb: stopped");
    }
}
