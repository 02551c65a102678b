//! The local APIC's instruction decoder against a disassembler that knows nothing of it.
//!
//! What [`lapic::decode`] accepts is, to `iced-x86`, an instruction of the same length that stores as many bytes to memory once, if
//! 4 from the same register or immediate, and changes nothing else. What it does not accept, the disassembler does not see as a
//! plain `MOV` to memory either. Nothing depends on the bytes behind the
//! instruction, and bytes that are too few are never enough.

use hypervisor::lapic::{self, Source, Store};
use iced_x86::{
    Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

/// The bytes are an instruction of 64-bit code.
pub fn check(bytes: &[u8]) {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::AMD);
    let instruction = decoder.decode();
    match lapic::decode(bytes) {
        Some(store) => accepted(bytes, store, &instruction),
        None => assert!(!is_plain_store(&instruction), "refused: {instruction:?} in {bytes:02x?}"),
    }
}

fn accepted(bytes: &[u8], store: Store, instruction: &Instruction) {
    let len = store.len;
    assert!((2..=15).contains(&len) && len <= bytes.len());
    assert!(!instruction.is_invalid(), "accepted what is no instruction: {bytes:02x?}");
    assert_eq!(len, instruction.len(), "length of {instruction:?}");
    for cut in 0..len {
        assert_eq!(lapic::decode(&bytes[..cut]), None);
    }
    let mut followed = bytes[..len].to_vec();
    followed.extend([0xff; 4]);
    assert_eq!(lapic::decode(&followed), Some(store));

    assert_eq!(instruction.mnemonic(), Mnemonic::Mov);
    assert_eq!((instruction.op_count(), instruction.op0_kind()), (2, OpKind::Memory));
    assert_eq!(instruction.memory_size().size(), store.size, "{instruction:?}");
    match store.source {
        _ if store.size != 4 => {}
        Source::Immediate(value) => {
            assert_eq!((instruction.op1_kind(), instruction.immediate32()), (OpKind::Immediate32, value));
        }
        Source::Register(number) => {
            assert_eq!(instruction.op1_register(), Register::EAX + u32::from(number));
        }
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let writes = |access| matches!(access, OpAccess::Write | OpAccess::ReadWrite);
    assert_eq!(info.used_memory().iter().filter(|m| writes(m.access())).count(), 1);
    assert!(!writes(info.op1_access()));
}

/// MOV of a general register or of an immediate to memory, but for that of RAX to an absolute address of 64 bits.
fn is_plain_store(instruction: &Instruction) -> bool {
    use iced_x86::Code::*;
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    instruction.op0_kind() == OpKind::Memory
        && matches!(
            instruction.code(),
            Mov_rm8_r8
                | Mov_rm16_r16
                | Mov_rm32_r32
                | Mov_rm64_r64
                | Mov_rm8_imm8
                | Mov_rm16_imm16
                | Mov_rm32_imm32
                | Mov_rm64_imm32
        )
        && !repeated
}
