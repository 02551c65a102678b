//! What a quote says: TPMS_ATTEST with TPMS_QUOTE_INFO (TCG TPM 2.0 Library part 2, 10.12.8), or TPM_QUOTE_INFO of TPM 1.2 (TPM Main
//! part 2, 11.3).

use crate::hash::{Family, Hash};
use crate::wire::{Malformed, Reader};

const MAGIC: u32 = 0xff54_4347;
const QUOTE: u16 = 0x8018;
/// Version and "QUOT" of TPM_QUOTE_INFO.
const QUOTE_12: &[u8; 8] = b"\x01\x01\0\0QUOT";
/// Bytes of a bitmap of PCRs.
const BITMAP: u8 = 3;

pub(crate) enum Quoted {
    V12 { composite: Vec<u8>, external: Vec<u8> },
    V20(Attest),
}

pub(crate) struct Attest {
    pub(crate) signer: Vec<u8>,
    pub(crate) extra_data: Vec<u8>,
    /// Milliseconds.
    pub(crate) clock: u64,
    pub(crate) reset_count: u32,
    pub(crate) firmware: u64,
    /// The number of each bank, and the PCRs in it by bits.
    selections: Vec<(u16, u32)>,
    pcr_digest: Vec<u8>,
}

impl Quoted {
    pub(crate) fn parse(field: &'static str, family: Family, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(field, bytes);
        let quoted = match family {
            Family::V12 => info(&mut reader)?,
            Family::V20 => Self::V20(attest(&mut reader)?),
        };
        reader.end()?;
        Ok(quoted)
    }

    /// What the asker wanted to be in the quote.
    pub(crate) fn extra_data(&self) -> &[u8] {
        match self {
            Self::V12 { external, .. } => external,
            Self::V20(attest) => &attest.extra_data,
        }
    }

    /// Whether exactly these PCRs of this bank were quoted, and what was instead. The 1.2 form does not say which: the hash of their
    /// values does.
    pub(crate) fn selects(&self, hash: Hash, bits: u32) -> Result<(), String> {
        match self {
            Self::V12 { .. } => Ok(()),
            Self::V20(attest) if attest.selections == [(hash.number(), bits)] => Ok(()),
            Self::V20(attest) => Err(attest.selections.iter().map(describe).collect::<Vec<_>>().join(", ")),
        }
    }

    /// Whether these values were quoted.
    pub(crate) fn has_values<'a>(&self, bits: u32, values: impl Iterator<Item = &'a [u8]>) -> bool {
        let values: Vec<u8> = values.flatten().copied().collect();
        match self {
            Self::V12 { composite, .. } => {
                let [low, middle, high, _] = bits.to_le_bytes();
                let size = (values.len() as u32).to_be_bytes();
                let select = [0, BITMAP, low, middle, high];
                *composite == Hash::Sha1.of(&[&select, &size, &values])
            }
            Self::V20(attest) => attest.pcr_digest == Hash::Sha256.of(&[&values]),
        }
    }
}

fn describe((bank, bits): &(u16, u32)) -> String {
    let registers: Vec<_> = (0..24).filter(|n| bits >> n & 1 == 1).map(|n| n.to_string()).collect();
    format!("registers [{}] of bank {bank:#06x}", registers.join(" "))
}

fn info(reader: &mut Reader<'_>) -> Result<Quoted, Malformed> {
    let start = reader.take(QUOTE_12.len(), "version and fixed bytes")?;
    if let Some((found, _)) = start.iter().zip(QUOTE_12).find(|(found, expected)| found != expected) {
        return Err(reader.value("version and fixed bytes", (*found).into(), "those of a TPM 1.2 quote"));
    }
    let composite = reader.take(20, "digest")?.to_vec();
    let external = reader.take(20, "external data")?.to_vec();
    Ok(Quoted::V12 { composite, external })
}

fn attest(reader: &mut Reader<'_>) -> Result<Attest, Malformed> {
    let magic = reader.u32("magic")?;
    if magic != MAGIC {
        return Err(reader.value("magic", magic.into(), "a TPM's"));
    }
    reader.fixed("type", QUOTE, "a quote's")?;
    let signer = reader.sized(66, "qualifiedSigner")?.to_vec();
    let extra_data = reader.sized(66, "extraData")?.to_vec();
    let clock = reader.u64("clock")?;
    let reset_count = reader.u32("resetCount")?;
    reader.u32("restartCount")?;
    let safe = reader.u8("safe")?;
    if safe > 1 {
        return Err(reader.value("safe", safe.into(), "0 or 1"));
    }
    let firmware = reader.u64("firmwareVersion")?;
    let selections = selections(reader)?;
    let pcr_digest = reader.sized(64, "pcrDigest")?.to_vec();
    Ok(Attest { signer, extra_data, clock, reset_count, firmware, selections, pcr_digest })
}

fn selections(reader: &mut Reader<'_>) -> Result<Vec<(u16, u32)>, Malformed> {
    let count = reader.u32("pcrSelect")?;
    if count > 16 {
        return Err(reader.value("number of selections", count.into(), "at most 16"));
    }
    let mut selections = Vec::new();
    for _ in 0..count {
        let bank = reader.u16("pcrSelect")?;
        let size = reader.u8("pcrSelect")?;
        if size != BITMAP {
            return Err(reader.value("size of a selection", size.into(), "3"));
        }
        let bits = reader.take(size.into(), "pcrSelect")?;
        selections.push((bank, bits.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte))));
    }
    Ok(selections)
}
