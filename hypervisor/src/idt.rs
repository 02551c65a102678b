//! The interrupt descriptor tables of SLB and runtime: every exception ends what they do. GIF and IF are 0 in both, so nothing else
//! arrives.

use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::structures::DescriptorTablePointer;

/// Exceptions (APM vol. 2, 8.2).
pub const EXCEPTIONS: u64 = 32;

/// Those that push an error code (APM vol. 2, 8.2): #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX.
const WITH_ERROR_CODE: u32 =
    1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

/// A table.
#[repr(C)]
pub struct Idt([[u64; 2]; EXCEPTIONS as usize]);

impl Idt {
    /// Gates in a code segment to the stubs of the exceptions, which lie this many bytes apart.
    pub fn new(code_selector: u16, stubs: u64, apart: u64) -> Self {
        Self(core::array::from_fn(|vector| gate(stubs + apart * vector as u64, code_selector)))
    }

    /// Makes the processor use the table.
    ///
    /// # Safety
    /// What the gates lead to handles exceptions.
    pub unsafe fn load(&'static self) {
        let pointer = DescriptorTablePointer {
            limit: size_of::<Self>() as u16 - 1,
            base: VirtAddr::from_ptr(&raw const self.0),
        };
        // SAFETY: the table lives for ever; the rest is the caller's contract.
        unsafe { lidt(&pointer) }
    }
}

/// A 64-bit interrupt gate (APM vol. 2, 4.8.4), as two words.
fn gate(handler: u64, code_selector: u16) -> [u64; 2] {
    let present_interrupt_gate = 0x8e00 << 32;
    let low = handler & 0xffff | (handler >> 16 & 0xffff) << 48;
    [low | u64::from(code_selector) << 16 | present_interrupt_gate, handler >> 32]
}

/// Where in the words above the vector the instruction pointer stands.
pub fn rip_index(vector: u64) -> usize {
    usize::from(vector < EXCEPTIONS && WITH_ERROR_CODE >> vector & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_the_whole_address() {
        let [low, high] = gate(0xffff_ffff_8012_3456, 0x18);
        assert_eq!((low, high), (0x8012_8e00_0018_3456, 0xffff_ffff));
    }

    #[test]
    fn a_gate_for_each_exception() {
        let Idt(gates) = Idt::new(8, 0x1_0000, 16);
        assert_eq!((gates[0], gates[31]), (gate(0x1_0000, 8), gate(0x1_01f0, 8)));
    }

    #[test]
    fn error_codes() {
        assert_eq!([3, 6, 8, 13, 14, 18, 30, 31, 64].map(rip_index), [0, 0, 1, 1, 1, 0, 1, 0, 0]);
    }
}
