//! Reading and writing the guest's memory at guest-virtual addresses, as the guest's own tables say.
//!
//! Guarantees: every page table and every page touched is the OS's RAM by [`RamMap`] (never a device, never the reserve); each
//! table entry is read exactly once, and what was read is what is judged and used; guest tables are never written.
//! A [`GuestMemory`] is made in the exit that uses it and must not survive the next VMRUN: no result of a walk outlives the call
//! that made it.
//!
//! Nested tables are the identity on the OS's RAM, so a guest-physical address that [`RamMap`] contains is the host-physical
//! address; that is the only way from one to the other.
//!
//! What hardware would answer by #PF is a [`Fault`] with the error code hardware would give. In one case it is stricter
//! than hardware: writing to a page that is writable but not *dirty* is a fault as well, because hardware would set the D
//! bit and the hypervisor does not write guest tables; the OS sets it when it handles the fault. What no #PF could
//! mend is one without.

use crate::addr::{Gva, HUGE_PAGE, Hpa, LARGE_PAGE, PAGE_SIZE, pieces};
use crate::memory::{DirectMap, RamMap};
use crate::vmcb::{CR0_WP, CR4_LA57, CR4_PKE, EFER_NXE};
use core::ops::Range;
use x86_64::structures::idt::PageFaultErrorCode as Code;

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// Why an access is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first byte that could not be accessed: CR2 of the #PF to be raised.
    pub gva: Gva,
    /// Its error code (APM vol. 2, 8.4.2). None: no #PF could mend this: non-canonical, a supervisor page asked for as a user, or not the
    /// OS's RAM.
    pub error_code: Option<u32>,
}

/// Bits of table entries (APM vol. 2, 5.4). `PAGE` is in a PDE or PDPTE: it maps a page.
mod entry {
    pub use crate::tables::{ADDRESS, DIRTY, LARGE as PAGE, NO_EXECUTE, PRESENT, USER, WRITABLE};
    /// Reserved in a PML5E, PML4E and a PDPTE that points to a table.
    pub const GLOBAL: u64 = 1 << 8;
    pub const KEY_SHIFT: u32 = 59;
}

/// An address space of the guest: the registers that select it, as they were at the exit. The default stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    cr0: u64,
    /// CR3 bits 51:12: what identifies the address space.
    pub root: Hpa,
    cr4: u64,
    efer: u64,
    /// Counts only where CR4 enables protection keys.
    pkru: u32,
    physical_bits: u32,
}

impl Space {
    /// The address space that these registers select in long mode. `physical_bits` is CPUID 8000_0008 EAX[7:0].
    pub fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64, pkru: u32, physical_bits: u32) -> Self {
        Self { cr0, root: Hpa(cr3 & entry::ADDRESS), cr4, efer, pkru, physical_bits }
    }

    fn levels(&self) -> u32 {
        if self.cr4 & CR4_LA57 != 0 { 5 } else { 4 }
    }

    fn no_execute(&self) -> bool {
        self.efer & EFER_NXE != 0
    }

    fn write_protect(&self) -> bool {
        self.cr0 & CR0_WP != 0
    }

    /// What must be 0 in every entry: address bits that the processor does not have, and NX where it is not enabled.
    fn reserved(&self) -> u64 {
        let not_there = entry::ADDRESS & !((1u64 << self.physical_bits.clamp(32, 52)) - 1);
        not_there | if self.no_execute() { 0 } else { entry::NO_EXECUTE }
    }

    /// User: the lower half. Supervisor: any canonical address.
    fn allows(&self, gva: Gva, user: bool) -> bool {
        let high = (gva.0 as i64) >> (9 * self.levels() + 11);
        high == 0 || (!user && high == -1)
    }
}

/// Where a walk ended: the page, what all its entries together allow, and the last of them.
struct Leaf {
    at: Hpa,
    writable: bool,
    user: bool,
    no_execute: bool,
    entry: u64,
}

/// Where a walk ended without a page.
enum Miss {
    /// An entry that is not present, and its level (1: PTE, 2: PDE, ...).
    Absent { level: u32, entry: u64 },
    /// An entry with a reserved bit set.
    Reserved,
    /// A table that is not the OS's RAM.
    NotRam,
}

/// What [`GuestMemory::peek`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// The bytes were there.
    Read,
    /// Nothing is there, or nothing that a user could have put there.
    Nothing,
    /// The page is not present, but its entry holds something: swapped out, migrating, or without permissions.
    Away,
}

/// The guest's memory, seen through one address space, during one exit.
pub struct GuestMemory<'a> {
    mem: DirectMap,
    ram: RamMap<'a>,
    pub space: Space,
}

impl<'a> GuestMemory<'a> {
    /// See the module's documentation: not to be kept across a VMRUN.
    pub fn new(mem: DirectMap, ram: RamMap<'a>, space: Space) -> Self {
        Self { mem, ram, space }
    }

    /// Reads user memory.
    pub fn read(&self, from: Gva, to: &mut [u8]) -> Result<(), Fault> {
        self.each_page(from, to.len(), Access::Read, |at, piece| self.mem.copy_from(at, &mut to[piece]))
    }

    /// Writes user memory. A fault in the middle leaves what was written before it.
    pub fn write(&self, to: Gva, from: &[u8]) -> Result<(), Fault> {
        self.each_page(to, from.len(), Access::Write, |at, piece| self.mem.copy_to(at, &from[piece]))
    }

    /// Whether all of this user memory could be written now.
    pub fn check_writable(&self, to: Gva, len: u64) -> Result<(), Fault> {
        self.each_page(to, len as usize, Access::Write, |_, _| ())
    }

    /// Copies user memory to physical memory. The caller has made sure that it is nobody else's. A fault in the middle leaves what was
    /// copied before it.
    pub fn copy_in(&self, from: Gva, to: Hpa, len: u64) -> Result<(), Fault> {
        self.each_page(from, len as usize, Access::Read, |at, piece| {
            self.mem.copy(at, to + piece.start as u64, piece.len() as u64);
        })
    }

    /// Reads the instruction at a linear address, as far as it can be fetched; only a fault at its first byte is an error.
    pub fn fetch(&self, from: Gva, user: bool, to: &mut [u8; 15]) -> Result<usize, Fault> {
        for (gva, piece) in pieces(from, to.len()) {
            match self.translate(gva, Access::Fetch, user) {
                Ok(at) => self.mem.copy_from(at, &mut to[piece]),
                Err(_) if piece.start > 0 => return Ok(piece.start),
                Err(fault) => return Err(fault),
            }
        }
        Ok(to.len())
    }

    /// Reads user memory that lies in one page, of an address space that may no longer exist. Protection keys are not asked.
    pub fn peek(&self, from: Gva, to: &mut [u8]) -> Peek {
        if !self.space.allows(from, true) || from.page_offset() + to.len() > PAGE_SIZE as usize {
            return Peek::Nothing;
        }
        match self.walk(from) {
            Ok(leaf) if leaf.user && self.ram.contains(leaf.at) => {
                self.mem.copy_from(leaf.at, to);
                Peek::Read
            }
            Err(Miss::Absent { level: 1 | 2, entry }) if entry != 0 => Peek::Away,
            _ => Peek::Nothing,
        }
    }

    /// Calls `f` with the physical address of each page's part and which of the bytes it is, in order.
    fn each_page(
        &self,
        start: Gva,
        len: usize,
        access: Access,
        mut f: impl FnMut(Hpa, Range<usize>),
    ) -> Result<(), Fault> {
        // Ends at the latest at the first address that is not a user's, long before it could wrap.
        for (gva, piece) in pieces(start, len) {
            f(self.translate(gva, access, true)?, piece);
        }
        Ok(())
    }

    /// Where this address lies, if the access is allowed. SMEP and SMAP are not modelled: supervisor accesses are made only to
    /// fetch again what the processor has just executed.
    pub fn translate(&self, gva: Gva, access: Access, user: bool) -> Result<Hpa, Fault> {
        let bad_address = Err(Fault { gva, error_code: None });
        let fault = |more: Code| {
            let code = more | self.error_of(access, user);
            Err(Fault { gva, error_code: Some(code.bits() as u32) })
        };
        if !self.space.allows(gva, user) {
            return bad_address;
        }
        let leaf = match self.walk(gva) {
            Ok(leaf) => leaf,
            Err(Miss::Absent { .. }) => return fault(Code::empty()),
            Err(Miss::Reserved) => return fault(Code::PROTECTION_VIOLATION | Code::MALFORMED_TABLE),
            Err(Miss::NotRam) => return bad_address,
        };
        if user && !leaf.user {
            return bad_address;
        }
        let allowed = match access {
            Access::Read => true,
            Access::Write => {
                (leaf.writable || !(user || self.space.write_protect())) && leaf.entry & entry::DIRTY != 0
            }
            Access::Fetch => !leaf.no_execute,
        };
        if self.key_forbids(&leaf, access, user) {
            return fault(Code::PROTECTION_VIOLATION | Code::PROTECTION_KEY);
        }
        if !allowed {
            return fault(Code::PROTECTION_VIOLATION);
        }
        if !self.ram.contains(leaf.at) {
            return bad_address;
        }
        Ok(leaf.at)
    }

    fn error_of(&self, access: Access, user: bool) -> Code {
        let mut code = Code::empty();
        code.set(Code::USER_MODE, user);
        code.set(Code::CAUSED_BY_WRITE, access == Access::Write);
        code.set(Code::INSTRUCTION_FETCH, access == Access::Fetch && self.space.no_execute());
        code
    }

    /// Protection keys guard data accesses to user pages: two bits of PKRU a key, access disable and write disable (APM vol. 2,
    /// 5.6.7).
    fn key_forbids(&self, leaf: &Leaf, access: Access, user: bool) -> bool {
        let forbidding = match access {
            Access::Write if user || self.space.write_protect() => 0b11,
            Access::Read | Access::Write => 0b01,
            Access::Fetch => 0,
        };
        let key = leaf.entry >> entry::KEY_SHIFT & 0xf;
        leaf.user && self.space.cr4 & CR4_PKE != 0 && self.space.pkru >> (2 * key) & forbidding != 0
    }

    /// Follows the tables (APM vol. 2, 5.3), reading one entry a level.
    fn walk(&self, gva: Gva) -> Result<Leaf, Miss> {
        let mut table = self.space.root;
        let mut leaf = Leaf { at: table, writable: true, user: true, no_execute: false, entry: 0 };
        let mut level = self.space.levels();
        loop {
            if !self.ram.contains(table) {
                return Err(Miss::NotRam);
            }
            let shift = 12 + 9 * (level - 1);
            let entry = self.mem.read_u64(table + ((gva.0 >> shift) & 0x1ff) * 8);
            if entry & entry::PRESENT == 0 {
                return Err(Miss::Absent { level, entry });
            }
            let is_leaf = level == 1 || (level <= 3 && entry & entry::PAGE != 0);
            if entry & self.must_be_zero(level, is_leaf) != 0 {
                return Err(Miss::Reserved);
            }
            leaf.writable &= entry & entry::WRITABLE != 0;
            leaf.user &= entry & entry::USER != 0;
            leaf.no_execute |= entry & entry::NO_EXECUTE != 0;
            if is_leaf {
                let within = (1u64 << shift) - 1;
                leaf.at = Hpa((entry & entry::ADDRESS & !within) | (gva.0 & within));
                leaf.entry = entry;
                return Ok(leaf);
            }
            table = Hpa(entry & entry::ADDRESS);
            level -= 1;
        }
    }

    /// The bits of an entry that raise #PF with RSV when set (APM vol. 2, 5.3.3 and 5.4.1).
    fn must_be_zero(&self, level: u32, is_leaf: bool) -> u64 {
        let by_level = match (level, is_leaf) {
            (4 | 5, _) => entry::PAGE | entry::GLOBAL,
            (3, false) => entry::GLOBAL,
            // Bit 12 of a large page's entry is its PAT bit.
            (3, true) => (HUGE_PAGE - 1) & entry::ADDRESS & !(1 << 12),
            (2, true) => (LARGE_PAGE - 1) & entry::ADDRESS & !(1 << 12),
            _ => 0,
        };
        self.space.reserved() | by_level
    }
}

#[cfg(test)]
mod tests;
