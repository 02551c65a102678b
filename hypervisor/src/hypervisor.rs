//! What all processors share: the PALs, what the launch found, and what is counted.

use crate::addr::{Hpa, PAGE_SIZE};
use crate::cpu::Cpu;
use crate::launch::{Handover, tpm_family};
use crate::pal::Pals;
use crate::tpm::root::Blob;
use abi::{Info, RootState, info_flag};
use core::sync::atomic::{AtomicU64, Ordering};

/// The hypervisor.
pub struct Hypervisor {
    pub pals: Pals,
    pub counters: Counters,
    /// What keeps the root, to be saved.
    pub root_blob: Blob,
    /// The quoting PAL's RSA key, as the loader handed it in.
    pub key_blob: Blob,
    facts: Facts,
}

/// What does not change after the launch.
#[derive(Clone, Copy)]
pub struct Facts {
    pub reserve_base: u64,
    pub reserve_size: u64,
    pub flags: u32,
    pub parked_cpus: u32,
    /// PCI configuration space in memory: first byte, and first byte after it.
    pub config_space: (u64, u64),
    pub pcr17: abi::Digests,
    pub pcr18: abi::Digests,
    pub root: RootState,
}

impl Facts {
    /// From what the SLB handed over; `dma_unprotected` as the measured options say.
    pub fn new(
        handover: &Handover,
        dma_unprotected: bool,
        parked_cpus: u32,
        config_space: (u64, u64),
        root: RootState,
    ) -> Self {
        let mut flags = 0;
        for (set, flag) in [
            (handover.dynamic_launch != 0, info_flag::DYNAMIC_LAUNCH),
            (dma_unprotected, info_flag::DMA_UNPROTECTED),
            (handover.tpm_family == tpm_family::NONE, info_flag::NO_TPM),
            (handover.tpm_family == tpm_family::V12, info_flag::TPM_12),
        ] {
            if set {
                flags |= flag;
            }
        }
        Self {
            reserve_base: handover.info.reserve_base,
            reserve_size: handover.info.reserve_size,
            flags,
            parked_cpus,
            config_space,
            pcr17: handover.pcr17,
            pcr18: handover.pcr18,
            root,
        }
    }
}

/// What is counted.
#[derive(Default)]
pub struct Counters {
    pub exits: [AtomicU64; abi::exit::KINDS],
    pub ipis_refused: AtomicU64,
}

impl Counters {
    /// One more exit of this [`abi::exit`] kind.
    pub fn exit(&self, kind: usize) {
        self.exits[kind].fetch_add(1, Ordering::Relaxed);
    }
}

impl Hypervisor {
    /// Everything is set up, the OS not yet started.
    pub fn new(pals: Pals, facts: Facts, root_blob: Blob, key_blob: Blob) -> Self {
        Self { pals, counters: Counters::default(), root_blob, key_blob, facts }
    }

    /// Whether an address is one of PCI configuration space.
    pub fn is_config_space(&self, gpa: u64) -> bool {
        (self.facts.config_space.0..self.facts.config_space.1).contains(&gpa)
    }

    /// What `INFO` answers.
    pub fn info(&self, cpu: &Cpu) -> Info {
        let mut exits = [0; 16];
        for (shown, counted) in exits.iter_mut().zip(&self.counters.exits) {
            *shown = counted.load(Ordering::Relaxed);
        }
        let pool = self.pals.pool.lock();
        Info {
            version: abi::VERSION,
            flags: self.facts.flags,
            frames_total: pool.total().into(),
            frames_free: pool.free_count().into(),
            pals: self.pals.count(),
            reserve_base: self.facts.reserve_base,
            reserve_size: self.facts.reserve_size,
            pool_base: pool.base().0,
            parked_cpus: self.facts.parked_cpus.into(),
            exits,
            irq_off_max: cpu.held_max,
            ipis_refused: self.counters.ipis_refused.load(Ordering::Relaxed),
            pcr17: self.facts.pcr17,
            pcr18: self.facts.pcr18,
            root: self.facts.root as u32,
            reserved: 0,
        }
    }

    /// Zeroes every frame that may hold something of a PAL: control is about to be lost. Takes no lock: whoever holds one
    /// will not run again.
    pub fn wipe(&self, pool: (Hpa, u64)) {
        self.pals.mem.zero(pool.0, pool.1 * PAGE_SIZE);
    }
}
