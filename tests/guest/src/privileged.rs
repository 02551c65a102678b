//! To the guest's kernel this is a CPU without SVM.

use crate::attack::{Execute, INSTRUCTIONS, Kernel, Msr, UD};
use anyhow::ensure;

/// AMD APM vol. 2, 3.1.7.
const EFER: u32 = 0xc000_0080;
const EFER_SVME: u64 = 1 << 12;

/// Registers that fault when written, as on a CPU without SVM or with its firmware's locks (AMD APM vol. 2,
/// appendix A; the hypervisor interfaces' registers are those of KVM and Hyper-V).
const REFUSED: &[(&str, u32, u64)] = &[
    ("VM_CR", 0xc001_0114, 2),
    ("SMM_CTL", 0xc001_0116, 1),
    ("VM_HSAVE_PA", 0xc001_0117, 0x10_0000),
    ("SVM_KEY", 0xc001_0118, 0x1234_5678),
    ("the TSC ratio", 0xc000_0104, 1 << 32),
    ("IORR base", 0xc001_0016, 0x10_0018),
    ("IORR mask", 0xc001_0017, 0x10_0800),
    ("TOP_MEM", 0xc001_001a, 0x10_0000),
    ("TOP_MEM2", 0xc001_001d, 0x10_0000),
    ("SMM_BASE", 0xc001_0111, 0x10_0000),
    ("SMM_ADDR", 0xc001_0112, 0x10_0000),
    ("SMM_MASK", 0xc001_0113, 3),
    ("an SMI trap on I/O", 0xc001_0050, 0x80),
    ("KVM's old clock", 0x12, 0x10_0001),
    ("KVM's clock", 0x4b56_4d01, 0x10_0001),
    ("Hyper-V's guest OS id", 0x4000_0000, 1),
];

/// Registers whose writes are dropped: the bits to turn over.
const DROPPED: &[(&str, u32, u64)] = &[
    ("SYSCFG", 0xc001_0010, 1 << 21),
    ("HWCR", 0xc001_0015, 1 << 4),
    ("the MMIO configuration base", 0xc001_0058, 1),
    ("MTRRphysBase0", 0x200, 6),
    ("MTRRphysMask0", 0x201, 1 << 11),
    ("MTRRfix64K_00000", 0x250, 6),
    ("MTRRdefType", 0x2ff, 1 << 11),
];

pub fn run() -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    for (number, name) in INSTRUCTIONS.iter().enumerate() {
        let answer = kernel.ask(Execute { instruction: number as u32, vector: 0, rax: 0x10_0000 })?;
        ensure!(answer.vector == UD, "{name}: vector {} instead of #UD", answer.vector as i32);
    }
    let efer = kernel.ask(Msr { msr: EFER, ..Default::default() })?;
    ensure!(efer.read_error == 0 && efer.value & EFER_SVME == 0, "EFER reads {:#x}", efer.value);
    for (name, msr, value) in REFUSED.iter().chain(&[("EFER.SVME", EFER, efer.value | EFER_SVME)]) {
        let answer = kernel.ask(Msr { msr: *msr, write: 1, value: *value, ..Default::default() })?;
        ensure!(answer.write_error != 0, "{name} can be written");
    }
    for (name, msr, bits) in DROPPED {
        let before = kernel.ask(Msr { msr: *msr, ..Default::default() })?;
        ensure!(before.read_error == 0, "{name} cannot be read");
        let request = Msr { msr: *msr, write: 1, value: before.value ^ bits, ..Default::default() };
        let after = kernel.ask(request)?;
        ensure!(after.write_error == 0, "{name}: a write faults");
        ensure!(
            after.value == before.value,
            "{name} has changed from {:#x} to {:#x}",
            before.value,
            after.value
        );
    }
    let efer_now = kernel.ask(Msr { msr: EFER, ..Default::default() })?;
    ensure!(efer_now.value == efer.value, "EFER has changed from {:#x} to {:#x}", efer.value, efer_now.value);
    Ok(())
}

/// The registers of an x2APIC, its interrupt command register among them: none of them is there, in either direction.
pub fn x2apic() -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    for msr in 0x800..=0x8ff {
        // INIT to all other processors, where it is the command register (APM vol. 2, 16.5).
        let answer = kernel.ask(Msr { msr, write: 1, value: 0xc_4500, ..Default::default() })?;
        ensure!(answer.read_error != 0 && answer.write_error != 0, "MSR {msr:#x} can be accessed");
    }
    Ok(())
}
