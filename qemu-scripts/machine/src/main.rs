//! The commands behind `qemu-scripts/run`, `test` and `bench`: builds TrustVisor and tries it on an emulated machine.

mod bench;
mod demo;
mod fuzz;
mod mutants;
mod run;
mod suites;
mod tcb;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds TrustVisor and tries it on an emulated machine
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything; build/boot is then what an AMD machine's /boot needs
    Build,
    /// Boot a Linux guest under TrustVisor and run the example in it
    Run(run::Arguments),
    /// Run the test suites (all by default)
    Test(suites::Arguments),
    /// Measure, print a table, and write the values as JSON
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Build => machine::artifacts().map(|built| built.announce()),
        Command::Run(arguments) => run::run(&arguments),
        Command::Test(arguments) => suites::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
