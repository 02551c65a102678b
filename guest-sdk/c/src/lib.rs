//! The SDK for applications in C: what `trustvisor.h` declares, over the crate `trustvisor`. Its documentation is that header.
//!
//! Every pointer is the caller's word for it: NULL is an error, what else does not hold is the caller's fault, as in any C library. No panic
//! crosses into C: nothing here panics, and if it did, the program would end.

#![warn(missing_docs)]

mod call;
mod error;
mod info;
mod pal;

pub use call::{
    TvArgument, tv_call, tv_call_attested, tv_call_evidence, tv_call_report, tv_free, tv_report_evidence,
};
pub use error::{tv_detail, tv_error, tv_message};
pub use info::{TvDigests, TvInfo, tv_collect, tv_get_info, tv_measure};
pub use pal::{TvPal, TvPalInfo, tv_abort, tv_get_pal_info, tv_register, tv_unregister};

/// A pointer of C's that is to be read from.
///
/// # Safety
/// NULL, or it points to a `T` that nobody changes meanwhile.
unsafe fn given<'a, T>(pointer: *const T) -> Result<&'a T, error::Failure> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or(error::Failure::Null)
}

/// Bytes of C's.
///
/// # Safety
/// NULL, or `length` bytes there that nobody changes meanwhile.
unsafe fn bytes<'a>(pointer: *const u8, length: usize) -> Result<&'a [u8], error::Failure> {
    match length {
        0 => Ok(&[]),
        _ if pointer.is_null() => Err(error::Failure::Null),
        // SAFETY: the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(pointer, length) }),
    }
}

/// Writes a result, if the caller wants it.
///
/// # Safety
/// NULL, or room for a `T`.
unsafe fn tell<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller's promise.
        unsafe { to.write(value) };
    }
}

#[cfg(test)]
mod tests;
