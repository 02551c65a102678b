//! The runtime's binary: [`hypervisor::entry`] holds its first instruction.
#![no_std]
#![no_main]

use hypervisor as _;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    hypervisor::runtime::panic(info)
}
