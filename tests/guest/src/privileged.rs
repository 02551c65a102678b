//! To the guest's kernel this is a CPU without SVM.

use crate::attack::{Execute, INSTRUCTIONS, Kernel, Msr, UD};
use anyhow::ensure;

/// MSRs by number: AMD APM vol. 2, 3.1.7 and 15.30.
const EFER: u32 = 0xc000_0080;
const VM_CR: u32 = 0xc001_0114;
const VM_HSAVE_PA: u32 = 0xc001_0117;
const SVM_KEY: u32 = 0xc001_0118;
const EFER_SVME: u64 = 1 << 12;
/// KVM's clock, which a hypervisor underneath would write to any address it is told.
const KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
const HYPERV_GUEST_OS_ID: u32 = 0x4000_0000;

pub fn run() -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    for (number, name) in INSTRUCTIONS.iter().enumerate() {
        let answer = kernel.ask(Execute { instruction: number as u32, vector: 0, rax: 0x10_0000 })?;
        ensure!(answer.vector == UD, "{name}: vector {} instead of #UD", answer.vector as i32);
    }
    let efer = kernel.ask(Msr { msr: EFER, ..Default::default() })?;
    ensure!(efer.read_error == 0 && efer.value & EFER_SVME == 0, "EFER reads {:#x}", efer.value);
    let writes = [
        ("EFER.SVME", EFER, efer.value | EFER_SVME),
        ("VM_HSAVE_PA", VM_HSAVE_PA, 0x10_0000),
        ("KVM's clock", KVM_SYSTEM_TIME, 0x10_0001),
        ("Hyper-V's guest OS id", HYPERV_GUEST_OS_ID, 1),
    ];
    for (name, msr, value) in writes {
        let answer = kernel.ask(Msr { msr, write: 1, value, ..Default::default() })?;
        ensure!(answer.write_error != 0, "{name} can be written");
    }
    // What a CPU without SVM ignores or refuses; it must not stick.
    for (name, msr, value) in [("VM_CR", VM_CR, 2), ("SVM_KEY", SVM_KEY, 0x1234_5678)] {
        let answer = kernel.ask(Msr { msr, write: 1, value, ..Default::default() })?;
        ensure!(answer.write_error != 0 || answer.value != value, "{name} can be written");
    }
    let efer_now = kernel.ask(Msr { msr: EFER, ..Default::default() })?;
    ensure!(efer_now.value == efer.value, "EFER has changed from {:#x} to {:#x}", efer.value, efer_now.value);
    Ok(())
}
