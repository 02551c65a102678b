//! Calls that concern TrustVisor as a whole.

use crate::Error;
use crate::hypercall::{NO_HANDLE, hypercall, presence};
use abi::{Info, number};
use std::mem::MaybeUninit;

/// What TrustVisor says about itself.
pub fn info() -> Result<Info, Error> {
    presence()?;
    let mut info = MaybeUninit::<Info>::zeroed();
    let arguments = [info.as_mut_ptr() as u64, size_of::<Info>() as u64, 0, 0, 0, 0];
    // SAFETY: TrustVisor is there; the buffer is ours and as long as said.
    let reply = unsafe { hypercall(number::INFO.into(), NO_HANDLE, arguments) };
    Error::check(reply)?;
    // SAFETY: all bits of an `Info` are integers, so zeroed bytes and whatever was written are valid.
    Ok(unsafe { info.assume_init() })
}

/// The root, on which all that is sealed depends, as the hardware TPM sealed it: to be handed to the loader at the next boot. It is not
/// secret.
pub fn saved_root() -> Result<Vec<u8>, Error> {
    presence()?;
    let mut root = vec![0; 4096];
    let arguments = [root.as_mut_ptr() as u64, root.len() as u64, 0, 0, 0, 0];
    // SAFETY: TrustVisor is there; the buffer is ours and as long as said.
    let length = Error::check(unsafe { hypercall(number::ROOT_SAVE.into(), NO_HANDLE, arguments) })?;
    root.truncate(length as usize);
    Ok(root)
}

/// Lets TrustVisor look for PALs whose process is gone: a PAL is wiped when two collects at least 10 s apart find no
/// owner. Answers how many were freed.
pub fn collect() -> Result<u64, Error> {
    presence()?;
    // SAFETY: TrustVisor is there; the call takes no address.
    Error::check(unsafe { hypercall(number::COLLECT.into(), NO_HANDLE, [0; 6]) })
}
