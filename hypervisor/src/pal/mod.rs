//! PALs: pieces of application logic (*S*), each in frames of its own.
//!
//! # Life
//! `Free` → `Registering` → `Idle` ⇄ `InCall`, and from everywhere but `Free` → `Wiping` → `Free`.
//!
//! # Invariants
//! - A slot's frames are owned by the slot in [`Frames`] and named by S's page tables and [`Pal`] alone.
//! - Only the holder of a slot's lock touches its frames, runs its S or changes its state. The lock is held for one stay in the
//!   hypervisor, S's running included; nobody waits for it: a PAL that another processor has is `Busy`.
//! - S runs in `InCall` only, at most once a call.
//! - A slot becomes `Free` only when all its frames are zero and given back, and nothing in [`Pal`] tells of S any more.
//! - A token continues the operation it was given for and no other: it carries the slot and a count that never repeats.
//! - `count()` is the number of slots that are not `Free`; free and owned frames together are the pool.
//! - A handle that works names an `Idle` or `InCall` PAL; handles and incarnations never repeat.
//! - A call that ends in `Ok` has delivered all its results; one that ends otherwise has delivered none, or says so.
//! - A PAL is collected only if its owner is gone now, and no look and no call in the last [`collect::CONFIRM_MS`] said otherwise.
//! - A machine check while S runs reaches the OS, whatever else becomes of the PAL.
//!
//! `tests::model` tries them in all orders of events of a small world, `tests::full_size` in random ones of a large one.
//!
//! [`space`] builds S's memory, [`register`] and [`wipe`] fill and empty a slot, [`call`] is the way into S and back, with
//! [`buffers`] and S's own hypercalls ([`service`], [`counters`]), [`collect`] finds PALs whose owner died.

mod attested;
mod buffers;
pub mod call;
pub mod collect;
pub mod counters;
pub mod register;
mod service;
pub mod space;
pub mod wipe;

#[cfg(test)]
pub(crate) mod tests;

use crate::addr::Gva;
use crate::asid::Incarnation;
use crate::cpu::Cpu;
use crate::frames::Frames;
use crate::gprs::Gprs;
use crate::guest_memory::{Fault, GuestMemory, Space};
use crate::memory::{DirectMap, RamMap};
use crate::tpm::clock::TscClock;
use crate::tpm::tis::{Registers, Tis};
use crate::vmcb::{CR4_PKE, Maps};
use abi::{Handle, Status, TOKEN_BIT};
use arrayvec::ArrayVec;
use core::iter::repeat_with;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use space::PalFrames;
use spin::{Mutex, MutexGuard};
use utpm::{Identity, Pcrs, Root, random};

/// Most PALs at a time.
pub const MAX_PALS: usize = 512;
const SLOT_BITS: u32 = MAX_PALS.ilog2();

/// How many bytes one stay in the hypervisor copies or zeroes before it lets interrupts in.
pub const SLICE: u64 = 64 << 10;
/// How many bytes one stay hashes; hashing in software is slower than copying. Divides [`SLICE`].
pub const HASH_SLICE: u64 = 4 << 10;
/// Page faults on one spot of an operation that bring it no further.
const MAX_FAULTS: u8 = 3;

/// What a hypercall has come to: its value, if it is finished.
pub type Outcome = Result<u64, Stop>;

/// Why a hypercall has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It failed; a value that says more.
    Failed(u64, Status),
    /// Not finished: the guest gets its interrupts at the VMMCALL, with this token in RAX.
    Again(u64),
    /// Not begun: the guest gets its interrupts at the VMMCALL, then calls anew.
    Restart,
    /// A page is needed: #PF at the VMMCALL; with a token, the fault interrupts a call that goes on.
    Fault { gva: Gva, error_code: u32, token: Option<u64> },
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Failed(0, status)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::fault(fault, None)
    }
}

impl Stop {
    /// A fault of the guest-memory walker; with a token, of a call that goes on.
    fn fault(fault: Fault, token: Option<u64>) -> Self {
        match (fault.gva, fault.error_code) {
            (gva, Some(error_code)) => Self::Fault { gva, error_code, token },
            (gva, None) => Self::Failed(gva.0, Status::BadAddress),
        }
    }
}

/// What the life cycle asks of the processor it runs on.
pub trait Hardware {
    /// Runs S until its next exit. Its VMCB is complete but for what belongs to the processor (ASID).
    fn run_pal(&mut self, pal: &PalFrames, incarnation: Incarnation, regs: &mut Gprs);
    /// Milliseconds of a clock that the guest cannot set.
    fn now_ms(&self) -> u64;
    /// The guest's PKRU, which S cannot change. Only where the guest has enabled protection keys.
    fn pkru(&self) -> u32;
    /// The hardware TPM beside the OS.
    fn tpm(&mut self) -> Tis<impl Registers, TscClock>;
}

/// Who executed a VMMCALL: the OS's registers, and the processor that answers it.
pub struct Caller<'a, H> {
    pub cpu: &'a Cpu,
    pub hardware: &'a mut H,
}

impl<H: Hardware> Caller<'_, H> {
    /// The PAL that it names.
    pub fn handle(&self) -> Handle {
        Handle { low: self.cpu.regs.r10, high: self.cpu.regs.r11 }
    }

    /// Its memory. Made only where it is needed, for that takes longer than a call without buffers may.
    pub fn memory<'a>(&self, pals: &'a Pals) -> GuestMemory<'a> {
        let protected = self.cpu.os.save.cr4 & CR4_PKE != 0;
        let pkru = if protected { self.hardware.pkru() } else { 0 };
        self.cpu.memory(pals.mem, pals.ram, pkru)
    }
}

/// Random numbers, out of the processor's.
pub type Random = random::Random<fn() -> Option<u64>>;

/// What the micro-TPM works with.
pub struct MicroTpm {
    pub random: Mutex<Random>,
    /// What is sealed depends on it; none if the hardware TPM failed.
    pub root: Option<Root>,
    /// What quotes are signed with.
    pub identity: Option<Identity>,
    /// The image of the quoting PAL.
    pub quoting: &'static [u8],
    pub counting: Mutex<Option<counters::Counting>>,
    /// Launches with this root so far, 0 if that is not known.
    pub launches: u32,
}

/// All PALs and what they are made of.
pub struct Pals {
    pub mem: DirectMap,
    pub ram: RamMap<'static>,
    pub pool: Mutex<Frames>,
    pub tpm: MicroTpm,
    /// Whether an increment is on its way.
    pub committing: AtomicBool,
    /// Permission maps of a PAL's VMCB (every MSR and port intercepted).
    pub maps: Maps,
    /// Whether PALs can use the FPU on this machine.
    pub fpu: bool,
    slots: &'static [Slot; MAX_PALS],
    pass: Mutex<collect::Pass>,
    incarnations: AtomicU64,
    registered: AtomicU64,
}

/// A place for a PAL.
#[derive(Default)]
pub struct Slot {
    /// Handle and owner, readable without the lock; zero while the slot has no handle.
    handle: [AtomicU64; 2],
    owner_cr3: AtomicU64,
    /// The registration that is there, 0 for none.
    incarnation: AtomicU64,
    /// The registration that another processor wants gone: whoever runs it wipes it at its next exit.
    dying: AtomicU64,
    pal: Mutex<Pal>,
}

/// Where all places lie. [`Pals::new`] makes them: there is nothing of them in the measured image.
pub type Slots = ArrayVec<Slot, MAX_PALS>;

/// What is known of a PAL. The default but for `tokens` while the slot is free.
#[derive(Default)]
pub struct Pal {
    state: State,
    /// Its slot.
    index: usize,
    /// Tokens given out by this slot so far.
    tokens: u64,
    /// Page faults of the operation under way since it last got further.
    faults: u8,
    /// Where the owner keeps the handle.
    space: Space,
    owner_page: Gva,
    frames: PalFrames,
    regs: Gprs,
    pcrs: Pcrs,
    /// Its image is the runtime's own, that of the quoting PAL.
    quoting: bool,
    call: call::Call,
    attestation: attested::Attestation,
    /// Bytes of the parameter section that the last call used.
    param_used: u64,
    calls: u64,
    last_used_ms: u64,
    /// Since when `COLLECT` has found the owner page without the handle.
    suspect_since_ms: Option<u64>,
}

#[derive(Default)]
enum State {
    #[default]
    Free,
    Registering(register::Registration),
    Idle,
    InCall(call::Progress),
    Wiping(wipe::Wipe),
}

impl Pal {
    fn next_token(&mut self) -> u64 {
        self.tokens += 1;
        self.token()
    }

    /// The newest.
    fn token(&self) -> u64 {
        TOKEN_BIT | self.tokens << SLOT_BITS | self.index as u64
    }

    /// A page is missing: what its caller is told. With a token, the operation goes on when it is there.
    fn fault(&mut self, fault: Fault, goes_on: bool) -> Stop {
        self.faults += 1;
        match fault.error_code {
            Some(_) if self.faults > MAX_FAULTS => Stop::Failed(fault.gva.0, Status::NoProgress),
            Some(_) if goes_on => Stop::fault(fault, Some(self.next_token())),
            _ => fault.into(),
        }
    }
}

impl Pals {
    /// No PAL yet.
    pub fn new(
        mem: DirectMap,
        ram: RamMap<'static>,
        pool: Frames,
        tpm: MicroTpm,
        maps: Maps,
        fpu: bool,
        slots: &'static mut Slots,
    ) -> Self {
        slots.extend(repeat_with(Slot::default).take(MAX_PALS));
        Self {
            mem,
            ram,
            pool: Mutex::new(pool),
            tpm,
            committing: AtomicBool::new(false),
            maps,
            fpu,
            slots: slots.first_chunk().expect("all of them were made"),
            pass: Mutex::default(),
            incarnations: AtomicU64::new(1),
            registered: AtomicU64::new(0),
        }
    }

    /// Registered PALs, and those on their way in or out.
    pub fn count(&self) -> u64 {
        self.registered.load(Ordering::Relaxed)
    }

    /// The slot that this handle names, if it is the caller's, and the registration that was there before anything was looked at.
    #[inline(always)]
    fn find(&self, caller: &Caller<impl Hardware>) -> Result<(usize, Incarnation), Status> {
        let handle = caller.handle();
        let index = handle.low as usize % MAX_PALS;
        let slot = &self.slots[index];
        let incarnation = slot.incarnation.load(Ordering::Acquire);
        let is = |word: &AtomicU64, value: u64| word.load(Ordering::Acquire) == value;
        let matches = is(&slot.handle[0], handle.low)
            && is(&slot.handle[1], handle.high)
            && is(&slot.owner_cr3, caller.cpu.root().0)
            && (handle.low, handle.high) != (0, 0);
        if matches { Ok((index, incarnation)) } else { Err(Status::NoSuchPal) }
    }

    /// The caller's PAL that this handle names. The handle is looked at before the lock is asked for, so that strangers hold
    /// nobody up; that the slot still holds the same registration is seen under the lock.
    #[inline(always)]
    fn open(&self, caller: &Caller<impl Hardware>) -> Result<MutexGuard<'_, Pal>, Status> {
        let (index, incarnation) = self.find(caller)?;
        let pal = self.lock(index)?;
        if pal.call.incarnation == incarnation { Ok(pal) } else { Err(Status::NoSuchPal) }
    }

    /// The slot's PAL, unless another processor has it.
    #[inline(always)]
    fn lock(&self, index: usize) -> Result<MutexGuard<'_, Pal>, Status> {
        self.slots[index].pal.try_lock().ok_or(Status::Busy)
    }

    /// Continues what a token was given for. A call goes on for its handle only: tokens can be guessed, and the address space
    /// of a process that died may be another's by now.
    pub fn resume(&self, caller: &mut Caller<impl Hardware>, token: u64) -> Outcome {
        let index = token as usize % MAX_PALS;
        // Somebody looks at it, or continues it: then the token is worth nothing any more.
        let Ok(mut pal) = self.lock(index) else { return Err(Stop::Again(token)) };
        if pal.token() != token || pal.space.root != caller.cpu.root() {
            return Err(Status::Lost.into());
        }
        match pal.state {
            State::Registering(_) => self.continue_registration(caller, &mut pal),
            State::InCall(_) if self.find(caller).is_ok_and(|(found, _)| found == index) => {
                self.continue_call(caller, &mut pal)
            }
            State::Wiping(_) => {
                pal.last_used_ms = caller.hardware.now_ms();
                self.continue_wipe(&mut pal)
            }
            State::Free | State::Idle | State::InCall(_) => Err(Status::Lost.into()),
        }
    }

    /// `UNREGISTER` (an idle PAL) and `ABORT` (in the middle of a call as well).
    pub fn unregister(&self, caller: &Caller<impl Hardware>, in_call_too: bool) -> Outcome {
        let (index, incarnation) = self.find(caller)?;
        let mut locked = self.lock(index);
        if locked.is_err() && in_call_too {
            // Whoever has it sees this at S's next exit, or had the last one already: then it can be had now, or the next
            // call or continuation sees it.
            self.slots[index].dying.store(incarnation, Ordering::Release);
            locked = self.lock(index);
        }
        let Ok(mut pal) = locked else {
            return if in_call_too { Ok(0) } else { Err(Status::Busy.into()) };
        };
        if pal.call.incarnation != incarnation {
            return Err(Status::NoSuchPal.into());
        }
        match pal.state {
            State::Idle => {}
            State::InCall(_) if in_call_too => {}
            State::InCall(_) => return Err(Status::Busy.into()),
            State::Free | State::Registering(_) | State::Wiping(_) => return Err(Status::NoSuchPal.into()),
        }
        pal.last_used_ms = caller.hardware.now_ms();
        self.start_wipe(&mut pal, Ok(0))
    }

    /// `PAL_INFO`.
    pub fn pal_info(&self, caller: &Caller<impl Hardware>) -> Result<abi::PalInfo, Status> {
        let pal = self.open(caller)?;
        Ok(abi::PalInfo {
            measurement: *pal.pcrs.measurement(),
            reserved: [0; 4],
            pages: self.header(&pal).pages(),
            calls: pal.calls,
        })
    }

    /// Whether another processor wants this PAL gone.
    fn is_dying(&self, pal: &Pal) -> bool {
        self.slots[pal.index].dying.load(Ordering::Acquire) == pal.call.incarnation
    }
}
