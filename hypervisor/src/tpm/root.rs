//! The root at a launch: opened if the hardware TPM opens what was saved, made anew if that is no good, and not there if the TPM fails. And
//! its way to a newer release: the half that storage depends on is sealed for the release of a signed manifest, which stands behind
//! the blob; that release takes it over if it names this one, and makes an identity of its own.

use abi::{Digests, RootState};
use arrayvec::ArrayVec;
use utpm::Root;
use zeroize::Zeroizing;

use super::root12::Keeper12;
use super::root20::Keeper20;
use super::{Done, Error, Family, Tpm, Transport};
use crate::launch::MAX_ROOT_BLOB;
use crate::pal::Random;
use crate::release::Release;

/// The secret.
pub(super) type Secret = [u8; Root::SIZE];

/// What is to be saved.
pub type Blob = ArrayVec<u8, MAX_ROOT_BLOB>;

/// Adds bytes.
pub(super) fn append(blob: &mut Blob, bytes: &[u8]) -> Done {
    blob.try_extend_from_slice(bytes).map_err(|_| Error::Malformed("root blob"))
}

/// Why the blob did not open.
pub(super) enum Stop {
    /// It is the blob: a new root is made.
    Blob(RootState),
    /// It is the TPM: whether the blob is good is not known.
    Tpm(Error),
}

/// What was opened.
pub(super) enum Opened<'a> {
    /// A root of this release, and what stands behind its blob.
    Ours(&'a [u8]),
    /// That of a release that this one takes over from.
    Predecessor,
}

/// A TPM at locality 1, before PCR 19, which is zero, is extended: keeps secrets for PCR 17, 18 and 19 as a launch leaves them.
pub(super) trait Keeper {
    /// Opens a blob that is for these PCRs as they are, and was made with those of this release, or of one that it takes over from.
    fn open<'a>(&mut self, saved: &'a [u8], secret: &mut Secret) -> Result<Opened<'a>, Stop>;
    /// Seals a secret for a launch of this release, or of the one that makes PCR 17 this.
    fn seal(&mut self, pcr17: Option<Digests>, secret: &Secret, blob: &mut Blob) -> Done;
}

impl<T: Transport> Tpm<T> {
    /// At locality 1: opens the root that was saved, or else seals `secret`, which is new. Returns what happened; `secret` is the root
    /// then, and `blob` what is to be saved. An error leaves nothing to be believed: no root.
    pub fn root(
        &mut self,
        random: &mut Random,
        release: &Release,
        saved: &[u8],
        secret: &mut Secret,
        blob: &mut Blob,
    ) -> Done<RootState> {
        if self.read(19)? != Digests::default() {
            return Err(Error::Malformed("PCR 19"));
        }
        match self.family {
            Family::V12 => {
                root(&mut Keeper12::new(&mut self.transport, release)?, release, saved, secret, blob)
            }
            Family::V20 => root(&mut Keeper20::new(self, random, release)?, release, saved, secret, blob),
        }
    }
}

fn root(
    keeper: &mut impl Keeper,
    release: &Release,
    saved: &[u8],
    secret: &mut Secret,
    blob: &mut Blob,
) -> Done<RootState> {
    let mut opened = Zeroizing::new([0; Root::SIZE]);
    match keeper.open(saved, &mut opened) {
        Ok(Opened::Ours(manifest)) => {
            // The identity stays. Nobody knows what goes in its place: a release would take it for its own, if the manifest were its own.
            let mut handed = Zeroizing::new(*secret);
            handed[..Root::STORAGE].copy_from_slice(&opened[..Root::STORAGE]);
            *secret = *opened;
            match release.successor(manifest) {
                Some(pcr17) => keeper.seal(Some(pcr17), &handed, blob).map(|()| RootState::HandedOver),
                None if manifest.is_empty() => append(blob, saved).map(|()| RootState::Opened),
                None => append(blob, saved).map(|()| RootState::NotHandedOver),
            }
        }
        Ok(Opened::Predecessor) => {
            secret[..Root::STORAGE].copy_from_slice(&opened[..Root::STORAGE]);
            keeper.seal(None, secret, blob).map(|()| RootState::TakenOver)
        }
        Err(Stop::Blob(why)) => {
            let why = if saved.is_empty() { RootState::NewNoBlob } else { why };
            keeper.seal(None, secret, blob).map(|()| why)
        }
        Err(Stop::Tpm(error)) => Err(error),
    }
}
