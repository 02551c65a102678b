//! The guest's writes to the I/O APIC: an entry of its redirection table can send INIT or SMI to any processor, like the local
//! APIC's command register. Its page is mapped read-only; each write is decoded and filtered.
//!
//! Only the I/O APIC at its usual address is watched, and only stores of the processor: interrupt messages of devices are another
//! matter (they need an IOMMU).

use crate::lapic::{MASKED, message::*};

/// Registers in its page (82093AA data sheet, 3.1; the EOI register of later ones).
mod register {
    pub const SELECT: u32 = 0x00;
    pub const WINDOW: u32 = 0x10;
    pub const END_OF_INTERRUPT: u32 = 0x40;
}

/// The first redirection entry behind the window: two registers each, the low one with the message type (3.2.4).
const FIRST_ENTRY: u32 = 0x10;

/// Whether a write of 32 bits at this offset is done. `selected` is what the select register holds now.
pub fn passes(offset: u32, value: u32, selected: u32) -> bool {
    match offset {
        register::SELECT | register::END_OF_INTERRUPT => true,
        register::WINDOW => {
            let low_half = selected & 0xff >= FIRST_ENTRY && selected & 1 == 0;
            let harmless = matches!(value >> 8 & 7, FIXED | LOWEST_PRIORITY | NMI | EXTERNAL);
            !low_half || harmless || value & MASKED != 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_sends_no_init_and_no_smi() {
        for entry in 0..24 {
            for (value, expected) in [(0x31, true), (0x131, true), (0x400, true), (0x700, true)] {
                assert_eq!(passes(0x10, value, 0x10 + 2 * entry), expected);
            }
            for mode in [0x200, 0x300, 0x500, 0x600] {
                assert!(!passes(0x10, mode, 0x10 + 2 * entry));
                assert!(!passes(0x10, mode, 0xffff_ff10 + 2 * entry), "only eight bits select");
                assert!(passes(0x10, mode | 0x1_0000, 0x10 + 2 * entry), "masked");
                assert!(passes(0x10, mode, 0x11 + 2 * entry), "the high half is a destination");
            }
        }
        assert!(passes(0x10, 0x500, 0), "the identity register");
        assert!(passes(0x00, 0x500, 0x10) && passes(0x40, 0x500, 0x10));
        assert!(!passes(0x20, 0, 0) && !passes(0x11, 0, 0) && !passes(0x1000, 0, 0));
    }
}
