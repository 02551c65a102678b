//! Does what S must not do. Numbers are indices of [`WAYS`].

use core::arch::asm;

#[path = "ways_to_die.rs"]
mod ways_to_die;

const _: () = assert!(ways_to_die::WAYS.len() == 61, "every way has an arm below");

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
        30 => instruction!("xor eax, eax", "xor edx, edx", "xor ecx, ecx", "xsetbv"),
        31 => instruction!("smsw eax"),
        32 => instruction!("mov ecx, 0xc0000080", "xor eax, eax", "xor edx, edx", "wrmsr"),
        33 => instruction!("mov rax, dr7"),
        34 => instruction!("mov cr3, {0}"; 0u64),
        35 => instruction!("lgdt [rsp - 16]"),
        36 => instruction!("xor eax, eax", "lldt ax"),
        37 => instruction!("clts"),
        38 => instruction!("swapgs"),
        39 => instruction!("wrfsbase {0}"; 0x4000_0000u64),
        40 => instruction!("xor eax, eax", "mov ss, eax"),
        41 => {
            instruction!("push 0x18", "push rsp", "pushfq", "push 0x10", "lea {0}, [rip + 2f]", "push {0}", "iretq", "2:"; 0u64)
        }
        42 => instruction!("push 0x10", "push 0", "call fword ptr [rsp]"),
        43 => instruction!("sysret"),
        44 => instruction!("int 1"),
        45 => instruction!("rsm"),
        46 => instruction!("sti"),
        47 => instruction!("mov edx, 0x60", "lea rdi, [rsp - 64]", "insb"),
        48 => instruction!("mov edx, 0x3f8", "lea rsi, [rsp - 64]", "outsb"),
        49 => instruction!("invlpg [rsp]"),
        50 => instruction!("invd"),
        51 => instruction!("wbinvd"),
        52 => instruction!("mov rax, rsp", "xor ecx, ecx", "xor edx, edx", "monitor"),
        53 => instruction!("xor eax, eax", "xor ecx, ecx", "mwait"),
        54 => instruction!("xor eax, eax", "vmload rax"),
        55 => instruction!("stgi"),
        56 => instruction!("xor eax, eax", "skinit eax"),
        57 => instruction!("mov byte ptr [rsp - 0x2800], al"),
        58 => instruction!("and rsp, -4096", "mov byte ptr [rsp + 0x3000], al"),
        59 => instruction!("jmp {0}"; &raw const crate::CALLS as u64),
        60 => instruction!("vxorps ymm0, ymm0, ymm0"),
        _ => {}
    }
    0
}
