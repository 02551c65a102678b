//! Does what S must not do. Numbers are indices of [`WAYS`].

use core::arch::asm;

#[path = "ways_to_die.rs"]
mod ways_to_die;

const _: () = assert!(ways_to_die::WAYS.len() == 30, "every way has an arm below");

/// Instructions, the last of them with a register that holds the value, if there is one.
macro_rules! instruction {
    ($($template:literal),+ $(; $value:expr)?) => {
        // SAFETY: TrustVisor wipes S here. If it does not, the test fails, whatever becomes of S.
        unsafe { asm!($($template),+ $(, in(reg) $value)?) }
    };
}

/// Dies. Coming back is the failure that the test looks for.
pub fn die(how: u32) -> u64 {
    match how {
        0 => instruction!("xor ecx, ecx", "div ecx"),
        1 => instruction!("int3"),
        2 => instruction!("ud2"),
        3 => panic!("S may panic"),
        4 => instruction!("jmp {0}"; 0u64),
        5 => instruction!("jmp {0}"; 0x7000_0000u64),
        6 => instruction!("mov dword ptr [rsp - 8], 0xc3", "lea {0}, [rsp - 8]", "jmp {0}"; 0u64),
        7 => instruction!("jmp {0}"; 0x0000_7fff_ffff_f000u64),
        8 => instruction!("jmp {0}"; 1u64 << 63),
        9 => instruction!("mov al, [{0}]"; 0x3fff_f000u64),
        10 => instruction!("mov al, [{0}]"; 0xffff_8880_0000_0000u64),
        11 => instruction!("mov byte ptr [{0}], 0xc3"; die as *const () as u64),
        12 => instruction!("2: push rax", "jmp 2b"),
        13 => instruction!("syscall"),
        14 => instruction!("sysenter"),
        15 => instruction!("int 0x80"),
        16 => instruction!("hlt"),
        17 => instruction!("cli"),
        18 => instruction!("pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop", "nop"),
        19 => instruction!("mov eax, 1", "push rbx", "cpuid", "pop rbx"),
        20 => instruction!("mov ecx, 0xc0000080", "rdmsr"),
        21 => instruction!("xor ecx, ecx", "rdpmc"),
        22 => instruction!("mov edx, 0x3f8", "in al, dx"),
        23 => instruction!("mov edx, 0x3f8", "out dx, al"),
        24 => instruction!("mov rax, cr0"),
        25 => instruction!("xor ecx, ecx", "xgetbv"),
        26 => instruction!("fldz"),
        27 => instruction!("pxor xmm0, xmm0"),
        28 => instruction!("xor eax, eax", "vmrun rax"),
        29 => instruction!("push 0x08", "lea {0}, [rip + 2f]", "push {0}", "retfq", "2:"; 0u64),
        _ => {}
    }
    0
}
