//! The PAL pool's frames: who has which, and how many are free.
//!
//! Every frame of the pool is either free and all zero, or has exactly one owner (a PAL's slot). The bookkeeping lies outside
//! the pool, so that a free frame can be zero throughout. A frame becomes free by being zeroed here and in no other way, and by
//! its owner alone; free and owned frames together are always all there are (shown for all orders of events by the model of
//! [`crate::pal`]).

use crate::addr::{Hpa, PAGE_SIZE};
use crate::memory::DirectMap;
use crate::pal::SLICE;

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

/// Looking at another's frame counts as zeroing so many bytes.
const LOOK: u64 = 16;

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
        Some(self.frame(index))
    }

    /// Zeroes `owner`'s frames and makes them free, from number `next` on: as many as one stay may. True: these were the last.
    #[must_use]
    pub fn wipe(&mut self, owner: Owner, next: &mut u32) -> bool {
        let mut budget = SLICE;
        while *next < self.total {
            let owned = self.word(*next) == OWNED | u32::from(owner);
            let cost = if owned { PAGE_SIZE } else { LOOK };
            if budget < cost {
                return false;
            }
            budget -= cost;
            if owned {
                self.mem.zero(self.frame(*next), PAGE_SIZE);
                self.set(*next, self.head);
                self.head = *next;
                self.free += 1;
            }
            *next += 1;
        }
        true
    }

    fn frame(&self, index: u32) -> Hpa {
        self.base + u64::from(index) * PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::TestMemory;
    use proptest::prelude::*;

    /// What the model of [`crate::pal`] asks.
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
                list.push(self.frame(index));
                index = self.word(index);
            }
            list
        }
    }

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
        // Beyond the bookkeeping lies what somebody wrote into a frame.
        memory.map().write_u32(taken[0], OWNED | 4);
        assert_eq!((wipe(&mut frames, 4), frames.free_count()), (1, 0), "another owner's frames");
        assert_eq!((wipe(&mut frames, 3), frames.free_count()), (4, 63), "16 frames a stay");
        assert_eq!((wipe(&mut frames, 3), frames.free_count()), (1, 63), "freed twice");
        assert_eq!(memory.map().read_u32(taken[0]), 0);
    }

    /// In how many stays all of an owner's frames are wiped.
    fn wipe(frames: &mut Frames, owner: Owner) -> usize {
        let mut next = 0;
        (1..).find(|_| frames.wipe(owner, &mut next)).unwrap()
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
                        prop_assert_eq!(memory.map().read_u64(frame), 0);
                        memory.map().write_u64(frame, owner.into());
                        held.push((owner, frame));
                    } else {
                        prop_assert_eq!(held.len(), 16);
                    }
                } else {
                    wipe(&mut frames, owner);
                    held.retain(|(other, _)| *other != owner);
                    for (owner, frame) in &held {
                        prop_assert_eq!(memory.map().read_u64(*frame), u64::from(*owner));
                    }
                }
                prop_assert_eq!(frames.free_count() as usize + held.len(), 16);
            }
        }
    }
}
