//! A second page-table walker, to be compared with the hypervisor's: the entries of a walk are collected first and judged afterwards,
//! bit by bit as the manual's tables say, on a copy of memory. It is slow and knows nothing of the production code.
//!
//! AMD APM vol. 2: 5.3 (long-mode tables), 5.6 (protection), 8.4.2 (error code). The two rules that are TrustVisor's own are those of
//! `hypervisor::guest_memory`: tables and pages must be RAM of the OS, and a page must be dirty to be written.

use std::collections::HashSet;
use std::ops::Range;

use crate::world::{PAGE, is_ram};

/// The registers that select and guard an address space.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pkru: u32,
    pub physical_bits: u32,
}

/// What is done at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub write: bool,
    pub fetch: bool,
    pub user: bool,
}

/// A program reads and writes.
pub const READ: Access = Access { write: false, fetch: false, user: true };
pub const WRITE: Access = Access { write: true, fetch: false, user: true };

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It goes to this physical address.
    At(u64),
    /// #PF with this error code.
    Fault(u32),
    /// Nothing that a #PF could mend.
    Never,
}

/// The last entry that a walk read, and those before.
struct Walk {
    entries: Vec<u64>,
    end: End,
}

/// How a walk ended, with the level of its last entry.
enum End {
    Page(u32),
    Absent(u32),
    Reserved,
    NotRam,
}

const fn bit(value: u64, n: u32) -> bool {
    value >> n & 1 != 0
}

/// Bits `high..=low`.
const fn field(value: u64, high: u32, low: u32) -> u64 {
    value << (63 - high) >> (63 - high + low)
}

impl Registers {
    fn levels(&self) -> u32 {
        if bit(self.cr4, 12) { 5 } else { 4 }
    }

    /// Whether an address is one that this program can have.
    fn has(&self, gva: u64, user: bool) -> bool {
        let top = field(gva, 63, 12 + 9 * self.levels() - 1);
        top == 0 || (!user && top == field(u64::MAX, 63, 12 + 9 * self.levels() - 1))
    }

    /// Whether an entry has a bit set that must be zero. Figures 5-20 to 5-27.
    fn is_reserved(&self, entry: u64, level: u32, leaf: bool) -> bool {
        let address_too_wide = field(entry, 51, 32) >> self.physical_bits.saturating_sub(32).min(20) != 0;
        let no_execute = bit(entry, 63) && !bit(self.efer, 11);
        let by_level = match (level, leaf) {
            (5 | 4, _) => bit(entry, 7) || bit(entry, 8),
            (3, false) => bit(entry, 8),
            (3, true) => field(entry, 29, 13) != 0,
            (2, true) => field(entry, 20, 13) != 0,
            _ => false,
        };
        address_too_wide || no_execute || by_level
    }

    fn walk(&self, memory: &[u8], gva: u64) -> Walk {
        let mut entries = Vec::new();
        let mut table = field(self.cr3, 51, 12);
        for level in (1..=self.levels()).rev() {
            if !is_ram(table * PAGE) {
                return Walk { entries, end: End::NotRam };
            }
            let index = field(gva, 12 + 9 * level - 1, 12 + 9 * (level - 1));
            let entry = word(memory, table * PAGE + 8 * index);
            entries.push(entry);
            let leaf = level == 1 || (level < 4 && bit(entry, 7));
            if !bit(entry, 0) {
                return Walk { entries, end: End::Absent(level) };
            }
            if self.is_reserved(entry, level, leaf) {
                return Walk { entries, end: End::Reserved };
            }
            if leaf {
                return Walk { entries, end: End::Page(level) };
            }
            table = field(entry, 51, 12);
        }
        unreachable!("an entry of level 1 maps a page")
    }

    /// Where an access goes.
    pub fn translate(&self, memory: &[u8], gva: u64, access: Access) -> Answer {
        if !self.has(gva, access.user) {
            return Answer::Never;
        }
        let Walk { entries, end } = self.walk(memory, gva);
        let code = u32::from(access.write) << 1
            | u32::from(access.user) << 2
            | u32::from(access.fetch && bit(self.efer, 11)) << 4;
        let level = match end {
            End::Page(level) => level,
            End::Absent(_) => return Answer::Fault(code),
            End::Reserved => return Answer::Fault(code | 1 | 1 << 3),
            End::NotRam => return Answer::Never,
        };
        let user_page = entries.iter().all(|e| bit(*e, 2));
        if access.user && !user_page {
            return Answer::Never;
        }
        let last = entries.last().copied().unwrap_or(0);
        let read_only_counts = access.user || bit(self.cr0, 16);
        let mut forbidden = access.fetch && entries.iter().any(|e| bit(*e, 63));
        if access.write {
            forbidden |= read_only_counts && !entries.iter().all(|e| bit(*e, 1));
            forbidden |= !bit(last, 6);
        }
        let key = 2 * field(last, 62, 59) as u32;
        let mut by_key = false;
        if bit(self.cr4, 22) && user_page && !access.fetch {
            by_key = self.pkru >> key & 1 != 0;
            by_key |= access.write && read_only_counts && self.pkru >> (key + 1) & 1 != 0;
        }
        if forbidden || by_key {
            return Answer::Fault(code | 1 | u32::from(by_key) << 5);
        }
        let low = 12 + 9 * (level - 1);
        let at = field(last, 51, low) << low | field(gva, low - 1, 0);
        if is_ram(at) { Answer::At(at) } else { Answer::Never }
    }

    /// Calls `f` with memory, the bytes done before and the place of each part of an access that lies in one page. What `f` does to
    /// the tables counts for the next. The error is where it ends early, and why.
    pub fn each_piece(
        &self,
        memory: &mut [u8],
        gva: u64,
        len: usize,
        access: Access,
        mut f: impl FnMut(&mut [u8], usize, Range<usize>),
    ) -> Result<(), (u64, Answer)> {
        let mut done = 0;
        while done < len {
            let here = gva.wrapping_add(done as u64);
            let at = match self.translate(memory, here, access) {
                Answer::At(at) => at as usize,
                other => return Err((here, other)),
            };
            let piece = ((PAGE - here % PAGE) as usize).min(len - done);
            f(memory, done, at..at + piece);
            done += piece;
        }
        Ok(())
    }

    /// What a look at a user's page finds that asks nothing of keys: bytes, something that was put away, or nothing.
    pub fn peek(&self, memory: &[u8], gva: u64) -> Option<Answer> {
        if !self.has(gva, true) {
            return None;
        }
        let Walk { entries, end } = self.walk(memory, gva);
        let last = entries.last().copied().unwrap_or(0);
        match end {
            End::Page(level) if entries.iter().all(|e| bit(*e, 2)) => {
                let low = 12 + 9 * (level - 1);
                let at = field(last, 51, low) << low | field(gva, low - 1, 0);
                is_ram(at).then_some(Answer::At(at))
            }
            End::Absent(1 | 2) if last != 0 => Some(Answer::Never),
            _ => None,
        }
    }

    /// The pages that a user of this address space can write to anywhere, by page number.
    pub fn writable_pages(&self, memory: &[u8]) -> Vec<bool> {
        let mut found = vec![false; (memory.len() as u64 / PAGE) as usize];
        let mut seen = HashSet::new();
        let mut open = vec![(field(self.cr3, 51, 12), self.levels())];
        while let Some((table, level)) = open.pop() {
            if !is_ram(table * PAGE) || !seen.insert((table, level)) {
                continue;
            }
            for index in 0..512 {
                let entry = word(memory, table * PAGE + 8 * index);
                let leaf = level == 1 || (level < 4 && bit(entry, 7));
                let usable = bit(entry, 0) && bit(entry, 1) && bit(entry, 2);
                if !usable || self.is_reserved(entry, level, leaf) {
                    continue;
                }
                let low = 12 + 9 * (level - 1);
                let first = field(entry, 51, low) << (low - 12);
                if !leaf {
                    open.push((field(entry, 51, 12), level - 1));
                } else if bit(entry, 6) {
                    let end = first.saturating_add(1 << (low - 12)).min(found.len() as u64);
                    (first..end).filter(|n| is_ram(n * PAGE)).for_each(|n| found[n as usize] = true);
                }
            }
        }
        found
    }
}

fn word(memory: &[u8], at: u64) -> u64 {
    memory[at as usize..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
