//! What loader, SLB and runtime agree upon: where things lie in the reserve, and the two records they hand on.
//!
//! Everything the loader writes ([`LaunchInfo`]) is an allegation until the SLB has copied it into its own 64 KiB and the
//! runtime has checked it; [`Handover`] is written by the SLB alone.
//!
//! # The reserve (2 MiB aligned, below 4 GiB)
//! | offset | what |
//! |---|---|
//! | 0 | SLB, 64 KiB: `length` measured bytes, then scratch zeroed by the SLB itself |
//! | [`SLB_MAX_LENGTH`] | the SLB's `.bss` (`slb.ld`) |
//! | [`SLB_TABLES`] | the SLB's page tables (PML4, PDPT, PD) |
//! | [`SLB_DEVICE_TABLE`] | what first closes memory to devices: a device table of IOMMUs, or bits of a DEV's bitmap |
//! | [`SLB_COMMANDS`] | what the SLB tells IOMMUs, or more such bits |
//! | [`HANDOVER_OFFSET`] | [`Handover`], written by the SLB for the runtime |
//! | up to 64 KiB | the SLB's stack, growing down from the end |
//! | [`INFO_OFFSET`] | [`LaunchInfo`], written by the loader |
//! | [`RUNTIME_OFFSET`] | runtime image ([`RuntimeHeader`] first), its `.bss` and stacks, up to 2 MiB |
//! | [`DEVICE_TABLE_OFFSET`] | the whole device table of IOMMUs, 2 MiB |
//! | [`TABLES_OFFSET`] | the runtime's tables, then the PAL pool |
//!
//! The SLB's page tables map the low 4 GiB by identity, uncached, and the reserve at [`RESERVE_VA`] (2 MiB pages, read-write-execute);
//! SLB and runtime are linked to run there, so their bytes do not depend on where the reserve lies.

use crate::addr::PAGE_SIZE;
use crate::memory::Run;
use crate::options::Options;

/// Where the start of the reserve is mapped while SLB and runtime run.
pub const RESERVE_VA: u64 = 0xffff_ffff_8000_0000;
/// Size of the block that SKINIT protects.
pub const SLB_SIZE: u64 = 0x1_0000;
/// The measured part of the SLB ends here at the latest.
pub const SLB_MAX_LENGTH: u64 = 0x8c00;
/// The SLB's page tables.
pub const SLB_TABLES: u64 = 0x9000;
/// A page for a device table, which is too small for all devices, and under SKINIT's protection; or for bits of a DEV's bitmap.
pub const SLB_DEVICE_TABLE: u64 = 0xc000;
/// The start of a page, where IOMMUs get their commands from the SLB, or where the bits go on.
pub const SLB_COMMANDS: u64 = 0xd000;
/// Where the SLB leaves its [`Handover`].
pub const HANDOVER_OFFSET: u64 = 0xd040;
/// Where the loader puts its [`LaunchInfo`].
pub const INFO_OFFSET: u64 = 0x1_0000;
/// Where the loader puts the runtime's image.
pub const RUNTIME_OFFSET: u64 = 0x2_0000;
/// Image, `.bss` and stacks of the runtime end here at the latest.
pub const RUNTIME_END: u64 = 0x20_0000;

/// The device table of all devices, or what else keeps them out, from here on.
pub const DEVICE_TABLE_OFFSET: u64 = RUNTIME_END;
/// The runtime's tables.
pub const TABLES_OFFSET: u64 = DEVICE_TABLE_OFFSET + crate::dma::tables::DEVICE_TABLE;

/// The smallest reserve.
pub const MIN_RESERVE: u64 = 16 << 20;
/// The largest reserve (the mapping at [`RESERVE_VA`] ends there).
pub const MAX_RESERVE: u64 = 1 << 30;

/// The hypervisor file (a boot module): SLB padded to [`SLB_SIZE`], then the runtime's image.
/// In the SLB's measured part, at this offset, stands [`SLB_MAGIC`].
pub const SLB_MAGIC_OFFSET: usize = 8;
/// Says that a module is TrustVisor's. SLB bytes 0-1 are the entry offset, 2-3 the length (APM vol. 2, 15.27.2).
pub const SLB_MAGIC: [u8; 8] = *b"TVSLB\0\0\x01";

/// First bytes of the runtime's image.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeHeader {
    /// [`RUNTIME_MAGIC`].
    pub magic: [u8; 8],
    /// Bytes of the image, header included: what is measured.
    pub image_size: u64,
    /// Bytes in memory, from [`RUNTIME_OFFSET`]; what lies above `image_size` is zeroed.
    pub mem_size: u64,
    /// Virtual address of the entry: `extern "C" fn(&'static Handover) -> !`, on the SLB's stack, interrupts off, GIF as
    /// after SKINIT.
    pub entry: u64,
}

/// See [`RuntimeHeader`].
pub const RUNTIME_MAGIC: [u8; 8] = *b"TVRUN\0\0\x01";

/// Most runs of RAM that the OS has.
pub const MAX_RUNS: usize = 128;
/// Most IOMMUs.
pub const MAX_IOMMUS: usize = 16;
/// An IOMMU, as the firmware's list (ACPI's IVRS) has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Iommu {
    /// Its PCI function: bus, device, function in 8, 5, 3 bits.
    pub function: u64,
    /// Where its registers are.
    pub base: u64,
}

/// Most bytes of a saved root.
pub const MAX_ROOT_BLOB: usize = 1024;
/// Room for a key blob ([`abi::quote::KEY_BLOB`]), a multiple of 8.
pub const KEY_BLOB_ROOM: usize = abi::quote::KEY_BLOB.next_multiple_of(8);

/// The state in which the guest starts: 64-bit mode, interrupts off, flat segments, paging by the guest's own tables. The
/// loader prepares it in guest memory (Linux 64-bit boot protocol). To TrustVisor these are guest register values and nothing more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GuestStart {
    /// Entry point.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Linux: address of `boot_params`.
    pub rsi: u64,
    /// Root of the guest's page tables.
    pub cr3: u64,
    /// Its GDT; selector 0x10 is 64-bit code, 0x18 data.
    pub gdt_base: u64,
    /// Its limit.
    pub gdt_limit: u64,
}

/// What the loader tells (all of it unverified).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LaunchInfo {
    /// [`INFO_MAGIC`].
    pub magic: [u8; 8],
    /// Where the reserve begins.
    pub reserve_base: u64,
    /// Its bytes.
    pub reserve_size: u64,
    /// 1 if SKINIT was #UD and the loader started the SLB itself. Only for the log: PCR 17 tells the truth.
    pub skinit_missing: u32,
    /// Entries of `ram` in use.
    pub ram_count: u32,
    /// Entries of `iommus` in use.
    pub iommu_count: u32,
    /// Padding, 0.
    pub reserved: u32,
    /// How the guest starts.
    pub guest: GuestStart,
    /// What the user chose.
    pub options: Options,
    /// The firmware's list of IOMMUs.
    pub iommus: [Iommu; MAX_IOMMUS],
    /// Bytes of `root` in use.
    pub root_len: u64,
    /// The root that was saved, as the hardware TPM sealed it.
    pub root: [u8; MAX_ROOT_BLOB],
    /// Bytes of `key_blob` in use.
    pub key_blob_len: u64,
    /// The RSA identity key that was saved with it, as the quoting PAL sealed it.
    pub key_blob: [u8; KEY_BLOB_ROOM],
    /// The RAM that the OS has, in whole pages, ascending: that of the machine without the reserve.
    pub ram: [Run; MAX_RUNS],
}

/// See [`LaunchInfo`].
pub const INFO_MAGIC: [u8; 8] = *b"TVINFO\0\x01";

/// A rule that the launch, or what it is told, must not break.
pub fn ensure(ok: bool, rule: &'static str) -> Result<(), &'static str> {
    if ok { Ok(()) } else { Err(rule) }
}

/// [`Handover::tpm_family`] where there is no TPM (`tpm=none`).
pub const NO_TPM: u32 = 0;

/// What the SLB tells the runtime.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Handover {
    /// What keeps devices out, of [`crate::dma`].
    pub dma: u32,
    /// A [`crate::tpm::Family`], or [`NO_TPM`].
    pub tpm_family: u32,
    /// 1 if PCR 17 showed a dynamic launch.
    pub dynamic_launch: u32,
    /// Hardware PCR 17 as read back, after the runtime was extended into it (`sha256` zero on TPM 1.2).
    pub pcr17: abi::Digests,
    /// Hardware PCR 18 as read back.
    pub pcr18: abi::Digests,
    /// TSC ticks in a millisecond, measured by the SLB for its time-outs.
    pub tsc_per_ms: u64,
    /// What was extended so far.
    pub extends: abi::Extends,
    /// The loader's record, copied once before it was checked and measured.
    pub info: LaunchInfo,
}

const _: () = {
    assert!(size_of::<RuntimeHeader>() == 32);
    assert!(size_of::<Run>() == 16);
    assert!(size_of::<GuestStart>() == 48);
    assert!(size_of::<LaunchInfo>() as u64 <= RUNTIME_OFFSET - INFO_OFFSET);
    // What is left is the SLB's stack; how much of it is used, the suite `launch` looks at.
    assert!(HANDOVER_OFFSET + size_of::<Handover>() as u64 <= SLB_SIZE - 7 * 1024);
    assert!(SLB_TABLES + 3 * PAGE_SIZE <= SLB_DEVICE_TABLE && SLB_DEVICE_TABLE + PAGE_SIZE <= SLB_COMMANDS);
    assert!(SLB_MAX_LENGTH <= SLB_TABLES);
};
