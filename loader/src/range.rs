//! Half-open ranges of physical addresses.

use core::fmt;

/// `start..end`; empty if `end <= start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

impl Range {
    /// From first byte and length; `None` if it wraps.
    pub fn sized(start: u64, len: u64) -> Option<Self> {
        Some(Self { start, end: start.checked_add(len)? })
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// There is no byte in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// They have a byte in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start.max(other.start) < self.end.min(other.end)
    }

    /// All of `other` lies in it.
    pub fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// As `first-last`, in hexadecimal.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start, self.end.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_about_bytes() {
        let range = |start, end| Range { start, end };
        assert!(range(1, 3).overlaps(&range(2, 9)));
        assert!(!range(1, 3).overlaps(&range(3, 9)));
        assert!(!range(5, 5).overlaps(&range(0, 9)));
        assert!(range(0, 9).contains(&range(0, 9)) && !range(0, 9).contains(&range(1, 10)));
        assert_eq!(Range::sized(u64::MAX, 1), None);
        assert_eq!(range(0x10, 0x20).to_string(), "0x10-0x1f");
    }
}
