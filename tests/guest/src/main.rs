//! The guest's side of the system tests: `tvtest NAME...` carries out the named tests in order, says `tvtest: ok NAME` after
//! each, and ends with one line and exit status 1 at the first that fails. `tvtest list` names them all.

use std::process::ExitCode;

mod a20;
mod attack;
mod bad_input;
mod bait;
mod bench;
mod buffers;
mod callers;
mod calls;
mod cycles;
mod deaths;
mod fpu;
mod hold;
mod interrupted;
mod io_apic;
mod ipi;
mod messages;
mod owners;
mod privileged;
mod reserve;
mod secrecy;
mod shared_file;
mod support;
mod swap;
mod tables;
mod tokens;

type Test = fn() -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("calls", calls::run),
    ("registers", calls::registers),
    ("pcrs", calls::pcrs),
    ("fpu", fpu::run),
    ("cycles", cycles::run),
    ("several", cycles::several),
    ("full-pool", cycles::full_pool),
    ("fork", owners::fork),
    ("stranger", owners::stranger),
    ("absent-pages", buffers::absent),
    ("copy-on-write", buffers::copy_on_write),
    ("read-only", buffers::read_only),
    ("half-outside", buffers::half_outside),
    ("large-buffers", buffers::large),
    ("deaths", deaths::run),
    ("interrupted", interrupted::run),
    ("signals", interrupted::signals),
    ("abandoned", interrupted::abandoned),
    ("tokens", tokens::run),
    ("bad-images", bad_input::images),
    ("bad-addresses", bad_input::addresses),
    ("bad-handles", bad_input::handles),
    ("bad-numbers", bad_input::numbers),
    ("compat-caller", callers::compat),
    ("hidden", reserve::hidden),
    ("proc-mem", secrecy::proc_mem),
    // These need /modules/tvattack.ko, a disk, or a second processor.
    ("physical-memory", secrecy::physical_memory),
    ("killed-owner", owners::killed),
    ("masked-caller", callers::interrupts_off),
    ("kernel-caller", callers::kernel),
    ("reserve", reserve::read_and_write),
    ("localities", reserve::localities),
    ("a20", a20::run),
    ("io-apic", io_apic::run),
    ("tables", tables::run),
    ("privileged", privileged::run),
    ("x2apic", privileged::x2apic),
    ("swapped-owner", swap::owner),
    ("shared-memory", swap::shared_memory),
    ("shared-file", shared_file::run),
    ("messages", messages::run),
    ("ipi", ipi::run),
    // These are not tests.
    ("bench-guest", bench::guest),
    ("bench-pal", bench::pal),
    ("hold", hold::run),
    ("pool", hold::pool),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == owners::STRANGER) {
        return owners::be_a_stranger();
    }
    for name in arguments {
        if name == "list" {
            TESTS.iter().for_each(|(name, _)| println!("{name}"));
            continue;
        }
        let Some((_, test)) = TESTS.iter().find(|(known, _)| *known == name) else {
            println!("tvtest: FAILED {name}: no such test");
            return ExitCode::FAILURE;
        };
        match test() {
            Ok(()) => println!("tvtest: ok {name}"),
            Err(error) => {
                println!("tvtest: FAILED {name}: {error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
