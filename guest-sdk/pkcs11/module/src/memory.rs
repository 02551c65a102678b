//! The application's memory: every pointer of a C function goes through here, and becomes an owned copy or a checked place to write to.
//!
//! A pointer is not null and a length not beyond [`MOST`]; that memory is there, the application vouches for, as with any C library.

use crate::outcome::Rv;
use cryptoki_sys::{CK_ULONG, CKR_ARGUMENTS_BAD, CKR_BUFFER_TOO_SMALL, CKR_GENERAL_ERROR};
use std::slice;
use token::protocol::Error;

/// More bytes than this are no input of a function.
pub const MOST: CK_ULONG = 1 << 26;

/// A copy of `length` elements; none of them may be at a null pointer.
///
/// # Safety
/// Unless it is null, `from` points at `length` elements that nobody writes meanwhile.
pub unsafe fn copy<T: Copy>(from: *const T, length: CK_ULONG) -> Result<Vec<T>, Rv> {
    if length == 0 {
        return Ok(Vec::new());
    }
    if from.is_null() || length > MOST / size_of::<T>() as CK_ULONG {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let mut elements = Vec::with_capacity(length as usize);
    // SAFETY: there are as many, as the caller vouches; unaligned ones are copied as bytes into room that is there.
    unsafe {
        std::ptr::copy_nonoverlapping(
            from.cast::<u8>(),
            elements.as_mut_ptr() as *mut u8,
            length as usize * size_of::<T>(),
        );
        elements.set_len(length as usize);
    }
    Ok(elements)
}

/// Writes one value.
///
/// # Safety
/// Unless it is null, `to` may be written.
pub unsafe fn put<T>(to: *mut T, value: T) -> Result<(), Rv> {
    if to.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: as the caller vouches.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// An array with room for `*length`, or the question how long it is (a null `array`): how `C_GetSlotList` and its like answer.
///
/// # Safety
/// Unless they are null, `length` may be read and written, and `array` has room for `*length` elements.
pub unsafe fn put_list<T: Copy>(array: *mut T, length: *mut CK_ULONG, list: &[T]) -> Result<(), Rv> {
    if length.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: as the caller vouches.
    let room = unsafe { length.read_unaligned() };
    // SAFETY: the same.
    unsafe { length.write_unaligned(list.len() as CK_ULONG) };
    if array.is_null() {
        return Ok(());
    }
    if room < list.len() as CK_ULONG {
        return Err(CKR_BUFFER_TOO_SMALL);
    }
    // SAFETY: there is room for as many, as the caller vouches.
    unsafe { write(array, list) };
    Ok(())
}

/// Bytes that S answers, given the room for them (`None`: how many would it be?): how `C_Sign` and its like answer.
///
/// # Safety
/// Unless they are null, `length` may be read and written, and `out` has room for `*length` bytes.
pub unsafe fn put_bytes(
    out: *mut u8,
    length: *mut CK_ULONG,
    ask: impl FnOnce(Option<u64>) -> Result<Vec<u8>, Error>,
) -> Result<(), Rv> {
    if length.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: as the caller vouches.
    let room = (!out.is_null()).then(|| unsafe { length.read_unaligned() });
    match ask(room) {
        Ok(bytes) => {
            if bytes.len() as u64 > room.unwrap_or(0) {
                return Err(CKR_GENERAL_ERROR);
            }
            // SAFETY: there is room for as many, or there are none.
            unsafe { write(out, &bytes) };
            // SAFETY: as the caller vouches.
            unsafe { length.write_unaligned(bytes.len() as CK_ULONG) };
            Ok(())
        }
        Err(Error::TooSmall(needed)) => {
            // SAFETY: as the caller vouches.
            unsafe { length.write_unaligned(needed) };
            if room.is_none() { Ok(()) } else { Err(CKR_BUFFER_TOO_SMALL) }
        }
        Err(error) => Err(crate::outcome::plain(error)),
    }
}

/// Fills an array.
///
/// # Safety
/// `to` has room for these elements, if there are any.
pub unsafe fn write<T: Copy>(to: *mut T, elements: &[T]) {
    if elements.is_empty() {
        return;
    }
    // SAFETY: as the caller vouches; as bytes, so it need not be aligned.
    unsafe {
        let bytes = slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements));
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast::<u8>(), bytes.len());
    }
}

/// Text padded by blanks.
pub fn padded<const N: usize>(text: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| text.get(i).copied().unwrap_or(b' '))
}
