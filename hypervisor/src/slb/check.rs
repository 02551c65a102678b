//! Is what the loader says possible? The loader is trusted with nothing; each rule here is one that SLB or runtime
//! would otherwise have to take its word for. All of it works on the SLB's own copy.

use core::fmt;

use crate::addr::LARGE_PAGE;
use crate::launch::{
    INFO_MAGIC, LaunchInfo, MAX_RESERVE, MIN_RESERVE, MemoryRegion, RESERVE_VA, RUNTIME_END, RUNTIME_MAGIC,
    RUNTIME_OFFSET, RuntimeHeader, region,
};
use crate::options::Options;

/// Why the launch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The loader's record breaks this rule.
    Info(&'static str),
    /// The runtime's image breaks this rule.
    Runtime(&'static str),
    /// Nothing keeps devices out, and the user has not said that this is understood.
    Dma,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Info(what) => write!(f, "the loader's record is wrong ({what})"),
            Self::Runtime(what) => write!(f, "the runtime's image is wrong ({what})"),
            Self::Dma => f.write_str(
                "nothing keeps devices out of TrustVisor's memory yet (say dma=unprotected to launch anyway)",
            ),
        }
    }
}

/// The options in the record; the rest of it is not looked at.
pub fn options(info: &LaunchInfo) -> Result<Options, Refusal> {
    ensure(info.magic == INFO_MAGIC, "magic")?;
    ensure(info.options.are_known(), "options")?;
    Ok(info.options)
}

/// Checks the rest of the record. `own_base` is where the SLB runs, `top_of_memory` the end of memory below 4 GiB as
/// the processor decodes it (MSR C001_001A, TOP_MEM; 0 if not known).
pub fn check_info(info: &LaunchInfo, own_base: u64, top_of_memory: u64) -> Result<(), Refusal> {
    if info.options.dma_unprotected == 0 {
        return Err(Refusal::Dma);
    }
    let (base, size) = (info.reserve_base, info.reserve_size);
    ensure(base == own_base, "the reserve is not where the SLB is")?;
    ensure(base.is_multiple_of(LARGE_PAGE) && size.is_multiple_of(LARGE_PAGE), "alignment of the reserve")?;
    ensure((MIN_RESERVE..=MAX_RESERVE).contains(&size), "size of the reserve")?;
    ensure(base <= (1 << 32) - size, "the reserve is not below 4 GiB")?;
    ensure(top_of_memory == 0 || base + size <= top_of_memory, "the reserve is not below TOP_MEM")?;

    let regions = info.regions.get(..info.region_count as usize).ok_or(Refusal::Info("number of regions"))?;
    ensure(regions.iter().all(|r| r.base.checked_add(r.size).is_some()), "a region wraps")?;
    for (index, region) in regions.iter().enumerate() {
        let twice = |other: &MemoryRegion| {
            region.kind == region::RAM && other.kind == region::RAM && overlap(region, other.base, other.size)
        };
        ensure(!regions[index + 1..].iter().any(twice), "memory named twice")?;
    }
    let holds = |r: &MemoryRegion| r.kind == region::RAM && r.base <= base && base + size <= r.base + r.size;
    ensure(regions.iter().any(holds), "the reserve is not memory")?;
    let disputed = |r: &MemoryRegion| r.kind != region::RAM && overlap(r, base, size);
    ensure(!regions.iter().any(disputed), "the reserve is not only memory")
}

/// Both without wrap-around, as checked before.
fn overlap(region: &MemoryRegion, base: u64, size: u64) -> bool {
    region.base.max(base) < (region.base + region.size).min(base + size)
}

/// Checks the runtime's header against the room there is.
pub fn check_runtime(header: &RuntimeHeader) -> Result<(), Refusal> {
    let ensure = |ok: bool, what| if ok { Ok(()) } else { Err(Refusal::Runtime(what)) };
    let first = RESERVE_VA + RUNTIME_OFFSET;
    ensure(header.magic == RUNTIME_MAGIC, "magic")?;
    ensure(header.image_size >= size_of::<RuntimeHeader>() as u64, "size of the image")?;
    ensure(header.image_size <= header.mem_size, "image larger than its memory")?;
    ensure(header.mem_size <= RUNTIME_END - RUNTIME_OFFSET, "too large")?;
    let code = first + size_of::<RuntimeHeader>() as u64..first + header.image_size;
    ensure(code.contains(&header.entry), "entry outside the image")
}

fn ensure(ok: bool, what: &'static str) -> Result<(), Refusal> {
    if ok { Ok(()) } else { Err(Refusal::Info(what)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::launch::{GuestStart, MAX_REGIONS};

    const BASE: u64 = 0x3000_0000;

    fn info() -> LaunchInfo {
        let mut info = LaunchInfo {
            magic: INFO_MAGIC,
            reserve_base: BASE,
            reserve_size: 64 << 20,
            rsdp: 0,
            skinit_missing: 0,
            region_count: 4,
            start_page: 0,
            guest: GuestStart::default(),
            root_len: 0,
            root: [0; crate::launch::MAX_ROOT_BLOB],
            key_blob_len: 0,
            key_blob: [0; crate::launch::KEY_BLOB_ROOM],
            options: Options { dma_unprotected: 1, ..Options::default() },
            regions: [MemoryRegion::default(); MAX_REGIONS],
        };
        let piece = |base, size, kind| MemoryRegion { base, size, kind, reserved: 0 };
        info.regions[0] = piece(0x10_0000, 0x3ff0_0000, region::RAM);
        info.regions[1] = piece(0, 0x9_fc00, region::RAM);
        info.regions[2] = piece(0xfffc_0000, 0x4_0000, region::RESERVED);
        info.regions[3] = piece(1 << 32, 1 << 30, region::RAM);
        info
    }

    fn check(info: &LaunchInfo) -> Result<(), Refusal> {
        assert_eq!(options(info)?, info.options);
        check_info(info, BASE, 0x4000_0000)
    }

    #[test]
    fn an_honest_record_passes() {
        assert_eq!(check(&info()), Ok(()));
    }

    #[test]
    fn dma_must_be_spoken_about() {
        let mut info = info();
        info.options.dma_unprotected = 0;
        assert_eq!(check(&info), Err(Refusal::Dma));
    }

    #[test]
    fn every_rule_is_checked() {
        type Lie = (&'static str, fn(&mut LaunchInfo));
        let lies: [Lie; 17] = [
            ("magic", |i| i.magic[7] ^= 1),
            ("options", |i| i.options.dma_unprotected = 2),
            ("options", |i| i.options.tpm_none = u32::MAX),
            ("options", |i| i.options.console = 0x3f9),
            ("options", |i| i.options.log = 0),
            ("the reserve is not where the SLB is", |i| i.reserve_base += LARGE_PAGE),
            ("alignment of the reserve", |i| i.reserve_size += 4096),
            ("size of the reserve", |i| i.reserve_size = MIN_RESERVE - LARGE_PAGE),
            ("size of the reserve", |i| i.reserve_size = MAX_RESERVE + LARGE_PAGE),
            ("number of regions", |i| i.region_count = MAX_REGIONS as u32 + 1),
            ("a region wraps", |i| i.regions[2].size = u64::MAX),
            ("memory named twice", |i| i.regions[1].size = 0x20_0000),
            ("memory named twice", |i| i.regions[3] = i.regions[0]),
            ("the reserve is not memory", |i| i.region_count = 0),
            ("the reserve is not memory", |i| i.regions[0].kind = region::RESERVED),
            ("the reserve is not memory", |i| i.regions[0].size = BASE - 0x10_0000 + (64 << 20) - 1),
            ("the reserve is not only memory", |i| i.regions[2].base = BASE + (64 << 20) - 1),
        ];
        for (rule, lie) in lies {
            let mut info = info();
            lie(&mut info);
            assert_eq!(check(&info), Err(Refusal::Info(rule)));
        }
    }

    #[test]
    fn the_reserve_ends_below_4_gib_and_top_of_memory() {
        let mut info = info();
        let at = |info: &LaunchInfo, top| check_info(info, info.reserve_base, top);
        assert_eq!(at(&info, BASE + (64 << 20)), Ok(()));
        assert_eq!(at(&info, 0), Ok(()));
        let below = Refusal::Info("the reserve is not below TOP_MEM");
        assert_eq!(at(&info, BASE + (64 << 20) - 1), Err(below));

        info.regions[0].size = (1 << 32) - 0x10_0000;
        info.region_count = 2;
        info.reserve_base = (1 << 32) - (64 << 20);
        assert_eq!(at(&info, 0), Ok(()));
        for base in [info.reserve_base + LARGE_PAGE, 1 << 32, u64::MAX - LARGE_PAGE + 1] {
            info.reserve_base = base;
            assert_eq!(at(&info, 0), Err(Refusal::Info("the reserve is not below 4 GiB")));
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
        assert_eq!(check_runtime(&good), Ok(()));
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
            assert_eq!(check_runtime(&header), Err(Refusal::Runtime(rule)));
        }
    }

    proptest! {
        #[test]
        fn no_record_makes_the_check_panic(
            numbers in prop::array::uniform8(any::<u64>()), counts: [u32; 3], pieces: [(u64, u64, u32); 4]
        ) {
            let mut info = info();
            [info.reserve_base, info.reserve_size] = [numbers[0], numbers[1]];
            [info.options.console, info.region_count, info.start_page] = counts;
            for (region, (base, size, kind)) in info.regions.iter_mut().zip(pieces) {
                *region = MemoryRegion { base, size, kind: kind % 3, reserved: 0 };
            }
            let _ = options(&info);
            prop_assert!(check_info(&info, numbers[0], numbers[2]).is_err());
        }
    }
}
