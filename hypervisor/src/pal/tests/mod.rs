//! The life cycle, driven on a host.
//!
//! Single properties, each a test that says what happens: [`life`], [`strangers`], [`buffers`], [`images`], [`owners`],
//! [`meanwhile`], on a [`machine`] whose S does what the test says.
//!
//! All orders of events: a [`world`] in which the OS's steps and S's are [`play`]ed with the production code, with an S
//! ([`s`]) that looks at all it can reach. Who may die is in [`deaths`], what must hold after
//! every step in [`invariants`], what of every state in [`endings`]. [`model`] tries all sequences in a
//! small world, coming back to [`snapshot`]s of it; [`full_size`] tries random ones in a large world.

use super::*;
use crate::addr::Hpa;
use crate::cpu::Features;
use crate::memory::{Run, TestMemory};
use abi::Info;
use std::cell::Cell;

mod attested;
mod buffers;
mod counters;
mod deaths;
mod endings;
mod full_size;
mod gaps;
mod images;
mod invariants;
mod life;
mod machine;
mod meanwhile;
mod model;
mod owners;
mod play;
mod quoting;
mod s;
mod sealing;
mod snapshot;
mod strangers;
mod world;

pub(crate) const OS_RAM: u64 = 0x10_0000;
pub(crate) const POOL: u64 = 0x20_0000;
pub(crate) const END: u64 = 0x60_0000;

/// Authenticates reports.
const REPORT_KEY: [u8; 32] = [2; 32];

/// No PALs yet, over memory of at least [`END`] bytes.
pub(crate) fn pals(memory: &TestMemory) -> Pals {
    pals_until(memory, END)
}

/// The same, with a pool that ends at `end`.
fn pals_until(memory: &TestMemory, end: u64) -> Pals {
    let ram = RamMap::new(&[Run { start: Hpa(OS_RAM), end: Hpa(POOL) }]).unwrap();
    let frames = Frames::new(memory.map(), Hpa(POOL), Hpa(end));
    let maps = Maps { nested_cr3: Hpa(0), msrpm: Hpa(0), iopm: Hpa(0) };
    // SAFETY: a list that is all zero is an empty one. As a value it would go over the stack, which is not large enough for it.
    let slots = Box::leak(unsafe { Box::<Slots>::new_zeroed().assume_init() });
    let root = Root::new(&[1; Root::SIZE], [0; 32]);
    let identity = Identity::new(&root, &REPORT_KEY, utpm::digest(b"no key blob"), &[]);
    let quoting = machine::image_bytes(&machine::header()).leak();
    let secrets = MicroTpm {
        random: Mutex::new(random()),
        root: Some(root),
        identity: Some(identity),
        quoting,
        counting: Mutex::new(None),
        launches: 3,
    };
    Pals::new(memory.map(), ram, frames, secrets, maps, true, slots)
}

/// The same numbers for every machine.
fn random() -> Random {
    thread_local!(static WORD: Cell<u64> = const { Cell::new(0) });
    WORD.set(0);
    let words: fn() -> Option<u64> = || {
        WORD.set(WORD.get() + 1);
        Some(WORD.get())
    };
    Random::seeded(words, &[]).unwrap()
}

/// Nobody asks for it: there are no counters.
pub(crate) fn no_tpm() -> Tis<impl Registers, TscClock> {
    Option::<Tis<crate::tpm::mmio::Mmio, TscClock>>::default().expect("a TPM")
}

/// A processor without anything special.
pub(crate) const FEATURES: Features = Features {
    nrip: false,
    flush_by_asid: true,
    asids: 16,
    phys_bits: 40,
    pku: false,
    fpu: true,
    writable_efer: 0xd01,
    apic_base: 0xfee0_0900,
};

/// A program in the address space at `root` that executes a VMMCALL with this handle and these arguments.
pub(crate) fn program(root: u64, handle: Handle, args: &Gprs) -> Cpu {
    let mut cpu = Cpu::new(FEATURES, 1);
    let save = &mut cpu.os.save;
    (save.cr0, save.cr3, save.cr4, save.efer) = (1 << 31 | 1 << 16, root, 0x20, 0xd01);
    cpu.regs = Gprs { r10: handle.low, r11: handle.high, ..*args };
    cpu
}

/// A hypercall that failed and has no more to say.
pub(crate) fn failed(status: Status) -> Outcome {
    Err(status.into())
}

/// Where PCI configuration space is.
pub(crate) const CONFIG_SPACE: core::ops::Range<u64> = 0xb000_0000..0xc000_0000;

pub(crate) fn facts() -> Info {
    Info { version: abi::VERSION, reserve_base: POOL, reserve_size: END - POOL, ..Info::default() }
}
