//! What can go wrong between an application and TrustVisor.

use abi::Status;
use std::fmt;
use trustvisor_pal::death;

/// Why a call of TrustVisor or of S failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// CPUID does not know TrustVisor.
    #[error("TrustVisor is not running on this machine")]
    NotPresent,
    /// TrustVisor is there, with another version of the interface.
    #[error("TrustVisor speaks version {0} of the interface, this program version {ours}", ours = abi::VERSION)]
    Version(u32),
    /// The page that keeps the handle could not be made.
    #[error("no owner page: {0}")]
    OwnerPage(#[source] std::io::Error),
    /// Nothing was measured.
    #[error("there is no hardware TPM, so there is no event log")]
    NoTpm,
    /// The image breaks a rule.
    #[error("not a PAL image: {0}")]
    Image(&'static str),
    /// The call's arguments are not those that the image declares for this entry.
    #[error("entry {0} of the PAL has another signature")]
    Signature(u16),
    /// TrustVisor refused the call, or S died in it.
    #[error("{}", Refusal(*status, *detail))]
    Refused {
        /// What TrustVisor answered in RDX.
        status: Status,
        /// What it answered in RAX.
        detail: u64,
    },
    /// The buffers of the call do not fit into S's parameter section.
    #[error("the call's buffers need {needed} bytes of the parameter section, which has {room}")]
    TooLarge {
        /// Bytes that they take: each a multiple of 16, the room for an encoded value among them.
        needed: u64,
        /// Bytes that there are (`Layout::param` in S's build script).
        room: u64,
    },
    /// An argument cannot be encoded: its `Serialize` refuses, or it does not know how long it is.
    #[error("an argument of the call cannot be encoded")]
    Unencodable,
    /// S did not understand its arguments: application and S mean other types. S lives on, its function was not called.
    #[error("the PAL cannot decode its arguments (do both sides have the same types?)")]
    Malformed,
    /// What S answered is longer than the list of its entries allows. The call was carried out.
    #[error("the PAL's value needs {needed} bytes, there is room for {room} (`where size <= ...`)")]
    ValueTooLarge {
        /// Bytes that it needs; 0 if S cannot encode it at all.
        needed: usize,
        /// Bytes that there are for it.
        room: usize,
    },
    /// What S answered is no value of the type that the application expects. The call was carried out.
    #[error("the PAL's value cannot be decoded (do both sides have the same types?)")]
    BadValue,
    /// The hardware TPM's device cannot be used.
    #[error("the TPM's device: {0}")]
    Device(#[source] std::io::Error),
    /// The hardware TPM answers with this error code, or (0) with what is no answer.
    #[error("the TPM answers with error {0:#x}")]
    Tpm(u32),
    /// A TPM 1.2 cannot quote before its attestation key is made.
    #[error(
        "this TPM 1.2 has no attestation key yet (`trustvisor tpm aik` makes it, once, with the owner's password)"
    )]
    NoAttestationKey,
    /// The file of the attestation key of a TPM 1.2 cannot be read.
    #[error("{AIK}: {0}", AIK = crate::AIK)]
    AttestationKey(#[source] std::io::Error),
    /// That file holds something else.
    #[error("{AIK} is no attestation key of this TPM and its present owner (remove it, and make a new one)", AIK = crate::AIK)]
    ForeignKey,
    /// A TPM 1.2 whose owner has another secret.
    #[error(
        "the TPM's owner has another password (--owner-password FILE; a newline at its end does not count)"
    )]
    OwnerSecret,
    /// A TPM 1.2 without owner, or whose storage root key has another secret than the well-known.
    #[error("the TPM has no storage root key with the well-known secret (see `trustvisor tpm provision`)")]
    StorageRootKey,
    /// The quoting PAL refused: it is no report of this launch, or there is no such key.
    #[error("the quoting PAL does not sign this")]
    Quoting,
    /// TrustVisor answered a status that this version of the interface does not have.
    #[error("TrustVisor answered status {0}, which is unknown here")]
    UnknownStatus(u64),
}

impl Error {
    /// The status, if TrustVisor answered one.
    pub fn status(&self) -> Option<Status> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            Error::TooLarge { .. } => Some(Status::TooLarge),
            _ => None,
        }
    }

    /// Whether S was in another call, and this one was not begun.
    pub fn is_busy(&self) -> bool {
        self.status() == Some(Status::Busy)
    }

    /// Whether there is no S any more, or not for this process: it died (in this call or before), was unregistered, or belongs to the
    /// process that this one was forked from.
    pub fn is_gone(&self) -> bool {
        matches!(self.status(), Some(Status::NoSuchPal | Status::Lost | Status::Faulted))
    }

    pub(crate) fn check((value, status): (u64, u64)) -> Result<u64, Self> {
        match trustvisor_pal::status(status) {
            Some(Status::Ok) => Ok(value),
            Some(status) => Err(Error::Refused { status, detail: value }),
            None => Err(Error::UnknownStatus(status)),
        }
    }
}

/// A status in words.
fn words(status: Status) -> &'static str {
    match status {
        Status::Ok => "done",
        Status::UnknownCall => "unknown hypercall",
        Status::BadCaller => "hypercalls are for 64-bit user mode with interrupts enabled",
        Status::BadAddress => "an address is not ordinary memory of the caller",
        Status::BadImage => "not a well-formed PAL image",
        Status::BadArgument => "argument out of range",
        Status::NoMemory => "the PAL pool is full",
        Status::TooMany => "too many PALs",
        Status::NoSuchPal => "no such PAL of this caller",
        Status::Busy => "the PAL is in the middle of a call",
        Status::Faulted => "the PAL faulted and was wiped",
        Status::Lost => "the call is gone: its PAL was wiped",
        Status::NoProgress => "memory named by the call could not be paged in",
        Status::TooLarge => "the buffers do not fit into the parameter section",
        Status::Unsupported => "not supported here",
        Status::DoesNotOpen => "the sealed data does not open for this PAL in this state",
        Status::NotKept => "the hardware TPM did not keep a counter's increment",
        _ => "a status that is unknown here",
    }
}

struct Refusal(Status, u64);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal(status, detail) = *self;
        let words = words(status);
        match status {
            Status::BadAddress | Status::NoProgress => write!(f, "{words} (address {detail:#x})"),
            Status::Faulted if detail < 0x100 => write!(f, "{words} (exception {detail}{})", why(detail)),
            Status::Faulted => write!(f, "{words} (intercept {:#x})", detail - 0x100),
            _ => f.write_str(words),
        }
    }
}

/// What a PAL has most likely done that raised this exception.
fn why(vector: u64) -> &'static str {
    match vector {
        death::OUT_OF_MEMORY => ": its heap is full, or it divided by zero",
        death::PANIC => ": it panicked",
        6 | 7 => ": an invalid instruction, or the FPU without the image's flag",
        14 => ": an address that is not its own, or its stack is full",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_results() {
        assert_eq!(Error::check((7, 0)).unwrap(), 7);
        assert!(matches!(Error::check((0, 999)), Err(Error::UnknownStatus(999))));
        let died = Error::check((14, Status::Faulted as u64)).unwrap_err();
        assert_eq!(died.status(), Some(Status::Faulted));
        assert_eq!(
            died.to_string(),
            "the PAL faulted and was wiped (exception 14: an address that is not its own, or its stack is full)"
        );
        assert!(died.is_gone() && !died.is_busy());
        let died = Error::check((13, Status::Faulted as u64)).unwrap_err();
        assert_eq!(died.to_string(), "the PAL faulted and was wiped (exception 13)");
        let died = Error::check((1, Status::Faulted as u64)).unwrap_err();
        assert_eq!(died.to_string(), "the PAL faulted and was wiped (exception 1: it panicked)");
        let died = Error::check((0x172, Status::Faulted as u64)).unwrap_err();
        assert_eq!(died.to_string(), "the PAL faulted and was wiped (intercept 0x72)");
    }
}
