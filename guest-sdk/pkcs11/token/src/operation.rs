//! What a session can be in the middle of.

use crate::cipher::{self, Cipher};
use crate::ck::{attribute, class, key, mechanism as m, rv};
use crate::ec::{self, Curve};
use crate::hash::{Authenticator, Hash, Hasher};
use crate::object::Object;
use crate::platform::{Platform, Rng};
use crate::protocol::{Error, Mechanism, Operation, Parameter};
use crate::rsa_key::{self, Padding};
use alloc::vec::Vec;
use zeroize::Zeroize;

/// Bytes that an operation keeps which needs the whole of it.
const MOST: usize = 96 << 10;

/// An operation under way.
pub struct Active {
    /// How it goes on.
    pub state: State,
    /// Whether a part was taken in: it can then not be done at once any more.
    pub parts: bool,
    /// Whether the user has to show the PIN first.
    pub wants_pin: bool,
}

/// How an operation goes on.
#[derive(Clone)]
pub enum State {
    /// A digest.
    Digest(Hasher),
    /// HMAC or CMAC, made or compared.
    Mac(Authenticator),
    /// AES, piece by piece.
    Cipher(Cipher),
    /// All others need the whole, or its hash.
    Whole(Whole),
}

/// An operation that needs the whole.
#[derive(Clone)]
pub struct Whole {
    /// The key.
    pub key: Object,
    /// What is computed.
    pub what: What,
    /// The hash, where the mechanism has one.
    pub hasher: Option<Hasher>,
    /// The parts.
    pub data: Vec<u8>,
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.data.zeroize();
    }
}

/// What is computed of the whole.
#[derive(Clone)]
pub enum What {
    /// RSA.
    Rsa(Padding),
    /// ECDSA and EdDSA.
    Ec(Curve),
    /// AES-GCM.
    Gcm(Mechanism),
}

const BAD_PARAMETER: Error = Error::Rv(rv::MECHANISM_PARAM_INVALID);
const BAD_TYPE: Error = Error::Rv(rv::KEY_TYPE_INCONSISTENT);

impl Active {
    /// Begins an operation with a key, or a digest without one.
    pub fn begin(operation: Operation, mechanism: &Mechanism, key: Option<&Object>) -> Result<Self, Error> {
        let state = match (operation, key) {
            (Operation::Digest, _) => {
                let hash = Hash::of_digest(mechanism.mechanism).ok_or(Error::Rv(rv::MECHANISM_INVALID))?;
                State::Digest(hash.start())
            }
            (_, None) => return Err(Error::Rv(rv::KEY_HANDLE_INVALID)),
            (Operation::Sign | Operation::Verify, Some(key)) => signature(operation, mechanism, key)?,
            (Operation::Encrypt | Operation::Decrypt, Some(key)) => encryption(operation, mechanism, key)?,
        };
        let wants_pin = key.is_some_and(|key| key.flag(attribute::ALWAYS_AUTHENTICATE));
        Ok(Self { state, parts: false, wants_pin })
    }

    /// Takes in a part; what comes out already.
    pub fn update(&mut self, data: &[u8]) -> Result<Vec<u8>, Error> {
        match &mut self.state {
            State::Digest(hash) => hash.update(data),
            State::Mac(mac) => mac.update(data),
            State::Cipher(cipher) => return cipher.update(data),
            State::Whole(Whole { hasher: Some(hasher), .. }) => hasher.update(data),
            State::Whole(whole) => {
                if whole.data.len() + data.len() > MOST {
                    return Err(Error::Rv(rv::DATA_LEN_RANGE));
                }
                whole.data.extend_from_slice(data);
            }
        }
        Ok(Vec::new())
    }

    /// Bytes that come out at most when so many go in and nothing more.
    pub fn output(&self, operation: Operation, input: usize) -> Result<usize, Error> {
        Ok(match &self.state {
            State::Digest(hash) => hash.clone().finish().len(),
            State::Mac(mac) => mac.length(),
            State::Cipher(cipher) => cipher.output(input, true),
            State::Whole(whole) => match &whole.what {
                What::Rsa(_) => rsa_key::size(&whole.key)?,
                What::Ec(curve) => curve.signature(),
                What::Gcm(mechanism) => {
                    let Parameter::Gcm { tag_bits, .. } = mechanism.parameter else {
                        return Err(BAD_PARAMETER);
                    };
                    let (all, tag) = (whole.data.len() + input, (tag_bits / 8) as usize);
                    if operation == Operation::Encrypt { all + tag } else { all.saturating_sub(tag) }
                }
            },
        })
    }
}

/// What a mechanism with a key of its type does to sign or to verify.
fn signature(operation: Operation, mechanism: &Mechanism, key: &Object) -> Result<State, Error> {
    let number = mechanism.mechanism;
    let parameterless = matches!(mechanism.parameter, Parameter::None);
    if let Some(hash) = Hash::of_hmac(number) {
        let secret = key.secret().filter(|_| !key.is_aes()).ok_or(BAD_TYPE)?;
        if !parameterless {
            return Err(BAD_PARAMETER);
        }
        return Ok(State::Mac(Authenticator::hmac(hash, secret).ok_or(BAD_TYPE)?));
    }
    if number == m::AES_CMAC {
        let secret = key.secret().filter(|_| key.is_aes()).ok_or(BAD_TYPE)?;
        return Ok(State::Mac(Authenticator::cmac(secret).ok_or(BAD_TYPE)?));
    }
    let class = if operation == Operation::Sign { class::PRIVATE_KEY } else { class::PUBLIC_KEY };
    let (what, hash) = match number {
        m::RSA_PKCS | m::RSA_X_509 if parameterless => {
            (What::Rsa(if number == m::RSA_PKCS { Padding::Pkcs1(None) } else { Padding::Raw }), None)
        }
        m::RSA_PKCS_PSS => (What::Rsa(pss(&mechanism.parameter)?), None),
        m::ECDSA if parameterless => (What::Ec(curve(key)?), None),
        m::EDDSA => {
            // Of the schemes of RFC 8032, the one without context and hash.
            match &mechanism.parameter {
                Parameter::None => {}
                Parameter::Eddsa { prehash: false, context } if context.is_empty() => {}
                _ => return Err(BAD_PARAMETER),
            }
            (What::Ec(curve(key)?), None)
        }
        _ => {
            if let Some(hash) = Hash::of_rsa_pkcs(number) {
                (What::Rsa(Padding::Pkcs1(Some(hash))), Some(hash))
            } else if let Some(hash) = Hash::of_rsa_pss(number) {
                let padding = pss(&mechanism.parameter)?;
                if !matches!(padding, Padding::Pss { hash: said, .. } if said == hash) {
                    return Err(BAD_PARAMETER);
                }
                (What::Rsa(padding), Some(hash))
            } else if let Some(hash) = Hash::of_ecdsa(number) {
                (What::Ec(curve(key)?), Some(hash))
            } else {
                return Err(Error::Rv(rv::MECHANISM_INVALID));
            }
        }
    };
    let wanted = match (&what, number) {
        (What::Rsa(_), _) => key::RSA,
        (_, m::EDDSA) => key::EC_EDWARDS,
        _ => key::EC,
    };
    whole(key, class, wanted, what, hash)
}

fn curve(key: &Object) -> Result<Curve, Error> {
    Curve::of(key).map_err(|_| BAD_TYPE)
}

fn whole(key: &Object, class: u64, kind: u64, what: What, hash: Option<Hash>) -> Result<State, Error> {
    if !key.is(class, kind) {
        return Err(BAD_TYPE);
    }
    Ok(State::Whole(Whole { key: key.clone(), what, hasher: hash.map(Hash::start), data: Vec::new() }))
}

fn pss(parameter: &Parameter) -> Result<Padding, Error> {
    let Parameter::Pss { hash, mgf, salt } = parameter else { return Err(BAD_PARAMETER) };
    let hash = Hash::of_digest(*hash).ok_or(BAD_PARAMETER)?;
    if Hash::of_mgf(*mgf) != Some(hash) || *salt > 512 {
        return Err(BAD_PARAMETER);
    }
    Ok(Padding::Pss { hash, salt: *salt as usize })
}

/// The padding that an RSA encryption has.
pub fn rsa_encryption(mechanism: &Mechanism) -> Option<Result<Padding, Error>> {
    Some(match (mechanism.mechanism, &mechanism.parameter) {
        (m::RSA_PKCS, Parameter::None) => Ok(Padding::Pkcs1(None)),
        (m::RSA_X_509, Parameter::None) => Ok(Padding::Raw),
        (m::RSA_PKCS_OAEP, Parameter::Oaep { hash, mgf, label }) => {
            match (Hash::of_digest(*hash), Hash::of_mgf(*mgf)) {
                (Some(hash), Some(mgf)) => Ok(Padding::Oaep { hash, mgf, label: label.clone() }),
                _ => Err(BAD_PARAMETER),
            }
        }
        (m::RSA_PKCS | m::RSA_X_509 | m::RSA_PKCS_OAEP, _) => Err(BAD_PARAMETER),
        _ => return None,
    })
}

fn encryption(operation: Operation, mechanism: &Mechanism, key: &Object) -> Result<State, Error> {
    let decrypts = operation == Operation::Decrypt;
    if let Some(padding) = rsa_encryption(mechanism) {
        let class = if decrypts { class::PRIVATE_KEY } else { class::PUBLIC_KEY };
        return whole(key, class, key::RSA, What::Rsa(padding?), None);
    }
    let secret = key.secret().filter(|_| key.is_aes());
    if mechanism.mechanism == m::AES_GCM {
        // Refused now, not when all of the message is there.
        cipher::gcm(mechanism, secret.ok_or(BAD_TYPE)?, &[], false)?;
        return whole(key, class::SECRET_KEY, key::AES, What::Gcm(mechanism.clone()), None);
    }
    let cipher = Cipher::new(mechanism, secret.unwrap_or(&[0; 16]), decrypts);
    let cipher = cipher.ok_or(Error::Rv(rv::MECHANISM_INVALID))?;
    secret.ok_or(BAD_TYPE)?;
    Ok(State::Cipher(cipher?))
}

/// What the computations need besides the operation.
pub struct Tools<P> {
    /// The machine.
    pub platform: P,
    /// Whether the processor has ADX and BMI2.
    pub adx: bool,
    /// RSA keys that were used, ready for more, by modulus and exponent; the last used is the last.
    pub rsa: Vec<(Vec<u8>, trustvisor_rsa::Key)>,
}

/// RSA keys that are kept ready.
const READY: usize = 8;

impl<P: Platform> Tools<P> {
    /// The RSA key of an object.
    pub fn rsa(&mut self, object: &Object) -> Result<(&mut trustvisor_rsa::Key, Rng<'_, P>), Error> {
        let [modulus, exponent] =
            [attribute::MODULUS, attribute::PUBLIC_EXPONENT].map(|part| object.get(part));
        let public = [modulus.ok_or(BAD_TYPE)?, exponent.ok_or(BAD_TYPE)?].concat();
        let ready = match self.rsa.iter().position(|(of, _)| *of == public) {
            Some(at) => self.rsa.remove(at),
            None => (public, rsa_key::own(object, self.adx)?),
        };
        if self.rsa.len() >= READY {
            self.rsa.remove(0);
        }
        self.rsa.push(ready);
        let (_, key) = self.rsa.last_mut().ok_or(Error::Rv(rv::GENERAL_ERROR))?;
        Ok((key, Rng::new(&mut self.platform)))
    }

    /// The end of an operation: what comes out. Of [`Operation::Verify`] it is nothing, or an error.
    pub fn finish(&mut self, operation: Operation, state: State, signature: &[u8]) -> Result<Vec<u8>, Error> {
        let (mut whole, verifies) = match state {
            State::Digest(hash) => return Ok(hash.finish()),
            State::Cipher(cipher) => return cipher.finish(),
            State::Mac(mac) if operation == Operation::Verify => {
                let length = mac.length();
                return verdict(equal(&mac.finish(), signature), signature.len() == length);
            }
            State::Mac(mac) => return Ok(mac.finish()),
            State::Whole(whole) => (whole, operation == Operation::Verify),
        };
        let data = match whole.hasher.take() {
            Some(hasher) => hasher.finish(),
            None => core::mem::take(&mut whole.data),
        };
        let data = zeroize::Zeroizing::new(data);
        match &whole.what {
            What::Gcm(mechanism) => {
                let secret = whole.key.secret().ok_or(BAD_TYPE)?;
                cipher::gcm(mechanism, secret, &data, operation == Operation::Decrypt)
            }
            What::Ec(curve) if verifies => {
                let long = signature.len() == curve.signature();
                verdict(long && ec::verify(&whole.key, &data, signature)?, long)
            }
            What::Ec(_) => ec::sign(&whole.key, &data),
            What::Rsa(padding) => self.rsa_finish(operation, &whole.key, padding, &data, signature),
        }
    }

    fn rsa_finish(
        &mut self,
        operation: Operation,
        object: &Object,
        padding: &Padding,
        data: &[u8],
        signature: &[u8],
    ) -> Result<Vec<u8>, Error> {
        match operation {
            Operation::Sign | Operation::Decrypt => {
                let (key, mut rng) = self.rsa(object)?;
                let result = if operation == Operation::Sign {
                    rsa_key::sign(key, padding, data, &mut rng)
                } else {
                    rsa_key::decrypt(key, padding, data, &mut rng)
                };
                rng.finish(())?;
                result
            }
            Operation::Verify => {
                let long = signature.len() == rsa_key::size(object)?;
                verdict(long && rsa_key::verify(object, padding, data, signature)?, long)
            }
            _ => {
                let mut rng = Rng::new(&mut self.platform);
                let result = rsa_key::encrypt(object, padding, data, &mut rng);
                rng.finish(())?;
                result
            }
        }
    }
}

fn verdict(good: bool, long_enough: bool) -> Result<Vec<u8>, Error> {
    match (good, long_enough) {
        (true, _) => Ok(Vec::new()),
        (false, true) => Err(Error::Rv(rv::SIGNATURE_INVALID)),
        (false, false) => Err(Error::Rv(rv::SIGNATURE_LEN_RANGE)),
    }
}

/// In constant time.
fn equal(one: &[u8], other: &[u8]) -> bool {
    let difference = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && core::hint::black_box(difference) == 0
}
