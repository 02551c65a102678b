//! Suite `model`: with each of the [`machine::mutations`], a check, wipe or flush less, some unit test of the hypervisor must fail.
//!
//! There are many: a commit tries a twelfth of them, the next commit the next twelfth.
//!
//! A mutation that does not compile proves nothing and fails the suite, and so does one whose text is no longer in the code. A test
//! that hangs is ended at its time limit and counts as one that noticed. Mutations that only a system test can notice are left
//! to that test, which builds them itself.

use std::process::Command;
use std::sync::Mutex;
use std::thread;

use anyhow::{Result, bail, ensure};
use machine::{Mutation, Trial, Verdict, mutations, root, say};

/// Copies of the workspace that are built and tested at the same time.
const WORKERS: usize = 2;

/// Commits that try all mutations together.
const TURNS: usize = 12;

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
    let (first, step) = if every { (0, 1) } else { (commits() % TURNS, TURNS) };
    let here: Vec<_> = here.into_iter().skip(first).step_by(step).collect();
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

/// How many commits there are; 0 where that is not known.
fn commits() -> usize {
    let mut command = Command::new("git");
    command.args(["rev-list", "--count", "HEAD"]).current_dir(root());
    let output = command.output();
    output.ok().and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok()).unwrap_or(0)
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
