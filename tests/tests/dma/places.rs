//! Places in TrustVisor's memory that are worth an attack, found from outside while S is registered.

use crate::trial::{PAGE, Trial};
use anyhow::{Context, Result, ensure};
use hypervisor::launch::{RUNTIME_OFFSET, RuntimeHeader};
use trustvisor_tests::SOON;

/// A place, with what to read of it and what to write to it.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: &'static str,
    /// Where [`READ`] bytes are that are not all zero.
    pub read: u64,
    /// Where [`WRITE`] bytes may be changed for a moment.
    pub write: u64,
    /// Whether there is anything to read.
    pub shows: bool,
}

pub const READ: u64 = 64;
pub const WRITE: u64 = 16;

/// AMD I/O virtualization specification, 3.4: device table, command buffer and event log.
pub const IOMMU: u64 = 0xfed8_0000;
const TABLES: [&str; 3] = ["the IOMMU's device table", "the IOMMU's command buffer", "the IOMMU's event log"];
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The edu device's, 00:08.0.
const DEVICE: u64 = 8 << 3;
const IO_APIC: u64 = 0xfec0_0000;

/// All memory of TrustVisor, as it is.
struct Reserve<'a> {
    base: u64,
    bytes: &'a [u8],
}

impl Reserve<'_> {
    fn word(&self, address: u64) -> u64 {
        let at = (address - self.base) as usize;
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("8 bytes"))
    }

    fn contains(&self, address: u64) -> bool {
        address >= self.base && address - self.base < self.bytes.len() as u64
    }

    /// The first page of a range that this is true of.
    fn page(&self, range: std::ops::Range<u64>, wanted: impl Fn(u64) -> bool) -> Option<u64> {
        range.step_by(PAGE as usize).find(|page| wanted(*page))
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    fn words(&self, page: u64) -> impl Iterator<Item = u64> {
        (page..page + PAGE).step_by(8).map(|address| self.word(address))
    }

    /// A page, of which the last bytes are changed.
    fn place(&self, name: &'static str, page: u64) -> Place {
        let shows = |at: &u64| (*at..at + READ).step_by(8).any(|word| self.word(word) != 0);
        let read = (page..page + PAGE).step_by(READ as usize).find(shows);
        Place { name, read: read.unwrap_or(page), write: page + PAGE - WRITE, shows: read.is_some() }
    }

    fn find(&self, bytes: &[u8]) -> Option<u64> {
        let at =
            (0..self.bytes.len() - bytes.len()).step_by(4).find(|at| self.bytes[*at..].starts_with(bytes))?;
        Some(self.base + at as u64)
    }
}

/// Registers an S, which stays until the file `/tmp/release` is made, and finds the places.
pub fn find(trial: &Trial) -> Result<Vec<Place>> {
    trial.machine.send("tvtest dma hold &")?;
    let pool = trial.machine.wait_for("tvtest: pool ", SOON)?.text;
    let pool = number(pool.split_whitespace().nth(2).context("no pool")?)?;
    let pcr = bytes(trial.machine.wait_for("dma: PCR ", SOON)?.text.trim_start_matches("dma: PCR "))?;
    let words = trial.machine.wait_for("dma: holds ", SOON)?.text;
    let words: Vec<_> = words.split_whitespace().skip(2).map(number).collect::<Result<_>>()?;
    let base = trial.reserve.start;
    let memory = trial.dump(base, trial.reserve.end - base)?;
    let reserve = Reserve { base, bytes: &memory };
    let secret = reserve.find(&(words[1] ^ words[0]).to_le_bytes()).context("S's secret is not found")?;
    let frame = secret & !(PAGE - 1);
    ensure!(secret >= pool, "S's secret is not in the pool");
    let leads_to_s = |page: u64| page != frame && reserve.words(page).any(|word| word & ADDRESS == frame);
    let s_table = reserve.page(pool..reserve.end(), leads_to_s).context("no page table of S")?;
    let tables = base + (2 << 20)..pool;
    let identity = |page: u64| {
        let entries = [0, 1].map(|entry| reserve.word(page + entry * 8) & ADDRESS);
        entries == [IO_APIC, IO_APIC + PAGE]
    };
    let nested = reserve.page(tables.clone(), identity).context("no nested table of the OS")?;
    let micro_tpm = reserve.find(&pcr).context("no micro-PCR")?;

    let header = base + RUNTIME_OFFSET;
    let data = header + reserve.word(header + std::mem::offset_of!(RuntimeHeader, image_size) as u64);
    let data_end = header + reserve.word(header + std::mem::offset_of!(RuntimeHeader, mem_size) as u64);
    let shows = |page: u64| page >> 12 != micro_tpm >> 12 && reserve.words(page).any(|word| word != 0);
    let data =
        reserve.page(data.next_multiple_of(PAGE)..data_end, shows).context("no data of the runtime")?;
    let at = |name, address: u64| {
        let (read, write) = (address & !(READ - 1), address & !(WRITE - 1));
        Place { name, read, write, shows: true }
    };
    let mut places = vec![
        at("S's memory", secret),
        reserve.place("S's page tables", s_table),
        reserve.place("the OS's nested tables", nested),
        // Its header is read by the SLB alone.
        at("the runtime's code", header),
        reserve.place("the runtime's data", data),
        at("the micro-TPM's state", micro_tpm),
        reserve.place("the secure loader block", base),
    ];
    places.extend(iommu(trial, &reserve)?);
    Ok(places)
}

/// The IOMMU's tables, if it has any in the reserve; else pages where they would be.
fn iommu(trial: &Trial, reserve: &Reserve<'_>) -> Result<Vec<Place>> {
    let registers = trial.dump(IOMMU, 24)?;
    let mut places = Vec::new();
    for (name, register) in TABLES.into_iter().zip(registers.as_chunks::<8>().0) {
        let address = u64::from_le_bytes(*register) & ADDRESS;
        places.push((name, address));
    }
    let device_table = places[0].1;
    let mut root = 0;
    if reserve.contains(device_table) {
        root = reserve.word(device_table + DEVICE * 32) & ADDRESS;
    }
    places.push(("the IOMMU's page tables", root));
    let spare = reserve.base + (2 << 20);
    let page = |(name, address)| reserve.place(name, if reserve.contains(address) { address } else { spare });
    Ok(places.into_iter().map(page).collect())
}

fn number(word: &str) -> Result<u64> {
    Ok(u64::from_str_radix(word.trim_start_matches("0x"), 16)?)
}

fn bytes(digits: &str) -> Result<Vec<u8>> {
    let byte = |at| Ok(u8::from_str_radix(&digits[at..at + 2], 16)?);
    (0..digits.trim().len()).step_by(2).map(byte).collect()
}
