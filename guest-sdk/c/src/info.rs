//! TrustVisor as a whole, and images.

use crate::error::answer;
use crate::{bytes, error::Failure, tell};
use std::ffi::c_int;
use trustvisor::abi::Digests;

/// `struct tv_digests`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TvDigests {
    /// SHA-1.
    pub sha1: [u8; 20],
    /// SHA-256.
    pub sha256: [u8; 32],
}

impl From<Digests> for TvDigests {
    fn from(Digests { sha1, sha256 }: Digests) -> Self {
        Self { sha1, sha256 }
    }
}

/// `struct tv_info`.
#[repr(C)]
pub struct TvInfo {
    /// Of the interface.
    pub version: u32,
    /// [`trustvisor::abi::info_flag`]s.
    pub flags: u32,
    /// Frames in the pool.
    pub frames_total: u64,
    /// Free ones.
    pub frames_free: u64,
    /// Registered PALs.
    pub pals: u64,
    /// Where TrustVisor's memory begins.
    pub reserve_base: u64,
    /// And its bytes.
    pub reserve_size: u64,
    /// Of the hardware TPM.
    pub pcr17: TvDigests,
    /// The same.
    pub pcr18: TvDigests,
    /// A [`trustvisor::abi::RootState`].
    pub root: u32,
    /// A [`trustvisor::abi::CountersState`].
    pub counters: u32,
}

const _: () = assert!(size_of::<TvDigests>() == 52 && size_of::<TvInfo>() == 160);

/// What TrustVisor says about itself.
///
/// # Safety
/// `info` is NULL or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_get_info(info: *mut TvInfo) -> c_int {
    answer(|| {
        if info.is_null() {
            return Err(Failure::Null);
        }
        let found = trustvisor::info()?;
        let told = TvInfo {
            version: found.version,
            flags: found.flags,
            frames_total: found.frames_total,
            frames_free: found.frames_free,
            pals: found.pals,
            reserve_base: found.reserve_base,
            reserve_size: found.reserve_size,
            pcr17: found.pcr17.into(),
            pcr18: found.pcr18.into(),
            root: found.root,
            counters: found.counters,
        };
        // SAFETY: the caller's promise.
        unsafe { tell(info, told) };
        Ok(())
    })
}

/// The identity of a PAL of this image.
///
/// # Safety
/// Both are NULL or point to as much as they should.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_measure(image: *const u8, length: usize, digests: *mut TvDigests) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let image = unsafe { bytes(image, length)? };
        trustvisor::image::header(image).map_err(trustvisor::Error::Image)?;
        if digests.is_null() {
            return Err(Failure::Null);
        }
        // SAFETY: the caller's promise.
        unsafe { tell(digests, trustvisor::image::measure(image).into()) };
        Ok(())
    })
}

/// Looks for PALs whose process is gone.
///
/// # Safety
/// `freed` is NULL or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_collect(freed: *mut u64) -> c_int {
    answer(|| {
        let count = trustvisor::collect()?;
        // SAFETY: the caller's promise.
        unsafe { tell(freed, count) };
        Ok(())
    })
}
