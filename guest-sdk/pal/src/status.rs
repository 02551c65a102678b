//! What a hypercall's status says.

use abi::Status::{self, *};

/// The status of this number; `None` if TrustVisor is newer and has more.
pub fn status(raw: u64) -> Option<Status> {
    const BY_NUMBER: [Status; 17] = [
        Ok,
        UnknownCall,
        BadCaller,
        BadAddress,
        BadImage,
        BadArgument,
        NoMemory,
        TooMany,
        NoSuchPal,
        Busy,
        Faulted,
        Lost,
        NoProgress,
        TooLarge,
        Unsupported,
        DoesNotOpen,
        NotKept,
    ];
    BY_NUMBER.get(usize::try_from(raw).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_number() {
        let known = (0..100).map_while(status).collect::<Vec<_>>();
        assert!(known.iter().enumerate().all(|(number, status)| *status as usize == number));
        assert_eq!(known.last(), Some(&NotKept));
        assert!((100..200).chain([u64::MAX, 1 << 32]).all(|raw| status(raw).is_none()));
    }
}
