//! A machine that the tests of a suite share: booted by the first that needs it, lent to one at a time, switched off with
//! the process.

// Each suite uses a part of it.
#![allow(dead_code)]

use anyhow::{Context, Result, anyhow};
use machine::{Boot, Machine};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

pub struct Shared(OnceLock<Result<Mutex<Machine>, String>>);

impl Shared {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The machine, ready for commands. `boot` says what to boot if nobody has, and gives what must live until that is done.
    pub fn lend<K>(&self, boot: impl FnOnce() -> Result<(Boot, K)>) -> Result<MutexGuard<'_, Machine>> {
        self.lend_prepared(boot, |_| Ok(()))
    }

    /// The same; `prepare` is done with it first, once.
    pub fn lend_prepared<K>(
        &self,
        boot: impl FnOnce() -> Result<(Boot, K)>,
        prepare: impl FnOnce(&Machine) -> Result<()>,
    ) -> Result<MutexGuard<'_, Machine>> {
        let start = || {
            let (boot, _kept) = boot()?;
            let machine = boot.start()?;
            machine.wait_until_ready()?;
            prepare(&machine)?;
            Ok::<_, anyhow::Error>(Mutex::new(machine))
        };
        let machine = self.0.get_or_init(|| start().map_err(|error| format!("{error:#}"))).as_ref();
        let machine = machine.map_err(|why| anyhow!("the shared machine did not start: {why}"))?;
        // A test that fails with the machine in its hands leaves a machine that the next can use.
        Ok(machine.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs tests of the guest's program `tvtest` in order; each must say that it passed.
pub fn tvtest(machine: &Machine, tests: &str, limit: Duration) -> Result<Vec<String>> {
    let lines = machine.succeed(&format!("tvtest {tests}"), limit)?;
    for name in tests.split_whitespace() {
        let ok = format!("tvtest: ok {name}");
        lines.iter().find(|line| **line == ok).with_context(|| format!("no line {ok:?}"))?;
    }
    Ok(lines)
}
