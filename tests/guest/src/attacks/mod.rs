//! The attacks: what a hostile kernel, root, program or S tries, one line each on what it aims at.
//!
//! An attack ends well if what it aims at held, with an error that says what it saw if not, and it judges by what it sees, not by
//! an error code alone. The same attack succeeds where nobody defends: without TrustVisor, or on a TrustVisor that lacks the one
//! check it aims at. `tests/attacks.rs` runs both. `tvtest attack NAME...` runs each in a process of its own.

mod calls;
mod chipset;
pub mod control;
pub mod crash;
mod ends;
mod hardware;
mod identity;
mod memory;
mod paths;
mod registers;
mod tracer;
mod victim;
mod walks;

use crate::support::Child;
use std::process::ExitCode;
use std::time::Duration;

/// The argument that makes this program an attacker.
pub const ATTACK: &str = "attack";

const LIMIT: Duration = Duration::from_secs(150);

type Attack = (&'static str, &'static str, fn() -> anyhow::Result<()>);

fn all() -> impl Iterator<Item = Attack> {
    let parts = [
        memory::ATTACKS,
        registers::ATTACKS,
        hardware::ATTACKS,
        chipset::ATTACKS,
        identity::ATTACKS,
        calls::ATTACKS,
        walks::ATTACKS,
    ];
    parts.into_iter().flatten().copied()
}

/// Carries out the named attacks; without a name, says which there are.
pub fn run(names: impl Iterator<Item = String>) -> ExitCode {
    let names: Vec<_> = names.collect();
    let ends = || ends::ATTACKS.iter().copied();
    if names.is_empty() {
        all().chain(ends()).for_each(|(name, aim, _)| println!("{name}: {aim}"));
    }
    for name in names {
        let is_it = |attack: &Attack| attack.0 == name;
        match (all().find(is_it), ends().find(is_it)) {
            (Some((.., attack)), _) => carry_out(&name, attack, "blocked"),
            // Who judges these looks at the memory of the machine, from outside.
            (_, Some((.., attack))) => carry_out(&name, attack, "carried out"),
            _ => println!("attack {name}: unknown"),
        }
    }
    ExitCode::SUCCESS
}

fn carry_out(name: &str, attack: fn() -> anyhow::Result<()>, well: &str) {
    let process = Child::fork(|| {
        match attack() {
            Ok(()) => println!("attack {name}: {well}"),
            Err(error) => println!("attack {name}: violated: {error:#}"),
        }
        Ok(())
    });
    if let Err(error) = process.and_then(|process| process.join(LIMIT)) {
        println!("attack {name}: lost: {error:#}");
    }
}
