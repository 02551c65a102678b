//! Encryption, decryption, digests, signatures: five operations of one shape.
//!
//! S takes [`PIECE`] bytes at a time. More is given to it in pieces, where what comes out does not depend on how it went in.

use super::{ask, ask_done};
use crate::memory::{copy, put_bytes};
use crate::outcome::{Rv, bytes, plain, rv};
use crate::{parameter, process};
use cryptoki_sys::*;
use token::protocol::{Error, Operation, Request};

/// Most input of one request.
const PIECE: usize = 64 << 10;

/// `C_…Init`. Without a mechanism it ends the operation (v3.0).
unsafe fn init(
    operation: Operation,
    session: CK_SESSION_HANDLE,
    mechanism: *const CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> Result<(), Rv> {
    process::slots()?;
    if mechanism.is_null() {
        return ask_done(session, |session| Request::Cancel { session, operation });
    }
    // SAFETY: as the caller vouches.
    let mechanism = unsafe { parameter::read(mechanism) }?;
    ask_done(session, |session| Request::Init { session, operation, mechanism, key })
}

/// `C_Encrypt`, `C_Decrypt`, `C_Digest`, `C_Sign`.
unsafe fn single(
    operation: Operation,
    session: CK_SESSION_HANDLE,
    (data, length): (*const CK_BYTE, CK_ULONG),
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> Result<(), Rv> {
    process::slots()?;
    // SAFETY: as the caller vouches.
    let data = unsafe { copy(data, length) }?;
    let work = |room| {
        if data.len() > PIECE {
            return in_pieces(operation, session, &data, room);
        }
        let request = |session| Request::Single { session, operation, data, signature: Vec::new(), room };
        ask(session, request).and_then(bytes)
    };
    // SAFETY: the same.
    unsafe { put_bytes(out, out_length, work) }
}

/// The whole of a long input.
fn in_pieces(
    operation: Operation,
    session: CK_SESSION_HANDLE,
    data: &[u8],
    room: Option<u64>,
) -> Result<Vec<u8>, Error> {
    let crypts = matches!(operation, Operation::Encrypt | Operation::Decrypt);
    // Nothing is given to S before there is room for all that comes out.
    let needed = if crypts {
        data.len() as u64 + 32
    } else {
        match end(operation, session, Vec::new(), None) {
            Err(Error::TooSmall(needed)) => needed,
            other => return other,
        }
    };
    if room.is_none_or(|room| room < needed) {
        return Err(Error::TooSmall(needed));
    }
    let mut out = Vec::new();
    for piece in data.chunks(PIECE) {
        out.extend(next(operation, session, piece.to_vec(), Some(needed))?);
    }
    out.extend(end(operation, session, Vec::new(), Some(needed))?);
    Ok(out)
}

fn next(
    operation: Operation,
    session: CK_SESSION_HANDLE,
    data: Vec<u8>,
    room: Option<u64>,
) -> Result<Vec<u8>, Error> {
    ask(session, |session| Request::Update { session, operation, data, room }).and_then(bytes)
}

fn end(
    operation: Operation,
    session: CK_SESSION_HANDLE,
    signature: Vec<u8>,
    room: Option<u64>,
) -> Result<Vec<u8>, Error> {
    ask(session, |session| Request::Final { session, operation, signature, room }).and_then(bytes)
}

/// `C_EncryptUpdate`, `C_DecryptUpdate`.
unsafe fn update(
    operation: Operation,
    session: CK_SESSION_HANDLE,
    (data, length): (*const CK_BYTE, CK_ULONG),
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> Result<(), Rv> {
    process::slots()?;
    // SAFETY: as the caller vouches.
    let data = unsafe { copy(data, length) }?;
    let work = |room: Option<u64>| {
        if data.len() <= PIECE {
            return next(operation, session, data, room);
        }
        let needed = data.len() as u64 + 32;
        if room.is_none_or(|room| room < needed) {
            return Err(Error::TooSmall(needed));
        }
        let mut out = Vec::new();
        for piece in data.chunks(PIECE) {
            out.extend(next(operation, session, piece.to_vec(), Some(needed))?);
        }
        Ok(out)
    };
    // SAFETY: the same.
    unsafe { put_bytes(out, out_length, work) }
}

/// `C_DigestUpdate`, `C_SignUpdate`, `C_VerifyUpdate`.
unsafe fn absorb(
    operation: Operation,
    session: CK_SESSION_HANDLE,
    data: *const CK_BYTE,
    length: CK_ULONG,
) -> Result<(), Rv> {
    process::slots()?;
    // SAFETY: as the caller vouches.
    let data = unsafe { copy(data, length) }?;
    if data.is_empty() {
        return next(operation, session, data, Some(0)).map(|_| ()).map_err(plain);
    }
    for piece in data.chunks(PIECE) {
        next(operation, session, piece.to_vec(), Some(0)).map_err(plain)?;
    }
    Ok(())
}

/// `C_EncryptFinal`, `C_DecryptFinal`, `C_DigestFinal`, `C_SignFinal`.
unsafe fn finish(
    operation: Operation,
    session: CK_SESSION_HANDLE,
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> Result<(), Rv> {
    process::slots()?;
    // SAFETY: as the caller vouches.
    unsafe { put_bytes(out, out_length, |room| end(operation, session, Vec::new(), room)) }
}

/// The functions of an operation that has them all but for what `update` takes.
macro_rules! functions {
    ($operation:ident: $single:ident, $finish:ident) => {
        /// # Safety
        /// Pointers are null, or what PKCS#11 says of this function.
        pub unsafe extern "C" fn $single(
            session: CK_SESSION_HANDLE,
            data: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG,
        ) -> CK_RV {
            // SAFETY: as the application says.
            rv(unsafe { single(Operation::$operation, session, (data, length), out, out_length) })
        }

        /// # Safety
        /// Pointers are null, or what PKCS#11 says of this function.
        pub unsafe extern "C" fn $finish(
            session: CK_SESSION_HANDLE,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG,
        ) -> CK_RV {
            // SAFETY: as the application says.
            rv(unsafe { finish(Operation::$operation, session, out, out_length) })
        }
    };
    ($operation:ident init $init:ident) => {
        /// # Safety
        /// Pointers are null, or what PKCS#11 says of this function.
        pub unsafe extern "C" fn $init(
            session: CK_SESSION_HANDLE,
            mechanism: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            // SAFETY: as the application says.
            rv(unsafe { init(Operation::$operation, session, mechanism, key) })
        }
    };
    ($operation:ident update $update:ident) => {
        /// # Safety
        /// Pointers are null, or what PKCS#11 says of this function.
        pub unsafe extern "C" fn $update(
            session: CK_SESSION_HANDLE,
            data: *mut CK_BYTE,
            length: CK_ULONG,
            out: *mut CK_BYTE,
            out_length: *mut CK_ULONG,
        ) -> CK_RV {
            // SAFETY: as the application says.
            rv(unsafe { update(Operation::$operation, session, (data, length), out, out_length) })
        }
    };
    ($operation:ident absorb $absorb:ident) => {
        /// # Safety
        /// Pointers are null, or what PKCS#11 says of this function.
        pub unsafe extern "C" fn $absorb(
            session: CK_SESSION_HANDLE,
            data: *mut CK_BYTE,
            length: CK_ULONG,
        ) -> CK_RV {
            // SAFETY: as the application says.
            rv(unsafe { absorb(Operation::$operation, session, data, length) })
        }
    };
}

functions!(Encrypt init C_EncryptInit);
functions!(Encrypt: C_Encrypt, C_EncryptFinal);
functions!(Encrypt update C_EncryptUpdate);
functions!(Decrypt init C_DecryptInit);
functions!(Decrypt: C_Decrypt, C_DecryptFinal);
functions!(Decrypt update C_DecryptUpdate);
functions!(Digest: C_Digest, C_DigestFinal);
functions!(Digest absorb C_DigestUpdate);
functions!(Sign init C_SignInit);
functions!(Sign: C_Sign, C_SignFinal);
functions!(Sign absorb C_SignUpdate);
functions!(Verify init C_VerifyInit);
functions!(Verify absorb C_VerifyUpdate);

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_DigestInit(session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM) -> CK_RV {
    // SAFETY: as the application says.
    rv(unsafe { init(Operation::Digest, session, mechanism, 0) })
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_DigestKey(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> CK_RV {
    rv(ask_done(session, |session| Request::DigestKey { session, key }))
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_Verify(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    signature: *mut CK_BYTE,
    signature_length: CK_ULONG,
) -> CK_RV {
    let work = || {
        process::slots()?;
        // SAFETY: as the application says.
        let (data, signature) = unsafe { (copy(data, length)?, copy(signature, signature_length)?) };
        if data.len() <= PIECE {
            let operation = Operation::Verify;
            let request = |session| Request::Single { session, operation, data, signature, room: Some(0) };
            return ask(session, request).map(|_| ()).map_err(plain);
        }
        for piece in data.chunks(PIECE) {
            next(Operation::Verify, session, piece.to_vec(), Some(0)).map_err(plain)?;
        }
        end(Operation::Verify, session, signature, Some(0)).map(|_| ()).map_err(plain)
    };
    rv(work())
}

/// # Safety
/// Pointers are null, or what PKCS#11 says of this function.
pub unsafe extern "C" fn C_VerifyFinal(
    session: CK_SESSION_HANDLE,
    signature: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    // SAFETY: as the application says.
    let signature = process::slots().and_then(|_| unsafe { copy(signature, length) });
    let verify = |signature| end(Operation::Verify, session, signature, Some(0)).map_err(plain);
    rv(signature.and_then(verify).map(|_| ()))
}
