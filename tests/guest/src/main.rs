//! The guest's side of the system tests: `tvtest NAME...` carries out the named tests in order, says `tvtest: ok NAME` after
//! each, and ends with one line and exit status 1 at the first that fails. `tvtest list` names them all. `tvtest attack NAME...`: see
//! [`attacks`]; `tvtest lose-control NAME`: [`attacks::control`]; `tvtest dma ...`: [`dma`];
//! `tvtest search ...`: [`search`]; `tvtest counted ...`: [`counted`].

use std::process::ExitCode;

mod a20;
mod asm_pal;
mod attack;
mod attacks;
mod bad_input;
mod bait;
mod bench;
mod buffers;
mod callers;
mod calls;
mod counted;
mod counters;
mod cycles;
mod deaths;
mod dma;
mod entered;
mod everywhere;
mod fpu;
mod frozen;
mod hold;
mod interrupted;
mod io_apic;
mod ipi;
mod kinds;
mod latency;
mod layouts;
mod left;
mod many;
mod messages;
mod moving;
mod orphans;
mod owners;
mod privileged;
mod quotes;
mod reserve;
mod rsa_operation;
mod sdk;
mod sealed;
mod search;
mod secrecy;
mod shared_file;
mod soak;
mod speedup;
mod support;
mod swap;
mod tables;
mod tokens;
mod traced;

type Test = fn() -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("calls", calls::run),
    ("registers", calls::registers),
    ("pcrs", calls::pcrs),
    ("sealed", sealed::run),
    ("quotes", quotes::run),
    ("attested-calls", quotes::calls),
    ("evidence", quotes::evidence),
    ("quote-1.2", quotes::print_1_2),
    ("counters", counters::run),
    ("counters-beside-the-os", counters::beside_the_os),
    ("counters-left", counters::left),
    ("counters-not-kept", counters::not_kept),
    ("counters-full", counters::full),
    ("no-counters", counters::none),
    ("counter", counters::show),
    ("count-for-ever", counters::for_ever),
    ("count-meanwhile", counters::meanwhile),
    ("keep-version", counters::keep_version),
    ("version-is-current", counters::current),
    ("next-version", counters::next_version),
    ("version-is-outdated", counters::outdated),
    ("fpu", fpu::run),
    ("cycles", cycles::run),
    ("several", cycles::several),
    ("full-pool", cycles::full_pool),
    ("types", sdk::types::run),
    ("types-apart", sdk::types::apart),
    ("heap", sdk::heap::run),
    ("session", sdk::session::run),
    ("session-fork", sdk::session::fork),
    ("session-threads", sdk::session::threads),
    ("session-exec", sdk::session::exec),
    ("fork", owners::fork),
    ("stranger", owners::stranger),
    ("absent-pages", buffers::absent),
    ("copy-on-write", buffers::copy_on_write),
    ("read-only", buffers::read_only),
    ("half-outside", buffers::half_outside),
    ("large-buffers", buffers::large),
    ("deaths", deaths::run),
    ("hostile-callers", entered::run),
    ("overlapping", layouts::overlapping),
    ("untouched-buffers", layouts::untouched),
    ("empty-buffers", layouts::empty),
    ("last-page", layouts::at_the_end),
    ("moving", moving::run),
    ("left-by-jump", left::jump),
    ("left-by-exit", left::thread_exit),
    ("left-by-fork", left::fork),
    ("stopped", left::stopped),
    ("frozen-registers", frozen::run),
    ("fpu-registers", frozen::fpu),
    ("single-steps", traced::steps),
    ("debugger", traced::changed),
    ("debug-registers", traced::debug_registers),
    ("many", many::processes),
    ("largest", many::largest),
    ("shared-kinds", kinds::shared),
    ("large-pages", kinds::large_pages),
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
    ("file-on-disk", kinds::file_on_disk),
    // These need a processor or a kernel with what they are about, or exact time (`-icount`).
    ("protection-keys", entered::protection_keys),
    ("five-levels", kinds::five_levels),
    ("huge-page", kinds::huge_page),
    ("latency", latency::compute),
    ("latency-hypercalls", latency::hypercalls),
    ("latency-collect", latency::collecting),
    ("orphans", orphans::run),
    ("soak", soak::run),
    ("messages", messages::run),
    ("ipi", ipi::run),
    // These are not tests.
    ("bench-guest", bench::guest),
    ("bench-pal", bench::pal),
    ("bench-utpm", bench::utpm),
    ("bench-speedup", speedup::run),
    ("seal-for-later", sealed::for_later),
    ("save-root", sealed::save_root),
    ("unseal-later", sealed::later),
    ("no-longer", sealed::no_longer),
    ("vmcore", attacks::crash::vmcore),
    ("everywhere", everywhere::run),
    ("hold", hold::run),
    ("pool", hold::pool),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().is_some_and(|first| first == owners::STRANGER) {
        return owners::be_a_stranger();
    }
    if arguments.peek().is_some_and(|first| first == sdk::session::SUCCESSOR) {
        return sdk::session::be_a_successor();
    }
    if arguments.next_if(|first| first == attacks::ATTACK).is_some() {
        return attacks::run(arguments);
    }
    if arguments.next_if(|first| first == attacks::control::LOSE).is_some() {
        return attacks::control::lose(arguments);
    }
    if arguments.next_if(|first| first == dma::DMA).is_some() {
        return dma::run(arguments);
    }
    if arguments.next_if(|first| first == counted::COUNTED).is_some() {
        return counted::run(arguments);
    }
    if arguments.next_if(|first| first == search::SEARCH).is_some() {
        return search::run(arguments);
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
