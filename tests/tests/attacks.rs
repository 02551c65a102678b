//! A hostile kernel, root, program and S against TrustVisor. What is tried is in `tests/guest/src/attacks`; here it is decided what counts.
//!
//! Every attack is carried out twice: against TrustVisor, where what it aims at must hold, and where nobody defends, to show that it
//! is an attack: on the bare machine, or on a TrustVisor that lacks the one check it aims at (`tests/mutations.toml`). A build lacks
//! several of these at once; an attack is right in all respects but one, so it is that one check whose lack lets it pass.

use anyhow::{Context, Result, bail, ensure};
use machine::{Boot, Machine, mutated_hypervisor};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use trustvisor_tests::{SOON, built};

/// Where an attack succeeds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Real {
    /// On the bare machine.
    Bare,
    /// On the bare machine, which it resets.
    Reset,
    /// On a build, shared with others, without this check.
    Without(Build, &'static str),
}
use Real::{Bare, Reset, Without};

/// Builds of TrustVisor that lack something each. What is removed from the same line goes to different builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Build {
    One,
    Other,
    /// Without wipes.
    Ends,
}
use Build::{Ends, One, Other};

const RESET: &str = "the machine was reset";

/// Attacks that share a machine: name, where they succeed, what they see there.
const SHARED: &[(&str, Real, &str)] = &[
    (
        "reads-of-s",
        Bare,
        "the secret is found by /proc/PID/mem, process_vm_readv, ptrace, the kernel's direct map, /proc/kcore, \
         the swap device, a hibernation image, a core file",
    ),
    ("writes-to-s", Bare, "the secret has changed"),
    ("argument-in-flight", Bare, "an argument changed while it was read"),
    ("registers-after-return", Bare, "a register shows what S had in it"),
    ("registers-at-interrupt", Bare, "a register shows what S had in it"),
    ("registers-after-fault", Bare, "a register shows what S had in it"),
    ("registers-at-syscall", Bare, "a register shows what S had in it"),
    ("registers-at-hypercall", Bare, "a register shows what S had in it"),
    ("sse-registers", Bare, "an XMM register shows what S had in it"),
    ("lowered-xcr0", Without(One, "fpu-lowered"), "an XMM register shows what S had in it"),
    ("fault-address", Bare, "the OS is told where S faulted"),
    ("single-step", Bare, "a register shows what S had in it"),
    ("breakpoint-in-s", Bare, "the OS is told when S begins"),
    ("svme", Bare, "EFER has changed"),
    ("vmsave", Bare, "VMSAVE writes to memory"),
    ("vmload", Bare, "VMLOAD loads registers"),
    ("clgi", Bare, "CLGI stops time"),
    ("host-save-area", Bare, "VM_HSAVE_PA has changed"),
    ("memory-types", Bare, "MTRR 0x200 has changed"),
    ("apic-base", Bare, "the APIC's base has changed"),
    ("mmconfig-moved", Bare, "PCIEXBAR 0xb0000001 is now 0xa0000001"),
    ("mmconfig-moves-itself", Bare, "PCIEXBAR 0xb0000001 is now 0xa0000001"),
    ("smm-opened", Bare, "SMRAM "),
    ("root-complex-moved", Bare, "RCBA "),
    ("svm-lock", Bare, "a write of MSR 0xc0010114 reaches the processor"),
    ("address-map", Bare, "a write of MSR 0xc001001a reaches the processor"),
    ("smm", Bare, "a write of MSR 0xc0010111 reaches the processor"),
    ("microcode", Bare, "a write of MSR 0xc0010020 reaches the processor"),
    ("x2apic", Bare, "MSR 0x800 can be accessed"),
    ("localities", Bare, "locality 1 can be read at 0x0"),
    ("io-apic", Bare, "an entry of the I/O APIC is now 0x200"),
    ("svm-instructions", Without(One, "svm-instructions"), "VMRUN: vector -1 instead of #UD"),
    ("init-sipi", Without(One, "icr-trap"), "the second processor runs the guest's code outside SVM"),
    ("self-init", Reset, RESET),
    ("messages", Reset, RESET),
    ("nmi-storm", Without(One, "pal-nmi"), "S is gone"),
    ("reserve-read", Without(One, "npt-reserve"), "of the reserve can be read"),
    ("reserve-write", Without(Other, "npt-hidden-writable"), "what is read in the reserve has changed"),
    ("forged-handle", Without(Other, "find-low"), "S has run for a wrong handle"),
    ("mixed-handle", Without(One, "find-high"), "S has run for a wrong handle"),
    ("stranger", Without(Other, "find-owner"), "S has run for a stranger"),
    ("stranger-unregisters", Without(Other, "unregister-find"), "S is gone"),
    ("recycled-cr3", Without(Other, "resume-handle"), "a stranger continues the call of a dead owner"),
    ("copied-cr3", Without(Other, "resume-owner"), "S goes on in other page tables"),
    ("registration-token", Without(Other, "resume-owner"), "the child failed"),
    ("replayed-token", Without(One, "resume-token"), "an old token continues a call"),
    ("doubled-call", Without(Other, "call-busy"), "S runs in two calls at a time"),
    ("stale-handle", Without(Ends, "unregister-wipe"), "S can be called after its end"),
    (
        "owner-page-remapped",
        Without(Other, "collect-confirm"),
        "one look at a page that was away for a moment frees S",
    ),
    (
        "owner-page-away",
        Without(Other, "collect-away"),
        "S is freed though its owner page is on a swap device",
    ),
    ("kernel-calls", Without(Other, "may-call-cpl"), "of the kernel: status"),
    ("compat-calls", Without(Other, "may-call-long"), "a 32-bit caller gets status"),
    ("masked-calls", Without(Other, "may-call-if"), "a caller with interrupts off"),
    ("entry-numbers", Without(Other, "call-entry"), "S is entered at entry "),
    ("large-arguments", Without(Other, "call-too-large"), "S is given more than it has room for"),
    ("old-arguments", Without(Other, "params-zeroed"), "S finds what the last call was given"),
    (
        "image-changed",
        Without(Other, "register-header-once"),
        "another S than the one that was measured runs",
    ),
    ("smashed-return", Without(Other, "return-stack"), "S returns as it likes"),
    ("code-written", Without(Other, "code-writable"), "S writes to its code"),
    ("data-executed", Without(One, "data-executable"), "S runs its data"),
    ("cpuid-in-s", Without(Other, "pal-cpuid"), "S sees the processor as the hypervisor does"),
    ("fpu-in-s", Without(Other, "pal-fpu"), "S uses the OS's FPU registers"),
    ("page-in-reserve", Without(Other, "walk-leaf-ram"), "S is given what is another's in the pool"),
    (
        "table-in-reserve",
        Without(Other, "walk-table-ram"),
        "TrustVisor follows a page table in its own memory",
    ),
    ("supervisor-page", Without(Other, "walk-user"), "S is given a page of the kernel"),
    ("read-only-page", Without(Other, "walk-writable"), "a result is in a page that the caller cannot write"),
    (
        "result-protected",
        Without(Other, "walk-writable"),
        "a result is in a file that the caller cannot write any more",
    ),
];

/// Ends of S, judged by the pool's contents, and the wipe that each needs. The last frees frames that are not zero: nothing can be
/// registered there after it.
const ENDS_OF_S: [(&str, &str); 4] = [
    ("wipe-unregistered", "unregister-wipe"),
    ("wipe-aborted", "unregister-wipe"),
    ("wipe-faulted", "fault-wipe"),
    ("wipe-killed", "frame-wipe"),
];

/// Ends of the machine, judged by its memory.
const ENDS_OF_MACHINE: [(&str, Real); 4] = [
    ("triple-fault", Bare),
    ("keyboard-reset", Bare),
    ("fast-reset", Bare),
    ("reserved-bits", Without(Ends, "reset-wipe")),
];

/// The end of Linux, judged by the crash kernel that it starts.
const END_OF_LINUX: &str = "crash-image";

/// Carried out but not counted: what they aim at holds on QEMU without TrustVisor as well, where memory wins against a device at
/// the same address, and there are no caches, no memory types, no counters and no handler behind the SMI port; and the last one aims
/// at what another does.
const NOT_COUNTED: [&str; 6] =
    ["pci-bars", "invd", "smi-port", "page-attributes", "counters", "result-in-reserve"];
/// Ends of the machine that aim at what [`ENDS_OF_MACHINE`] do. QEMU ends the guest where a processor raises #GP.
const ENDS_NOT_COUNTED: [&str; 1] = ["cr3-reserved-bits"];

const LIMIT: Duration = Duration::from_secs(400);
const DISK_SIZE: u64 = 32 << 20;
/// Little memory: it is read more than once.
const MEMORY_MIB: u32 = 384;
/// The second processor is TrustVisor's: Linux is not to wait for it.
const KERNEL_OPTIONS: &str = "console=ttyS0 loglevel=4 panic=-1 maxcpus=1";

fn boot(name: &str) -> Result<Boot> {
    let boot = Boot::new(name, built()?.as_ref()).memory_mib(MEMORY_MIB).processors(2);
    Ok(boot.kernel_options(KERNEL_OPTIONS).run("serve").limit(Duration::from_secs(900)))
}

/// Starts a machine with a disk that the guest may swap to.
fn start(boot: Boot) -> Result<Machine> {
    let disk = NamedTempFile::new()?;
    disk.as_file().set_len(DISK_SIZE)?;
    let machine = boot.disk(disk.path()).start()?;
    machine.wait_until_ready()?;
    Ok(machine)
}

/// Has the guest carry attacks out; what came of each.
fn carry_out(machine: &Machine, names: &[&str]) -> Result<BTreeMap<String, String>> {
    let lines = thread::scope(|scope| {
        let (ended, waiting) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || storm(machine, &waiting));
        let output = machine.command(&format!("tvtest attack {}", names.join(" ")), LIMIT);
        drop(ended);
        anyhow::Ok(output?.lines)
    })?;
    let parse = |line: &String| {
        let (name, verdict) = line.strip_prefix("attack ")?.split_once(": ")?;
        Some((name.to_owned(), verdict.to_owned()))
    };
    Ok(lines.iter().filter_map(parse).collect())
}

/// Sends NMIs while an attack says that S works, until `ended` is closed.
fn storm(machine: &Machine, ended: &std::sync::mpsc::Receiver<()>) {
    use std::sync::mpsc::RecvTimeoutError::Timeout;
    while ended.recv_timeout(Duration::from_millis(50)) == Err(Timeout) {
        let lines = machine.lines();
        let works = lines.iter().rposition(|line| line == "tvtest: S works");
        let over = lines.iter().rposition(|line| line.starts_with("attack nmi-storm: "));
        if works > over {
            // A machine that has ended ends the attack as well.
            let _ = machine.monitor_command("inject-nmi", json!({}));
        }
    }
}

/// What an attack is expected to come to.
fn expect(name: &str, found: &BTreeMap<String, String>, wanted: &str, where_: &str) -> Result<()> {
    let verdict = found.get(name).map_or("nothing", String::as_str);
    ensure!(verdict.contains(wanted), "{name}, {where_}: {verdict:?} instead of {wanted:?}");
    Ok(())
}

/// All that went wrong, at the end.
#[derive(Default)]
struct Report {
    blocked: usize,
    all: usize,
    wrong: String,
}

impl Report {
    /// An attack, and what came of its two trials.
    fn add(&mut self, name: &str, against: Result<()>, without: Result<()>) {
        self.all += 1;
        let mut good = true;
        for error in [against.err(), without.err()].into_iter().flatten() {
            good = false;
            let _ = writeln!(self.wrong, "{name}: {error:#}");
        }
        self.blocked += usize::from(good);
        println!("attacks: {name}: {}", if good { "blocked, and real" } else { "WRONG" });
    }
}

/// What came of attacks that share a machine, and of the ends of S, of the machine and of Linux, in the order of the lists.
struct Trials {
    shared: BTreeMap<String, String>,
    of_s: Vec<Result<Found>>,
    of_machine: Vec<Result<Found>>,
    of_linux: Result<Found>,
}

fn against_trustvisor() -> Result<Trials> {
    let machine = start(boot("attacks")?)?;
    every_attack_has_its_place(&machine)?;
    let names: Vec<_> = SHARED.iter().map(|attack| attack.0).chain(NOT_COUNTED).collect();
    let shared = carry_out(&machine, &names)?;
    let of_s = ENDS_OF_S.iter().map(|(name, _)| end_of_s(&machine, name)).collect();
    drop(machine);
    let of_machine =
        ENDS_OF_MACHINE.iter().map(|(name, _)| end_of_machine(boot("attacks-end")?, name)).collect();
    for name in ENDS_NOT_COUNTED {
        end_of_machine(boot("attacks-end")?, name).and_then(wiped).with_context(|| name.to_owned())?;
    }
    Ok(Trials { shared, of_s, of_machine, of_linux: crash_image(boot("attacks-crash")?) })
}

fn where_nobody_defends() -> Result<Trials> {
    let mut shared = succeeding(Bare, start(boot("attacks-bare")?.processors(1).with_hypervisor(false))?)?;
    shared.extend(resetting()?);
    for build in [One, Other] {
        let machine = start(boot("attacks-without")?.hypervisor(lacking(build)?))?;
        shared.extend(succeeding(Without(build, ""), machine)?);
    }
    let machine = start(boot("attacks-without")?.hypervisor(lacking(Ends)?))?;
    shared.extend(carry_out(&machine, &["stale-handle"])?);
    let of_s = ENDS_OF_S.iter().map(|(name, _)| end_of_s(&machine, name)).collect();
    drop(machine);
    let end = |(name, real): &(&str, Real)| {
        let boot = match real {
            Bare | Reset => boot("attacks-end-bare")?.with_hypervisor(false),
            Without(build, _) => boot("attacks-end-without")?.hypervisor(lacking(*build)?),
        };
        end_of_machine(boot, name)
    };
    let of_machine = ENDS_OF_MACHINE.iter().map(end).collect();
    let bare = boot("attacks-crash-bare")?.with_hypervisor(false);
    Ok(Trials { shared, of_s, of_machine, of_linux: crash_image(bare) })
}

#[test]
fn every_attack_is_blocked_and_real() -> Result<()> {
    let (against, without) = thread::scope(|scope| {
        let without = scope.spawn(where_nobody_defends);
        (against_trustvisor(), without.join().expect("no panic"))
    });
    let (against, without) = (against?, without?);
    let mut report = Report::default();
    for (name, _, seen) in SHARED {
        let blocked = expect(name, &against.shared, "blocked", "against TrustVisor");
        report.add(name, blocked, expect(name, &without.shared, seen, "where nobody defends"));
    }
    for name in NOT_COUNTED {
        expect(name, &against.shared, "blocked", "against TrustVisor")?;
    }
    let names =
        ENDS_OF_S.map(|end| end.0).into_iter().chain(ENDS_OF_MACHINE.map(|end| end.0)).chain([END_OF_LINUX]);
    let ends = |trials: Trials| trials.of_s.into_iter().chain(trials.of_machine).chain([trials.of_linux]);
    for (name, (against, without)) in names.zip(ends(against).zip(ends(without))) {
        report.add(name, against.and_then(wiped), without.and_then(left));
    }
    if !report.wrong.is_empty() {
        bail!("{}blocked {} of {}", report.wrong, report.blocked, report.all);
    }
    ensure!(report.all >= 40, "only {} attacks", report.all);
    println!("blocked {} of {}", report.blocked, report.all);
    Ok(())
}

/// No attack of the guest's program is forgotten here.
fn every_attack_has_its_place(machine: &Machine) -> Result<()> {
    let ends = ENDS_OF_S.map(|end| end.0).into_iter().chain(ENDS_OF_MACHINE.map(|end| end.0));
    let ends = ends.chain(ENDS_NOT_COUNTED).chain([END_OF_LINUX]);
    let mut known: Vec<_> = SHARED.iter().map(|a| a.0).chain(NOT_COUNTED).chain(ends).collect();
    let lines = machine.succeed("tvtest attack", SOON)?;
    let mut there: Vec<_> = lines.iter().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    known.sort_unstable();
    there.sort_unstable();
    ensure!(known == there, "attacks known: {known:?}; there: {there:?}");
    Ok(())
}

/// The build without all checks that its attacks aim at.
fn lacking(build: Build) -> Result<Vec<u8>> {
    let ends = ENDS_OF_MACHINE.into_iter().map(|(_, real)| real);
    let wipes = ENDS_OF_S.into_iter().map(|(_, wipe)| Without(Ends, wipe));
    let names = SHARED.iter().map(|attack| attack.1).chain(ends).chain(wipes).filter_map(|real| match real {
        Without(its, name) if its == build => Some(name),
        _ => None,
    });
    let names: BTreeSet<_> = names.flat_map(|names| names.split('+')).collect();
    mutated_hypervisor(&Vec::from_iter(names).join("+"))
}

/// Carries out the attacks that should succeed here.
fn succeeding(here: Real, machine: Machine) -> Result<BTreeMap<String, String>> {
    let belongs = |real: &Real| match (here, *real) {
        (Without(a, _), Without(b, _)) => a == b,
        (a, b) => a == b,
    };
    let names: Vec<_> = SHARED.iter().filter(|attack| belongs(&attack.1)).map(|attack| attack.0).collect();
    carry_out(&machine, &names)
}

/// Carries out the attacks that reset the bare machine, one after the other.
fn resetting() -> Result<BTreeMap<String, String>> {
    let machine = start(boot("attacks-reset")?.processors(1).with_hypervisor(false).reboots(true))?;
    let mut found = BTreeMap::new();
    for (name, ..) in SHARED.iter().filter(|attack| attack.1 == Reset) {
        let before = machine.resets()?;
        machine.send(&format!("tvtest attack {name}"))?;
        machine.wait_until_ready()?;
        ensure!(machine.resets()? > before, "{name}: the guest is ready without a reset");
        found.insert((*name).to_owned(), RESET.to_owned());
    }
    Ok(found)
}

/// How many words of the secret, of how many, were found before the end and after it.
struct Found {
    before: usize,
    after: usize,
}

const WORDS: usize = 16;

fn wiped(found: Found) -> Result<()> {
    ensure!(found.before == WORDS, "before the end {} words of the secret are in memory", found.before);
    ensure!(found.after == 0, "after the end {} words of the secret are in memory", found.after);
    Ok(())
}

fn left(found: Found) -> Result<()> {
    ensure!(found.after == WORDS, "{} words of the secret are left", found.after);
    Ok(())
}

/// Numbers of a line, its first two words left out.
fn numbers(line: &str) -> Result<Vec<u64>> {
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
    Ok(line.split_whitespace().skip(2).map(number).collect::<Result<_, _>>()?)
}

/// How many of the words, which are known masked, lie in a dump.
fn count(dump: &[u8], masked: &[u64]) -> usize {
    let (mask, words) = masked.split_first().expect("a mask and words");
    let mut found = vec![false; words.len()];
    for word in dump.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*word) ^ mask;
        if let Some(at) = words.iter().position(|wanted| *wanted == word) {
            found[at] = true;
        }
    }
    found.into_iter().filter(|found| *found).count()
}

fn end_of_s(machine: &Machine, name: &str) -> Result<Found> {
    machine.send(&format!("tvtest attack {name} &"))?;
    let pool = numbers(&machine.wait_for("tvtest: pool ", SOON)?.text)?;
    let (base, size) = (pool[0], pool[1]);
    let secret = numbers(&machine.wait_for("tvtest: holds ", SOON)?.text)?;
    let before = count(&machine.memory_dump(base, size)?, &secret);
    machine.send("touch /tmp/release")?;
    machine.wait_for("tvtest: ended", SOON)?;
    let after = count(&machine.memory_dump(base, size)?, &secret);
    machine.send("touch /tmp/release")?;
    machine.wait_for(&format!("attack {name}: carried out"), SOON)?;
    Ok(Found { before, after })
}

/// The kernel panics; the crash kernel looks at its memory.
fn crash_image(boot: Boot) -> Result<Found> {
    let mut disk = NamedTempFile::new()?;
    disk.write_all(&built()?.guest.disk())?;
    let options = format!("{KERNEL_OPTIONS} crashkernel=128M");
    let boot = boot.processors(1).memory_mib(MEMORY_MIB + 128).kernel_options(&options).run("serve");
    let machine = boot.disk(disk.path()).start()?;
    machine.wait_until_ready()?;
    machine.send(&format!("tvtest attack {END_OF_LINUX} &"))?;
    let secret = numbers(&machine.wait_for("tvtest: holds ", SOON)?.text)?;
    let before = count(&machine.memory_dump(0, u64::from(MEMORY_MIB + 128) << 20)?, &secret);
    machine.send("touch /tmp/release")?;
    machine.wait_for("Kernel panic - not syncing", SOON)?;
    let line = machine.wait_for("tvtest: crash image: ", SOON)?.text;
    let after = line.split_whitespace().nth(3).context("how many words")?.parse()?;
    Ok(Found { before, after })
}

/// The machine stops where it would reset, so that its memory can be looked at.
fn end_of_machine(boot: Boot, name: &str) -> Result<Found> {
    let machine = boot.processors(1).qemu(&["-no-shutdown"]).start()?;
    machine.wait_until_ready()?;
    machine.send(&format!("tvtest attack {name} &"))?;
    let secret = numbers(&machine.wait_for("tvtest: holds ", SOON)?.text)?;
    let memory = || machine.memory_dump(0, u64::from(MEMORY_MIB) << 20);
    let before = count(&memory()?, &secret);
    machine.send("touch /tmp/release")?;
    let deadline = Instant::now() + SOON;
    while machine.monitor_command("query-status", json!({}))?["running"] == true {
        ensure!(Instant::now() < deadline, "the machine goes on (log: {})", machine.log().display());
        thread::sleep(Duration::from_millis(50));
    }
    Ok(Found { before, after: count(&memory()?, &secret) })
}
