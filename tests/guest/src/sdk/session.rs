//! A session has an S whenever it is called: after S's death, in a forked child, for many threads; and leaves nothing to who comes after
//! `execve`.

use super::{IMAGE, Sdk};
use crate::support::{Child, as_before, hex, leaving_nothing};
use anyhow::{Context, bail, ensure};
use std::ffi::CString;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use trustvisor::Session;
use trustvisor::abi::{Handle, Status};

const LIMIT: Duration = Duration::from_secs(60);
/// The argument of who comes after `execve`.
pub const SUCCESSOR: &str = "--successor";

fn session() -> Session<Sdk> {
    Session::new(|| Sdk::register(IMAGE))
}

fn expect_count(what: &str, session: &Session<Sdk>, wanted: u64) -> anyhow::Result<()> {
    let found = session.call(|s| s.count()).with_context(|| what.to_owned())?;
    ensure!(found == wanted, "{what}: S counts {found} calls instead of {wanted}");
    Ok(())
}

pub fn run() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let session = session();
        expect_count("the first call", &session, 1)?;
        expect_count("the second call", &session, 2)?;
        match session.call(|s| s.fail(0)) {
            Err(error) if error.status() == Some(Status::Faulted) => {}
            other => bail!("a call that kills S: {other:?}"),
        }
        expect_count("after S's death", &session, 1)?;
        // Somebody else of this process wipes it.
        session.call(|s| s.pal().abort())?;
        expect_count("after it was wiped", &session, 1)?;
        session.unregister();
        expect_count("after it was unregistered", &session, 1)
    })?;

    // What the closure does that registers is done each time.
    let prepared = Session::new(|| {
        let s = Sdk::register(IMAGE)?;
        s.remember("prepared")?;
        Ok(s)
    });
    for _ in 0..2 {
        ensure!(prepared.call(|s| s.recall())? == ["prepared"], "S is not where it should be");
        let _ = prepared.call(|s| s.fail(0));
    }
    Ok(())
}

pub fn fork() -> anyhow::Result<()> {
    let session = session();
    expect_count("the parent", &session, 1)?;
    Child::fork(|| {
        expect_count("the child", &session, 1)?;
        expect_count("the child again", &session, 2)?;
        let grandchild = Child::fork(|| {
            expect_count("the child's child", &session, 1)?;
            session.unregister();
            Ok(())
        })?;
        grandchild.join(LIMIT)?;
        expect_count("the child at the end", &session, 3)?;
        session.unregister();
        Ok(())
    })?
    .join(LIMIT)?;
    expect_count("the parent after it", &session, 2)
}

pub fn threads() -> anyhow::Result<()> {
    const THREADS: u64 = 8;
    const CALLS: u64 = 200;
    let session = session();
    thread::scope(|scope| {
        let work = || (0..CALLS).try_for_each(|_| session.call(|s| s.churn(200)).map(drop));
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result.context("a thread"),
            Err(_) => bail!("a thread panicked"),
        })
    })?;
    let calls = session.call(|s| s.pal().info())?.calls;
    ensure!(calls == THREADS * CALLS, "{calls} calls instead of {}", THREADS * CALLS);
    Ok(())
}

/// The program is replaced by itself, which knows the handle. What it left is collected.
pub fn exec() -> anyhow::Result<()> {
    let before = trustvisor::info()?;
    Child::fork(|| {
        let session = session();
        let handle = session.call(|s| Ok(s.pal().handle()))?;
        let bytes = [handle.low.to_le_bytes(), handle.high.to_le_bytes()].concat();
        let arguments = ["tvtest", SUCCESSOR, &hex(&bytes)].map(CString::new);
        let arguments = arguments.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
        pointers.push(std::ptr::null());
        // SAFETY: strings and their list end with zeroes.
        unsafe { libc::execv(c"/proc/self/exe".as_ptr(), pointers.as_ptr()) };
        Err(std::io::Error::last_os_error()).context("execv")
    })?
    .join(LIMIT)?;
    thread::sleep(Duration::from_millis(1_500));
    trustvisor::collect()?;
    thread::sleep(Duration::from_millis(10_500));
    trustvisor::collect()?;
    as_before(&before)
}

pub fn be_a_successor() -> ExitCode {
    let attempt = || {
        let handle = std::env::args().nth(2).context("no handle")?;
        let word = |at: usize| u64::from_str_radix(&handle[at..at + 16], 16).map(u64::swap_bytes);
        trustvisor::info()?;
        crate::owners::nothing_works("a successor", Handle { low: word(0)?, high: word(16)? })?;
        expect_count("the successor's own", &session(), 1)
    };
    match attempt() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("tvtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
