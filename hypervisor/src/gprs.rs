//! The general registers that VMRUN does not switch.

/// A guest's general registers but for RAX and RSP.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Gprs {
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rsi: u64,
}

impl Gprs {
    /// The arguments of a call as the System V ABI passes them, all else zero.
    pub fn with_arguments([rdi, rsi, rdx, rcx, r8, r9]: [u64; 6]) -> Self {
        Self { rdi, rsi, rdx, rcx, r8, r9, ..Self::default() }
    }

    /// These arguments.
    pub fn arguments(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.rcx, self.r8, self.r9]
    }
}

// Where `svm::enter` of the runtime finds them.
const _: () = assert!(core::mem::offset_of!(Gprs, rdi) == 24 && core::mem::offset_of!(Gprs, rsi) == 104);
