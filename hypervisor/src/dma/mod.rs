//! Devices: what keeps them out of TrustVisor's memory. The IOMMU where there is one ([`amdvi`]), the northbridges' DEV where there was none
//! yet ([`dev`]).
//!
//! The SLB closes all memory to them before it reads the runtime ([`close`]); the runtime opens what is the OS's ([`open`]), before the OS
//! starts, and nothing of it changes after. Where a machine has nothing of the kind, the launch is refused, unless
//! `dma=unprotected` was said.

pub mod amdvi;
pub mod dev;
mod skinit;
pub mod tables;

use crate::addr::{Hpa, PAGE_SIZE};
use crate::check::iommus;
use crate::ioports::Ports;
use crate::launch::{
    DEVICE_TABLE_OFFSET, Handover, Iommu, LaunchInfo, MAX_IOMMUS, SLB_COMMANDS, SLB_DEVICE_TABLE,
    TABLES_OFFSET, ensure,
};
use crate::memory::DirectMap;
use crate::npt::{self, TPM};
use crate::pci;
use crate::tables::TableArea;
use amdvi::{AmdVi, Mmio};
use arrayvec::ArrayVec;
use core::ops::Range;
use tables::{CLOSED, DEVICE_TABLE, Reach};

/// What keeps devices out: nothing.
pub const UNPROTECTED: u32 = 0;
/// The IOMMUs.
pub const AMD_VI: u32 = 1;
/// The northbridges.
pub const DEV: u32 = 2;

const NOTHING: &str =
    "nothing keeps devices out: no IOMMU (it may be off in the firmware), no DEV, and no dma=unprotected";

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

/// From the SLB: devices reach nothing any more, or with a DEV nothing of what SLB and runtime are in; returns what keeps them out.
/// `mmio_cfg_base` is the processor's register that says where configuration space is in memory.
pub fn close(
    ports: &impl Ports,
    mem: DirectMap,
    info: &LaunchInfo,
    mmio_cfg_base: u64,
) -> Result<u32, &'static str> {
    let devs = dev::find(ports);
    devs.iter().try_for_each(|dev| dev.turn_gart_off(ports))?;
    if info.options.dma_unprotected != 0 {
        return Ok(UNPROTECTED);
    }
    pci::stop_devices(ports);
    let iommus = iommus(info)?;
    amdvi::check(ports, iommus)?;
    let base = Hpa(info.reserve_base);
    let release = || skinit::release(ports, mem, &devs, pci::processors(mmio_cfg_base)?.unwrap_or(0..0));
    if iommus.is_empty() {
        ensure(!devs.is_empty(), NOTHING)?;
        let bitmap = dev::window(base + SLB_DEVICE_TABLE, base);
        exclude(mem, bitmap, base.0..base.0 + TABLES_OFFSET);
        devs.iter().try_for_each(|dev| dev.protect(ports, bitmap))?;
        return release().map(|()| DEV);
    }
    let set = |work, table, size| {
        tables::fill(mem, base + table, size, CLOSED);
        let driver = |iommu| driver(mem, iommu, None);
        iommus
            .iter()
            .map(driver)
            .try_for_each(|iommu| iommu.set(mem, base + work, base + table, size / PAGE_SIZE))
    };
    // First a small table, in the block, closes memory to some devices by its entries, to all others by having none for them. While SKINIT
    // protects the block, IOMMUs cannot read it either, and what they cannot read is closed; they forget what they knew by commands
    // from elsewhere, which no PCI device changes, for none is at work: so nothing is open between.
    set(DEVICE_TABLE_OFFSET, SLB_DEVICE_TABLE, PAGE_SIZE)?;
    release()?;
    set(SLB_COMMANDS, SLB_DEVICE_TABLE, PAGE_SIZE)?;
    // Then a whole one, for an emulator does not look at a table's size.
    set(SLB_COMMANDS, DEVICE_TABLE_OFFSET, DEVICE_TABLE)?;
    Ok(AMD_VI)
}

/// Closes these pages in a DEV's bitmap.
fn exclude(mem: DirectMap, bitmap: Hpa, pages: Range<u64>) {
    for (byte, bit) in pages.step_by(PAGE_SIZE as usize).map(dev::bit) {
        let mut bits = [0];
        mem.copy_from(bitmap + byte, &mut bits);
        mem.copy_to(bitmap + byte, &[bits[0] | bit]);
    }
}

/// From the runtime: devices reach what is theirs. The table that the SLB has closed is filled anew where it lies; the DEV's bitmap takes
/// its place.
pub fn open(
    ports: &impl Ports,
    mem: DirectMap,
    area: &mut TableArea,
    handover: &Handover,
    reach: &Reach<'_>,
) -> Result<Faults, &'static str> {
    let info = &handover.info;
    let table = Hpa(info.reserve_base) + DEVICE_TABLE_OFFSET;
    let mut faults = Faults::default();
    match handover.dma {
        UNPROTECTED => {}
        DEV => {
            mem.zero(table, dev::BITMAP_SIZE);
            let tpm = TPM.0..TPM.0 + 5 * PAGE_SIZE;
            for pages in reach.never.iter().cloned().chain([tpm]).filter(|pages| pages.end <= 4 << 30) {
                exclude(mem, table, pages);
            }
            dev::find(ports).iter().try_for_each(|dev| dev.protect(ports, table))?;
        }
        _ => {
            let root = tables::build(area, reach);
            let interrupts = tables::interrupts(area, mem.read_u32(npt::LAPIC + APIC_ID) >> 24);
            tables::fill(mem, table, DEVICE_TABLE, tables::open(root, interrupts));
            let work = area.take(1);
            for iommu in iommus(info)? {
                let log = area.take(1);
                driver(mem, iommu, Some(log)).set(mem, work, table, DEVICE_TABLE / PAGE_SIZE)?;
                faults.logs.push((*iommu, log));
            }
        }
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
