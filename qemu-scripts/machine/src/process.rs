//! Child processes. Each has a handle that kills and reaps it when dropped, and each is killed by the kernel when this
//! process dies without having had the chance.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths::log_dir;

/// Tells the person in front of the screen what happens next.
pub fn say(what: impl std::fmt::Display) {
    eprintln!("==> {what}");
}

/// A running child.
pub struct Process {
    name: String,
    child: Child,
}

struct Job {
    command: Command,
    inherit: Vec<OwnedFd>,
    answer: mpsc::SyncSender<io::Result<Child>>,
}

/// A parent-death signal is sent when the *thread* that started the child ends, so one thread that never ends starts all.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for mut job in jobs {
            let child = job.command.spawn();
            drop(job.inherit);
            // Nobody listening means that the caller is gone, and with it the need for the child.
            if let Err(mpsc::SendError(Ok(mut orphan))) = job.answer.send(child) {
                let _ = orphan.kill();
                let _ = orphan.wait();
            }
        }
    });
    Mutex::new(sender)
});

impl Process {
    /// Starts `command`; the descriptors in `inherit` keep their numbers in the child and are closed here.
    pub fn spawn(name: &str, mut command: Command, inherit: Vec<OwnedFd>) -> Result<Self> {
        let numbers: Vec<_> = inherit.iter().map(AsRawFd::as_raw_fd).collect();
        let prepare = move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            for &number in &numbers {
                // SAFETY: `inherit` keeps the descriptor open until the child has been started.
                let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
                rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec, `prepare` makes two kinds of system calls and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        let (answer, started) = mpsc::sync_channel(1);
        let job = Job { command, inherit, answer };
        SPAWNER.lock().expect("the spawner does not panic").send(job).context("the spawner is gone")?;
        let child = started.recv().context("the spawner is gone")?;
        Ok(Self { name: name.into(), child: child.with_context(|| format!("cannot start {name}"))? })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end within {} s", self.name, limit.as_secs());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it now.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a tool to its successful end, its output going to `build/log/`.
pub(crate) fn run(what: &str, mut command: Command, limit: Duration) -> Result<()> {
    let slug: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let log = log_dir().join(format!("{slug}.log"));
    fs::create_dir_all(log_dir())?;
    let output = File::create(&log)?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let ended = Process::spawn(what, command, Vec::new())?.wait(limit);
    if matches!(&ended, Ok(status) if status.success()) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let first_error =
        text.lines().find(|l| l.starts_with("error") || l.starts_with("E:") || l.contains(": error:"));
    let telling = first_error.or(text.lines().last()).unwrap_or("no output").trim();
    let how = ended.map_or_else(|e| e.to_string(), |status| format!("failed ({status})"));
    bail!("{what}: {how}: {telling} (log: {})", log.display())
}

/// Runs a tool whose output the user watches.
pub fn run_shown(what: &str, mut command: Command, limit: Duration) -> Result<()> {
    command.stdin(Stdio::null());
    let status = Process::spawn(what, command, Vec::new())?.wait(limit)?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// What a tool prints, if it succeeds.
pub(crate) fn output(what: &str, mut command: Command, limit: Duration) -> Result<String> {
    let mut text = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(text.as_file().try_clone()?).stderr(Stdio::inherit());
    let status = Process::spawn(what, command, Vec::new())?.wait(limit)?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    text.rewind()?;
    Ok(io::read_to_string(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_hangs_ends_at_its_limit() {
        let mut command = Command::new("sleep");
        command.arg("100");
        let start = Instant::now();
        let error = run_shown("sleep", command, Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn what_a_tool_prints() {
        let mut command = Command::new("echo");
        command.arg("word");
        assert_eq!(output("echo", command, Duration::from_secs(5)).unwrap(), "word\n");
    }
}
