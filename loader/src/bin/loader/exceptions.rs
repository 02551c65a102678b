//! Exceptions end the loader with a line that says which and where, in long mode and, between long mode and SKINIT, in 32
//! bits (`skinit.s`, whose one answer to an exception is for a processor without SKINIT).

use core::cell::UnsafeCell;

use hypervisor::serial;

/// Vectors reserved for exceptions (AMD APM vol. 2, 8.2).
const VECTORS: usize = 32;
/// Bytes between two entries of `loader_exception_stubs`.
const STUB: u64 = 16;
/// Vectors whose frame begins with an error code (AMD APM vol. 2, 8.4).
const WITH_ERROR_CODE: u32 =
    1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21 | 1 << 29 | 1 << 30;

/// Selectors of `boot.s`.
const CODE_32: u64 = 0x08;
const CODE_64: u64 = 0x18;
/// AMD APM vol. 2, 4.7.4 and 4.8.4: present, interrupt gate.
const GATE: u64 = 0x8e00;
const UNDEFINED_OPCODE: usize = 6;

/// A table that the processor reads and only [`install`] writes, before it can be read.
#[repr(C, align(16))]
struct Table<const N: usize>(UnsafeCell<[u64; N]>);

// SAFETY: there is one processor, and the table is written once, before it is used.
unsafe impl<const N: usize> Sync for Table<N> {}

static IDT_64: Table<{ 2 * VECTORS }> = Table(UnsafeCell::new([0; 2 * VECTORS]));
/// `skinit.s` loads it.
#[unsafe(no_mangle)]
static LOADER_IDT_32: Table<VECTORS> = Table(UnsafeCell::new([0; VECTORS]));

// SAFETY: labels of the assembly; only their addresses are used.
unsafe extern "C" {
    static loader_exception_stubs: u8;
    static loader_on_undefined_opcode_32: u8;
    static loader_on_exception_32: u8;
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Fills both tables and loads the 64-bit one.
pub fn install() {
    let stubs = &raw const loader_exception_stubs as u64;
    // SAFETY: nobody else refers to the tables yet.
    let (idt_64, idt_32) = unsafe { (&mut *IDT_64.0.get(), &mut *LOADER_IDT_32.0.get()) };
    for (vector, gate_64) in idt_64.chunks_exact_mut(2).enumerate() {
        gate_64.copy_from_slice(&[gate(stubs + STUB * vector as u64, CODE_64), 0]);
    }
    idt_32.fill(gate(&raw const loader_on_exception_32 as u64, CODE_32));
    idt_32[UNDEFINED_OPCODE] = gate(&raw const loader_on_undefined_opcode_32 as u64, CODE_32);

    let pointer = Pointer { limit: (size_of_val(idt_64) - 1) as u16, base: IDT_64.0.get() as u64 };
    // SAFETY: the table is complete and stays; its handlers do not return.
    unsafe { core::arch::asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack)) };
}

/// A gate to a handler in the low 4 GiB.
fn gate(handler: u64, selector: u64) -> u64 {
    (handler & 0xffff_0000) << 32 | GATE << 32 | selector << 16 | handler & 0xffff
}

/// Called by the stubs of `boot.s` with the vector and the frame as the processor pushed it.
#[unsafe(no_mangle)]
extern "C" fn loader_on_exception(vector: u32, frame: &[u64; 2]) -> ! {
    let rip = frame[(WITH_ERROR_CODE >> vector & 1) as usize];
    serial::refuse(format_args!("exception {vector} at {rip:#x} in the loader"))
}
