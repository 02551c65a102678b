//! The time that the TPM driver's time-outs are measured by.

/// Counts milliseconds.
pub trait Clock {
    /// Milliseconds since some moment; never goes back.
    fn ms(&self) -> u64;
}

/// The time stamp counter. Should it be faster than it was calibrated, time-outs get shorter.
#[derive(Clone, Copy, Debug)]
pub struct TscClock {
    /// Ticks in a millisecond; 0 counts as 1.
    pub tsc_per_ms: u64,
}

impl Clock for TscClock {
    fn ms(&self) -> u64 {
        tsc() / self.tsc_per_ms.max(1)
    }
}

/// The time stamp counter.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC reads a counter; CR4.TSD is clear in the hypervisor, and CPL 0 may read it anyhow.
    unsafe { core::arch::x86_64::_rdtsc() }
}
