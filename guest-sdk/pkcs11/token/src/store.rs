//! What the token keeps, and the file it is kept in: encrypted and authenticated (AES-256-GCM) under a key that is new with each
//! version and sealed for this very program. The version stands in it, and a lasting counter says which one is the present: an older
//! file is refused.
//!
//! A version is written before the counter is incremented to it. Whoever is logged in can so have two futures of one version written,
//! and choose between them later; none of the past.

use crate::ck::{attribute, rv};
use crate::object::Object;
use crate::pin::Pin;
use crate::platform::{Counter, Platform};
use crate::protocol::{Error, Loaded};
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Files begin so.
const MAGIC: [u8; 8] = *b"TVTOKEN1";
/// Magic and the sealed key's length.
const HEADER: usize = MAGIC.len() + 4;
const TAG: usize = 16;
/// Each key encrypts once.
const NONCE: [u8; 12] = [0; 12];
/// Bytes of the largest file.
pub const LARGEST: usize = 128 << 10;

/// What the token keeps.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Which token's it is.
    pub token: u32,
    /// What the counter must have come to.
    pub version: u64,
    /// Random, for each initialisation.
    pub serial: [u8; 8],
    /// 32 bytes.
    pub label: Vec<u8>,
    /// The security officer's.
    pub officer: Pin,
    /// The user's, when the security officer has set it.
    pub user: Option<Pin>,
    /// The next object's.
    pub next: u64,
    /// By their handles.
    pub objects: BTreeMap<u64, Object>,
}

/// The counter of a token's versions.
pub fn version_counter(token: u32) -> Counter {
    Counter::Lasting(u64::from(token) * 4)
}

impl Store {
    /// The file of it.
    pub fn encode(&self, platform: &mut impl Platform) -> Result<Vec<u8>, Error> {
        let mut key = Zeroizing::new([0; 32]);
        platform.random(&mut *key)?;
        let sealed = platform.seal(&key)?;
        let mut file = MAGIC.to_vec();
        file.extend((sealed.len() as u32).to_le_bytes());
        file.extend(sealed);
        let begin = file.len();
        let mut plain =
            Zeroizing::new(postcard::to_allocvec(self).map_err(|_| Error::Rv(rv::DEVICE_MEMORY))?);
        if begin + plain.len() + TAG > LARGEST {
            return Err(Error::Rv(rv::DEVICE_MEMORY));
        }
        let cipher = Aes256Gcm::new((&*key).into());
        let body = InOutBuf::from(plain.as_mut_slice());
        let tag = cipher
            .encrypt_inout_detached(&NONCE.into(), &file, body)
            .map_err(|_| Error::Rv(rv::DEVICE_MEMORY))?;
        file.extend_from_slice(&plain);
        file.extend_from_slice(&tag);
        Ok(file)
    }

    /// Opens a file. Nothing: it is another token's, another machine's, or damaged.
    fn decode(file: &[u8], token: u32, platform: &mut impl Platform) -> Option<Self> {
        let rest = file.strip_prefix(&MAGIC)?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes(*length) as usize;
        let sealed = rest.get(..length)?;
        let key = platform.unseal(sealed).ok()?;
        let (header, rest) = file.split_at(HEADER + length);
        let (body, tag) = rest.split_last_chunk::<TAG>()?;
        let mut plain = Zeroizing::new(body.to_vec());
        Aes256Gcm::new((&*key).into())
            .decrypt_inout_detached(&NONCE.into(), header, plain.as_mut_slice().into(), tag.into())
            .ok()?;
        let store: Self = postcard::from_bytes(&plain).ok()?;
        (store.token == token).then_some(store)
    }

    /// Opens a file, if it is the present version.
    pub fn load(
        file: &[u8],
        token: u32,
        platform: &mut impl Platform,
    ) -> Result<(Loaded, Option<Self>), Error> {
        let version = platform.counter(version_counter(token))?;
        Ok(match Self::decode(file, token, platform) {
            None => (Loaded::DoesNotOpen, None),
            Some(store) if store.version != version => (Loaded::NotCurrent, None),
            Some(store) => (Loaded::Current, Some(store)),
        })
    }

    /// A handle for one more object.
    pub fn add(&mut self, object: Object) -> u64 {
        let handle = self.next;
        self.next += 1;
        self.objects.insert(handle, object);
        handle
    }

    /// Whether it is one of the token's objects by its attributes.
    pub fn keeps(object: &Object) -> bool {
        object.flag(attribute::TOKEN)
    }
}
