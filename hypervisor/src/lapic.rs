//! The guest's writes to its local APIC, where they must be watched: on processors whose INIT intercept does not hold INIT
//! back, the APIC's page is mapped read-only and each write is decoded, filtered and then done by the hypervisor.
//!
//! Guarantees: no INIT, start-up or SMI leaves the guest ([`passes`]), neither as an IPI nor by the local vector table; any
//! bytes are decoded to what a processor would have stored, or refused ([`decode`]). The register written is named by the
//! nested page fault, the value by the decoder; both are what the hypervisor then uses, so bytes that the guest changes in
//! between make another write of its own, which was filtered as well.

/// A store to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Bytes of the instruction.
    pub len: usize,
    /// Bytes that it stores. Registers are watched by the 4; of others only the length is of use.
    pub size: usize,
    /// What it stores, if that is 4 bytes.
    pub source: Source,
}

/// See [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Bits 31:0 of the register with this number (0: RAX, 1: RCX, ...).
    Register(u8),
    /// This value.
    Immediate(u32),
}

/// Longest instruction (APM vol. 3, 1.1).
pub const MAX_INSTRUCTION: usize = 15;

const REX_W: u8 = 1 << 3;
const REX_R: u8 = 1 << 2;

/// Takes what ModRM says about the memory operand, and returns the `reg` field (APM vol. 3, 1.4). None: it is a register.
fn memory_operand(bytes: &mut &[u8]) -> Option<u8> {
    let modrm = *bytes.split_off_first()?;
    let (mode, reg, rm) = (modrm >> 6, (modrm >> 3) & 7, modrm & 7);
    if mode == 3 {
        return None;
    }
    let base = if rm == 4 { bytes.split_off_first()? & 7 } else { rm };
    let displacement = match (mode, base) {
        (0, 5) | (2, _) => 4,
        (1, _) => 1,
        _ => 0,
    };
    bytes.split_off(..displacement)?;
    Some(reg)
}

/// Decodes a store by MOV with ModRM in 64-bit code (APM vol. 3, chapter 3). `bytes` begins at the instruction. None: it is another
/// one, or goes on beyond the bytes given.
pub fn decode(bytes: &[u8]) -> Option<Store> {
    let given = &bytes[..bytes.len().min(MAX_INSTRUCTION)];
    let mut bytes = given;
    // Prefixes (APM vol. 3, 1.2).
    let (mut operand_size, mut rex) = (false, 0);
    let opcode = loop {
        let byte = *bytes.split_off_first()?;
        match byte {
            0x40..=0x4f => {
                rex = byte;
                continue;
            }
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => {}
            0x66 => operand_size = true,
            // LOCK is #UD with MOV.
            0xf0 | 0xf2 | 0xf3 => return None,
            opcode => break opcode,
        }
        // REX counts only directly before the opcode.
        rex = 0;
    };
    // The lowest bit tells bytes from wider operands.
    let size = match opcode & 1 {
        0 => 1,
        _ if rex & REX_W != 0 => 8,
        _ if operand_size => 2,
        _ => 4,
    };
    let source = match opcode | 1 {
        // MOV r/m, r
        0x89 => {
            let reg = memory_operand(&mut bytes)?;
            Source::Register(reg | if rex & REX_R != 0 { 8 } else { 0 })
        }
        // MOV r/m, imm
        0xc7 => {
            if memory_operand(&mut bytes)? != 0 {
                return None;
            }
            let immediate = bytes.split_off(..size.min(4))?;
            Source::Immediate(immediate.iter().rfold(0, |value, byte| value << 8 | u32::from(*byte)))
        }
        _ => return None,
    };
    Some(Store { len: given.len() - bytes.len(), size, source })
}

/// The command register, low half: writing it sends the IPI.
pub const COMMAND_LOW: u32 = 0x300;

/// Message types, bits 10:8 of the command register, of a local vector (APM vol. 2, 16.4 and 16.5) and of the I/O APIC's entries.
pub mod message {
    pub const FIXED: u32 = 0;
    pub const LOWEST_PRIORITY: u32 = 1;
    pub const NMI: u32 = 4;
    pub const EXTERNAL: u32 = 7;
}

/// Masked: a local vector, or an entry of the I/O APIC, delivers nothing.
pub const MASKED: u32 = 1 << 16;

/// Whether a write of 32 bits at this offset of the APIC's page is done. It is not if it would take a processor out of the hypervisor's
/// hands, or there is no register that could be written. The APIC's identity is not the guest's to change, so that
/// interrupts sent by the hypervisor arrive. The registers: APM vol. 2, 16.3.2, table 16-2.
pub fn passes(offset: u32, value: u32) -> bool {
    use message::*;
    let message = (value >> 8) & 7;
    match offset {
        _ if !offset.is_multiple_of(16) => false,
        COMMAND_LOW => matches!(message, FIXED | LOWEST_PRIORITY | NMI),
        // Local vectors, from the timer's to the error's; the extended ones.
        0x320..=0x370 | 0x500..=0x530 => matches!(message, FIXED | NMI | EXTERNAL) || value & MASKED != 0,
        // Task priority, end of interrupt, logical destination and its format, spurious vector, error status.
        0x80 | 0xb0 | 0xd0 | 0xe0 | 0xf0 | 0x280 => true,
        // Command register, high half: the destination. The timer's initial count and divisor.
        0x310 | 0x380 | 0x3e0 => true,
        // Extended: control, specific end of interrupt, interrupt enable.
        0x410 | 0x420 | 0x480..=0x4f0 => true,
        _ => false,
    }
}

/// Command register: INIT to all other processors (APM vol. 2, 16.5).
pub const ICR_INIT_OTHERS: u32 = 0x000c_4500;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn register(len: usize, number: u8) -> Option<Store> {
        Some(Store { len, size: 4, source: Source::Register(number) })
    }

    fn immediate(len: usize, value: u32) -> Option<Store> {
        Some(Store { len, size: 4, source: Source::Immediate(value) })
    }

    fn sized(size: usize, store: Option<Store>) -> Option<Store> {
        Some(Store { size, ..store? })
    }

    /// Bytes as an assembler makes them.
    #[test]
    fn known_instructions() {
        let instructions: &[(&[u8], Option<Store>)] = &[
            // mov [rdi], esi; mov [0xffffffffff5fd300], eax; mov [rdi + 0x300], r9d
            (&[0x89, 0x37], register(2, 6)),
            (&[0x89, 0x04, 0x25, 0x00, 0xd3, 0x5f, 0xff], register(7, 0)),
            (&[0x44, 0x89, 0x8f, 0x00, 0x03, 0x00, 0x00], register(7, 9)),
            // mov [rip + 0x10], ecx; mov [rbp], edx; mov [rsp], ebx; mov [r12 + r13 * 4 + 8], r15d
            (&[0x89, 0x0d, 0x10, 0, 0, 0], register(6, 1)),
            (&[0x89, 0x55, 0x00], register(3, 2)),
            (&[0x89, 0x1c, 0x24], register(3, 3)),
            (&[0x47, 0x89, 0x7c, 0xac, 0x08], register(5, 15)),
            // mov dword [rax], 0x12345678; mov dword [rsi + 0x300], 0xc4500; mov dword [rip + 1], 2
            (&[0xc7, 0x00, 0x78, 0x56, 0x34, 0x12], immediate(6, 0x1234_5678)),
            (&[0xc7, 0x86, 0, 3, 0, 0, 0x00, 0x45, 0x0c, 0x00], immediate(10, 0xc_4500)),
            (&[0xc7, 0x05, 1, 0, 0, 0, 2, 0, 0, 0], immediate(10, 2)),
            // gs mov [eax], ecx
            (&[0x65, 0x67, 0x89, 0x08], register(4, 1)),
            // A REX that a later prefix cancels: mov [rdi], esi
            (&[0x4c, 0x3e, 0x89, 0x37], register(4, 6)),
            // mov [rdi], si; mov [rdi], dh; mov [rdi], rsi; mov qword [rax], 0; mov word [rax], 2; mov byte [rax], 3
            (&[0x66, 0x89, 0x37], sized(2, register(3, 6))),
            (&[0x88, 0x37], sized(1, register(2, 6))),
            (&[0x48, 0x89, 0x37], sized(8, register(3, 6))),
            (&[0x66, 0x48, 0x89, 0x37], sized(8, register(4, 6))),
            (&[0x48, 0xc7, 0x00, 0, 0, 0, 0], sized(8, immediate(7, 0))),
            (&[0x66, 0xc7, 0x00, 2, 0], sized(2, immediate(5, 2))),
            (&[0xc6, 0x00, 3], sized(1, immediate(3, 3))),
            // movabs [0xfee000b0], eax; xchg [rdi], eax, with and without lock
            (&[0xa3, 0xb0, 0x00, 0xe0, 0xfe, 0, 0, 0, 0], None),
            (&[0x87, 0x07], None),
            (&[0xf0, 0x87, 0x07], None),
            // Repeated, registers, read, read-modify-write, lock mov, c7 /7, two bytes
            (&[0xf3, 0x89, 0x37], None),
            (&[0x89, 0xf7], None),
            (&[0x8b, 0x37], None),
            (&[0x09, 0x37], None),
            (&[0xf0, 0x89, 0x37], None),
            (&[0xc7, 0x38, 0, 0, 0, 0], None),
            (&[0x0f, 0xc3, 0x37], None),
            (&[], None),
            (&[0x44], None),
            (&[0x89], None),
            (&[0x89, 0x04], None),
            (&[0x89, 0x80, 0, 0, 0], None),
            (&[0xc7, 0x00, 0, 0, 0], None),
        ];
        for (bytes, expected) in instructions {
            assert_eq!(decode(bytes), *expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn fifteen_bytes_and_no_more() {
        let mut bytes = [0x3e; 16];
        bytes[13..15].copy_from_slice(&[0x89, 0x37]);
        assert_eq!(decode(&bytes), register(15, 6));
        bytes[13..16].copy_from_slice(&[0x3e, 0x89, 0x37]);
        assert_eq!(decode(&bytes), None);
    }

    /// Length of ModRM, SIB and displacement by mode and rm, written down from APM vol. 3, tables. The second
    /// number counts when the SIB byte's base is 5.
    const LENGTH: [[(usize, usize); 8]; 3] = [
        [(1, 1), (1, 1), (1, 1), (1, 1), (2, 6), (5, 5), (1, 1), (1, 1)],
        [(2, 2), (2, 2), (2, 2), (2, 2), (3, 3), (2, 2), (2, 2), (2, 2)],
        [(5, 5), (5, 5), (5, 5), (5, 5), (6, 6), (5, 5), (5, 5), (5, 5)],
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn agrees_with_the_tables(
            segment in prop_oneof![Just(None), prop_oneof![Just(0x3eu8), Just(0x65), Just(0x26)].prop_map(Some)],
            address_size: bool, rex in prop_oneof![Just(None), (0x40u8..0x48).prop_map(Some)],
            opcode in prop_oneof![Just(0x89u8), Just(0xc7)],
            mode in 0u8..3, reg in 0u8..8, rm in 0u8..8, tail: [u8; 12], value: u32,
        ) {
            let mut bytes: Vec<u8> = segment.into_iter().collect();
            bytes.extend(address_size.then_some(0x67));
            bytes.extend(rex);
            let reg = if opcode == 0xc7 { 0 } else { reg };
            bytes.extend([opcode, mode << 6 | reg << 3 | rm]);
            let (usual, base_5) = LENGTH[mode as usize][rm as usize];
            let length = if tail[0] & 7 == 5 { base_5 } else { usual };
            bytes.extend(&tail[..length - 1]);
            let high = if rex.is_some_and(|rex| rex & 4 != 0) { 8 } else { 0 };
            let source = if opcode == 0xc7 { Source::Immediate(value) } else { Source::Register(reg | high) };
            if opcode == 0xc7 {
                bytes.extend(value.to_le_bytes());
            }
            let expected = if bytes.len() <= 15 {
                Some(Store { len: bytes.len(), size: 4, source })
            } else {
                None
            };
            for cut in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..cut]), None);
            }
            bytes.extend([0x90; 4]);
            prop_assert_eq!(decode(&bytes), expected);
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some(store) = decode(&bytes) {
                prop_assert!((2..=15).contains(&store.len) && store.len <= bytes.len());
                prop_assert!(!matches!(store.source, Source::Register(16..)));
            }
        }

        #[test]
        fn nothing_dangerous_passes(offset in 0u32..0x1000, value: u32) {
            let message = value >> 8 & 7;
            for offset in [offset, offset & !15, 0x300, 0x320, 0x350, 0x500] {
                if passes(offset, value) {
                    prop_assert!(offset % 16 == 0);
                    prop_assert!(offset != 0x300 || [0, 1, 4].contains(&message));
                    let lvt = (0x320..=0x370).contains(&offset) || (0x500..=0x530).contains(&offset);
                    prop_assert!(!lvt || value >> 16 & 1 == 1 || [0, 4, 7].contains(&message));
                }
            }
        }
    }

    #[test]
    fn filtering() {
        // Linux: reschedule, INIT assert and de-assert, start-up, NMI to all others.
        assert!(passes(0x300, 0x0000_08fd));
        assert!(!passes(0x300, 0x0000_03fd), "remote read");
        assert!(!passes(0x300, 0x0000_07fd), "external interrupt");
        assert!(passes(0x300, 0x0000_00fd));
        assert!(!passes(0x300, 0x0000_c500));
        assert!(!passes(0x300, 0x0000_8500));
        assert!(!passes(0x300, 0x0000_0699));
        assert!(passes(0x300, 0x000c_0400));
        assert!(!passes(0x300, 0x0000_0200));
        assert!(passes(0x310, 0x0100_0000));
        // End of interrupt; a local vector as external interrupt, as SMI, as a masked SMI, as INIT.
        assert!(passes(0xb0, 0));
        assert!(passes(0x350, 0x700));
        assert!(!passes(0x340, 0x200));
        assert!(passes(0x340, 0x1_0200));
        assert!(!passes(0x520, 0x500));
        // Identity, version, in-service, between two registers.
        for offset in [0x20, 0x30, 0x100, 0x304, 0x2fe, 0xffc] {
            assert!(!passes(offset, 0), "{offset:#x}");
        }
    }
}
