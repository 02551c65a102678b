//! Is what the loader says possible? The loader is trusted with nothing; each rule here is one that SLB or runtime would otherwise
//! have to take its word for. Both make the same checks, on the SLB's own copy: the SLB, so that it does not start the runtime in vain,
//! the runtime, so that it relies on nobody.

use crate::addr::{Hpa, LARGE_PAGE};
use crate::dma::amdvi::{REGISTERS, WITH_COUNTERS};
use crate::launch::{
    INFO_MAGIC, Iommu, LaunchInfo, MAX_RESERVE, MIN_RESERVE, RESERVE_VA, RUNTIME_END, RUNTIME_MAGIC,
    RUNTIME_OFFSET, RuntimeHeader, ensure,
};
use crate::memory::{RamMap, Run};
use crate::options::Options;

/// MSR TOP_MEM (APM vol. 2, 7.9.4): the border between RAM and I/O below 4 GiB. Below another hypervisor it may be missing: what memory
/// is, that one decides.
pub const TOP_MEM: u32 = 0xc001_001a;

/// The options in the record; the rest of it is not looked at.
pub fn options(info: &LaunchInfo) -> Result<Options, &'static str> {
    ensure(info.magic == INFO_MAGIC, "magic")?;
    ensure(info.options.are_known(), "options")?;
    Ok(info.options)
}

/// The firmware's list of IOMMUs.
pub fn iommus(info: &LaunchInfo) -> Result<&[Iommu], &'static str> {
    info.iommus.get(..info.iommu_count as usize).ok_or("length of the list of IOMMUs")
}

/// Checks the record and returns the OS's memory. `own_base` is where the SLB runs, `top_of_memory` the end of memory below 4 GiB as
/// the processor decodes it ([`TOP_MEM`]; 0 if not known).
#[inline(never)]
pub fn record(info: &LaunchInfo, own_base: u64, top_of_memory: u64) -> Result<RamMap<'_>, &'static str> {
    options(info)?;
    let (base, size) = (info.reserve_base, info.reserve_size);
    ensure(base == own_base, "the reserve is not where the SLB is")?;
    ensure(base.is_multiple_of(LARGE_PAGE) && size.is_multiple_of(LARGE_PAGE), "alignment of the reserve")?;
    ensure((MIN_RESERVE..=MAX_RESERVE).contains(&size), "size of the reserve")?;
    ensure(base <= (1 << 32) - size, "the reserve is not below 4 GiB")?;
    ensure(top_of_memory == 0 || base + size <= top_of_memory, "the reserve is not below TOP_MEM")?;
    let ram = RamMap::new(info.ram.get(..info.ram_count as usize).ok_or("length of the memory map")?)?;
    let reserve = Run { start: Hpa(base), end: Hpa(base + size) };
    reserve.check()?;
    ensure(!ram.overlaps(&reserve), "the OS has what TrustVisor needs")?;
    for Iommu { base, .. } in iommus(info)? {
        let fits = base.is_multiple_of(REGISTERS) && (top_of_memory..=(1 << 32) - REGISTERS).contains(base);
        let registers = Run { start: Hpa(*base), end: Hpa(base.saturating_add(REGISTERS)) };
        let over_ram = registers.overlaps(&reserve) || ram.overlaps(&registers);
        let alone =
            iommus(info)?.iter().filter(|other| other.base.abs_diff(*base) < WITH_COUNTERS).count() == 1;
        ensure(fits && !over_ram && alone, "the registers of an IOMMU are where none can be")?;
    }
    Ok(ram)
}

/// Whether RAM is where it seems to be: no range of it is turned into I/O or back (APM vol. 2, 7.9.2), and TOP_MEM counts (SYSCFG). A
/// register that the processor does not have reads as 0.
pub fn decoding(msr: impl Fn(u32) -> u64) -> Result<(), &'static str> {
    const IORR_MASKS: [u32; 2] = [0xc001_0017, 0xc001_0019];
    const SYSCFG: u32 = 0xc001_0010;
    ensure(IORR_MASKS.iter().all(|mask| msr(*mask) & 1 << 11 == 0), "an I/O range register is in use")?;
    ensure(msr(TOP_MEM) == 0 || msr(SYSCFG) & 1 << 20 != 0, "TOP_MEM does not count")
}

/// Checks the runtime's header against the room there is.
pub fn runtime(header: &RuntimeHeader) -> Result<(), &'static str> {
    let first = RESERVE_VA + RUNTIME_OFFSET;
    ensure(header.magic == RUNTIME_MAGIC, "magic")?;
    ensure(header.image_size >= size_of::<RuntimeHeader>() as u64, "size of the image")?;
    ensure(header.image_size <= header.mem_size, "image larger than its memory")?;
    ensure(header.mem_size <= RUNTIME_END - RUNTIME_OFFSET, "too large")?;
    let code = first + size_of::<RuntimeHeader>() as u64..first + header.image_size;
    ensure(code.contains(&header.entry), "entry outside the image")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::launch::{GuestStart, MAX_IOMMUS, MAX_RUNS};

    const BASE: u64 = 0x3000_0000;

    fn info() -> LaunchInfo {
        let mut info = LaunchInfo {
            magic: INFO_MAGIC,
            reserve_base: BASE,
            reserve_size: 64 << 20,
            skinit_missing: 0,
            ram_count: 4,
            iommu_count: 1,
            reserved: 0,
            guest: GuestStart::default(),
            root_len: 0,
            root: [0; crate::launch::MAX_ROOT_BLOB],
            key_blob_len: 0,
            key_blob: [0; crate::launch::KEY_BLOB_ROOM],
            options: Options::default(),
            iommus: [Iommu { function: 2, base: 0xfeb8_0000 }; MAX_IOMMUS],
            ram: [Run::default(); MAX_RUNS],
        };
        let run = |start, end| Run { start: Hpa(start), end: Hpa(end) };
        info.ram[0] = run(0, 0x9_e000);
        info.ram[1] = run(0x10_0000, BASE);
        info.ram[2] = run(BASE + (64 << 20), 0x3fff_0000);
        info.ram[3] = run(1 << 32, 5 << 30);
        info
    }

    fn check(info: &LaunchInfo) -> Result<RamMap<'_>, &'static str> {
        assert_eq!(options(info)?, info.options);
        record(info, BASE, 0x4000_0000)
    }

    #[test]
    fn an_honest_record_passes() {
        let info = info();
        assert_eq!(check(&info).unwrap().runs(), &info.ram[..4]);
    }

    /// Where nobody says how far memory reaches, below another hypervisor.
    #[test]
    fn no_iommu_in_the_os_s_memory() {
        let mut info = info();
        info.iommus[0].base = 0x3ffe_c000;
        assert!(record(&info, BASE, 0).is_err());
        info.iommus[0].base = 0x3fff_0000;
        assert!(record(&info, BASE, 0).is_ok());
    }

    #[test]
    fn ram_is_where_it_seems() {
        let with = |registers: &'static [(u32, u64)]| {
            decoding(|msr| registers.iter().find(|(number, _)| *number == msr).map_or(0, |(_, value)| *value))
        };
        assert_eq!(with(&[]), Ok(()), "an emulator");
        assert_eq!(with(&[(TOP_MEM, 0x8000_0000), (0xc001_0010, 0x30_0000), (0xc001_0017, 0x7ff)]), Ok(()));
        assert!(with(&[(TOP_MEM, 0x8000_0000), (0xc001_0010, 0x20_0000)]).is_err());
        for iorr in [&[(0xc001_0017, 0xfff0_0800)], &[(0xc001_0019, 0x800)]] {
            assert!(with(iorr).is_err());
        }
    }

    #[test]
    fn every_rule_is_checked() {
        type Lie = (&'static str, fn(&mut LaunchInfo));
        let lies: [Lie; 23] = [
            ("magic", |i| i.magic[7] ^= 1),
            ("options", |i| i.options.dma_unprotected = 2),
            ("length of the list of IOMMUs", |i| i.iommu_count = 17),
            ("the registers of an IOMMU are where none can be", |i| i.iommus[0].base += 0x2000),
            ("the registers of an IOMMU are where none can be", |i| i.iommu_count = 2),
            ("the registers of an IOMMU are where none can be", |i| i.iommus[0].base = BASE + 0x4000),
            ("the registers of an IOMMU are where none can be", |i| i.iommus[0].base = 0x3fff_c000),
            ("the registers of an IOMMU are where none can be", |i| i.iommus[0].base = 1 << 32),
            ("the registers of an IOMMU are where none can be", |i| i.iommus[0].base = u64::MAX << 14),
            ("options", |i| i.options.tpm_none = u32::MAX),
            ("options", |i| i.options.console = 0x3f9),
            ("options", |i| i.options.log = 0),
            ("the reserve is not where the SLB is", |i| i.reserve_base += LARGE_PAGE),
            ("alignment of the reserve", |i| i.reserve_size += 4096),
            ("size of the reserve", |i| i.reserve_size = MIN_RESERVE - LARGE_PAGE),
            ("size of the reserve", |i| i.reserve_size = MAX_RESERVE + LARGE_PAGE),
            ("length of the memory map", |i| i.ram_count = MAX_RUNS as u32 + 1),
            ("the memory map has RAM that is no whole pages", |i| i.ram[2].end = Hpa(0x3fff_0001)),
            ("the memory map is not in order", |i| i.ram[3] = i.ram[2]),
            ("the memory map has RAM where devices are", |i| i.ram[2].end = Hpa(0xfee0_1000)),
            ("the OS has what TrustVisor needs", |i| i.ram[1].end = Hpa(BASE + 0x1000)),
            ("the OS has what TrustVisor needs", |i| i.ram[2].start = Hpa(BASE + (64 << 20) - 0x1000)),
            ("the OS has what TrustVisor needs", |i| i.ram[1].end = i.ram[2].start),
        ];
        for (rule, lie) in lies {
            let mut info = info();
            lie(&mut info);
            assert_eq!(check(&info).err(), Some(rule));
        }
    }

    #[test]
    fn the_reserve_ends_below_4_gib_and_top_of_memory() {
        let mut info = info();
        let at = |info: &LaunchInfo, top| record(info, info.reserve_base, top).err();
        assert_eq!(at(&info, BASE + (64 << 20)), None);
        assert_eq!(at(&info, 0), None);
        assert_eq!(at(&info, BASE + (64 << 20) - 1), Some("the reserve is not below TOP_MEM"));

        // The last that is below 4 GiB lies over devices.
        info.reserve_base = (1 << 32) - (64 << 20);
        assert_eq!(at(&info, 0), Some("the memory map has RAM where devices are"));
        for base in [info.reserve_base + LARGE_PAGE, 1 << 32, u64::MAX - LARGE_PAGE + 1] {
            info.reserve_base = base;
            assert_eq!(at(&info, 0), Some("the reserve is not below 4 GiB"));
        }
    }

    #[test]
    fn runtime_headers() {
        let first = RESERVE_VA + RUNTIME_OFFSET;
        let good = RuntimeHeader {
            magic: RUNTIME_MAGIC,
            image_size: 0x1000,
            mem_size: RUNTIME_END - RUNTIME_OFFSET,
            entry: first + 0xfff,
        };
        assert_eq!(runtime(&good), Ok(()));
        let bad = [
            ("magic", RuntimeHeader { magic: INFO_MAGIC, ..good }),
            ("size of the image", RuntimeHeader { image_size: 31, ..good }),
            ("image larger than its memory", RuntimeHeader { mem_size: 0xfff, ..good }),
            ("too large", RuntimeHeader { mem_size: good.mem_size + 1, ..good }),
            ("too large", RuntimeHeader { image_size: u64::MAX, mem_size: u64::MAX, ..good }),
            ("entry outside the image", RuntimeHeader { entry: first + 31, ..good }),
            ("entry outside the image", RuntimeHeader { entry: first + 0x1000, ..good }),
            ("entry outside the image", RuntimeHeader { entry: 0, ..good }),
        ];
        for (rule, header) in bad {
            assert_eq!(runtime(&header), Err(rule));
        }
    }

    proptest! {
        #[test]
        fn no_record_makes_the_check_panic(
            numbers in prop::array::uniform8(any::<u64>()), counts: [u32; 3], pieces: [(u64, u64); 4]
        ) {
            let mut info = info();
            [info.reserve_base, info.reserve_size] = [numbers[0], numbers[1]];
            [info.options.console, info.ram_count, info.iommu_count] = counts;
            for (run, (start, end)) in info.ram.iter_mut().zip(pieces) {
                *run = Run { start: Hpa(start), end: Hpa(end) };
            }
            let _ = options(&info);
            prop_assert!(record(&info, numbers[0], numbers[2]).is_err());
        }
    }
}
