//! S's counters, and their increments' way into the hardware TPM while the OS uses it.
//!
//! An increment counts when the TPM has answered that it keeps it. It is one command at locality 1, which is asked for and had between
//! two commands of the OS; nobody waits for the TPM here: whoever comes by looks how far it is ([`Pals::commit`]), S's caller by
//! continuing the call in which S is frozen, and the processor at its next interrupts, should S's caller stay away.
//!
//! Counters of the launch ([`abi::LAUNCH_COUNTER`]) are a table of the same kind that nobody keeps.
//!
//! What a command that got no answer has done is not known. It wrote the value that the next one writes again, so the counter in the
//! TPM is never behind the one here, and one ahead of it at most.

use super::{Hardware, Pal, Pals};
use crate::asid::Incarnation;
use crate::tpm::Transport;
use crate::tpm::nv::{Auth, receive_written, write_command};
use abi::{LAUNCH_COUNTER, Status};
use core::sync::atomic::Ordering;
use utpm::{Counters, Increment};
use zeroize::Zeroizing;

/// How long the OS may keep its locality; and how long ours is kept then: Linux's driver gives up after 750 ms.
const LIMIT_MS: u64 = 5000;
const OURS_MS: u64 = 600;
/// How long others wait for whom it concerns to learn what came of an increment.
const TOLD_MS: u64 = 1000;
/// The TPM's memory wears, and any program can have a PAL that counts: so many increments since the launch, and one more for each of
/// these times.
const BURST: u64 = 256;
const SPACING_MS: u64 = 600_000;

/// The counters, and the increment under way.
pub struct Counting {
    counters: Counters,
    /// Those of this launch.
    launch: Counters,
    auth: Zeroizing<Auth>,
    commit: Option<Commit>,
    /// Increments that the TPM was given since then.
    begun: u64,
    since_ms: u64,
}

/// An increment under way, or its end.
struct Commit {
    /// Whose it is.
    pal: Incarnation,
    increment: Increment,
    stage: Stage,
    /// Since when the locality has been asked for, or ours, or given back.
    since_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The locality has been asked for.
    Asked,
    /// It was granted, and the TPM is to become ready.
    Granted,
    /// The TPM has the command.
    Sent,
    Kept,
    NotKept,
}

impl Counting {
    pub fn new(counters: Counters, auth: Zeroizing<Auth>, now_ms: u64) -> Self {
        let launch = Counters::new(&[0; Counters::SIZE]);
        Self { counters, launch, auth, commit: None, begun: 0, since_ms: now_ms }
    }

    /// One look at the increment under way. False: there is none.
    fn step(&mut self, hardware: &mut impl Hardware, now_ms: u64) -> bool {
        let Some(commit) = self.commit.as_mut().filter(|commit| commit.is_under_way()) else { return false };
        let tpm = &mut hardware.tpm();
        let late_ms = now_ms.saturating_sub(commit.since_ms);
        let next = match commit.stage {
            Stage::Asked if tpm.held() => Stage::Granted,
            Stage::Granted if tpm.is_ready() => {
                let (offset, bytes) = (commit.increment.offset(), commit.increment.bytes());
                let mut command = write_command(&self.auth, offset, bytes);
                self.begun += 1;
                let sent = command.finish().and_then(|command| tpm.send(command));
                sent.map_or(Stage::NotKept, |()| Stage::Sent)
            }
            Stage::Sent if tpm.has_answer() => match receive_written(tpm) {
                Ok(()) => {
                    self.counters.apply(&commit.increment);
                    Stage::Kept
                }
                Err(_) => Stage::NotKept,
            },
            stage if late_ms > if stage == Stage::Asked { LIMIT_MS } else { OURS_MS } => Stage::NotKept,
            stage => stage,
        };
        if next == Stage::Granted {
            tpm.make_ready();
        }
        if next != commit.stage && next != Stage::Sent {
            commit.since_ms = now_ms;
        }
        commit.stage = next;
        if !commit.is_under_way() {
            // The OS's turn, whatever the TPM is doing.
            tpm.make_ready();
            let _ = tpm.close();
        }
        commit.is_under_way()
    }
}

impl Commit {
    fn is_under_way(&self) -> bool {
        !matches!(self.stage, Stage::Kept | Stage::NotKept)
    }
}

impl Pals {
    /// One look at the increment under way, if there is one. False: there is none any more.
    pub fn commit(&self, hardware: &mut impl Hardware) -> bool {
        let now_ms = hardware.now_ms();
        // Whoever has the lock looks.
        let Some(mut counting) = self.tpm.counting.try_lock() else { return true };
        let under_way = counting.as_mut().is_some_and(|counting| counting.step(hardware, now_ms));
        self.committing.store(under_way, Ordering::Relaxed);
        under_way
    }

    /// `COUNTER_READ`.
    pub(super) fn counter_read(&self, pal: &Pal) -> Result<u64, Status> {
        let counting = self.tpm.counting.lock();
        let counting = counting.as_ref().ok_or(Status::Unsupported)?;
        let number = pal.regs.rdi;
        let table = if number & LAUNCH_COUNTER == 0 { &counting.counters } else { &counting.launch };
        Ok(table.read(&pal.pcrs.measurement().sha256, number))
    }

    /// `COUNTER_INCREMENT`; None while S has to wait.
    pub(super) fn counter_increment(
        &self,
        pal: &Pal,
        hardware: &mut impl Hardware,
    ) -> Option<Result<u64, Status>> {
        if pal.regs.rdi & LAUNCH_COUNTER != 0 {
            return Some(self.launch_increment(pal));
        }
        if self.commit(hardware) {
            return None;
        }
        let now_ms = hardware.now_ms();
        let mut counting = self.tpm.counting.lock();
        let Some(counting) = counting.as_mut() else { return Some(Err(Status::Unsupported)) };
        match &counting.commit {
            Some(commit) if commit.is_under_way() => return None,
            // S waits in one call at a time: its own is the one that it waits for.
            Some(ended) if ended.pal == pal.call.incarnation => {
                let kept = (ended.stage == Stage::Kept).then_some(ended.increment.value());
                counting.commit = None;
                return Some(kept.ok_or(Status::NotKept));
            }
            Some(ended) if now_ms.saturating_sub(ended.since_ms) <= TOLD_MS => return None,
            _ => {}
        }
        let identity = &pal.pcrs.measurement().sha256;
        let Some(increment) = counting.counters.increment(identity, pal.regs.rdi) else {
            return Some(Err(Status::TooMany));
        };
        if counting.begun >= BURST + now_ms.saturating_sub(counting.since_ms) / SPACING_MS {
            return Some(Err(Status::NotKept));
        }
        hardware.tpm().ask();
        let pal = pal.call.incarnation;
        counting.commit = Some(Commit { pal, increment, stage: Stage::Asked, since_ms: now_ms });
        self.committing.store(true, Ordering::Relaxed);
        None
    }

    fn launch_increment(&self, pal: &Pal) -> Result<u64, Status> {
        let mut counting = self.tpm.counting.lock();
        let counting = counting.as_mut().ok_or(Status::Unsupported)?;
        let identity = &pal.pcrs.measurement().sha256;
        let increment = counting.launch.increment(identity, pal.regs.rdi).ok_or(Status::TooMany)?;
        counting.launch.apply(&increment);
        Ok(increment.value())
    }
}
