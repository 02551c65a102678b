//! Where ACPI's root pointer (RSDP) lies (ACPI Specification 6.5, 5.2.5): on a PC with UEFI in a table of its
//! system table (UEFI Specification 2.10, 4.3 and 4.6), with BIOS in the areas that are searched for it. Multiboot only hands
//! on a copy, and the guest needs the original's address.

use crate::bytes::{Memory, u16_at, u64_at};

const SIGNATURE: &[u8] = b"RSD PTR ";
/// The part of ACPI 1.0, under the first checksum.
const SIZE: u64 = 20;
const STEP: u64 = 16;

/// BIOS data area: segment of the extended BIOS data area.
const EBDA_SEGMENT: u64 = 0x40e;
const EBDA_SIZE: u64 = 1024;
const BIOS: u64 = 0xe_0000;
const BIOS_SIZE: u64 = 0x2_0000;

const ACPI_20_TABLE: [u8; 16] =
    [0x71, 0xe8, 0x68, 0x88, 0xf1, 0xe4, 0xd3, 0x11, 0xbc, 0x22, 0x00, 0x80, 0xc7, 0x3c, 0x88, 0x81];
const SYSTEM_TABLE_SIGNATURE: u64 = u64::from_le_bytes(*b"IBI SYST");
const SYSTEM_TABLE_SIZE: u64 = 120;
/// GUID and pointer.
const TABLE_ENTRY: u64 = 24;
const MAX_TABLES: u64 = 256;

/// The RSDP's address, 0 if there is none.
pub fn find_rsdp(memory: &impl Memory, efi_system_table: u64) -> u64 {
    let by_efi = || efi_rsdp(memory, efi_system_table).filter(|addr| is_rsdp(memory, *addr));
    let by_bios = || {
        let ebda = u64::from(u16_at(memory.bytes(EBDA_SEGMENT, 2)?, 0)?) << 4;
        search(memory, ebda, EBDA_SIZE)
    };
    by_efi().or_else(by_bios).or_else(|| search(memory, BIOS, BIOS_SIZE)).unwrap_or(0)
}

fn efi_rsdp(memory: &impl Memory, system_table: u64) -> Option<u64> {
    let system_table = memory.bytes(system_table, SYSTEM_TABLE_SIZE)?;
    if u64_at(system_table, 0)? != SYSTEM_TABLE_SIGNATURE {
        return None;
    }
    let count = u64_at(system_table, 104)?.min(MAX_TABLES);
    let tables = memory.bytes(u64_at(system_table, 112)?, count * TABLE_ENTRY)?;
    let entry = tables.chunks_exact(TABLE_ENTRY as usize).find(|entry| entry.starts_with(&ACPI_20_TABLE))?;
    u64_at(entry, ACPI_20_TABLE.len())
}

fn search(memory: &impl Memory, start: u64, size: u64) -> Option<u64> {
    (start..start + size).step_by(STEP as usize).find(|addr| is_rsdp(memory, *addr))
}

fn is_rsdp(memory: &impl Memory, addr: u64) -> bool {
    memory.bytes(addr, SIZE).is_some_and(|bytes| {
        bytes.starts_with(SIGNATURE) && bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::tests::Pieces;

    fn rsdp() -> Vec<u8> {
        let mut rsdp = SIGNATURE.to_vec();
        rsdp.resize(SIZE as usize, 3);
        rsdp[8] = 0;
        rsdp[8] = rsdp.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b));
        rsdp
    }

    fn bios(ebda_at: usize, bios_at: usize, bad: u8) -> Pieces {
        let mut low = vec![0; 0xa_0000];
        low[0x40e..0x410].copy_from_slice(&0x9fc0u16.to_le_bytes());
        low[0x9fc00 + ebda_at..][..SIZE as usize].copy_from_slice(&rsdp());
        let mut high = vec![0; BIOS_SIZE as usize];
        high[bios_at..bios_at + SIZE as usize].copy_from_slice(&rsdp());
        low[0x9fc00 + ebda_at + 10] ^= bad;
        Pieces(vec![(0, low), (BIOS, high)])
    }

    #[test]
    fn bios_areas_are_searched_in_order() {
        assert_eq!(find_rsdp(&bios(0x20, 0x1_5b50, 0), 0), 0x9fc20);
        assert_eq!(find_rsdp(&bios(0x20, 0x1_5b50, 1), 0), 0xf_5b50);
        assert_eq!(find_rsdp(&bios(0x20, 0x1_5b58, 1), 0), 0);
        assert_eq!(find_rsdp(&Pieces::default(), 0), 0);
    }

    #[test]
    fn uefi_comes_first() {
        let mut system_table = vec![0; SYSTEM_TABLE_SIZE as usize];
        system_table[..8].copy_from_slice(b"IBI SYST");
        system_table[104..112].copy_from_slice(&2u64.to_le_bytes());
        system_table[112..120].copy_from_slice(&0x700_1000u64.to_le_bytes());
        let mut tables = vec![0; 24];
        tables.extend(ACPI_20_TABLE);
        tables.extend(0x700_2000u64.to_le_bytes());
        let mut memory = bios(0x20, 0x20, 0);
        memory.0.extend([(0x700_0000, system_table), (0x700_1000, tables), (0x700_2000, rsdp())]);
        assert_eq!(find_rsdp(&memory, 0x700_0000), 0x700_2000);
        memory.0[2].1[104] = 255;
        assert_eq!(find_rsdp(&memory, 0x700_0000), 0x9fc20, "a table that cannot be read");
        memory.0[2].1[104] = 2;
        memory.0[4].1[0] = 0;
        assert_eq!(find_rsdp(&memory, 0x700_0000), 0x9fc20, "what UEFI names is no RSDP");
    }
}
