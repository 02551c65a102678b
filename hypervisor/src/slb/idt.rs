//! The SLB's interrupt descriptor table: every exception ends the launch with a line. GIF is 0 and IF is 0, so nothing else
//! arrives.

/// Exceptions (APM vol. 2, 8.2).
pub const EXCEPTIONS: usize = 32;

/// Those that push an error code (APM vol. 2, 8.2): #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX.
const WITH_ERROR_CODE: u32 =
    1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

/// A 64-bit interrupt gate (APM vol. 2, 4.8.4), as two words.
pub fn gate(handler: u64, code_selector: u16) -> [u64; 2] {
    let present_interrupt_gate = 0x8e00 << 32;
    let low = handler & 0xffff | (handler >> 16 & 0xffff) << 48;
    [low | u64::from(code_selector) << 16 | present_interrupt_gate, handler >> 32]
}

/// Where in the words above the vector the instruction pointer stands.
pub fn rip_index(vector: u64) -> usize {
    usize::from(vector < 32 && WITH_ERROR_CODE >> vector & 1 != 0)
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
    fn error_codes() {
        assert_eq!([3, 6, 8, 13, 14, 18, 30, 31, 64].map(rip_index), [0, 0, 1, 1, 1, 0, 1, 0, 0]);
    }
}
