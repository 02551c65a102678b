//! Errors as numbers and sentences, and what each thread's last one was about.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use trustvisor::Error;
use trustvisor::abi::Status;

/// Why a function failed.
pub enum Failure {
    /// The SDK's own reasons.
    Sdk(Error),
    /// A pointer is NULL that must not be.
    Null,
    /// The result needs so many bytes.
    NoRoom(usize),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sdk(error)
    }
}

struct Last {
    detail: u64,
    message: CString,
}

thread_local!(static LAST: RefCell<Option<Last>> = const { RefCell::new(None) });

/// Number and detail of a failure.
fn number(failure: &Failure) -> (c_int, u64) {
    match failure {
        Failure::Null => (-6, 0),
        Failure::NoRoom(needed) => (-10, *needed as u64),
        Failure::Sdk(error) => match error {
            Error::Refused { status, detail } => (*status as c_int, *detail),
            Error::TooLarge { needed, .. } => (Status::TooLarge as c_int, *needed),
            Error::UnknownStatus(status) => (-100, *status),
            Error::NotPresent => (-1, 0),
            Error::Version(version) => (-2, u64::from(*version)),
            Error::OwnerPage(error) => (-3, error.raw_os_error().unwrap_or(0) as u64),
            Error::Image(_) => (-4, 0),
            Error::Signature(entry) => (-5, u64::from(*entry)),
            Error::NoTpm => (-7, 0),
            Error::Device(_)
            | Error::Tpm(_)
            | Error::NoAttestationKey
            | Error::AttestationKey(_)
            | Error::ForeignKey
            | Error::OwnerSecret
            | Error::StorageRootKey => (-8, 0),
            Error::Quoting => (-9, 0),
            _ => (-100, 0),
        },
    }
}

/// What a function returns, after `f`.
pub fn answer(f: impl FnOnce() -> Result<(), Failure>) -> c_int {
    let Err(failure) = f() else { return 0 };
    let (number, detail) = number(&failure);
    let message = match failure {
        Failure::Sdk(error) => error.to_string(),
        Failure::Null => "a pointer is NULL".into(),
        Failure::NoRoom(needed) => format!("the result needs {needed} bytes"),
    };
    // A message has no zero byte; if it had, there would be none.
    let message = CString::new(message).unwrap_or_default();
    // A thread that is being taken down remembers nothing.
    let _ = LAST.try_with(|last| *last.borrow_mut() = Some(Last { detail, message }));
    number
}

/// A sentence about an error.
#[unsafe(no_mangle)]
pub extern "C" fn tv_error(error: c_int) -> *const c_char {
    sentence(error).as_ptr()
}

fn sentence(error: c_int) -> &'static CStr {
    match error {
        0 => c"done",
        1 => c"this TrustVisor has no such call",
        2 => c"hypercalls are for 64-bit user mode with interrupts enabled",
        3 => c"an address is not ordinary memory of the caller",
        4 | -4 => c"not a PAL image",
        5 => c"an argument is out of its range",
        6 => c"the PAL pool is full",
        7 => c"too many PALs",
        8 => c"no such PAL of this process",
        9 => c"the PAL is in the middle of a call",
        10 => c"the PAL died of this call",
        11 => c"the PAL was wiped in the middle of this call",
        12 => c"memory named by the call could not be paged in",
        13 => c"the buffers do not fit into the PAL's parameter section",
        14 => c"not supported here",
        15 => c"the sealed data does not open for this PAL in this state",
        16 => c"the hardware TPM did not keep a counter's increment",
        -1 => c"TrustVisor is not running on this machine",
        -2 => c"TrustVisor speaks another version of the interface",
        -3 => c"no page for the PAL's handle",
        -5 => c"the entry of the PAL has another signature",
        -6 => c"a pointer is NULL",
        -7 => c"there is no hardware TPM",
        -8 => c"the hardware TPM cannot be used",
        -9 => c"the quoting PAL does not sign this",
        -10 => c"there is no room for the result",
        _ => c"an error that is unknown here",
    }
}

/// What this thread's last error was about.
#[unsafe(no_mangle)]
pub extern "C" fn tv_detail() -> u64 {
    LAST.try_with(|last| last.borrow().as_ref().map_or(0, |last| last.detail)).unwrap_or(0)
}

/// The same in words; good until this thread's next error.
#[unsafe(no_mangle)]
pub extern "C" fn tv_message() -> *const c_char {
    let message = |last: &RefCell<Option<Last>>| last.borrow().as_ref().map(|last| last.message.as_ptr());
    LAST.try_with(message).ok().flatten().unwrap_or(c"".as_ptr())
}
