//! The binary interface between TrustVisor, an application and its PAL (piece of application logic, *S*).
//!
//! Somebody who writes another SDK needs this crate's documentation and nothing else. All integers are
//! little-endian, all structures have the layout of C.
//!
//! # Is TrustVisor there?
//! `CPUID` leaf [`cpuid::PRESENCE`] answers with [`cpuid::SIGNATURE`] in EBX, ECX, EDX and [`VERSION`] in EAX.
//!
//! # Calling
//! A hypercall is `VMMCALL`, executed at CPL 3 in 64-bit mode with RFLAGS.IF = 1:
//!
//! | register | in | out |
//! |---|---|---|
//! | RAX | number in bits 15:0 ([`number`]), entry of S in bits 31:16 for [`number::CALL`], the rest 0 | value |
//! | RDX | third argument | [`Status`] |
//! | R10, R11 | handle (low, high), where the call takes one | unchanged |
//! | RDI, RSI, RDX, RCX, R8, R9 | arguments | unchanged (but RDX) |
//!
//! All other registers, memory but for results, and flags are unchanged.
//!
//! While a hypercall is not finished, TrustVisor may return to the guest *at the VMMCALL* to let it take an interrupt
//! or a page fault, with a *token* (bit 63 set, so never a number) in RAX. Executing the VMMCALL again with the
//! registers as they are continues the call. Whoever wants a *new* call at this place loads RAX first, as every stub
//! does. A page fault on memory named by a call is raised as an ordinary #PF at the VMMCALL, with the true error code.
//!
//! # A PAL
//! is one image ([`image`]), registered by [`number::REGISTER`] with an *owner page*: a page of the application, page
//! aligned, that receives the [`Handle`] and must keep it (locked into memory and not inherited by `fork`, or the
//! PAL can be collected while it still has an owner). Calls come from the address space that registered, and with the handle.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod image;
pub mod quote;
pub mod seal;

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Version of this interface; changes with every incompatible change.
pub const VERSION: u32 = 1;

/// The leaf that says that TrustVisor is there.
pub mod cpuid {
    /// The CPUID leaf.
    pub const PRESENCE: u32 = 0x4000_0100;
    /// What the leaf answers in EBX, ECX and EDX ("TrustVisor!!", ASCII, little-endian).
    pub const SIGNATURE: [u32; 3] = [0x7375_7254, 0x7369_5674, 0x2121_726f];
}

/// Hypercall numbers. Handles are in R10 (low) and R11 (high).
pub mod number {
    /// `INFO(RDI buffer, RSI length)`: writes the first `length` bytes of [`crate::Info`], RAX = bytes written.
    pub const INFO: u16 = 1;
    /// `REGISTER(RDI image, RSI length, RDX owner page)`: registers a PAL and writes its [`crate::Handle`] (16 bytes) to
    /// the start of the owner page.
    pub const REGISTER: u16 = 2;
    /// `CALL(handle; arguments of S)`: calls the entry whose index is in RAX bits 31:16. RAX = value of S.
    pub const CALL: u16 = 3;
    /// `UNREGISTER(handle)`: wipes and frees the PAL.
    pub const UNREGISTER: u16 = 4;
    /// `ABORT(handle)`: wipes a PAL whose call the application has left (by `longjmp`, say). Same as `UNREGISTER`, but says so.
    pub const ABORT: u16 = 5;
    /// `COLLECT()`: looks for PALs whose owner is gone and wipes them; anybody may call it. RAX = PALs freed.
    pub const COLLECT: u16 = 6;
    /// `PAL_INFO(handle; RDI buffer, RSI length)`: writes the first `length` bytes of [`crate::PalInfo`], RAX = bytes written.
    pub const PAL_INFO: u16 = 7;

    /// `ROOT_SAVE(RDI buffer, RSI length)`: writes the root as the hardware TPM sealed it, for the loader to hand in at the next boot. RAX =
    /// bytes written; [`crate::Status::Unsupported`] if there is none to save, [`crate::Status::TooLarge`] if there is no room for it.
    pub const ROOT_SAVE: u16 = 8;
    /// `KEY_BLOB(RDI buffer, RSI length)`: writes the key blob of the quoting PAL as the loader handed it in. RAX = bytes written;
    /// [`crate::Status::Unsupported`] if there was none that is good.
    pub const KEY_BLOB: u16 = 9;
    /// `CALL_ATTESTED(handle; arguments of S)`: [`CALL`] whose input and output TrustVisor hashes, with a nonce in R12 to R15 (R12 is its
    /// first 8 bytes, little-endian).
    pub const CALL_ATTESTED: u16 = 10;
    /// `CALL_REPORT(handle; RDI PCRs and key, RSI buffer, RDX room)`: writes the last [`crate::quote::AttestedCall`] of the PAL and a report
    /// on it, for the PCRs and the key as [`QUOTE`] takes them. RAX = bytes written; [`crate::Status::Unsupported`] if the PAL's last call
    /// was no such call, or there is no such key.
    pub const CALL_REPORT: u16 = 11;
    /// `REGISTER_QUOTING(RDX owner page)`: [`REGISTER`] with the image of the quoting PAL, which TrustVisor has with it ([`crate::quote`]).
    pub const REGISTER_QUOTING: u16 = 12;

    /// From S: `PCR_READ(RDI index, RSI pointer to a` [`crate::Digests`]`)`.
    pub const PCR_READ: u16 = 0x81;
    /// From S: `PCR_EXTEND(RDI index 1-7, RSI pointer to a` [`crate::Digests`]`)`.
    pub const PCR_EXTEND: u16 = 0x82;
    /// From S: `SEAL(RDI pointer to a` [`crate::seal::Policy`]`, RSI data, RDX length, RCX blob, R8 room)`: seals the data. RAX = bytes of
    /// the blob, [`crate::seal::OVERHEAD`] more than the data's.
    pub const SEAL: u16 = 0x83;
    /// From S: `UNSEAL(RDI blob, RSI length, RDX data, RCX room, R8 pointer to a` [`crate::seal::Creator`]`)`: opens a blob, or
    /// [`crate::Status::DoesNotOpen`], whatever the reason. RAX = bytes of the data.
    pub const UNSEAL: u16 = 0x84;
    /// From S: `RANDOM(RDI buffer, RSI length)`: fills the buffer, [`crate::MAX_RANDOM`] bytes at most.
    pub const RANDOM: u16 = 0x85;
    /// From S: `QUOTE(RDI PCRs and key, RSI nonce, RDX length, RCX buffer, R8 room)`: writes a report ([`crate::quote`]) on the micro-PCRs of
    /// bits 7:0 (bit 0 must be set) for the [`crate::quote::key`] of bits 15:8. RAX = bytes written; [`crate::Status::Unsupported`] if
    /// there is no such key.
    pub const QUOTE: u16 = 0x86;
    /// From the quoting PAL: `QUOTING_KEYS(RDI buffer)`: writes the key that authenticates reports, then the private P-256 key
    /// (32 bytes each).
    pub const QUOTING_KEYS: u16 = 0x87;
    /// From S: `COUNTER_READ(RDI number)`: RAX = what this counter of S has come to, 0 before its first increment;
    /// [`crate::Status::Unsupported`] if there are no counters ([`crate::CountersState`]).
    pub const COUNTER_READ: u16 = 0x88;
    /// From S: `COUNTER_INCREMENT(RDI number)`: one more. RAX = what the counter has come to, once the hardware TPM keeps it.
    /// [`crate::Status::NotKept`]: it may do so or not, to be tried later (256 increments since the launch and one more for each 10 minutes, to spare the TPM); [`crate::Status::TooMany`]: there is no room for one more counter.
    pub const COUNTER_INCREMENT: u16 = 0x89;
}

/// Set in the number of a counter that begins at 0 with each launch: it counts at once, and the hardware TPM knows nothing of it. It is
/// never taken back before the next launch, whoever is killed or registered; each takes one of 16 places.
pub const LAUNCH_COUNTER: u64 = 1 << 63;

/// Most bytes that [`number::RANDOM`] gives at a time.
pub const MAX_RANDOM: usize = 512;

/// The release of this TrustVisor, as quotes tell it (firmwareVersion).
pub const RELEASE: u64 = 1;

/// Set in RAX when it holds a token instead of a number.
pub const TOKEN_BIT: u64 = 1 << 63;

/// Names a registered PAL. Random, never used twice, and a capability: keep it private.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Handle {
    /// R10.
    pub low: u64,
    /// R11.
    pub high: u64,
}

/// What a hypercall answers in RDX.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Done.
    Ok = 0,
    /// There is no hypercall of this number.
    UnknownCall = 1,
    /// The caller is not at CPL 3 in 64-bit mode with interrupts enabled.
    BadCaller = 2,
    /// An address that no page fault could mend: non-canonical, supervisor, MMIO or not RAM. RAX = the address.
    BadAddress = 3,
    /// The image is not a well-formed PAL image.
    BadImage = 4,
    /// An argument is out of its range.
    BadArgument = 5,
    /// Not enough free frames in the pool.
    NoMemory = 6,
    /// As many PALs as TrustVisor can hold are registered, or as many counters in use.
    TooMany = 7,
    /// There is no such PAL, or it is not the caller's.
    NoSuchPal = 8,
    /// The PAL is in the middle of another call.
    Busy = 9,
    /// S did something forbidden and was wiped. RAX = exception vector, or 0x100 + the intercept's code.
    Faulted = 10,
    /// The token belongs to no unfinished call (the PAL was wiped meanwhile, or the token is made up).
    Lost = 11,
    /// Memory named by the call stayed away through several page faults. RAX = the address.
    NoProgress = 12,
    /// The buffers do not fit into the PAL's parameter section.
    TooLarge = 13,
    /// Not supported by this TrustVisor or this machine.
    Unsupported = 14,
    /// A sealed blob does not open for this PAL in this state.
    DoesNotOpen = 15,
    /// The hardware TPM was not to be had, or did not keep the increment of a counter.
    NotKept = 16,
}

/// A digest in each of the micro-TPM's banks. As bytes: SHA-1, then SHA-256.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct Digests {
    /// SHA-1.
    pub sha1: [u8; 20],
    /// SHA-256.
    pub sha256: [u8; 32],
}

/// What became of the root, on which all that is sealed depends, at this launch.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootState {
    /// The saved one was opened.
    Opened = 0,
    /// New and sealed by the hardware TPM: no saved one was handed in.
    NewNoBlob = 1,
    /// New: what was handed in is no saved root.
    NewMalformed = 2,
    /// New: the saved one is for another TrustVisor, or other security options.
    NewOtherPolicy = 3,
    /// New: the saved one is damaged, or another TPM's.
    NewOtherTpm = 4,
    /// New: the saved one was made by somebody else.
    NewNotOurs = 5,
    /// Ephemeral: there was no dynamic launch.
    NoLaunch = 6,
    /// Ephemeral: there is no hardware TPM.
    NoTpm = 7,
    /// None, and nothing can be sealed: the hardware TPM fails.
    TpmFails = 9,
    /// That of an earlier release, opened; now sealed for this one, and to be saved.
    TakenOver = 10,
    /// The saved one was opened, and is sealed for the newer release whose manifest was handed in with it.
    HandedOver = 11,
    /// The saved one was opened. The manifest that was handed in with it is none, or of a lower security version.
    NotHandedOver = 12,
}

impl RootState {
    /// Whether what was sealed before this launch opens.
    pub fn is_old(self) -> bool {
        matches!(self, Self::Opened | Self::TakenOver | Self::HandedOver | Self::NotHandedOver)
    }
}

/// What became of the counters, which the hardware TPM keeps, at this launch.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CountersState {
    /// They count.
    Ready = 0,
    /// None: they need a root that the hardware TPM keeps.
    NoRoot = 1,
    /// None: what lies at their place in the hardware TPM is another root's, or somebody else's.
    NotOurs = 2,
    /// None: they were removed from the hardware TPM. What they counted is lost.
    Gone = 3,
    /// None: the hardware TPM fails.
    TpmFails = 4,
    /// None: not supported on TPM 1.2.
    Tpm12 = 5,
}

/// Why exits are counted; indices of [`Info::exits`].
pub mod exit {
    /// CPUID.
    pub const CPUID: usize = 0;
    /// Writes to the local APIC's page.
    pub const LAPIC: usize = 1;
    /// RDMSR and WRMSR of guarded registers.
    pub const MSR: usize = 2;
    /// VMMCALL of the guest.
    pub const VMMCALL: usize = 3;
    /// Nested page faults other than the local APIC's.
    pub const NPF: usize = 4;
    /// Guarded I/O ports.
    pub const IO: usize = 5;
    /// All others of the OS.
    pub const OTHER: usize = 6;
    /// Exits out of S, whatever the reason.
    pub const PAL: usize = 7;
    /// Number of kinds; the rest of the array is 0.
    pub const KINDS: usize = 8;
}

/// Flags of [`Info::flags`].
pub mod info_flag {
    /// PCR 17 shows a dynamic launch.
    pub const DYNAMIC_LAUNCH: u32 = 1;
    /// Devices can reach all memory (`dma=unprotected`).
    pub const DMA_UNPROTECTED: u32 = 2;
    /// There is no hardware TPM (`tpm=none`).
    pub const NO_TPM: u32 = 4;
    /// The hardware TPM is of family 1.2 (else 2.0).
    pub const TPM_12: u32 = 8;
}

/// What the hardware TPM's PCRs 17 to 19 were extended with since the launch. Nobody has to trust it: replaying it gives the PCRs, or it
/// is wrong. PCR 17 and 18 start at zero after a dynamic launch, else at all ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Extends {
    /// The TPM's PCR banks: TCG algorithm numbers in the TPM's order, 0 where there are no more. In banks other than SHA-1 and SHA-256
    /// every extend is with bytes [`CAP`] (but for that of the SLB, by the processor, which says the truth in each).
    pub banks: [u16; 8],
    /// In their order. The first after a dynamic launch is the processor's, of the SLB.
    pub list: [Extend; 12],
}

/// One of [`Extends`]. What it is of, the PCR and the digest tell: of the SLB and the runtime (17), the security options (18), the
/// identity keys and the separator (19).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoBytes, Immutable)]
pub struct Extend {
    /// The PCR; 0 in entries that are not in use.
    pub pcr: u32,
    /// What SHA-1 and SHA-256 banks were extended with.
    pub digests: Digests,
}

/// What other banks than SHA-1 and SHA-256 are filled with: the digest of nothing known.
pub const CAP: u8 = 0xca;

impl Extends {
    /// One more. What does not fit is left out, which a replay shows.
    pub fn add(&mut self, pcr: u8, digests: &Digests) {
        if let Some(free) = self.list.iter_mut().find(|extend| extend.pcr == 0) {
            *free = Extend { pcr: pcr.into(), digests: *digests };
        }
    }
}

/// What [`number::INFO`] answers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
pub struct Info {
    /// [`VERSION`].
    pub version: u32,
    /// [`info_flag`]s.
    pub flags: u32,
    /// Frames (4 KiB) in the PAL pool.
    pub frames_total: u64,
    /// Free frames in the pool.
    pub frames_free: u64,
    /// Registered PALs.
    pub pals: u64,
    /// First byte of the reserve, guest-physical.
    pub reserve_base: u64,
    /// Bytes of the reserve.
    pub reserve_size: u64,
    /// First byte of the pool.
    pub pool_base: u64,
    /// Exits so far, by [`exit`] kind.
    pub exits: [u64; 16],
    /// Longest stretch in the hypervisor so far with interrupts held off, in TSC ticks.
    pub irq_off_max: u64,
    /// Writes of the guest to APICs that were refused: INIT, SIPI, SMI and the like, or no register that can be written.
    pub ipis_refused: u64,
    /// Hardware PCR 17 and 18 after the launch (zero where there is no TPM; `sha256` zero on TPM 1.2).
    pub pcr17: Digests,
    /// See `pcr17`.
    pub pcr18: Digests,
    /// A [`RootState`].
    pub root: u32,
    /// A [`CountersState`].
    pub counters: u32,
    /// What these PCRs, and PCR 19, were extended with.
    pub extends: Extends,
    /// What devices tried and IOMMUs stopped, as far as these have logged it.
    pub dma_faults: u64,
    /// The last of it, as the IOMMU writes it (AMD I/O Virtualization Technology Specification 3.08, 2.5).
    pub dma_fault: [u64; 2],
}

/// What [`number::PAL_INFO`] answers.
#[repr(C)]
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
pub struct PalInfo {
    /// Identity of the PAL: what its micro-PCR 0 holds.
    pub measurement: Digests,
    /// Padding, 0.
    pub reserved: [u8; 4],
    /// Pages of its sections.
    pub pages: u64,
    /// Calls so far.
    pub calls: u64,
}

const _: () = {
    assert!(size_of::<Handle>() == 16);
    assert!(size_of::<Digests>() == 52);
    assert!(size_of::<Extends>() == 8 * 2 + 12 * 56);
    assert!(size_of::<Info>() == 56 + 128 + 16 + 104 + 8 + size_of::<Extends>() + 24);
    assert!(size_of::<PalInfo>() == 72);
};
