//! The other processors go to INIT, where SKINIT wants them (AMD APM vol. 2, 15.27.8), and stay there until the runtime
//! starts them.

use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

/// AMD APM vol. 2, 16.3.1: the local APIC's base register.
const APIC_BASE: u32 = 0x1b;
const APIC_ENABLED: u64 = 1 << 11;
const X2APIC: u64 = 1 << 10;
const APIC_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// AMD APM vol. 2, 16.5: the interrupt command register.
const ICR: u64 = 0x300;
const ICR_X2APIC: u32 = 0x830;
const DELIVERY_PENDING: u32 = 1 << 12;
/// INIT, asserted, to all but this processor.
const INIT_OTHERS: u32 = 0b11 << 18 | 1 << 14 | 0b101 << 8;

const PATIENCE: u32 = 1 << 20;
/// A write to this port takes about a microsecond.
const DELAY_PORT: u16 = 0x80;
const INIT_MICROSECONDS: u32 = 10_000;

/// Sends INIT, and waits until it has arrived.
pub fn init_others() {
    // SAFETY: every processor with long mode has the register; reading it has no effect.
    let base = unsafe { Msr::new(APIC_BASE).read() };
    if base & APIC_ENABLED == 0 {
        return;
    }
    if base & X2APIC != 0 {
        // SAFETY: resets processors that run nothing of ours.
        unsafe { Msr::new(ICR_X2APIC).write(INIT_OTHERS.into()) };
    } else if base & APIC_ADDRESS < 1 << 32 {
        let icr = ((base & APIC_ADDRESS) + ICR) as *mut u32;
        // SAFETY: mapped by identity; resets processors that run nothing of ours.
        unsafe { icr.write_volatile(INIT_OTHERS) };
        // SAFETY: as above, reading has no effect.
        let pending = || unsafe { icr.read_volatile() } & DELIVERY_PENDING != 0;
        let _ = (0..PATIENCE).find(|_| !pending());
    }
    for _ in 0..INIT_MICROSECONDS {
        // SAFETY: the port of the power-on self test's codes; nothing else listens.
        unsafe { Port::<u8>::new(DELAY_PORT).write(0) };
    }
}
