//! The last step: down to 32-bit protected mode, and SKINIT (AMD APM vol. 2, 15.27). A processor without it answers #UD; then
//! the SLB is started without a dynamic launch, which PCR 17 will show.

use core::mem::offset_of;

use hypervisor::launch::{INFO_OFFSET, LaunchInfo, SLB_SIZE};

core::arch::global_asm!(
    include_str!("skinit.s"),
    skinit_missing = const INFO_OFFSET as usize + offset_of!(LaunchInfo, skinit_missing),
    slb_size = const SLB_SIZE,
);

// SAFETY: the routine of `skinit.s` takes its arguments so.
unsafe extern "C" {
    fn loader_skinit(slb: u32, entry: u32, port: u32) -> !;
}

/// Ends the loader: the SLB at `slb` starts at its offset `entry`, or a line on the console says why not.
pub fn execute(slb: u32, entry: u16, console: u32) -> ! {
    // SAFETY: the caller has laid out the SLB; the loader needs nothing afterwards.
    unsafe { loader_skinit(slb, slb + u32::from(entry), console) }
}
