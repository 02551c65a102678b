//! The FPU (x87, SSE, AVX) of PALs that declared its use: switched by XSAVE at every entry to S and exit from it. The OS's state
//! is saved with every component that it has enabled and those that S may use, so nothing of either reaches the other.
//! The hypervisor itself has no FPU code.

use crate::processor::cpuid;
use core::arch::asm;
use core::arch::x86_64::{_xrstor64, _xsave64};
use hypervisor::addr::PAGE_SIZE;
use x86_64::registers::xcontrol::XCr0;

/// x87, SSE and AVX: what S may use, where the processor has it (APM vol. 2, 11.5.2).
const PAL_COMPONENTS: u64 = 0b111;

/// The header of an XSAVE area: which components it holds (APM vol. 2, 11.5.2).
const HEADER: core::ops::Range<usize> = 512..576;

/// A processor's XSAVE area for the OS.
#[repr(C, align(4096))]
pub struct Area(pub [u8; PAGE_SIZE as usize]);

/// What there is to switch.
pub struct Fpu {
    pal: u64,
    /// XCR0 of the OS while S runs.
    xcr0: u64,
}

impl Fpu {
    /// By CPUID 0Dh EAX: the components that XCR0 can enable.
    pub fn new() -> Self {
        Self { pal: PAL_COMPONENTS & u64::from(cpuid(0xd, 0).eax), xcr0: 0 }
    }

    /// From the OS to S.
    ///
    /// # Safety
    /// CR4.OSXSAVE is set; both areas are page aligned, a page long, and no Rust reference to `pal` is alive; `pal` was
    /// written by `leave`, or is zero but for MXCSR.
    pub unsafe fn enter(&mut self, os: &mut Area, pal: *mut u8) {
        let xcr0 = XCr0::read_raw();
        // SAFETY: the components are all supported: those of XCR0 and of `self.pal`.
        unsafe {
            XCr0::write_raw(xcr0 | self.pal);
            // XSAVE leaves the bits of components that it does not save; XRSTOR would fault on those that are off by then.
            os.0[HEADER].fill(0);
            _xsave64(os.0.as_mut_ptr(), xcr0 | self.pal);
            clear_pointers();
            XCr0::write_raw(self.pal);
            _xrstor64(pal, self.pal);
        }
        self.xcr0 = xcr0;
    }

    /// From S back to the OS.
    ///
    /// # Safety
    /// As [`Self::enter`], which came before.
    pub unsafe fn leave(&mut self, os: &mut Area, pal: *mut u8) {
        let xcr0 = self.xcr0;
        // SAFETY: as above; S cannot change XCR0.
        unsafe {
            _xsave64(pal, self.pal);
            clear_pointers();
            XCr0::write_raw(xcr0 | self.pal);
            _xrstor64(os.0.as_mut_ptr(), xcr0 | self.pal);
            XCr0::write_raw(xcr0);
        }
    }
}

/// Many AMD processors save and restore the x87 instruction and data pointers only while an exception is pending: without this the
/// other side would find them.
fn clear_pointers() {
    // SAFETY: the x87 state was saved, and is about to be restored; the hypervisor has none.
    unsafe { asm!("fninit", options(nomem, nostack)) }
}
