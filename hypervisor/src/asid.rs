//! Address space identifiers: a processor's TLB entries carry one, so that a switch between the OS and a PAL flushes nothing.
//!
//! Each processor has its own table: an ASID belongs to one incarnation of a PAL (a registration: never repeated), and is
//! flushed when it goes to another. There may be more PALs than ASIDs: which one an incarnation gets is fixed, and whoever had it
//! yields. So a PAL never runs with translations of another, on any processor, whatever ran in between (shown by the TLB of the
//! model of [`crate::pal`], because QEMU flushes everything at every switch).

use crate::vmcb::{OS_ASID, tlb};

/// One registration of a PAL; never 0, never repeated.
pub type Incarnation = u64;

/// ASIDs of PALs that one processor keeps apart at most.
const MAX_PAL_ASIDS: usize = 64;

/// The host's, the OS's, and one for PALs.
pub const MIN_ASIDS: u32 = 3;

/// A processor's assignment of ASIDs to incarnations.
#[cfg_attr(test, derive(Clone))]
pub struct Asids {
    holders: [Incarnation; MAX_PAL_ASIDS],
    /// How many of them are used, a power of two, less one.
    mask: usize,
    flush: u32,
}

impl Asids {
    /// `asids` as CPUID 8000_000A EBX says, at least [`MIN_ASIDS`].
    pub const fn new(asids: u32, flush_by_asid: bool) -> Self {
        let free = asids.saturating_sub(OS_ASID + 1) as usize;
        assert!(free > 0, "too few ASIDs");
        let count = if free < MAX_PAL_ASIDS { 1 << free.ilog2() } else { MAX_PAL_ASIDS };
        let flush = if flush_by_asid { tlb::FLUSH_ASID } else { tlb::FLUSH_ALL };
        Self { holders: [0; MAX_PAL_ASIDS], mask: count - 1, flush }
    }

    /// The ASID and TLB_CONTROL with which to run this incarnation.
    pub fn assign(&mut self, incarnation: Incarnation) -> (u32, u32) {
        let index = incarnation as usize & self.mask;
        let asid = OS_ASID + 1 + index as u32;
        let flush = if self.holders[index] == incarnation { tlb::KEEP } else { self.flush };
        self.holders[index] = incarnation;
        (asid, flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A model of the TLB: what each ASID's entries belong to. Running with stale entries of another is the failure.
        #[test]
        fn no_incarnation_meets_anothers_entries(
            asids in 3u32..70,
            flush_by_asid in any::<bool>(),
            runs in proptest::collection::vec(1u64..90, 1..500),
        ) {
            let mut table = Asids::new(asids, flush_by_asid);
            let mut entries = std::collections::HashMap::<u32, u64>::new();
            for incarnation in runs {
                let (asid, control) = table.assign(incarnation);
                match control {
                    tlb::FLUSH_ALL => entries.clear(),
                    tlb::FLUSH_ASID if flush_by_asid => { entries.remove(&asid); }
                    _ => {}
                }
                prop_assert!(asid > OS_ASID && asid < asids);
                prop_assert_eq!(*entries.entry(asid).or_insert(incarnation), incarnation);
            }
        }
    }

    #[test]
    fn the_same_pal_keeps_its_asid() {
        let mut table = Asids::new(16, true);
        let (asid, control) = table.assign(7);
        assert_eq!(control, tlb::FLUSH_ASID);
        assert_eq!(table.assign(7), (asid, tlb::KEEP));
    }
}
