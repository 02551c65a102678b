//! Monotonic counters, in memory that the OS can neither write nor roll back: of the hardware TPM, which costs more than a table here.
//!
//! A counter is there from its first increment on and never goes away. What is kept is a table of slots; an increment is the change of
//! one slot, and counts from when it is kept ([`Counters::apply`]).

use sha2::{Digest, Sha256};

/// Bytes of a counter's name.
const NAME: usize = 16;
/// Bytes of a slot: the name, then the value, big-endian. All zero while it is free.
const SLOT: usize = NAME + 8;

/// The counters as they are kept.
#[derive(Clone)]
pub struct Counters([[u8; SLOT]; Self::COUNT]);

/// A slot's change by an increment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Increment {
    index: usize,
    slot: [u8; SLOT],
}

impl Increment {
    /// Where in the table it is kept.
    pub fn offset(&self) -> u16 {
        (self.index * SLOT + self.known()) as u16
    }

    /// What is kept there.
    pub fn bytes(&self) -> &[u8] {
        &self.slot[self.known()..]
    }

    /// Bytes of the slot that are there already: a name is written once, so that nothing that happens to a write makes it unknown.
    fn known(&self) -> usize {
        if self.value() == 1 { 0 } else { NAME }
    }

    /// What the counter has been incremented to.
    pub fn value(&self) -> u64 {
        value(&self.slot)
    }
}

fn value(slot: &[u8; SLOT]) -> u64 {
    slot.last_chunk().map_or(0, |value| u64::from_be_bytes(*value))
}

/// Name of a PAL's counter. Whoever finds two PALs with one name gets two PALs that share a counter.
fn name(pal: &[u8; 32], number: u64) -> [u8; NAME] {
    let digest = Sha256::new().chain_update(b"counter").chain_update(pal).chain_update(number.to_be_bytes());
    let mut name = [0; NAME];
    name.copy_from_slice(&digest.finalize()[..NAME]);
    name
}

impl Counters {
    /// How many there can be.
    pub const COUNT: usize = 16;
    /// Bytes of the table.
    pub const SIZE: usize = Self::COUNT * SLOT;

    /// What was kept.
    pub fn new(bytes: &[u8; Self::SIZE]) -> Self {
        Self(zerocopy::transmute!(*bytes))
    }

    /// What a counter of the PAL of this identity has come to.
    pub fn read(&self, pal: &[u8; 32], number: u64) -> u64 {
        let name = name(pal, number);
        self.0.iter().find(|slot| slot.starts_with(&name)).map_or(0, value)
    }

    /// One more. None: there is no slot left.
    pub fn increment(&self, pal: &[u8; 32], number: u64) -> Option<Increment> {
        let name = name(pal, number);
        let own = self.0.iter().position(|slot| slot.starts_with(&name));
        let index = own.or_else(|| self.0.iter().position(|slot| *slot == [0; SLOT]))?;
        let next = value(&self.0[index]).checked_add(1)?;
        let mut slot = [0; SLOT];
        slot[..NAME].copy_from_slice(&name);
        slot[NAME..].copy_from_slice(&next.to_be_bytes());
        Some(Increment { index, slot })
    }

    /// The increment is kept.
    pub fn apply(&mut self, increment: &Increment) {
        if let Some(slot) = self.0.get_mut(increment.index) {
            *slot = increment.slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::hex;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NONE: [u8; Counters::SIZE] = [0; Counters::SIZE];

    fn bytes(counters: &Counters) -> [u8; Counters::SIZE] {
        counters.0.as_flattened().try_into().unwrap()
    }

    /// The name, computed once more with sha256sum.
    #[test]
    fn a_slot_byte_by_byte() {
        let increment = Counters::new(&NONE).increment(&[7; 32], 0x0102).unwrap();
        assert_eq!((increment.offset(), increment.value()), (0, 1));
        assert_eq!(hex(increment.bytes()), "a3830775bf6863b450b7b96cc820b7f60000000000000001");
        let mut counters = Counters::new(&NONE);
        counters.apply(&increment);
        let next = counters.increment(&[7; 32], 0x0102).unwrap();
        assert_eq!((next.value(), next.offset(), next.bytes()), (2, 16, &2u64.to_be_bytes()[..]));
        let second = counters.increment(&[7; 32], 0x0103).unwrap();
        assert_eq!((second.offset(), second.value()), (24, 1));
    }

    #[test]
    fn what_is_not_kept_does_not_count() {
        let counters = Counters::new(&NONE);
        assert_eq!(counters.increment(&[1; 32], 0), counters.increment(&[1; 32], 0));
        assert_eq!(counters.read(&[1; 32], 0), 0);
    }

    #[test]
    fn the_last_value_is_the_last() {
        let mut counters = Counters::new(&NONE);
        let mut last = counters.increment(&[1; 32], 0).unwrap();
        last.slot[NAME..].fill(0xff);
        counters.apply(&last);
        assert_eq!(counters.read(&[1; 32], 0), u64::MAX);
        assert_eq!(counters.increment(&[1; 32], 0), None);
    }

    proptest! {
        /// Against a map; the table is taken apart and put together after each increment, as by a boot.
        #[test]
        fn they_count(increments in proptest::collection::vec((0u8..4, 0u64..6), 0..100)) {
            let mut counters = Counters::new(&NONE);
            let mut model = BTreeMap::new();
            for (pal, number) in increments {
                let room = model.len() < Counters::COUNT || model.contains_key(&(pal, number));
                let increment = counters.increment(&[pal; 32], number);
                prop_assert_eq!(increment.is_some(), room);
                if let Some(increment) = increment {
                    counters.apply(&increment);
                    *model.entry((pal, number)).or_insert(0) += 1;
                    prop_assert_eq!(increment.value(), model[&(pal, number)]);
                }
                counters = Counters::new(&bytes(&counters));
                for ((pal, number), value) in &model {
                    prop_assert_eq!(counters.read(&[*pal; 32], *number), *value);
                }
            }
        }
    }
}
