//! What all processors share: the PALs, what the launch found, and what is counted.

use crate::addr::{Hpa, PAGE_SIZE};
use crate::cpu::Cpu;
use crate::dma::Faults;
use crate::pal::Pals;
use crate::tpm::root::Blob;
use abi::Info;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

/// The hypervisor.
pub struct Hypervisor {
    pub pals: Pals,
    /// Exits so far, by [`abi::exit`] kind.
    pub exits: [AtomicU64; abi::exit::KINDS],
    pub ipis_refused: AtomicU64,
    /// What keeps the root, to be saved.
    pub root_blob: Blob,
    /// The quoting PAL's RSA key, as the loader handed it in.
    pub key_blob: Blob,
    /// Where stores that fault do nothing: PCI configuration space in memory, and the chipset's registers.
    dropped: [Range<u64>; 3],
    /// What devices have tried.
    faults: Mutex<Faults>,
    /// What [`Self::info`] answers, but for what changes after the launch.
    facts: Info,
}

impl Hypervisor {
    /// Everything is set up, the OS not yet started. `facts` is what [`Self::info`] answers, but for what changes from now on.
    pub fn new(
        pals: Pals,
        facts: Info,
        dropped: [Range<u64>; 3],
        faults: Faults,
        root_blob: Blob,
        key_blob: Blob,
    ) -> Self {
        let exits = Default::default();
        let ipis_refused = AtomicU64::new(0);
        Self { pals, exits, ipis_refused, root_blob, key_blob, dropped, faults: Mutex::new(faults), facts }
    }

    /// One more exit of this [`abi::exit`] kind.
    pub fn count_exit(&self, kind: usize) {
        self.exits[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a store to this address that faults does nothing.
    pub fn drops_store(&self, gpa: u64) -> bool {
        self.dropped.iter().any(|range| range.contains(&gpa))
    }

    /// What `INFO` answers.
    pub fn info(&self, cpu: &Cpu) -> Info {
        let count = |kind: usize| self.exits.get(kind).map_or(0, |counted| counted.load(Ordering::Relaxed));
        let mut faults = self.faults.lock();
        faults.update(self.pals.mem);
        Info {
            frames_free: self.pals.pool.lock().free_count().into(),
            pals: self.pals.count(),
            exits: core::array::from_fn(count),
            irq_off_max: cpu.held_max,
            ipis_refused: self.ipis_refused.load(Ordering::Relaxed),
            dma_faults: faults.count,
            dma_fault: faults.last,
            ..self.facts
        }
    }

    /// Zeroes every frame that may hold something of a PAL: control is about to be lost. Takes no lock: whoever holds one
    /// will not run again.
    pub fn wipe(&self) {
        self.pals.mem.zero(Hpa(self.facts.pool_base), self.facts.frames_total * PAGE_SIZE);
    }
}
