//! Attacks on what S keeps, and on what it is given while it works with it.

use super::Attack;
use super::paths::{self, Traced, WAYS};
use super::victim::{Victim, protected};
use crate::attack::Kernel;
use crate::support::{Child, Mapping, PAGE, pattern, register, system};
use anyhow::{bail, ensure};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

pub const ATTACKS: &[Attack] = &[
    ("reads-of-s", "reads all memory the OS has, by every way there is: none of S's is among it", reads_of_s),
    (
        "writes-to-s",
        "writes to the secret wherever it is, and to every page of the pool: S keeps its own",
        writes_to_s,
    ),
    ("argument-in-flight", "changes an argument while S reads it: S has a copy", argument_in_flight),
];

fn reads_of_s() -> anyhow::Result<()> {
    let mut found = Vec::new();
    let victim = Victim::start()?;
    for (name, way) in WAYS {
        if way(&victim)? > 0 {
            found.push(*name);
        }
    }
    victim.kill()?;
    ensure!(found.is_empty(), "the secret is found by {}", found.join(", "));
    Ok(())
}

fn writes_to_s() -> anyhow::Result<()> {
    let victim = Victim::start()?;
    if let Some(address) = paths::find(&victim)? {
        Traced::stop(victim.pid())?.poke(address, 0)?;
        let byte = [0u8];
        let ours = libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: 1 };
        let theirs = libc::iovec { iov_base: address as *mut _, iov_len: 1 };
        // SAFETY: reads a byte of ours.
        let written = unsafe { libc::process_vm_writev(victim.pid(), &ours, 1, &theirs, 1, 0) };
        system("process_vm_writev", written as i64)?;
        let memory = OpenOptions::new().write(true).open(format!("/proc/{}/mem", victim.pid()))?;
        memory.write_all_at(&byte, address)?;
    }
    if let Ok(info) = trustvisor::info() {
        let kernel = Kernel::open()?;
        for page in 0..info.frames_total {
            kernel.write(info.pool_base + page * PAGE as u64 + 8 * (page % 512), !0)?;
        }
    }
    ensure!(victim.end_unharmed()?, "the secret has changed");
    Ok(())
}

fn argument_in_flight() -> anyhow::Result<()> {
    let argument = Mapping::shared_anonymous(1)?;
    argument.fill(&[0x5a; PAGE]);
    let writer = Child::fork(|| {
        // Another value each time round, and never the first one.
        for step in 0usize.. {
            argument.write(step % 256 * 16, (step / 256) as u8 | 0x80);
        }
        Ok(())
    })?;
    let rounds = 30_000;
    let changes = match protected() {
        true => register()?.watched(argument.slice(), rounds)?,
        false => pattern::watched(argument.slice(), rounds),
    };
    let seen = argument.read(16 * 77);
    writer.kill()?;
    if seen == 0x5a {
        bail!("the other process did not get to write");
    }
    ensure!(changes == 0, "an argument changed while it was read");
    Ok(())
}
