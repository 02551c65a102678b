//! Exceptions in SLB and runtime: each is a bug and ends like a panic, but for #GP at the MSR access of [`try_rdmsr`] or
//! [`try_wrmsr`], which say so. IF is 0 in both, and so is GIF after SKINIT: nothing else arrives.

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::tables::lidt;
use x86_64::registers::control::Cr2;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::idt::ExceptionVector;

core::arch::global_asm!(
    r#"
    .section .text.trustvisor_exceptions, "ax"
    .global trustvisor_exception_stubs, trustvisor_try_rdmsr, trustvisor_try_wrmsr, trustvisor_msr_refused
    // A stub for each exception: vector and, where the processor pushes none, an error code of 0 (APM vol. 2, 8.2).
    .balign 16
trustvisor_exception_stubs:
    .set vector, 0
    .rept {EXCEPTIONS}
    .balign {STUB}
    .if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 && vector != 29 && vector != 30
    push 0
    .endif
    push vector
    jmp 2f
    .set vector, vector + 1
    .endr
    // What returns goes on in one of the functions below, whose caller keeps no other register. The stack is aligned at `call`.
2:  cld
    mov rdi, rsp
    push rdi
    call {exception}
    add rsp, 24
    iretq

trustvisor_try_rdmsr:
    mov ecx, edi
    rdmsr
    mov [rsi], eax
    mov [rsi + 4], edx
    mov eax, 1
    ret
trustvisor_try_wrmsr:
    mov ecx, edi
    mov eax, esi
    mov rdx, rsi
    shr rdx, 32
    wrmsr
    mov eax, 1
    ret
trustvisor_msr_refused:
    xor eax, eax
    ret
    .text
"#,
    EXCEPTIONS = const EXCEPTIONS,
    STUB = const STUB,
    exception = sym exception,
);

// SAFETY: labels of the assembly above, the functions of these types.
unsafe extern "C" {
    safe static trustvisor_exception_stubs: u8;
    safe static trustvisor_msr_refused: u8;
    fn trustvisor_try_rdmsr(msr: u32, value: &mut u64) -> bool;
    fn trustvisor_try_wrmsr(msr: u32, value: u64) -> bool;
}

/// Exceptions (APM vol. 2, 8.2), and bytes from one stub to the next.
const EXCEPTIONS: usize = 32;
const STUB: usize = 16;

/// What a stub and the processor (APM vol. 2, 8.9.3) push, as far as it is of use.
#[repr(C)]
struct Frame {
    vector: u64,
    error_code: u64,
    rip: u64,
}

extern "C" fn exception(frame: &mut Frame) {
    let (first, refused) = (trustvisor_try_rdmsr as *const (), &raw const trustvisor_msr_refused);
    if frame.vector == ExceptionVector::GeneralProtection as u64
        && (first as u64..refused as u64).contains(&frame.rip)
    {
        frame.rip = refused as u64;
        return;
    }
    let Frame { vector, error_code, rip } = frame;
    panic!("exception {vector} (error code {error_code:#x}, CR2 {:#x}) at {rip:#x}", Cr2::read_raw());
}

/// From now on exceptions are handled. `code` is the selector of 64-bit code.
pub fn catch(code: u16) {
    static TABLE: Once<[[u64; 2]; EXCEPTIONS]> = Once::new();
    let stubs = &raw const trustvisor_exception_stubs as u64;
    let table = TABLE.call_once(|| core::array::from_fn(|i| gate(stubs + (STUB * i) as u64, code)));
    let base = VirtAddr::from_ptr(table);
    // SAFETY: the table lives for ever, and its gates lead to the stubs, which are made for exceptions.
    unsafe { lidt(&DescriptorTablePointer { limit: size_of_val(table) as u16 - 1, base }) }
}

/// A 64-bit interrupt gate (APM vol. 2, 4.8.4), as two words.
fn gate(handler: u64, code_selector: u16) -> [u64; 2] {
    let present_interrupt_gate = 0x8e00 << 32;
    let low = handler & 0xffff | (handler >> 16 & 0xffff) << 48;
    [low | u64::from(code_selector) << 16 | present_interrupt_gate, handler >> 32]
}

/// Reads an MSR; None where the processor has none of this number.
pub fn try_rdmsr(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: the routine writes to `value` alone; if its RDMSR faults, it returns false.
    unsafe { trustvisor_try_rdmsr(msr, &mut value) }.then_some(value)
}

/// Writes an MSR; false where the processor has none of this number, or refuses the value.
///
/// # Safety
/// Nothing that the hypervisor relies on depends on the register.
pub unsafe fn try_wrmsr(msr: u32, value: u64) -> bool {
    // SAFETY: the caller's contract; if the routine's WRMSR faults, it returns false.
    unsafe { trustvisor_try_wrmsr(msr, value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_the_whole_address() {
        let [low, high] = gate(0xffff_ffff_8012_3456, 0x18);
        assert_eq!((low, high), (0x8012_8e00_0018_3456, 0xffff_ffff));
    }

    /// Calls the handler as a stub does.
    fn handle(vector: u64, rip: u64) -> u64 {
        let mut frame = Frame { vector, error_code: 0, rip };
        exception(&mut frame);
        frame.rip
    }

    #[test]
    fn an_msr_that_is_refused_is_no_bug() {
        let [first, refused] =
            [trustvisor_try_rdmsr as *const () as u64, &raw const trustvisor_msr_refused as u64];
        assert_eq!([first + 2, refused - 1].map(|rip| handle(13, rip)), [refused, refused]);
    }
}
