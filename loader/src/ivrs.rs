//! The firmware's list of IOMMUs: ACPI's table IVRS (AMD I/O Virtualization Technology Specification 3.08, 5.2), which the guest must
//! not find: the IOMMUs are TrustVisor's.

use hypervisor::launch::{Iommu, MAX_IOMMUS};

use crate::bytes::{Memory, u16_at, u32_at, u64_at};

const SIGNATURE: &[u8] = b"IVRS";
/// What the signature becomes: the table's checksum stays right, and nobody knows a table of this name.
pub const HIDDEN: [u8; 4] = *b"SRVI";

/// Header of ACPI's tables, which begins with signature and length (ACPI Specification 6.5, 5.2.6).
const HEADER: u64 = 36;
/// First block of the IVRS.
const BLOCKS: usize = 48;
/// Types of blocks that describe an IOMMU, each in more detail than the last.
const IOMMU_BLOCKS: [u8; 3] = [0x10, 0x11, 0x40];
/// RSDP: revision, and the pointers to the table of tables, with entries of 4 and of 8 bytes.
const REVISION: usize = 15;
const RSDT: usize = 16;
const XSDT: usize = 24;

/// Addresses of the tables IVRS that the root pointer leads to.
pub fn find<M: Memory>(memory: &M, rsdp: u64) -> impl Iterator<Item = u64> + use<'_, M> {
    let (start, count, size) = table_of_tables(memory, rsdp).unwrap_or_default();
    let entry = move |number| {
        let entry = memory.bytes(start + number * size, size)?;
        if size == 8 { u64_at(entry, 0) } else { u32_at(entry, 0).map(u64::from) }
    };
    let is_ivrs = |table: &u64| memory.bytes(*table, 4).is_some_and(|bytes| bytes == SIGNATURE);
    (0..count).filter_map(entry).filter(is_ivrs)
}

/// Where its entries begin, how many there are, and their size.
fn table_of_tables(memory: &impl Memory, rsdp: u64) -> Option<(u64, u64, u64)> {
    /// Bytes of a root pointer of ACPI 1.0, and of later ones.
    const OLD: u64 = 20;
    const WHOLE: u64 = 36;
    let old = memory.bytes(rsdp, OLD)?;
    let extended = if old[REVISION] >= 2 { u64_at(memory.bytes(rsdp, WHOLE)?, XSDT)? } else { 0 };
    let (table, size) = if extended != 0 { (extended, 8) } else { (u32_at(old, RSDT)?.into(), 4) };
    let length = u64::from(u32_at(memory.bytes(table, HEADER)?, 4)?);
    Some((table + HEADER, length.checked_sub(HEADER)? / size, size))
}

/// The IOMMUs that all these tables describe; how many, or None: a table is broken, or there are too many.
pub fn iommus(memory: &impl Memory, tables: impl Iterator<Item = u64>) -> Option<([Iommu; MAX_IOMMUS], u32)> {
    let (mut list, mut count) = ([Iommu::default(); MAX_IOMMUS], 0);
    for table in tables {
        let length = u32_at(memory.bytes(table, HEADER)?, 4)?;
        let bytes = memory.bytes(table, length.into())?;
        let mut at = BLOCKS;
        while at < bytes.len() {
            let block = bytes.get(at..)?;
            if IOMMU_BLOCKS.contains(block.first()?) {
                let iommu = Iommu { function: u16_at(block, 4)?.into(), base: u64_at(block, 8)? };
                // More detailed blocks repeat what the others say.
                if !list[..count].contains(&iommu) {
                    *list.get_mut(count)? = iommu;
                    count += 1;
                }
            }
            at += Some(usize::from(u16_at(block, 2)?)).filter(|length| *length != 0)?;
        }
    }
    Some((list, count as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::tests::Pieces;

    fn table(signature: &[u8], body: &[u8]) -> Vec<u8> {
        let mut table = signature.to_vec();
        table.extend((HEADER as u32 + body.len() as u32).to_le_bytes());
        table.resize(HEADER as usize, 0);
        table.extend(body);
        table
    }

    fn block(kind: u8, function: u16, base: u64) -> Vec<u8> {
        let mut block = vec![kind, 0, 0x18, 0];
        block.extend(function.to_le_bytes());
        block.extend([0x40, 0]);
        block.extend(base.to_le_bytes());
        block.resize(0x18, 0);
        block
    }

    fn ivrs(blocks: &[Vec<u8>]) -> Vec<u8> {
        table(SIGNATURE, &[vec![0; 12], blocks.concat()].concat())
    }

    /// Root pointer at 0x1000, table of tables at 0x2000, a table at 0x3000, this one at 0x4000.
    fn machine(revision: u8, ivrs: Vec<u8>) -> Pieces {
        let entries: Vec<u8> = match revision {
            0 => [0x3000u32, 0x4000].iter().flat_map(|entry| entry.to_le_bytes()).collect(),
            _ => [0x3000u64, 0x4000].iter().flat_map(|entry| entry.to_le_bytes()).collect(),
        };
        let mut rsdp = vec![0; 36];
        rsdp[REVISION] = revision;
        let pointer = if revision == 0 { RSDT } else { XSDT };
        rsdp[pointer..pointer + 4].copy_from_slice(&0x2000u32.to_le_bytes());
        let tables = table(b"XSDT", &entries);
        Pieces(vec![(0x1000, rsdp), (0x2000, tables), (0x3000, table(b"FACP", &[0; 8])), (0x4000, ivrs)])
    }

    fn list(memory: &Pieces) -> Option<Vec<(u64, u64)>> {
        let (list, count) = iommus(memory, find(memory, 0x1000))?;
        Some(list[..count as usize].iter().map(|iommu| (iommu.function, iommu.base)).collect())
    }

    #[test]
    fn every_iommu_once() {
        let blocks = [
            block(0x10, 2, 0xfeb8_0000),
            block(0x20, 7, 7),
            block(0x10, 0x4002, 0xfeb0_0000),
            block(0x11, 2, 0xfeb8_0000),
            block(0x40, 0x4002, 0xfeb0_0000),
        ];
        for revision in [0, 2] {
            let expected = vec![(2, 0xfeb8_0000), (0x4002, 0xfeb0_0000)];
            assert_eq!(list(&machine(revision, ivrs(&blocks))), Some(expected));
        }
    }

    #[test]
    fn none_many_and_broken() {
        assert_eq!(list(&machine(2, table(b"DMAR", &[0; 40]))), Some(vec![]));
        assert_eq!(list(&Pieces::default()), Some(vec![]));
        let many = |count: u16| (0..count).map(|n| block(0x10, n << 8, 0xfe00_0000)).collect::<Vec<_>>();
        assert_eq!(list(&machine(2, ivrs(&many(16)))).map(|list| list.len()), Some(16));
        assert_eq!(list(&machine(2, ivrs(&many(17)))), None);
        let whole = ivrs(&many(1));
        for length in BLOCKS + 1..whole.len() - 8 {
            let mut short = whole[..length].to_vec();
            short[4..8].copy_from_slice(&(length as u32).to_le_bytes());
            assert_eq!(list(&machine(2, short)), None, "{length} bytes");
        }
        let mut longer = whole.clone();
        longer[4] += 1;
        assert_eq!(list(&machine(2, longer)), None, "longer than memory");
        let mut endless = whole;
        endless[BLOCKS + 2] = 0;
        assert_eq!(list(&machine(2, endless)), None, "a block without length");
    }

    #[test]
    fn a_hidden_one_is_none_and_keeps_its_checksum() {
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum(&HIDDEN), sum(SIGNATURE));
        let mut memory = machine(2, ivrs(&[block(0x10, 2, 0xfeb8_0000)]));
        memory.0[3].1[..4].copy_from_slice(&HIDDEN);
        assert_eq!(list(&memory), Some(vec![]));
    }
}
