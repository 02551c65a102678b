//! How fast the time stamp counter runs, measured against channel 2 of the interval timer (8254), which every PC has at
//! 1,193,182 Hz and which needs no interrupt. For time-outs: where the timer does not count, a rate that no processor
//! reaches makes them longer, never shorter.

use crate::tpm::clock::tsc;
use x86_64::instructions::port::Port;

/// Ticks of the timer in a measurement, and the milliseconds these are (5.0).
const PIT_TICKS: u16 = 5966;
const MS: u64 = 5;
const MEASUREMENTS: u32 = 8;
/// Ticks of the TSC after which the timer is given up, and the rate assumed then: 10 GHz.
const GIVE_UP: u64 = 1 << 32;
pub const FASTEST: u64 = 10_000_000;

/// Port 61 (NMI status and control): gate of channel 2, its way to the speaker, its output.
const GATE: u8 = 1;
const SPEAKER: u8 = 2;
const OUTPUT: u8 = 1 << 5;

/// Ticks of the TSC in a millisecond; the least of some measurements, since a delay (an SMI, a busy host) can only lengthen one.
/// `None` if the timer does not count.
pub fn measure() -> Option<u64> {
    (0..MEASUREMENTS).map(|_| once()).min().flatten().map(|ticks| (ticks / MS).max(1))
}

fn once() -> Option<u64> {
    let [mut control, mut channel, mut mode] = [0x61, 0x42, 0x43].map(Port::<u8>::new);
    let [low, high] = PIT_TICKS.to_le_bytes();
    // SAFETY: ports of the timer and its gate; they touch no memory, and the OS sets them up for itself.
    unsafe {
        let before = control.read() & !(GATE | SPEAKER);
        control.write(before);
        // Channel 2, low then high byte, mode 0: the output rises when the count ends.
        mode.write(0xb0);
        channel.write(low);
        channel.write(high);
        let start = tsc();
        control.write(before | GATE);
        loop {
            let done = control.read() & OUTPUT != 0;
            let ticks = tsc().wrapping_sub(start);
            if done {
                return Some(ticks);
            }
            if ticks > GIVE_UP {
                return None;
            }
        }
    }
}
