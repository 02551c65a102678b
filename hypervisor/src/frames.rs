//! The PAL pool's frames: who has which, and how many are free.
//!
//! Every frame of the pool is either free and all zero, or has exactly one owner (a PAL's slot). The bookkeeping lies outside
//! the pool, so that a free frame can be zero throughout. A frame becomes free by being zeroed here and in no other way, and by
//! its owner alone; free and owned frames together are always all there are (shown for all orders of events by the model of
//! [`crate::pal`]).

use crate::addr::{Hpa, PAGE_SIZE};
use crate::memory::DirectMap;

/// Who a frame belongs to: the index of a PAL's slot.
pub type Owner = u16;

/// End of the free list, and the owner field's mark for "free".
const NONE: u32 = u32::MAX;

/// The bookkeeping: one word a frame, in memory of its own.
#[cfg_attr(test, derive(Clone))]
pub struct Frames {
    mem: DirectMap,
    /// First word: `next free` for a free frame, `OWNED | owner` for another.
    table: Hpa,
    base: Hpa,
    total: u32,
    free: u32,
    head: u32,
}

/// Set in a frame's word while it has an owner.
const OWNED: u32 = 1 << 31;

impl Frames {
    /// Divides `[start, end)` into the bookkeeping and the frames. All of it must be zero, and nobody else's.
    pub fn new(mem: DirectMap, start: Hpa, end: Hpa) -> Self {
        let pages = (end.0 - start.0) / PAGE_SIZE;
        let table_pages = (pages * 4).div_ceil(PAGE_SIZE);
        let total = (pages - table_pages) as u32;
        let base = start + table_pages * PAGE_SIZE;
        let mut frames = Self { mem, table: start, base, total, free: total, head: 0 };
        for index in 0..total {
            frames.set(index, if index + 1 < total { index + 1 } else { NONE });
        }
        frames
    }

    fn word(&self, index: u32) -> u32 {
        self.mem.read_u32(self.table + u64::from(index) * 4)
    }

    fn set(&mut self, index: u32, word: u32) {
        self.mem.write_u32(self.table + u64::from(index) * 4, word);
    }

    /// First byte of the first frame.
    pub fn base(&self) -> Hpa {
        self.base
    }

    /// Frames in the pool.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Free frames.
    pub fn free_count(&self) -> u32 {
        self.free
    }

    /// A zero frame, from now on `owner`'s.
    pub fn take(&mut self, owner: Owner) -> Option<Hpa> {
        if self.free == 0 {
            return None;
        }
        let index = self.head;
        self.head = self.word(index);
        self.set(index, OWNED | u32::from(owner));
        self.free -= 1;
        Some(self.base + u64::from(index) * PAGE_SIZE)
    }

    /// Zeroes a frame and makes it free. A frame that is not `owner`'s is left alone: false.
    #[must_use]
    pub fn wipe(&mut self, owner: Owner, frame: Hpa) -> bool {
        let Some(offset) = frame.0.checked_sub(self.base.0) else { return false };
        let index = offset / PAGE_SIZE;
        if offset % PAGE_SIZE != 0 || index >= u64::from(self.total) {
            return false;
        }
        let index = index as u32;
        if self.word(index) != OWNED | u32::from(owner) {
            return false;
        }
        self.mem.zero(frame, PAGE_SIZE);
        self.set(index, self.head);
        self.head = index;
        self.free += 1;
        true
    }
}

/// What the model of [`crate::pal`] asks.
#[cfg(test)]
impl Frames {
    /// Whose frame this is; of the pool's frames.
    pub fn owner_of(&self, frame: Hpa) -> Option<Owner> {
        let index = (frame.0.checked_sub(self.base.0)? / PAGE_SIZE) as u32;
        let word = if index < self.total { self.word(index) } else { NONE };
        (word != NONE && word & OWNED != 0).then_some(word as Owner)
    }

    /// The same bookkeeping in another copy of the memory.
    pub fn over(self, mem: DirectMap) -> Self {
        Self { mem, ..self }
    }

    /// The free list, but for what follows a frame that is on it twice.
    pub fn free_frames(&self) -> std::vec::Vec<Hpa> {
        let mut list = std::vec::Vec::new();
        let mut index = self.head;
        while index < self.total && list.len() < self.total as usize {
            list.push(self.base + u64::from(index) * PAGE_SIZE);
            index = self.word(index);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::TestMemory;
    use proptest::prelude::*;

    #[test]
    fn accounting_adds_up() {
        let memory = TestMemory::new(64);
        let mut frames = Frames::new(memory.map(), Hpa(0), Hpa(64 * PAGE_SIZE));
        let mut taken = std::vec::Vec::new();
        while let Some(frame) = frames.take(3) {
            taken.push(frame);
        }
        assert_eq!(taken.len(), 63);
        assert_eq!((frames.total(), frames.free_count()), (63, 0));
        let all: std::collections::HashSet<_> = taken.iter().collect();
        assert_eq!(all.len(), taken.len());
        memory.map().copy_to(taken[5], b"secret");
        assert!(!frames.wipe(4, taken[5]), "another owner's frame");
        assert!(!frames.wipe(3, taken[5] + 8));
        assert!(!frames.wipe(3, Hpa(0)));
        // Beyond the bookkeeping lies what somebody wrote into a frame.
        memory.map().write_u32(taken[0], OWNED | 3);
        assert!(!frames.wipe(3, taken[0] + 1024 * PAGE_SIZE));
        assert!(frames.wipe(3, taken[5]));
        assert!(!frames.wipe(3, taken[5]), "freed twice");
        let mut now = [0xff; 6];
        memory.map().copy_from(taken[5], &mut now);
        assert_eq!(now, [0; 6]);
        assert_eq!(frames.take(1), Some(taken[5]));
    }

    proptest! {
        #[test]
        fn any_order_keeps_one_owner(ops in proptest::collection::vec((0u16..4, any::<bool>()), 1..200)) {
            let memory = TestMemory::new(17);
            let mut frames = Frames::new(memory.map(), Hpa(0), Hpa(17 * PAGE_SIZE));
            let mut held: std::vec::Vec<(u16, Hpa)> = std::vec::Vec::new();
            for (owner, take) in ops {
                if take {
                    if let Some(frame) = frames.take(owner) {
                        prop_assert!(held.iter().all(|(_, f)| *f != frame));
                        held.push((owner, frame));
                    } else {
                        prop_assert_eq!(held.len(), 16);
                    }
                } else if let Some((owner, frame)) = held.pop() {
                    prop_assert!(frames.wipe(owner, frame));
                }
                prop_assert_eq!(frames.free_count() as usize + held.len(), 16);
            }
        }
    }
}
