//! What watches a processor at work: performance counters, instruction-based sampling (IBS) and branch records. They are the
//! OS's, and would tell it about S: while S runs they stand still.
//!
//! An OS that uses none of them pays nothing: writes to their registers exit ([`crate::msr`]) until the first that makes something
//! watch; from then on they are switched at every entry to S and exit from it, and writes do not exit any more.

use arrayvec::ArrayVec;

/// A register that makes something watch, its bits that do, and a register that switches the same, where the processor has it.
type Switch = (u32, u64, Option<u32>);

/// PERF_CTL's enable (APM vol. 2, 13.2.1).
const COUNT: u64 = 1 << 22;
/// PERF_CTL of the first four counters and of all six, in ascending order; PerfCntrGlobalCtl.
const FOUR: u32 = 0xc001_0000;
const SIX: u32 = 0xc001_0200;
const ALL: u32 = 0xc000_0301;

/// APM vol. 2, 13.1.1 (DEBUGCTL: LBR, BTF, bus lock trap), 13.2 (counters), 13.3 (IBS), appendix A.
static TABLE: [Switch; 15] = [
    (0x1d9, 0b111, None),
    // DBG_EXTN_CFG.LBRV2EN.
    (0xc000_010f, 1 << 6, None),
    (ALL, u64::MAX, None),
    (FOUR, COUNT, Some(SIX)),
    (FOUR + 1, COUNT, Some(SIX)),
    (FOUR + 2, COUNT, Some(SIX)),
    (FOUR + 3, COUNT, Some(SIX)),
    (SIX, COUNT, Some(ALL)),
    (SIX + 2, COUNT, Some(ALL)),
    (SIX + 4, COUNT, Some(ALL)),
    (SIX + 6, COUNT, Some(ALL)),
    (SIX + 8, COUNT, Some(ALL)),
    (SIX + 10, COUNT, Some(ALL)),
    // IBS_FETCH_CTL, IBS_OP_CTL.
    (0xc001_1030, 1 << 48, None),
    (0xc001_1033, 1 << 17, None),
];

/// Whether this write makes something watch.
pub fn begins(msr: u32, value: u64) -> bool {
    TABLE.iter().any(|(register, enable, _)| *register == msr && value & enable != 0)
}

/// Whoever ran before the launch may have switched something on: the bits to clear. (The global control does nothing alone.)
pub fn at_launch() -> impl Iterator<Item = (u32, u64)> {
    TABLE.iter().filter(|(msr, ..)| *msr != ALL).map(|(msr, enable, _)| (*msr, *enable))
}

/// A processor's switches: the register, its bits that make something watch, and how the OS had set it.
pub struct Profiling(ArrayVec<(u32, u64, u64), { TABLE.len() }>);

impl Profiling {
    /// `present` says which registers this processor has.
    pub fn new(present: impl Fn(u32) -> bool) -> Self {
        let used = |(msr, _, unless): &&Switch| present(*msr) && !unless.is_some_and(&present);
        Self(TABLE.iter().filter(used).map(|(msr, enable, _)| (*msr, *enable, 0)).collect())
    }

    /// S is about to run. `read` and `write` are of the processor's registers.
    pub fn stop(&mut self, read: impl Fn(u32) -> u64, write: impl Fn(u32, u64)) {
        for (msr, enable, saved) in &mut self.0 {
            *saved = read(*msr);
            if *saved & *enable != 0 {
                write(*msr, *saved & !*enable);
            }
        }
    }

    /// The OS is about to run.
    pub fn resume(&mut self, write: impl Fn(u32, u64)) {
        for (msr, enable, saved) in &mut self.0 {
            let value = core::mem::take(saved);
            if value & *enable != 0 {
                write(*msr, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msr;
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::vec::Vec;

    /// Everything is on, and stands still, and then goes on. Reading or writing a register that is not there is an error.
    fn switch_all(there: &[(u32, u64)], untouched: &[u32]) {
        let on: HashMap<_, _> = HashMap::from_iter(there.iter().copied());
        let msrs = RefCell::new(on.clone());
        let read = |msr: u32| msrs.borrow()[&msr];
        let write = |msr: u32, value: u64| *msrs.borrow_mut().get_mut(&msr).unwrap() = value;
        let mut profiling = Profiling::new(|msr| on.contains_key(&msr));
        profiling.stop(read, write);
        for (msr, value) in there {
            let (_, enable, _) = TABLE.iter().find(|switch| switch.0 == *msr).unwrap();
            let expected = if untouched.contains(msr) { *value } else { value & !enable };
            assert_eq!(read(*msr), expected, "{msr:#x}");
        }
        profiling.resume(write);
        assert_eq!(*msrs.borrow(), on);
        msrs.borrow_mut().clear();
        profiling.resume(write);
    }

    #[test]
    fn everything_stands_still_and_then_goes_on() {
        let counters = |first: u32, step: u32, count: u32| {
            (0..count).map(move |i| (first + step * i, COUNT | u64::from(i)))
        };
        let always = [(0x1d9, 0x43), (0xc001_1030, 1 << 48 | 0x1234), (0xc001_1033, 1 << 17 | 1)];
        let four: Vec<_> = counters(FOUR, 1, 4).chain(always).collect();
        switch_all(&four, &[]);
        let six: Vec<_> = four.iter().copied().chain(counters(SIX, 2, 6)).collect();
        switch_all(&six, &[FOUR, FOUR + 1, FOUR + 2, FOUR + 3]);
        let all: Vec<_> = six.iter().copied().chain([(ALL, 0x3f), (0xc000_010f, 0x40)]).collect();
        switch_all(&all, &counters(FOUR, 1, 4).chain(counters(SIX, 2, 6)).map(|c| c.0).collect::<Vec<_>>());
    }

    #[test]
    fn what_begins_to_watch() {
        assert!(begins(0x1d9, 1) && begins(SIX + 10, COUNT) && begins(0xc001_1030, 1 << 48));
        assert!(!begins(0x1d9, 0x40) && !begins(SIX + 1, COUNT) && !begins(FOUR, COUNT - 1));
    }

    #[test]
    fn writes_that_could_begin_to_watch_exit() {
        for (register, enable, _) in &TABLE {
            let answer = msr::write(*register, *enable, &msr::tests::guest());
            assert_eq!(answer, msr::WriteAnswer::Profile, "{register:#x}");
        }
    }
}
