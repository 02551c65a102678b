//! A PAL's life.

use crate::error::{Failure, answer};
use crate::info::TvDigests;
use crate::{bytes, given, tell};
use std::ffi::c_int;
use trustvisor::Pal;

/// `tv_pal`.
pub struct TvPal(pub(crate) Pal);

/// `struct tv_pal_info`.
#[repr(C)]
pub struct TvPalInfo {
    /// Micro-PCR 0.
    pub measurement: TvDigests,
    /// Pages of its sections.
    pub pages: u64,
    /// Calls so far.
    pub calls: u64,
}

const _: () = assert!(size_of::<TvPalInfo>() == 72);

/// Registers an image.
///
/// # Safety
/// The pointers are NULL or point to as much as they should.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_register(image: *const u8, length: usize, pal: *mut *mut TvPal) -> c_int {
    answer(|| {
        if pal.is_null() {
            return Err(Failure::Null);
        }
        // SAFETY: the caller's promise.
        let registered = Box::new(TvPal(Pal::register(unsafe { bytes(image, length)? })?));
        // SAFETY: the caller's promise.
        unsafe { tell(pal, Box::into_raw(registered)) };
        Ok(())
    })
}

/// Wipes S and frees the PAL.
///
/// # Safety
/// It is NULL, or came from [`tv_register`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_unregister(pal: *mut TvPal) -> c_int {
    if pal.is_null() {
        return 0;
    }
    // SAFETY: the caller's promise.
    let pal = unsafe { Box::from_raw(pal) };
    answer(|| Ok(pal.0.unregister()?))
}

/// Wipes S in the middle of a call.
///
/// # Safety
/// It is NULL or came from [`tv_register`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_abort(pal: *const TvPal) -> c_int {
    // SAFETY: the caller's promise.
    answer(|| Ok(unsafe { given(pal)? }.0.abort()?))
}

/// What TrustVisor says about it.
///
/// # Safety
/// `pal` is NULL or came from [`tv_register`], `info` is NULL or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_get_pal_info(pal: *const TvPal, info: *mut TvPalInfo) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let found = unsafe { given(pal)? }.0.info()?;
        if info.is_null() {
            return Err(Failure::Null);
        }
        let told =
            TvPalInfo { measurement: found.measurement.into(), pages: found.pages, calls: found.calls };
        // SAFETY: the caller's promise.
        unsafe { tell(info, told) };
        Ok(())
    })
}
