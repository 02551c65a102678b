//! Attacks on the question whose PAL it is: handles, address spaces, tokens, owner pages.

use super::Attack;
use crate::attack::{COPY_CR3, CR3, Control, Kernel, Table};
use crate::interrupted::rounds_for;
use crate::support::{
    Child, Mapping, NO_HANDLE, Pipe, TestPal, Timer, call_entry, entry, is_token, on_signal, raw, register,
    registers,
};
use crate::tokens;
use anyhow::{bail, ensure};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::sleep;
use std::time::{Duration, Instant};
use trustvisor::abi::{Handle, Status, number};

pub const ATTACKS: &[Attack] = &[
    ("forged-handle", "overwrites the owner page with another handle: it is not S's", forged_handle),
    ("mixed-handle", "calls with half a handle of one PAL and half of another: neither runs", mixed_handle),
    ("stranger", "calls S from another address space, with its handle: S does not run", stranger),
    ("stranger-unregisters", "unregisters somebody else's S, with its handle: S lives", stranger_unregisters),
    ("recycled-cr3", "continues a dead owner's call on its recycled CR3, with the token: lost", recycled_cr3),
    (
        "copied-cr3",
        "continues a frozen call in a copy of its page tables, which maps the same: lost",
        copied_cr3,
    ),
    ("registration-token", "continues another process's registration: lost", tokens::stopped_registration),
    ("replayed-token", "continues a call with the token of the last one: lost", replayed_token),
    ("doubled-call", "calls S while it is frozen: busy", doubled_call),
    ("stale-handle", "calls with the handle of a PAL that was unregistered: there is none", stale_handle),
    (
        "owner-page-remapped",
        "takes the owner page away for a moment, and collects: S lives",
        owner_page_remapped,
    ),
    (
        "owner-page-away",
        "has the owner page look swapped out for long, and collects twice: S lives",
        owner_page_away,
    ),
];

const LIMIT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(20);

/// Calls the entry that counts its calls.
fn count(handle: Handle) -> Status {
    raw(call_entry(entry::COUNTING), handle, &[]).1
}

fn forged_handle() -> anyhow::Result<()> {
    let s = register()?;
    let right = s.pal().handle();
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    let own = |handle: Handle| memory.write_all_at(&handle.low.to_le_bytes(), s.pal().owner_page());
    // The lowest bits name a slot: another slot is not S.
    for bit in 9..64 {
        own(Handle { low: right.low ^ 1 << bit, ..right })?;
        let _ = s.count();
    }
    own(right)?;
    ensure!(s.count()? == 1, "S has run for a wrong handle");
    Ok(())
}

fn mixed_handle() -> anyhow::Result<()> {
    let (one, other) = (register()?, register()?);
    let (a, b) = (one.pal().handle(), other.pal().handle());
    count(Handle { low: a.low, high: b.high });
    count(Handle { low: b.low, high: a.high });
    ensure!((one.count()?, other.count()?) == (1, 1), "S has run for a wrong handle");
    Ok(())
}

fn stranger() -> anyhow::Result<()> {
    let s = register()?;
    let handle = s.pal().handle();
    Child::fork(|| {
        count(handle);
        Ok(())
    })?
    .join(LIMIT)?;
    ensure!(s.count()? == 1, "S has run for a stranger");
    Ok(())
}

fn stranger_unregisters() -> anyhow::Result<()> {
    let s = register()?;
    let handle = s.pal().handle();
    Child::fork(|| {
        raw(number::UNREGISTER.into(), handle, &[]);
        Ok(())
    })?
    .join(LIMIT)?;
    ensure!(s.count().is_ok(), "S is gone");
    Ok(())
}

fn stale_handle() -> anyhow::Result<()> {
    let s = register()?;
    let handle = s.pal().handle();
    s.unregister()?;
    ensure!(count(handle) == Status::NoSuchPal, "S can be called after its end");
    Ok(())
}

/// What the handler below does at a frozen call, and what came of it.
static PLAN: AtomicU64 = AtomicU64::new(0);
static HANDLE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static TOKEN: AtomicU64 = AtomicU64::new(0);
static ANSWER: AtomicU64 = AtomicU64::new(u64::MAX);

const NOTE_TOKEN: u64 = 1;
const USE_TOKEN: u64 = 2;
const CALL: u64 = 3;
/// Continues in a copy of the page tables, and goes back to the true ones.
const COPY: u64 = 5;
/// In [`ANSWER`]: the plan could not be carried out, and the call is over.
const NOT_TRIED: u64 = u64::MAX - 1;
/// Tells somebody else the token, and stays.
const HOLD: u64 = 4;
static TOKEN_GOES_TO: AtomicU64 = AtomicU64::new(0);

extern "C" fn at_a_frozen_call(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context.
    let rax = unsafe { registers(context) }[libc::REG_RAX as usize] as u64;
    if !is_token(rax) || ANSWER.load(SeqCst) != u64::MAX {
        return;
    }
    let [low, high] = [0, 1].map(|half| HANDLE[half].load(SeqCst));
    let handle = Handle { low, high };
    let status = match PLAN.load(SeqCst) {
        NOTE_TOKEN => return TOKEN.store(rax, SeqCst),
        USE_TOKEN => raw(TOKEN.load(SeqCst), handle, &[]).1,
        CALL => count(handle),
        COPY => match in_a_copy(rax, handle) {
            Some(status) => status,
            None => return ANSWER.store(NOT_TRIED, SeqCst),
        },
        HOLD => {
            // SAFETY: a word of memory that stays mapped, which nobody holds a reference to.
            unsafe { (TOKEN_GOES_TO.load(SeqCst) as *mut u64).write_volatile(rax) };
            return sleep(LIMIT);
        }
        _ => return,
    };
    ANSWER.store(status as u64, SeqCst);
}

/// None if the kernel switched to another process, and so back to the true tables, meanwhile.
fn in_a_copy(token: u64, handle: Handle) -> Option<Status> {
    let kernel = Kernel::open().ok()?;
    let control = |what| kernel.ask(Control { what, ..Default::default() }).ok();
    let before = control(COPY_CR3)?.value;
    let status = raw(token, handle, &[]).1;
    let copied = control(CR3)?.value != before;
    // Whoever else runs for a moment brings the true tables back.
    while control(CR3)?.value != before {
        sleep(Duration::from_millis(1));
    }
    copied.then_some(status)
}

fn copied_cr3() -> anyhow::Result<()> {
    const ATTEMPTS: u32 = 50;
    let s = register()?;
    for _ in 0..ATTEMPTS {
        match interrupted_for(&s, COPY, INTERVAL * 3 / 2)? {
            Some(Status::Lost) => return Ok(()),
            Some(status) => bail!("S goes on in other page tables: {status:?}"),
            None => ANSWER.store(u64::MAX, SeqCst),
        }
    }
    bail!("no call was interrupted")
}

/// A call of S that is interrupted, with a plan for the interruptions. What they were answered.
fn interrupted(s: &TestPal, plan: u64) -> anyhow::Result<Option<Status>> {
    interrupted_for(s, plan, Duration::from_millis(400))
}

fn interrupted_for(s: &TestPal, plan: u64, duration: Duration) -> anyhow::Result<Option<Status>> {
    let rounds = rounds_for(s, duration)?;
    let handle = s.pal().handle();
    HANDLE[0].store(handle.low, SeqCst);
    HANDLE[1].store(handle.high, SeqCst);
    PLAN.store(plan, SeqCst);
    on_signal(libc::SIGALRM, at_a_frozen_call, 0)?;
    let timer = Timer::start(INTERVAL, INTERVAL)?;
    let _ = s.compute(rounds);
    drop(timer);
    Ok(trustvisor::status(ANSWER.load(SeqCst)))
}

fn replayed_token() -> anyhow::Result<()> {
    let s = register()?;
    interrupted(&s, NOTE_TOKEN)?;
    ensure!(TOKEN.load(SeqCst) != 0, "no call was interrupted");
    match interrupted(&s, USE_TOKEN)? {
        Some(Status::Lost) => Ok(()),
        Some(_) => bail!("an old token continues a call"),
        None => bail!("no call was interrupted"),
    }
}

fn doubled_call() -> anyhow::Result<()> {
    let s = register()?;
    match interrupted(&s, CALL)? {
        Some(Status::Busy) => Ok(()),
        Some(_) => bail!("S runs in two calls at a time"),
        None => bail!("no call was interrupted"),
    }
}

/// Most processes that are made until one has the CR3 that became free.
const MOST_PROCESSES: usize = 64;

fn recycled_cr3() -> anyhow::Result<()> {
    let shared = Mapping::shared_anonymous(1)?;
    let word = |at: usize| (0..8).rev().fold(0, |value, i| value << 8 | u64::from(shared.read(at * 8 + i)));
    let set =
        |at: usize, value: u64| shared.slice()[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
    let cr3 = || anyhow::Ok(Kernel::open()?.ask(Control { what: CR3, ..Default::default() })?.value & !0xfff);
    let owner = Child::fork(|| {
        set(0, cr3()?);
        TOKEN_GOES_TO.store(shared.address() + 8, SeqCst);
        interrupted(&register()?, HOLD).map(drop)
    })?;
    let deadline = Instant::now() + LIMIT;
    while word(1) == 0 {
        ensure!(Instant::now() < deadline, "no call was interrupted");
        sleep(INTERVAL);
    }
    owner.kill()?;

    let mut others = Vec::new();
    while word(2) == 0 && others.len() < MOST_PROCESSES {
        let done = Pipe::new()?;
        others.push(Child::fork(|| {
            if cr3()? == word(0) {
                set(3, raw(word(1), NO_HANDLE, &[]).1 as u64);
                set(2, 1);
            }
            done.signal()?;
            sleep(LIMIT);
            Ok(())
        })?);
        done.wait()?;
    }
    ensure!(word(2) == 1, "no process got the CR3");
    ensure!(
        trustvisor::status(word(3)) == Some(Status::Lost),
        "a stranger continues the call of a dead owner"
    );
    Ok(())
}

fn owner_page_remapped() -> anyhow::Result<()> {
    let s = register()?;
    sleep(NOT_RECENT);
    let away = replace_entry(&s, 0)?;
    let freed = trustvisor::collect();
    replace_entry(&s, away)?;
    freed?;
    ensure!(s.count().is_ok(), "one look at a page that was away for a moment frees S");
    Ok(())
}

fn owner_page_away() -> anyhow::Result<()> {
    let s = register()?;
    sleep(NOT_RECENT);
    let there = replace_entry(&s, SWAPPED_OUT)?;
    let looks = trustvisor::collect().and_then(|_| {
        sleep(CONFIRMED);
        trustvisor::collect()
    });
    replace_entry(&s, there)?;
    looks?;
    ensure!(s.count().is_ok(), "S is freed though its owner page is on a swap device");
    Ok(())
}

/// A PAL called a second ago is not looked at; two looks this far apart condemn one.
const NOT_RECENT: Duration = Duration::from_millis(1_200);
const CONFIRMED: Duration = Duration::from_millis(10_300);
/// A page table entry that is not present, and not empty.
const SWAPPED_OUT: u64 = 0x1234_5600;

fn replace_entry(s: &TestPal, entry: u64) -> anyhow::Result<u64> {
    let address = s.pal().owner_page();
    Ok(Kernel::open()?.ask(Table { address, entry, level: 1, reserved: 0 })?.entry)
}
