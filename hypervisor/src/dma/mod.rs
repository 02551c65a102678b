//! Devices: what keeps them out of TrustVisor's memory. The IOMMU where there is one ([`amdvi`]).
//!
//! The SLB closes all memory to them before it reads the runtime ([`close`]); the runtime opens what is the OS's ([`open`]), before the OS
//! starts, and nothing of it changes after. Where a machine has nothing of the kind, the launch is refused, unless
//! `dma=unprotected` was said.

pub mod amdvi;
pub mod tables;

use crate::addr::{Hpa, PAGE_SIZE};
use crate::check::iommus;
use crate::ioports::Ports;
use crate::launch::{
    DEVICE_TABLE_OFFSET, Handover, Iommu, LaunchInfo, MAX_IOMMUS, SLB_COMMANDS, SLB_DEVICE_TABLE, ensure,
};
use crate::memory::DirectMap;
use crate::npt;
use crate::tables::TableArea;
use amdvi::{AmdVi, Mmio};
use arrayvec::ArrayVec;
use core::ops::Range;
use tables::{CLOSED, DEVICE_TABLE, Reach};

/// What keeps devices out: nothing.
pub const UNPROTECTED: u32 = 0;
/// The IOMMUs.
pub const AMD_VI: u32 = 1;

/// Register of the local APIC (APM vol. 2, 16.3.3).
const APIC_ID: u64 = 0x20;

fn driver(mem: DirectMap, iommu: &Iommu, log: Option<Hpa>) -> AmdVi<Mmio> {
    AmdVi { registers: Mmio { mem, base: Hpa(iommu.base) }, log }
}

/// Where the registers of IOMMUs are, which are nobody's but TrustVisor's.
pub fn registers(
    mem: DirectMap,
    info: &LaunchInfo,
) -> Result<ArrayVec<Range<u64>, MAX_IOMMUS>, &'static str> {
    let range = |iommu: &Iommu| iommu.base..iommu.base + driver(mem, iommu, None).size();
    let protected = info.options.dma_unprotected == 0;
    Ok(iommus(info)?.iter().filter(|_| protected).map(range).collect())
}

/// From the SLB: devices reach nothing any more; returns what keeps them out.
///
/// First by a small table, in what SKINIT protects: it closes memory to some devices by its entries, to all others by having none for them.
/// Then by a whole one, for an emulator does not look at a table's size.
pub fn close(ports: &impl Ports, mem: DirectMap, info: &LaunchInfo) -> Result<u32, &'static str> {
    const NOTHING: &str =
        "nothing keeps devices out: no IOMMU (it may be off in the firmware), and no dma=unprotected";
    if info.options.dma_unprotected != 0 {
        return Ok(UNPROTECTED);
    }
    let iommus = iommus(info)?;
    amdvi::check(ports, iommus)?;
    ensure(!iommus.is_empty(), NOTHING)?;
    let base = Hpa(info.reserve_base);
    for (offset, size) in [(SLB_DEVICE_TABLE, PAGE_SIZE), (DEVICE_TABLE_OFFSET, DEVICE_TABLE)] {
        tables::fill(mem, base + offset, size, CLOSED);
        for iommu in iommus {
            driver(mem, iommu, None).set(mem, base + SLB_COMMANDS, base + offset, size / PAGE_SIZE)?;
        }
    }
    Ok(AMD_VI)
}

/// From the runtime: devices reach what is theirs. The table that the SLB has closed is filled anew where it lies.
pub fn open(
    mem: DirectMap,
    area: &mut TableArea,
    handover: &Handover,
    reach: &Reach<'_>,
) -> Result<Faults, &'static str> {
    let mut faults = Faults::default();
    if handover.dma == UNPROTECTED {
        return Ok(faults);
    }
    let info = &handover.info;
    let root = tables::build(area, reach);
    let table = Hpa(info.reserve_base) + DEVICE_TABLE_OFFSET;
    let interrupts = tables::interrupts(area, mem.read_u32(npt::LAPIC + APIC_ID) >> 24);
    tables::fill(mem, table, DEVICE_TABLE, tables::open(root, interrupts));
    let work = area.take(1);
    for iommu in iommus(info)? {
        let log = area.take(1);
        driver(mem, iommu, Some(log)).set(mem, work, table, DEVICE_TABLE / PAGE_SIZE)?;
        faults.logs.push((*iommu, log));
    }
    Ok(faults)
}

/// What IOMMUs have stopped.
#[derive(Default)]
pub struct Faults {
    logs: ArrayVec<(Iommu, Hpa), MAX_IOMMUS>,
    /// Events so far.
    pub count: u64,
    /// The last of them (AMD I/O Virtualization Technology Specification 3.08, 2.5).
    pub last: [u64; 2],
}

impl Faults {
    /// Looks what has happened since.
    pub fn update(&mut self, mem: DirectMap) {
        for (iommu, log) in &self.logs {
            if let (more @ 1.., last) = driver(mem, iommu, Some(*log)).take_events(mem) {
                self.count += more;
                self.last = last;
            }
        }
    }
}
