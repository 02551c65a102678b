//! Suite `model`: with each of the [`machine::mutations`], a check, wipe or flush less, some unit test of the hypervisor must fail.
//!
//! There are many: each commit tries those whose turn it is.
//!
//! A mutation that does not compile proves nothing and fails the suite, and so does one whose text is no longer in the code. A test
//! that hangs is ended at its time limit and counts as one that noticed. Mutations that only a system test can notice are left
//! to that test, which builds them itself.

use std::sync::Mutex;
use std::thread;

use anyhow::{Result, bail, ensure};
use machine::{Mutation, Trial, Verdict, is_turn, mutations, say};

/// Copies of the workspace that are built and tested at the same time.
const WORKERS: usize = 2;

/// Commits that try all mutations together.
const TURNS: usize = 60;

pub(crate) fn run(every: bool) -> Result<()> {
    let all = mutations()?;
    for mutation in &all {
        mutation.check()?;
    }
    let (elsewhere, here): (Vec<_>, Vec<_>) = all.iter().partition(|m| m.shown_by().is_some());
    for mutation in elsewhere {
        println!("model: {} is left to {}", mutation.name, mutation.shown_by().unwrap_or_default());
    }
    let known = here.len();
    let turn = |(index, _): &(usize, _)| every || is_turn(*index, TURNS);
    let here: Vec<_> = here.into_iter().enumerate().filter(turn).map(|(_, mutation)| mutation).collect();
    let count = here.len();
    say(format_args!("{count} of {known} mutations, each to be noticed by a unit test"));
    let waiting = Mutex::new(here.into_iter());
    let failed = thread::scope(|scope| {
        let waiting = &waiting;
        let workers: Vec<_> = (0..WORKERS).map(|number| scope.spawn(move || work(number, waiting))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker does not panic"))
            .collect::<Result<Vec<_>>>()
    })?
    .concat();
    println!("model: {} of {count} mutations noticed", count - failed.len());
    ensure!(failed.is_empty(), "not noticed, or not shown to be: {}", failed.join(", "));
    Ok(())
}

/// Tries mutations until none is left; returns the names of those that were not noticed.
fn work<'a>(number: usize, waiting: &Mutex<impl Iterator<Item = &'a Mutation>>) -> Result<Vec<&'a str>> {
    let trial = Trial::new(number)?;
    if let Verdict::Noticed(test) = trial.test(None)? {
        bail!("the unit tests fail without a mutation: {test}");
    }
    let mut failed = Vec::new();
    loop {
        let Some(mutation) = waiting.lock().expect("no worker panics").next() else { return Ok(failed) };
        let name = mutation.name.as_str();
        match trial.test(Some(mutation)) {
            Ok(Verdict::Noticed(test)) => println!("model: noticed {name} ({test})"),
            Ok(Verdict::Unnoticed) => {
                println!("model: NOT NOTICED {name}: {}", mutation.removes());
                failed.push(name);
            }
            Err(error) => {
                println!("model: NOT SHOWN {name}: {error:#}");
                failed.push(name);
            }
        }
    }
}
