//! What attackers do with a root's blob, and the runtime never does.

use std::vec::Vec;

use crate::tpm::root::{Blob, Secret};
use crate::tpm::root20::*;
use crate::tpm::v20::{RS_PW, SESSIONS, exchange};
use crate::tpm::wire::Command;
use crate::tpm::{MESSAGE, Tpm, Transport};
use sha2::{Digest, Sha256};
use utpm::Root;

/// Tries to unseal without looking at anything, with the policy that the blob was made for with one of the PCRs as they are, and with an empty
/// password.
pub fn unseal_anyhow<T: Transport>(tpm: &mut Tpm<T>, blob: &[u8]) -> Option<Secret> {
    let parts = parse(blob).unwrap();
    let then = made_with(blob);
    let mut hash = Sha256::new();
    (17..=19).for_each(|pcr| hash.update(tpm.read(pcr).unwrap().sha256));
    let transport = &mut tpm.transport;
    let parent = create_primary(transport).unwrap();
    let object = load(transport, parent, &parts).unwrap();
    let mut found = None;
    for pcrs in [then, hash.finalize().into()] {
        let mut secret = [0; Root::SIZE];
        if unseal(transport, object, &pcrs, &mut secret).is_ok() {
            found = Some(secret);
        }
    }
    let mut command = Command::new(SESSIONS, code::UNSEAL);
    authorise(command.u32(object), RS_PW);
    let by_password = exchange(transport, &mut command, &mut [0; MESSAGE]).unwrap().code;
    assert_ne!(by_password, 0, "an empty password opens it");
    flush(transport, object).unwrap();
    flush(transport, parent).unwrap();
    found
}

fn blob(private: &[u8], public: &[u8], creation: &[u8], ticket: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for part in [private, public, creation] {
        bytes.extend((part.len() as u16).to_be_bytes());
        bytes.extend(part);
    }
    bytes.extend(ticket);
    bytes
}

/// The object of one blob with what another tells of its creation.
pub fn mixed(object: &[u8], story: &[u8]) -> [Vec<u8>; 2] {
    let (object, story) = (parse(object).unwrap(), parse(story).unwrap());
    [object.ticket, story.ticket].map(|ticket| blob(object.private, object.public, story.creation, ticket))
}

/// The PCRs with which a blob was made.
pub fn made_with(blob: &[u8]) -> [u8; 32] {
    parse(blob).unwrap().creation[12..44].try_into().unwrap()
}

/// A blob of a known root, made here and now, that opens with these PCRs.
pub fn made_for<T: Transport>(tpm: &mut Tpm<T>, pcrs: [u8; 32], secret: &Secret) -> Vec<u8> {
    let transport = &mut tpm.transport;
    let parent = create_primary(transport).unwrap();
    let mut made = Blob::new();
    create(transport, parent, &pcrs, secret, &mut made).unwrap();
    flush(transport, parent).unwrap();
    made.as_slice().to_vec()
}

/// Leaves objects and sessions behind until no more objects fit.
pub fn fill<T: Transport>(tpm: &mut Tpm<T>) {
    let transport = &mut tpm.transport;
    for _ in 0..3 {
        start_session(transport).unwrap();
        create_primary(transport).unwrap();
    }
    assert!(create_primary(transport).is_err());
}

/// A blob with another ticket.
pub fn with_ticket(good: &[u8], ticket: &[u8]) -> Vec<u8> {
    let parts = parse(good).unwrap();
    blob(parts.private, parts.public, parts.creation, ticket)
}
