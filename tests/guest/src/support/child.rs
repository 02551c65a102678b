//! Forked children that are always reaped, and the pipes between them and us.

use super::system;
use anyhow::{Context, bail, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};

/// A child process; killed and reaped when dropped.
pub struct Child {
    pid: libc::pid_t,
    reaped: bool,
}

impl Child {
    /// Forks: the child runs `f`, says what went wrong, and exits.
    pub fn fork(f: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        // SAFETY: this program has one thread, so the child may go on as the parent would.
        let pid = system("fork", unsafe { libc::fork() })? as libc::pid_t;
        if pid != 0 {
            return Ok(Self { pid, reaped: false });
        }
        let code = match f() {
            Ok(()) => 0,
            Err(error) => {
                println!("tvtest: in a child: {error:#}");
                1
            }
        };
        // SAFETY: leaves the child without the parent's destructors.
        unsafe { libc::_exit(code) }
    }

    /// A child that was forked elsewhere.
    pub fn adopt(pid: libc::pid_t) -> Self {
        Self { pid, reaped: false }
    }

    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    pub fn kill(mut self) -> anyhow::Result<()> {
        self.end(libc::SIGKILL)
    }

    /// Waits until the child has ended as it should.
    pub fn join(mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.ended()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "the child is still there after {} s", limit.as_secs());
            std::thread::sleep(Duration::from_millis(10));
        };
        if libc::WIFSIGNALED(status) {
            bail!("the child died of signal {}", libc::WTERMSIG(status));
        }
        ensure!(libc::WEXITSTATUS(status) == 0, "the child failed");
        Ok(())
    }

    /// Its status, once it has ended; after that it is not to be asked again.
    pub fn ended(&mut self) -> anyhow::Result<Option<i32>> {
        let mut status = 0;
        // SAFETY: waits for our own child.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
        ensure!(pid == 0 || pid == self.pid, "the child is gone");
        self.reaped = pid == self.pid;
        Ok(self.reaped.then_some(status))
    }

    fn end(&mut self, signal: libc::c_int) -> anyhow::Result<()> {
        self.reaped = true;
        // SAFETY: our own child, not reaped before.
        system("kill", unsafe { libc::kill(self.pid, signal) })?;
        // SAFETY: the same; a killed child ends.
        system("waitpid", unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) }).map(drop)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.end(libc::SIGKILL);
        }
    }
}

/// A pipe made before a fork: one side signals, the other waits.
pub struct Pipe {
    from: File,
    to: File,
}

impl Pipe {
    pub fn new() -> anyhow::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        system("pipe", unsafe { libc::pipe(ends.as_mut_ptr()) })?;
        // SAFETY: both were just opened and belong to nobody else.
        let (from, to) = unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
        Ok(Self { from, to })
    }

    pub fn signal(&self) -> anyhow::Result<()> {
        (&self.to).write_all(&[1]).context("signalling")
    }

    /// Waits for a signal, 60 s at most.
    pub fn wait(&self) -> anyhow::Result<()> {
        use std::os::fd::AsRawFd;
        let mut poll = libc::pollfd { fd: self.from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid descriptor.
        let ready = system("poll", unsafe { libc::poll(&mut poll, 1, 60_000) })?;
        ensure!(ready == 1, "the other process is silent");
        (&self.from).read_exact(&mut [0]).context("the other process is gone")
    }
}
