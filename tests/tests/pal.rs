//! PALs on a real Linux: their life, their memory, their owners, and everything a caller can do wrong. What happens inside is
//! `tvtest`'s (tests/guest); what only somebody outside the machine can see, its memory, is looked at here.

mod shared;

use anyhow::{Context, Result, ensure};
use machine::{Boot, Machine};
use shared::{Shared, tvtest};
use std::sync::MutexGuard;
use std::time::Duration;
use trustvisor_tests::{SOON, built};

static MACHINE: Shared = Shared::new();

const LIMIT: Duration = Duration::from_secs(180);
const DISK_SIZE: u64 = 64 << 20;
const EXACT: Duration = Duration::from_secs(400);

fn machine() -> Result<MutexGuard<'static, Machine>> {
    MACHINE.lend(|| {
        let disks = [tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?];
        let mut boot = Boot::new("pal", built()?.as_ref()).limit(Duration::from_secs(1_500));
        for disk in &disks {
            disk.as_file().set_len(DISK_SIZE)?;
            boot = boot.disk(disk.path());
        }
        // QEMU opens the disks when it starts; their names are not needed after that.
        Ok((boot, disks))
    })
}

macro_rules! in_the_guest {
    ($($(#[$doc:meta])* $name:ident: $tests:literal;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() -> Result<()> {
            tvtest(&*machine()?, $tests, LIMIT).map(drop)
        }
    )*};
}

in_the_guest! {
    functions_of_s_are_called_as_ordinary_functions: "calls registers pcrs";
    what_s_seals_opens_for_whom_it_is_for: "sealed";
    quotes_are_of_reports_alone: "quotes";
    attested_calls_say_what_went_in_and_out: "attested-calls";
    types_of_serde_go_to_s_and_back: "types types-apart";
    a_heap_is_as_large_as_said_and_s_dies_when_it_is_full: "heap";
    a_session_has_an_s_whenever_it_is_called: "session session-fork session-threads session-exec";
    several_pals_live_at_once: "several";
    a_full_pool_is_a_status: "full-pool";
    a_forked_child_and_a_stranger_get_a_status: "fork stranger";
    two_collects_free_what_a_killed_owner_leaves: "killed-owner";
    an_owner_page_that_is_swapped_out_still_owns: "swapped-owner";
    buffers_may_be_absent_or_shared: "absent-pages copy-on-write large-buffers";
    a_result_for_memory_that_is_not_the_caller_s_is_sigsegv: "read-only half-outside";
    results_in_clean_shared_pages_survive_reclaim: "shared-memory shared-file";
    every_kind_of_memory_can_be_a_buffer_or_an_image: "shared-kinds large-pages file-on-disk";
    buffers_may_overlap_be_empty_or_lie_at_the_end_of_memory: "overlapping untouched-buffers empty-buffers last-page";
    buffers_that_change_under_a_call_get_a_whole_result_or_none: "moving";
    s_finds_the_same_whatever_state_its_caller_is_in: "hostile-callers";
    nothing_of_s_is_in_the_registers_when_it_is_frozen_or_has_returned: "frozen-registers fpu-registers";
    a_call_may_be_left_in_every_way: "left-by-jump left-by-exit left-by-fork stopped";
    a_debugger_sees_a_call_as_one_instruction: "single-steps debugger debug-registers";
    hundreds_of_pals_and_the_largest_one_work: "many largest";
    whatever_s_does_only_s_dies: "deaths";
    an_interrupted_s_goes_on: "interrupted signals abandoned tokens";
    only_a_pal_with_an_fpu_has_one: "fpu";
    bad_images_and_addresses_are_a_status: "bad-images bad-addresses";
    bad_handles_and_numbers_are_a_status: "bad-handles bad-numbers";
    callers_in_other_modes_are_refused: "compat-caller masked-caller kernel-caller";
    page_tables_into_the_reserve_or_devices_are_refused: "tables";
    nobody_in_the_guest_finds_what_s_keeps: "proc-mem physical-memory";
}

/// A timer's lateness can be judged where time is exact; and where time jumps over what nobody does, waiting costs nothing.
#[test]
fn a_computing_s_or_a_long_hypercall_delays_nobody_by_more_than_a_tick() -> Result<()> {
    let boot =
        Boot::new("pal-icount", built()?.as_ref()).qemu(&["-icount", "shift=0,sleep=off"]).limit(EXACT);
    let machine = boot.start()?;
    machine.wait_until_ready()?;
    let lines = tvtest(&machine, "orphans latency latency-hypercalls latency-collect", EXACT)?;
    lines.iter().filter(|line| line.contains(" us ")).for_each(|line| println!("{line}"));
    Ok(())
}

/// A processor and a kernel with 5-level tables, protection keys and a page of 1 GiB.
#[test]
fn with_wider_tables_keys_and_huge_pages_all_is_the_same() -> Result<()> {
    let built = built()?;
    let boot = Boot::new("pal-wide", built.as_ref()).cpu("EPYC,+la57,+pku").memory_mib(4096);
    let kernel = "console=ttyS0 earlyprintk=ttyS0 loglevel=4 panic=-1 hugepagesz=1G hugepages=1";
    let machine = boot.kernel_options(kernel).run("serve").start()?;
    machine.wait_until_ready()?;
    machine.succeed("GLIBC_TUNABLES=glibc.pthread.rseq=0 tvtest protection-keys", LIMIT)?;
    let tests = "five-levels huge-page calls registers absent-pages copy-on-write read-only overlapping";
    tvtest(&machine, tests, LIMIT).map(drop)
}

/// The pool as `tvtest hold` or `tvtest info` names it.
fn pool(line: &str) -> Result<(u64, u64)> {
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
    let mut words = line.split_whitespace().skip(2);
    let (base, size) = (words.next().context("no base")?, words.next().context("no size")?);
    Ok((number(base)?, number(size)?))
}

/// How many of the words, which are known masked, lie in a dump.
fn found(dump: &[u8], line: &str) -> Result<usize> {
    let words =
        line.split_whitespace().skip(2).map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16));
    let words = words.collect::<Result<Vec<_>, _>>()?;
    let (mask, words) = words.split_first().context("no mask")?;
    ensure!(words.len() == 16, "16 words are to be found, not {}", words.len());
    let here = |wanted: u64| dump.as_chunks::<8>().0.iter().any(|word| u64::from_le_bytes(*word) == wanted);
    Ok(words.iter().filter(|word| here(**word ^ mask)).count())
}

#[test]
fn from_outside_the_secret_is_in_the_pool_until_s_is_unregistered() -> Result<()> {
    let machine = machine()?;
    machine.send("tvtest hold &")?;
    let (base, size) = pool(&machine.wait_for("tvtest: pool ", SOON)?.text)?;
    let needles = machine.wait_for("tvtest: holds ", SOON)?.text;
    ensure!(found(&machine.memory_dump(base, size)?, &needles)? == 16, "the secret is not in the pool");
    machine.send("touch /tmp/release")?;
    machine.wait_for("tvtest: released", SOON)?;
    let dump = machine.memory_dump(base, size)?;
    ensure!(found(&dump, &needles)? == 0, "the secret is still in the pool");
    ensure!(dump.iter().all(|byte| *byte == 0), "the pool is not zero without a PAL");
    machine.send("touch /tmp/release")?;
    machine.wait_for("tvtest: ok hold", SOON).map(drop)
}

#[test]
fn a_thousand_lives_leave_a_pool_of_zeroes() -> Result<()> {
    let machine = machine()?;
    let lines = tvtest(&machine, "cycles pool", LIMIT)?;
    let line = lines.iter().find(|line| line.starts_with("tvtest: pool ")).context("no pool")?;
    let (base, size) = pool(line)?;
    let dump = machine.memory_dump(base, size)?;
    ensure!(dump.len() > 1 << 20, "a pool of {} bytes", dump.len());
    let left = dump.iter().position(|byte| *byte != 0);
    ensure!(left.is_none(), "byte {:#x} of the pool is not zero", left.unwrap_or_default());
    Ok(())
}
