//! What attackers do with a root's blob, and the runtime never does.

use std::vec::Vec;

use crate::tpm::root::{Blob, Secret};
use crate::tpm::root20::*;
use crate::tpm::session::{HMAC, PARENT, POLICY};
use crate::tpm::v20::{NO_SESSIONS, OWNER, SESSIONS, authorise, code};
use crate::tpm::wire::Command;
use crate::tpm::{Error, Tpm, Transport};
use sha2::{Digest, Sha256};
use utpm::Root;

use super::entropy;

/// Tries to unseal without looking at anything, with the policy that the blob was made for with one of the PCRs as they are, and with an empty
/// password.
pub fn unseal_anyhow<T: Transport>(tpm: &mut Tpm<T>, blob: &[u8]) -> Option<Secret> {
    let parts = parse(blob).unwrap();
    let then = made_with(blob);
    let mut hash = Sha256::new();
    (17..=19).for_each(|pcr| hash.update(tpm.read(pcr).unwrap().sha256));
    let (transport, parent) = tpm.parent().unwrap();
    let object = load(transport, parent, &parts).unwrap();
    let mut found = None;
    for pcrs in [then, hash.finalize().into()] {
        let mut secret = [0; Root::SIZE];
        let session = parent.session(transport, POLICY, &mut entropy()).unwrap();
        if unseal(session, &object, &pcrs, &mut secret).is_ok() {
            found = Some(secret);
        }
    }
    let mut command = Command::new(SESSIONS, code::UNSEAL);
    authorise(command.u32(object.0));
    let by_password = command.exchange(transport).unwrap().code;
    assert_ne!(by_password, 0, "an empty password opens it");
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
    let (transport, parent) = tpm.parent().unwrap();
    let mut made = Blob::new();
    let session = parent.session(transport, HMAC, &mut entropy()).unwrap();
    create(session, &parent.named, &pcrs, secret, &mut made).unwrap();
    made.as_slice().to_vec()
}

/// Leaves objects and sessions behind until no more objects fit.
pub fn fill<T: Transport>(tpm: &mut Tpm<T>) {
    let (transport, parent) = tpm.parent().unwrap();
    for _ in 0..3 {
        parent.session(transport, HMAC, &mut entropy()).unwrap();
    }
    let mut more = || -> Result<(), Error> {
        let mut command = Command::new(SESSIONS, code::CREATE_PRIMARY);
        authorise(command.u32(OWNER)).u16(4).u16(0).u16(0).sized(&PARENT).u16(0).u32(0);
        command.run(transport).map(drop)
    };
    assert_eq!([more(), more(), more().map_err(|_| Error::Absent)], [Ok(()), Ok(()), Err(Error::Absent)]);
}

/// How many objects and sessions are in the TPM.
pub fn loaded<T: Transport>(tpm: &mut Tpm<T>) -> u32 {
    let count = |first: u32| {
        let mut command = Command::new(NO_SESSIONS, code::GET_CAPABILITY);
        let mut body = command.u32(1).u32(first).u32(64).run(&mut tpm.transport).unwrap();
        u32::from_be_bytes(body.take(9).unwrap()[5..].try_into().unwrap())
    };
    [0x8000_0000, 0x0200_0000].map(count).iter().sum()
}

/// A blob with another ticket.
pub fn with_ticket(good: &[u8], ticket: &[u8]) -> Vec<u8> {
    let parts = parse(good).unwrap();
    blob(parts.private, parts.public, parts.creation, ticket)
}
