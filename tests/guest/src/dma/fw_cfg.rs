//! QEMU's own device for firmware: told an address by two ports, it transfers to there, past every IOMMU (docs/specs/fw_cfg.rst).

use super::page::Page;
use crate::support::system;
use std::arch::asm;

/// Control: select this item, and read it to memory.
const SIGNATURE: u32 = 0 << 16;
const SELECT: u32 = 1 << 3;
const READ: u32 = 1 << 1;
const ADDRESS_HIGH: u16 = 0x514;
const ADDRESS_LOW: u16 = 0x518;

/// The four bytes of its signature, "QEMU", to this address.
pub fn write(address: u64) -> anyhow::Result<()> {
    let page = Page::new()?;
    page.put(0, &(SIGNATURE | SELECT | READ).to_be_bytes());
    page.put(4, &4u32.to_be_bytes());
    page.put(8, &address.to_be_bytes());
    // SAFETY: lets this program use ports, and nothing else.
    system("iopl", unsafe { libc::syscall(libc::SYS_iopl, 3) })?;
    for (port, half) in [(ADDRESS_HIGH, (page.physical >> 32) as u32), (ADDRESS_LOW, page.physical as u32)] {
        // SAFETY: the device reads the page, and writes where the test says, which is nothing of this program's.
        unsafe { asm!("out dx, eax", in("dx") port, in("eax") half.swap_bytes(), options(nostack)) };
    }
    Ok(())
}
