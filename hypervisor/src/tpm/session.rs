//! Salted sessions with a TPM 2.0 (part 1, 19 and 21): whoever listens on the bus does not learn the secret that a command or its answer
//! begins with. A session is for one command.
//!
//! Whoever sends on the bus is not stopped: he can ask as the runtime does, without a session, or answer in the TPM's place.

use aes::Aes128;
use cfb_mode::cipher::KeyIvInit;
use cfb_mode::{Decryptor, Encryptor};
use hmac::{Hmac, Mac};
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::{PublicKey, SecretKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::bank::Algorithm;
use super::v20::{NO_SESSIONS, NULL, OWNER, SESSIONS, authorise, code};
use super::wire::{Command, MESSAGE, Reader};
use super::{Done, Error, Transport};
use crate::pal::Random;

/// TPM_SE_HMAC, TPM_SE_POLICY (part 2, 6.11).
pub(super) const HMAC: u8 = 0;
pub(super) const POLICY: u8 = 1;
/// TPMA_SESSION (part 2, 8.4): the command's first parameter is encrypted, or the answer's.
const DECRYPT: u8 = 1 << 5;
const ENCRYPT: u8 = 1 << 6;
/// TPMT_SYM_DEF: AES-128-CFB.
const CIPHER: [u8; 6] = [0x00, 0x06, 0x00, 0x80, 0x00, 0x43];
/// TPMT_PUBLIC of the parent, a storage key on P-256 that every TPM makes anew from its owner's seed: fixedTPM, fixedParent,
/// sensitiveDataOrigin, userWithAuth, noDA, restricted, decrypt; AES-128-CFB. Last the point, which the TPM fills in.
pub(super) const PARENT: [u8; 26] = [
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x04, 0x72, 0, 0, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10,
    0x00, 0x03, 0x00, 0x10, 0, 0, 0, 0,
];
/// TPM_CAP_HANDLES (part 2, 6.12), and the first handle of objects and of sessions (7.2).
const CAP_HANDLES: u32 = 1;
const TRANSIENT: u32 = 0x8000_0000;
const LOADED_SESSION: u32 = 0x0200_0000;
type Nonce = [u8; 32];
/// Ours. The salt makes each session's key like no other, and under it there is one command.
const NONCE: Nonce = [0; 32];

/// A handle, and the name of what it stands for (part 1, 16).
pub(super) type Named = (u32, [u8; 34]);

/// The name of an object with this TPMT_PUBLIC.
pub(super) fn name(public: &[u8]) -> [u8; 34] {
    let mut name = [0; 34];
    name[..2].copy_from_slice(&Algorithm::SHA256.number().to_be_bytes());
    name[2..].copy_from_slice(&Sha256::digest(public));
    name
}

/// The parent, which is the salt's receiver as well.
pub(super) struct Parent {
    pub named: Named,
    x: Nonce,
    point: PublicKey,
}

impl Parent {
    /// Makes it, in a TPM that is emptied first.
    pub fn new(tpm: &mut impl Transport) -> Done<Self> {
        flush_all(tpm)?;
        let mut command = Command::new(SESSIONS, code::CREATE_PRIMARY);
        authorise(command.u32(OWNER));
        // No authorisation value and no data; nothing from outside, no PCRs.
        command.u16(4).u16(0).u16(0).sized(&PARENT).u16(0).u32(0);
        let mut body = command.run(tpm)?;
        let handle = body.u32()?;
        let public = body.parameters()?.sized()?;
        let mut fields = Reader(public);
        let template = &PARENT[..PARENT.len() - 4];
        if fields.take(template.len())? != template {
            return Err(Error::Malformed("storage key"));
        }
        let xy: [[u8; 32]; 2] = [fields.sized_array()?, fields.sized_array()?];
        let mut point = [4; 65];
        point[1..].copy_from_slice(xy.as_flattened());
        let point = PublicKey::from_sec1_bytes(&point).map_err(|_| Error::Malformed("storage key"))?;
        Ok(Self { named: (handle, name(public)), x: xy[0], point })
    }

    /// TPM2_StartAuthSession (part 3, 11.1) of kind [`HMAC`] or [`POLICY`], with a salt from a key agreement (part 1, C.6.1).
    pub fn session<'t, T>(&self, tpm: &'t mut T, kind: u8, random: &mut Random) -> Done<Session<'t, T>>
    where
        T: Transport,
    {
        let mut seed = Zeroizing::new([0; 32]);
        random.fill(&mut *seed);
        let own = SecretKey::from_slice(&*seed).map_err(|_| Error::Malformed("salt"))?;
        let public = own.public_key().to_sec1_point(false);
        let (xy, _) = public.as_bytes()[1..].as_chunks::<32>();
        let shared = diffie_hellman(own.to_nonzero_scalar(), self.point.as_affine());
        // KDFe (part 1, 11.4.10.3).
        let salt = Sha256::new().chain_update(1u32.to_be_bytes()).chain_update(shared.raw_secret_bytes());
        let salt = salt.chain_update(b"SECRET\0").chain_update(xy[0]).chain_update(self.x);
        let salt = Zeroizing::new(<[u8; 32]>::from(salt.finalize()));
        let mut command = Command::new(NO_SESSIONS, code::START_AUTH_SESSION);
        command.u32(self.named.0).u32(NULL).sized(&NONCE).u16(68).sized(&xy[0]).sized(&xy[1]);
        command.u8(kind).bytes(&CIPHER).u16(Algorithm::SHA256.number());
        let mut body = command.run(tpm)?;
        let (handle, nonce) = (body.u32()?, body.sized_array()?);
        Ok(Session { tpm, handle, key: derive(&*salt, b"ATH\0", &nonce, &NONCE), nonce })
    }
}

/// A session with the TPM's nonce.
pub(super) struct Session<'t, T> {
    pub tpm: &'t mut T,
    pub handle: u32,
    key: Zeroizing<Nonce>,
    nonce: Nonce,
}

impl<T: Transport> Session<'_, T> {
    /// Carries out a command with these parameters, of which the first, a TPM2B, is secret. Returns the answer's parameters.
    pub fn send<'a>(mut self, object: Option<&Named>, command: &'a mut Command) -> Done<Reader<'a>> {
        let (size, rest) = command.body()?.split_first_chunk_mut().ok_or(Error::Malformed("secret"))?;
        let secret = rest.get_mut(..u16::from_be_bytes(*size).into()).ok_or(Error::Malformed("secret"))?;
        self.cipher::<Encryptor<Aes128>>(&NONCE, &self.nonce).encrypt(secret);
        self.exchange(object, DECRYPT, command).map(|(parameters, _)| parameters)
    }

    /// Carries out a command that is answered with a secret of this size.
    pub fn receive(mut self, object: Option<&Named>, command: &mut Command, secret: &mut [u8]) -> Done {
        let (mut body, nonce) = self.exchange(object, ENCRYPT, command)?;
        let decryptor = self.cipher::<Decryptor<Aes128>>(&nonce, &NONCE);
        decryptor.decrypt_b2b(body.sized()?, secret).map_err(|_| Error::Malformed("size of a secret"))?;
        body.end()
    }

    /// Completes a command of parameters alone and carries it out. Returns the answer's parameters and the TPM's next nonce.
    fn exchange<'a>(
        &mut self,
        object: Option<&Named>,
        attributes: u8,
        command: &'a mut Command,
    ) -> Done<(Reader<'a>, Nonce)> {
        let name = object.map_or(&[][..], |(_, name)| name);
        let (code, parameters) = (command.code().to_be_bytes(), command.body()?);
        let mac = self.mac(&[&code, name, parameters], &NONCE, &self.nonce, attributes);
        let mut whole = Command::new(SESSIONS, u32::from_be_bytes(code));
        if let Some((handle, _)) = object {
            whole.u32(*handle);
        }
        whole.u32(73).u32(self.handle).sized(&NONCE).u8(attributes);
        whole.sized(&mac.finalize().into_bytes()).bytes(parameters);
        *command = whole;
        let mut body = command.run(self.tpm)?;
        let parameters = body.parameters()?.rest();
        let (nonce, attributes, mac) = (body.sized_array()?, body.u8()?, body.sized()?);
        let expected = self.mac(&[&[0; 4], &code, parameters], &nonce, &NONCE, attributes);
        expected.verify_slice(mac).map_err(|_| Error::Malformed("not the TPM's"))?;
        Ok((Reader(parameters), nonce))
    }

    /// What proves a command or an answer (part 1, 19.6.4).
    fn mac(&self, parts: &[&[u8]], newer: &Nonce, older: &Nonce, attributes: u8) -> Hmac<Sha256> {
        let digest = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize();
        utpm::mac(&*self.key, &[&digest, newer, older, &[attributes]])
    }

    /// For a parameter (part 1, 21.3).
    fn cipher<C: KeyIvInit>(&self, newer: &Nonce, older: &Nonce) -> C {
        let both = derive(&*self.key, b"CFB\0", newer, older);
        C::new_from_slices(&both[..16], &both[16..]).expect("128 bits each")
    }
}

/// KDFa to 256 bits (part 1, 11.4.10.2).
fn derive(key: &[u8], label: &[u8], newer: &Nonce, older: &Nonce) -> Zeroizing<Nonce> {
    let mac = utpm::mac(key, &[&1u32.to_be_bytes(), label, newer, older, &256u32.to_be_bytes()]);
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// Empties the TPM's few places for objects and sessions, whoever left something there.
// In a frame of its own: the SLB has little stack.
#[inline(never)]
pub(super) fn flush_all(tpm: &mut impl Transport) -> Done {
    for first in [TRANSIENT, LOADED_SESSION] {
        let mut command = Command::new(NO_SESSIONS, code::GET_CAPABILITY);
        let mut body = command.u32(CAP_HANDLES).u32(first).u32(MESSAGE as u32 / 8).run(tpm)?;
        let (_more, _capability, count) = (body.u8()?, body.u32()?, body.u32()?);
        for _ in 0..count {
            flush(tpm, body.u32()?)?;
        }
    }
    Ok(())
}

pub(super) fn flush(tpm: &mut impl Transport, handle: u32) -> Done {
    Command::new(NO_SESSIONS, code::FLUSH_CONTEXT).u32(handle).run(tpm).map(drop)
}
