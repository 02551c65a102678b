//! The end of S, and of the machine: what is left in memory is looked at from outside. Each says what to look for (masked), ends S, or
//! the machine, and waits.

use super::Attack;
use super::crash::crash;
use super::victim::Victim;
use crate::attack::{CR4, Control, Kernel, TRY_CR3, TripleFault, WRITE_CR4};
use crate::hold::{pool, wait};
use crate::secrecy::Needles;
use crate::support::{Child, Pipe, TestPal, random, register, system};
use anyhow::{bail, ensure};
use std::arch::asm;
use std::thread::sleep;
use std::time::Duration;

pub const ATTACKS: &[Attack] = &[
    ("wipe-unregistered", "looks for the secret after S was unregistered: nowhere", || {
        end_of_s(|s| Ok(s.unregister()?))
    }),
    ("wipe-aborted", "looks for it after S was aborted: nowhere", || end_of_s(|s| Ok(s.pal().abort()?))),
    ("wipe-faulted", "looks for it after S faulted: nowhere", || {
        end_of_s(|s| match s.die(0) {
            Ok(_) => bail!("S does not fault"),
            Err(_) => Ok(()),
        })
    }),
    ("wipe-killed", "looks for it after S's owner was killed and two collects came: nowhere", wipe_killed),
    ("triple-fault", "ends the processor by a triple fault while S keeps its secret: wiped before", || {
        end_of_machine(|kernel| kernel.ask(TripleFault::default()).map(drop))
    }),
    ("keyboard-reset", "resets the machine by the keyboard controller: wiped before", || {
        end_of_machine(|_| out(0x64, 0xfe))
    }),
    ("fast-reset", "resets the machine by port 92h: wiped before", || end_of_machine(|_| out(0x92, 1))),
    (
        "reserved-bits",
        "sets reserved bits of CR4, which no processor runs with: wiped before the end",
        || {
            end_of_machine(|kernel| {
                let cr4 = kernel.ask(Control { what: CR4, ..Default::default() })?.value;
                kernel.ask(Control { what: WRITE_CR4, value: cr4 | 1 << 40, vector: 0 }).map(drop)
            })
        },
    ),
    ("crash-image", "panics, and looks for the secret in the crash kernel's image: nowhere", crash),
    ("cr3-reserved-bits", "sets bits of CR3 that must be zero: a fault, or wiped before the end", || {
        end_of_machine(|kernel| kernel.ask(Control { what: TRY_CR3, value: 1 << 52, vector: 0 }).map(drop))
    }),
];

pub fn tell(needles: &Needles) {
    let words: String = needles.words.iter().map(|word| format!(" {word:#x}")).collect();
    println!("tvtest: holds {:#x}{words}", needles.mask);
}

fn end_of_s(end: impl FnOnce(TestPal) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let s = register()?;
    s.set_secret(random()?)?;
    pool()?;
    tell(&Needles::of(&s)?);
    wait()?;
    end(s)?;
    println!("tvtest: ended");
    wait()
}

fn wipe_killed() -> anyhow::Result<()> {
    let ready = Pipe::new()?;
    let owner = Child::fork(|| {
        let s = register()?;
        s.set_secret(random()?)?;
        pool()?;
        tell(&Needles::of(&s)?);
        ready.signal()?;
        sleep(Duration::from_secs(120));
        Ok(())
    })?;
    ready.wait()?;
    wait()?;
    owner.kill()?;
    sleep(Duration::from_millis(2_000));
    trustvisor::collect()?;
    sleep(Duration::from_millis(12_000));
    ensure!(trustvisor::collect()? > 0, "nothing is freed");
    println!("tvtest: ended");
    wait()
}

fn end_of_machine(end: impl FnOnce(&Kernel) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    let victim = Victim::start()?;
    tell(&victim.needles);
    wait()?;
    end(&kernel)?;
    sleep(Duration::from_secs(5));
    bail!("the machine goes on")
}

fn out(port: u16, value: u8) -> anyhow::Result<()> {
    // SAFETY: gives this process the right to ports; it does not use memory.
    system("ioperm", unsafe { libc::ioperm(port.into(), 1, 1) })?;
    // SAFETY: resets the machine, which is what is tried.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
    Ok(())
}
