//! Calls, and evidence of them.

use crate::error::{Failure, answer};
use crate::pal::TvPal;
use crate::{bytes, given, tell};
use std::ffi::{CString, c_char, c_int};
use trustvisor::abi::image::{MAX_ARGS, arg};
use trustvisor::{Attested, Error, Quoting};

/// `struct tv_argument`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TvArgument {
    /// An [`arg`] kind but for [`arg::LEN`].
    pub kind: u32,
    /// Of an integer.
    pub value: u64,
    /// Of a buffer.
    pub buffer: *mut u8,
    /// Of a buffer.
    pub length: usize,
}

const _: () = assert!(size_of::<TvArgument>() == 32);

/// The registers of a call of this entry, if so many suffice.
fn registers(entry: u16, arguments: &[TvArgument]) -> Result<([u8; MAX_ARGS], [u64; MAX_ARGS]), Failure> {
    let (mut kinds, mut values, mut next) = ([arg::NONE; MAX_ARGS], [0; MAX_ARGS], 0);
    let mut put = |kind: u8, value: u64| {
        *kinds.get_mut(next).ok_or(Error::Signature(entry))? = kind;
        values[next] = value;
        next += 1;
        Ok::<_, Failure>(())
    };
    for argument in arguments {
        match u8::try_from(argument.kind) {
            Ok(arg::INT) => put(arg::INT, argument.value)?,
            Ok(kind @ (arg::IN | arg::OUT | arg::IN_OUT)) => {
                if argument.buffer.is_null() && argument.length != 0 {
                    return Err(Failure::Null);
                }
                put(kind, argument.buffer as u64)?;
                put(arg::LEN, argument.length as u64)?;
            }
            _ => return Err(Error::Signature(entry).into()),
        }
    }
    Ok((kinds, values))
}

/// # Safety
/// The pointers are NULL or point to as much as they should, those in the arguments too.
unsafe fn call(
    pal: *const TvPal,
    entry: u16,
    (arguments, count): (*const TvArgument, usize),
    nonce: Option<&[u8; 32]>,
    value: *mut u64,
) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    let pal = unsafe { given(pal)? };
    let arguments = match count {
        0 => &[],
        _ if arguments.is_null() => return Err(Failure::Null),
        _ if count > MAX_ARGS => return Err(Error::Signature(entry).into()),
        // SAFETY: the caller's promise.
        _ => unsafe { std::slice::from_raw_parts(arguments, count) },
    };
    let (kinds, values) = registers(entry, arguments)?;
    // SAFETY: the caller's promise, of each buffer.
    let returned = unsafe { pal.0.call_raw(entry, kinds, values, nonce)? };
    // SAFETY: the caller's promise.
    unsafe { tell(value, returned) };
    Ok(())
}

/// Calls an entry.
///
/// # Safety
/// The pointers are NULL or point to as much as they should, those in the arguments too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_call(
    pal: *const TvPal,
    entry: u16,
    arguments: *const TvArgument,
    count: usize,
    value: *mut u64,
) -> c_int {
    // SAFETY: the caller's promise.
    answer(|| unsafe { call(pal, entry, (arguments, count), None, value) })
}

/// The same, attested.
///
/// # Safety
/// As of [`tv_call`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_call_attested(
    pal: *const TvPal,
    entry: u16,
    arguments: *const TvArgument,
    count: usize,
    nonce: *const [u8; 32],
    value: *mut u64,
) -> c_int {
    // SAFETY: the caller's promise.
    answer(|| unsafe { call(pal, entry, (arguments, count), Some(given(nonce)?), value) })
}

/// Evidence of the last attested call.
///
/// # Safety
/// The pointers are NULL or point to as much as they should.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_call_evidence(
    pal: *const TvPal,
    entry: u16,
    nonce: *const [u8; 32],
    evidence: *mut *mut c_char,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let (pal, nonce) = unsafe { (given(pal)?, given(nonce)?) };
        let text = Attested::last(&pal.0, entry, nonce).evidence(&Quoting::register()?)?;
        // SAFETY: the caller's promise.
        unsafe { give(evidence, text) }
    })
}

/// Evidence of a report of S.
///
/// # Safety
/// The pointers are NULL or point to as much as they should.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_report_evidence(
    pal: *const TvPal,
    report: *const u8,
    report_length: usize,
    nonce: *const u8,
    nonce_length: usize,
    evidence: *mut *mut c_char,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let (pal, report) = unsafe { (given(pal)?, bytes(report, report_length)?) };
        // SAFETY: the same.
        let nonce = unsafe { bytes(nonce, nonce_length)? };
        let text = pal.0.evidence(&Quoting::register()?, report, nonce, &[])?;
        // SAFETY: the caller's promise.
        unsafe { give(evidence, text) }
    })
}

/// The last attested call and a report on it.
///
/// # Safety
/// The pointers are NULL or point to as much as they should.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_call_report(
    pal: *const TvPal,
    pcrs: u8,
    key: u8,
    report: *mut u8,
    length: *mut usize,
) -> c_int {
    answer(|| {
        // SAFETY: the caller's promise.
        let (pal, room) = unsafe { (given(pal)?, *given(length)?) };
        let (call, bytes) = pal.0.call_report(pcrs, key)?;
        let number = call.number.to_le_bytes();
        let told = [&call.input_hash[..], &call.output_hash, &number, &call.chain, &bytes].concat();
        if told.len() > room {
            return Err(Failure::NoRoom(told.len()));
        }
        if report.is_null() {
            return Err(Failure::Null);
        }
        // SAFETY: there is room, as the caller says.
        unsafe {
            std::ptr::copy_nonoverlapping(told.as_ptr(), report, told.len());
            tell(length, told.len());
        }
        Ok(())
    })
}

/// # Safety
/// NULL, or room for a pointer.
unsafe fn give(to: *mut *mut c_char, text: String) -> Result<(), Failure> {
    if to.is_null() {
        return Err(Failure::Null);
    }
    // JSON has no zero byte.
    let text = CString::new(text).map_err(|_| Error::Quoting)?;
    // SAFETY: the caller's promise.
    unsafe { tell(to, text.into_raw()) };
    Ok(())
}

/// Frees evidence.
///
/// # Safety
/// NULL, or it came from here and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tv_free(evidence: *mut c_char) {
    if !evidence.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { CString::from_raw(evidence) });
    }
}
