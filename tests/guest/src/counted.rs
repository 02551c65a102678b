//! `tvtest counted COMMAND ARGUMENT...`: what a command costs, in the guest's time and in exits of the OS and of S.

use anyhow::{Context, ensure};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// The argument that asks for this.
pub const COUNTED: &str = "counted";

pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    match carry_out(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("counted: failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut command = Command::new(arguments.next().context("no command")?);
    let (before, start) = (exits(), Instant::now());
    let status = command.args(arguments).status()?;
    let (time, after) = (start.elapsed(), exits());
    ensure!(status.success(), "{status}");
    println!("counted: {} exits in {} ns", after - before, time.as_nanos());
    Ok(())
}

/// None without TrustVisor.
fn exits() -> u64 {
    trustvisor::info().map_or(0, |info| info.exits.iter().sum())
}
