//! The secure loader block: what SKINIT starts and the CPU measures. It measures the runtime and the launch configuration
//! into the TPM and jumps to the runtime, or says why not and stops.
//!
//! Guarantees: nothing that the loader wrote is used before it was copied into the block and checked; nothing above the
//! measured part of the block is used that the entry code (`slb/entry.s`) has not zeroed; every way out is the runtime or
//! `slb: stopped` (silence on a processor, or at an address, where the loader does not start it). Relies on the CPU having
//! measured these very bytes, which no step here takes on trust: PCR 17 is read.

#![no_std]
#![no_main]

use core::panic::PanicInfo;

use abi::Digests;
use hypervisor::check;
use hypervisor::dma;
use hypervisor::exceptions::{self, try_rdmsr};
use hypervisor::ioports::RealPorts;
use hypervisor::launch::{
    HANDOVER_OFFSET, Handover, INFO_OFFSET, LaunchInfo, RESERVE_VA, RUNTIME_OFFSET, RuntimeHeader,
    SLB_MAX_LENGTH, SLB_SIZE, SLB_TABLES,
};
use hypervisor::memory::{DirectMap, copy_bytes};
use hypervisor::options::Options;
use hypervisor::pci;
use hypervisor::serial::{Hex, line, open, refuse, say, stop};
use hypervisor::slb::{self, Launch, PCR_CODE, PCR_CONFIGURATION, pit};
use hypervisor::tpm::clock::TscClock;
use hypervisor::tpm::mmio::{self, Mmio};
use hypervisor::tpm::tis::Tis;
use hypervisor::tpm::{self, Algorithm, Banks, Family, Tpm};
use log::Level::{Info, Warn};

core::arch::global_asm!(
    include_str!("../slb/entry.s"),
    SLB_SIZE = const SLB_SIZE,
    SLB_TABLES = const SLB_TABLES,
    LARGE_PAGE = const hypervisor::addr::LARGE_PAGE,
    options(att_syntax),
);

/// 64-bit code in the GDT of `entry.s`.
const CODE64: u16 = 0x08;

#[unsafe(no_mangle)]
extern "C" fn slb_main(base: u64) -> ! {
    exceptions::catch(CODE64);
    // SAFETY: the entry code mapped and zeroed the block; the handover is integers, and this is the one reference to it.
    let handover = unsafe { &mut *((RESERVE_VA + HANDOVER_OFFSET) as *mut Handover) };
    copy_info(&mut handover.info);
    // Wrong ones do not say where to print: the default.
    let options = check::options(&handover.info).unwrap_or_default();
    open(options.console, "slb", options.level());
    line(Info, format_args!("started at {base:#x}, {} bytes measured", own_bytes().len()));
    let msr = |msr| try_rdmsr(msr).unwrap_or(0);
    check::decoding(msr).unwrap_or_else(|rule| refuse(rule));
    if let Err(rule) = check::record(&handover.info, base, msr(check::TOP_MEM)) {
        refuse(format_args!("the loader's record is wrong ({rule})"));
    }
    // SAFETY: only PCI functions' addresses are written.
    let ports = unsafe { RealPorts::new() };
    // SAFETY: the low 4 GiB are mapped by identity. Written are registers of IOMMUs (the record was checked), those of AMD's northbridges
    // where the processor says that they are, and, of the reserve, pages that nothing else uses and what follows the runtime, which
    // nobody has a reference to.
    let mem = unsafe { DirectMap::new(0, 4 << 30) };
    // From here on nobody but this processor can change the runtime.
    let mmio_cfg_base = msr(pci::MMIO_CFG_BASE);
    handover.dma = dma::close(&ports, mem, &handover.info, mmio_cfg_base).unwrap_or_else(|rule| refuse(rule));
    if handover.dma == dma::UNPROTECTED {
        say(format_args!("warning: dma=unprotected: devices can read and change TrustVisor's memory"));
    } else {
        line(Info, format_args!("no device reaches this memory any more"));
    }
    let header = runtime_header();
    if handover.info.skinit_missing != 0 {
        line(Warn, format_args!("the loader found no SKINIT on this processor"));
    }
    handover.tsc_per_ms = pit::measure().unwrap_or_else(|| {
        line(Warn, format_args!("the interval timer does not count; time-outs may be long"));
        pit::FASTEST
    });
    measure(&options, &header, handover);
    zero_above_image(&header);
    line(Info, format_args!("starting the runtime, {} bytes measured", header.image_size));
    // SAFETY: the entry lies in the runtime's image, which was measured as what it is; it brings a stack of its own.
    let runtime: extern "C" fn(&Handover) -> ! = unsafe { core::mem::transmute(header.entry) };
    runtime(handover)
}

/// The record as it is at this moment; nobody looks at the original again.
fn copy_info(info: &mut LaunchInfo) {
    let from = (RESERVE_VA + INFO_OFFSET) as *const u8;
    // SAFETY: both are mapped and as long as a LaunchInfo, which takes any bytes.
    unsafe { copy_bytes(from, (&raw mut *info).cast(), size_of::<LaunchInfo>() as u64) }
}

fn runtime_header() -> RuntimeHeader {
    // SAFETY: mapped, aligned, and any bytes are a header. Volatile: read once, then checked.
    let header = unsafe { ((RESERVE_VA + RUNTIME_OFFSET) as *const RuntimeHeader).read_volatile() };
    if let Err(rule) = check::runtime(&header) {
        refuse(format_args!("the runtime's image is wrong ({rule})"));
    }
    header
}

/// The measured part of this block.
fn own_bytes() -> &'static [u8] {
    // SAFETY: the block is mapped and its measured part never written.
    unsafe {
        let length = usize::from((RESERVE_VA as *const u16).add(1).read());
        core::slice::from_raw_parts(RESERVE_VA as *const u8, length.min(SLB_MAX_LENGTH as usize))
    }
}

fn measure(options: &Options, header: &RuntimeHeader, handover: &mut Handover) {
    // SAFETY: the low 4 GiB are mapped by identity, and no other reference to the TPM exists.
    let registers = unsafe { Mmio::new(mmio::BASE as *mut u8) };
    let clock = TscClock { tsc_per_ms: handover.tsc_per_ms };
    let tpm = Tis::request(registers, clock, 2).and_then(Tpm::open);
    if options.tpm_none != 0 {
        // A TPM that is there shows this block: whatever came next without being measured could pass for TrustVisor.
        if !matches!(tpm, Err(tpm::Error::Absent)) {
            refuse("tpm=none is for machines without a TPM, and here is one");
        }
        say(format_args!("warning: tpm=none: nothing is measured, nothing can be attested or sealed"));
        return;
    }
    let mut tpm = tpm.unwrap_or_else(|error| match error {
        tpm::Error::Absent => refuse(format_args!("{error} (say tpm=none to go without)")),
        _ => refuse(error),
    });
    // SAFETY: the header was checked: the image lies in the runtime's room, which is mapped. Should a device change it
    // meanwhile (dma=unprotected), another digest results.
    let runtime = unsafe {
        core::slice::from_raw_parts((RESERVE_VA + RUNTIME_OFFSET) as *const u8, header.image_size as usize)
    };
    let launch = Launch { slb: own_bytes(), runtime, options: options.measured() };
    let found = slb::measure(&mut tpm, &launch, handover).unwrap_or_else(|error| refuse(error));
    let banks = &tpm.banks;
    if handover.dynamic_launch != 0 {
        let family = if tpm.family == Family::V12 { "1.2" } else { "2.0" };
        say(format_args!("dynamic launch: PCR 17 shows this SLB (TPM {family})"));
    } else {
        say(format_args!("no dynamic launch: PCR 17 does not show this SLB but the values below"));
        print_pcr("found in PCR", PCR_CODE, &found, banks);
    }
    print_pcr("PCR", PCR_CODE, &handover.pcr17, banks);
    print_pcr("PCR", PCR_CONFIGURATION, &handover.pcr18, banks);
    tpm.close().unwrap_or_else(|error| refuse(error));
}

fn print_pcr(what: &str, number: u8, pcr: &Digests, banks: &Banks) {
    if banks.contains(&Algorithm::SHA1) {
        line(Info, format_args!("{what} {number} sha1 {}", Hex(&pcr.sha1)));
    }
    if banks.contains(&Algorithm::SHA256) {
        line(Info, format_args!("{what} {number} sha256 {}", Hex(&pcr.sha256)));
    }
}

fn zero_above_image(header: &RuntimeHeader) {
    let above = (RESERVE_VA + RUNTIME_OFFSET + header.image_size) as *mut u8;
    // SAFETY: the header was checked: this is the runtime's room, of which no reference is left.
    unsafe { above.write_bytes(0, (header.mem_size - header.image_size) as usize) }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(format_args!("panic: {}", info.message()));
    stop()
}
