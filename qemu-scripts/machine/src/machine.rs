//! A running machine. Dropping it switches it off.

mod end;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::console::{Console, Line};
use crate::gdb::Closer;
use crate::process::Process;
use crate::qmp::Qmp;
use crate::tpm::Tpm;

/// What QEMU says to its user, in the machine's folder.
pub(crate) const ERRORS: &str = "qemu.log";

/// What a machine is made of.
pub(crate) struct Parts {
    pub name: String,
    pub qemu: Process,
    pub monitor: Qmp,
    pub debugger: Option<Closer>,
    pub console: Console,
    pub tpm: Option<Tpm>,
    pub folder: TempDir,
    pub log: PathBuf,
}

/// A running machine.
pub struct Machine {
    name: String,
    log: PathBuf,
    console: Console,
    /// Index of the console's first line that [`Machine::wait_for`] has not passed.
    next: Mutex<usize>,
    /// How many lines were typed since the guest was ready: it numbers what it answers, so that nobody takes the end of an earlier
    /// command for the one that is waited for.
    typed: Mutex<u32>,
    monitor: Mutex<Qmp>,
    qemu: Arc<Mutex<Process>>,
    // Dropped in this order, after QEMU was killed.
    _watchdog: mpsc::Sender<()>,
    _debugger: Option<Closer>,
    tpm: Option<Tpm>,
    folder: TempDir,
}

/// How a command in the guest ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit status.
    pub code: i32,
    /// The console's lines meanwhile.
    pub lines: Vec<String>,
}

impl Machine {
    pub(crate) fn new(parts: Parts, limit: Duration) -> Self {
        let qemu = Arc::new(Mutex::new(parts.qemu));
        let (watchdog, dropped) = mpsc::channel::<()>();
        let (console, watched) = (parts.console.clone(), qemu.clone());
        thread::spawn(move || {
            if dropped.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                console.end(&format!("the machine was on for its limit of {} s", limit.as_secs()));
                lock(&watched).kill();
            }
        });
        Self {
            name: parts.name,
            log: parts.log,
            console: parts.console,
            next: Mutex::new(0),
            typed: Mutex::new(0),
            monitor: Mutex::new(parts.monitor),
            qemu,
            _watchdog: watchdog,
            _debugger: parts.debugger,
            tpm: parts.tpm,
            folder: parts.folder,
        }
    }

    /// Waits for a line that contains `pattern`, among those after the last line waited for.
    pub fn wait_for(&self, pattern: &str, limit: Duration) -> Result<Line> {
        let mut next = lock(&self.next);
        let (index, line) =
            self.console.wait(*next, pattern, limit).map_err(|why| self.failure(pattern, &why))?;
        *next = index + 1;
        Ok(line)
    }

    fn failure(&self, pattern: &str, why: &str) -> anyhow::Error {
        let last = self.console.lines().into_iter().rev().find(|l| !l.text.is_empty());
        let last = last.map_or_else(|| "the console is empty".into(), |l| format!("last line: {:?}", l.text));
        let qemu = std::fs::read_to_string(self.folder.path().join(ERRORS)).unwrap_or_default();
        let qemu = qemu
            .lines()
            .rfind(|line| !line.contains("warning: "))
            .map(|line| format!("; QEMU says: {line}"))
            .unwrap_or_default();
        anyhow!("{}: no {pattern:?}: {why}; {last}{qemu} (log: {})", self.name, self.log.display())
    }

    /// Types a line.
    pub fn send(&self, line: &str) -> Result<()> {
        *lock(&self.typed) += 1;
        self.send_bytes(format!("{line}\n").as_bytes())
    }

    /// Types anything.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        self.console.send(bytes)
    }

    /// Waits until the guest takes commands ([`crate::Boot::run`] with `serve`, the default).
    pub fn wait_until_ready(&self) -> Result<()> {
        self.wait_for("guest: ready", Duration::from_secs(120))?;
        *lock(&self.typed) = 0;
        Ok(())
    }

    /// Runs a shell command in a guest that is ready.
    pub fn command(&self, command: &str, limit: Duration) -> Result<Output> {
        let mut next = lock(&self.next);
        let from = self.console.count();
        self.send(command)?;
        let exits = format!("guest: command {} exits ", *lock(&self.typed));
        let (index, line) =
            self.console.wait(from, &exits, limit).map_err(|why| self.failure(command, &why))?;
        *next = index + 1;
        let (before, code) = line.text.split_once(&exits).context("the pattern is in the line")?;
        let code = code.trim().parse().with_context(|| format!("{:?}: not an exit status", line.text))?;
        let mut lines: Vec<_> = self.console.lines()[from..index].iter().map(|l| l.text.clone()).collect();
        if !before.is_empty() {
            lines.push(before.into());
        }
        Ok(Output { code, lines })
    }

    /// Runs a shell command in a guest that is ready, and expects exit status 0. What it printed.
    pub fn succeed(&self, command: &str, limit: Duration) -> Result<Vec<String>> {
        let Output { code, lines } = self.command(command, limit)?;
        let last = lines.last().map_or("", String::as_str);
        ensure!(code == 0, "{}: {command:?} exits {code}: {last:?} (log: {})", self.name, self.log.display());
        Ok(lines)
    }

    /// All lines of the console so far, the machine's own remarks (`machine: `) among them.
    pub fn lines(&self) -> Vec<String> {
        self.console.lines().into_iter().map(|l| l.text).collect()
    }

    /// The same, with their times.
    pub fn timed_lines(&self) -> Vec<Line> {
        self.console.lines()
    }

    /// Where the console is logged.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Physical memory, as nobody in the machine sees it.
    pub fn memory_dump(&self, base: u64, length: u64) -> Result<Vec<u8>> {
        let file = self.folder.path().join("memory");
        self.monitor_command("pmemsave", json!({ "val": base, "size": length, "filename": file }))?;
        let bytes = std::fs::read(&file)?;
        std::fs::remove_file(file)?;
        ensure!(bytes.len() as u64 == length, "QEMU dumps {} of {length} bytes", bytes.len());
        Ok(bytes)
    }

    /// All processors' registers, as QEMU prints them.
    pub fn registers(&self) -> Result<String> {
        let arguments = json!({ "command-line": "info registers -a" });
        let answer = self.monitor_command("human-monitor-command", arguments)?;
        Ok(answer.as_str().context("registers are text")?.into())
    }

    /// Whether every processor has executed HLT.
    pub fn halted(&self) -> Result<bool> {
        let registers = self.registers()?;
        Ok(registers.contains("HLT=1") && !registers.contains("HLT=0"))
    }

    /// How often the machine was reset, a triple fault included.
    pub fn resets(&self) -> Result<usize> {
        Ok(lock(&self.monitor).events("RESET")?.len())
    }

    /// Presses the reset button.
    pub fn reset(&self) -> Result<()> {
        self.monitor_command("system_reset", json!({})).map(drop)
    }

    /// Lets a machine that has stopped go on.
    pub fn go_on(&self) -> Result<()> {
        self.monitor_command("cont", json!({})).map(drop)
    }

    /// A command of QEMU's monitor (QMP).
    pub fn monitor_command(&self, command: &str, arguments: serde_json::Value) -> Result<serde_json::Value> {
        lock(&self.monitor).execute(command, arguments)
    }

    /// Waits until the machine is off by itself.
    pub fn wait_until_off(&self, limit: Duration) -> Result<()> {
        let status = lock(&self.qemu).wait(limit).map_err(|e| self.failure("power off", &e.to_string()))?;
        ensure!(status.success(), "{}: QEMU failed ({status}) (log: {})", self.name, self.log.display());
        match self.console.ended() {
            Some(reason) if reason.starts_with("the SKINIT") => Err(self.failure("power off", &reason)),
            _ => Ok(()),
        }
    }

    /// Whether it is off.
    pub fn is_off(&self) -> bool {
        lock(&self.qemu).ended().is_some()
    }

    /// Switches it off.
    pub fn switch_off(&self) {
        lock(&self.qemu).kill();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.switch_off();
    }
}

/// A test that fails while it holds a lock must not fail the tests that share its machine.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
