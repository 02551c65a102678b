//! Keys made by the token: generated, unwrapped, derived; and what it says of them.

use super::operations::permitted;
use super::{Engine, fits};
use crate::ck::{attribute, class, kdf, key, mechanism as m, rv};
use crate::ec::{self, Curve};
use crate::hash::Hash;
use crate::keys::{check_created, check_length, set_secret};
use crate::object::{Object, number};
use crate::operation::{Active, rsa_encryption};
use crate::platform::{Platform, Rng};
use crate::protocol::{Answer, Error, Mechanism, Operation, Parameter, Response, Template};
use crate::rules::{self, Origin, find};
use crate::{rsa_key, wrap};
use alloc::vec::Vec;
use statement::Statement;
use zeroize::Zeroizing;

const BAD_PARAMETER: Error = Error::Rv(rv::MECHANISM_PARAM_INVALID);
const INCOMPLETE: Error = Error::Rv(rv::TEMPLATE_INCOMPLETE);

impl<P: Platform> Engine<P> {
    pub(super) fn generate_key(
        &mut self,
        session: u64,
        mechanism: &Mechanism,
        template: &Template,
    ) -> Response {
        self.session(session)?;
        let implied = match mechanism.mechanism {
            m::AES_KEY_GEN => key::AES,
            m::GENERIC_SECRET_KEY_GEN => key::GENERIC_SECRET,
            _ => return Err(Error::Rv(rv::MECHANISM_INVALID)),
        };
        no_parameter(mechanism)?;
        // A generic secret can be made for one HMAC.
        let said =
            find(template, attribute::KEY_TYPE).and_then(number).filter(|_| implied == key::GENERIC_SECRET);
        let kind = said.unwrap_or(implied);
        if kind == key::AES && implied != key::AES {
            return Err(Error::Rv(rv::TEMPLATE_INCONSISTENT));
        }
        let implied = [(attribute::CLASS, class::SECRET_KEY), (attribute::KEY_TYPE, kind)];
        let origin = Origin::Generated { mechanism: mechanism.mechanism };
        let mut object = rules::begin(template, &implied, origin, self.is_officer())?;
        let length = object.number(attribute::VALUE_LEN).ok_or(INCOMPLETE)?;
        check_length(kind, usize::try_from(length).unwrap_or(usize::MAX))?;
        rules::complete(&mut object, origin)?;
        self.may_make(session, &object)?;
        let mut value = Zeroizing::new(alloc::vec![0; length as usize]);
        self.tools.platform.random(&mut value)?;
        set_secret(&mut object, &value)?;
        self.add_one(session, object)
    }

    pub(super) fn generate_key_pair(
        &mut self,
        session: u64,
        mechanism: &Mechanism,
        public: &Template,
        private: &Template,
    ) -> Response {
        self.session(session)?;
        no_parameter(mechanism)?;
        let kind = match mechanism.mechanism {
            m::RSA_PKCS_KEY_PAIR_GEN => key::RSA,
            m::EC_KEY_PAIR_GEN => key::EC,
            m::EC_EDWARDS_KEY_PAIR_GEN => key::EC_EDWARDS,
            _ => return Err(Error::Rv(rv::MECHANISM_INVALID)),
        };
        let origin = Origin::Generated { mechanism: mechanism.mechanism };
        let officer = self.is_officer();
        let begin = |template: &Template, class| {
            let implied = [(attribute::CLASS, class), (attribute::KEY_TYPE, kind)];
            let mut object = rules::begin(template, &implied, origin, officer)?;
            rules::complete(&mut object, origin)?;
            Ok::<_, Error>(object)
        };
        let templates = (public, private);
        let mut public = begin(public, class::PUBLIC_KEY)?;
        let mut private = begin(private, class::PRIVATE_KEY)?;
        rules::check_pair((&mut public, templates.0), (&mut private, templates.1))?;
        self.may_make(session, &public)?;
        self.may_make(session, &private)?;
        if kind == key::RSA {
            self.generate_rsa(&mut public, &mut private)?;
        } else {
            let curve = Curve::of(&public)?;
            if curve.key_type() != kind {
                return Err(Error::Rv(rv::CURVE_NOT_SUPPORTED));
            }
            let (secret, point) = ec::generate(curve, &mut self.tools.platform)?;
            let params = public.get(attribute::EC_PARAMS).ok_or(INCOMPLETE)?.to_vec();
            private.set(attribute::EC_PARAMS, params);
            private.set(attribute::VALUE, secret.to_vec());
            private.set(attribute::EC_POINT, point.clone());
            public.set(attribute::EC_POINT, point);
        }
        let (store, handles) = self.add(session, Vec::from([public, private]))?;
        let answer = Answer::Handles(handles);
        match store {
            Some(store) => self.change(store, answer),
            None => Ok(answer),
        }
    }

    fn generate_rsa(&mut self, public: &mut Object, private: &mut Object) -> Result<(), Error> {
        let bits = public.number(attribute::MODULUS_BITS).ok_or(INCOMPLETE)?;
        let exponent = public.get(attribute::PUBLIC_EXPONENT).unwrap_or(&[1, 0, 1]);
        let exponent = &exponent[exponent.iter().take_while(|byte| **byte == 0).count()..];
        if exponent.len() > 8 {
            return Err(Error::Rv(rv::ATTRIBUTE_VALUE_INVALID));
        }
        let exponent = exponent.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let bits = usize::try_from(bits).map_err(|_| Error::Rv(rv::KEY_SIZE_RANGE))?;
        let mut rng = Rng::new(&mut self.tools.platform);
        let made = trustvisor_rsa::generate(rsa_key::kernel(self.tools.adx), &mut rng, bits, exponent);
        let made = rng.finish(made)??;
        rsa_key::set_public(public, &made);
        rsa_key::set_private(private, &made);
        Ok(())
    }

    /// The key that wraps or unwraps, if it may.
    fn wrapping_key(&self, handle: u64, purpose: u64, mechanism: u64, wrong: u64) -> Result<&Object, Error> {
        let key = self.key(handle, wrong)?;
        permitted(key, purpose, mechanism)?;
        each_time(key)?;
        Ok(key)
    }

    pub(super) fn wrap_key(
        &mut self,
        session: u64,
        mechanism: &Mechanism,
        wrapping: u64,
        key: u64,
        room: Option<u64>,
    ) -> Response {
        self.session(session)?;
        let wrong = rv::WRAPPING_KEY_HANDLE_INVALID;
        let wrapping = self.wrapping_key(wrapping, attribute::WRAP, mechanism.mechanism, wrong)?.clone();
        let key = self.key(key, rv::KEY_HANDLE_INVALID)?;
        if !key.is_secret() {
            return Err(Error::Rv(rv::KEY_NOT_WRAPPABLE));
        }
        if !key.flag(attribute::EXTRACTABLE) {
            return Err(Error::Rv(rv::KEY_UNEXTRACTABLE));
        }
        if key.flag(attribute::WRAP_WITH_TRUSTED) && !wrapping.flag(attribute::TRUSTED) {
            return Err(Error::Rv(rv::KEY_NOT_WRAPPABLE));
        }
        let contents = wrap::contents(key)?;
        let bad_type = Error::Rv(rv::WRAPPING_KEY_TYPE_INCONSISTENT);
        if let Some(padding) = rsa_encryption(mechanism) {
            if !wrapping.is(class::PUBLIC_KEY, key::RSA) {
                return Err(bad_type);
            }
            let mut rng = Rng::new(&mut self.tools.platform);
            let wrapped = rsa_key::encrypt(&wrapping, &padding?, &contents, &mut rng);
            return fits(rng.finish(wrapped)?.map_err(|_| Error::Rv(rv::KEY_SIZE_RANGE))?, room);
        }
        let secret = wrapping.secret().filter(|_| wrapping.is_aes()).ok_or(bad_type)?;
        if let Some(wrapped) = wrap::aes_wrap(mechanism.mechanism, secret, &contents) {
            no_parameter(mechanism)?;
            return fits(wrapped?, room);
        }
        let wrapped = self.cipher(Operation::Encrypt, mechanism, &wrapping, &contents)?;
        fits(wrapped.to_vec(), room)
    }

    /// AES-CBC with padding, for keys.
    fn cipher(
        &mut self,
        operation: Operation,
        mechanism: &Mechanism,
        key: &Object,
        data: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        if mechanism.mechanism != m::AES_CBC_PAD {
            return Err(Error::Rv(rv::MECHANISM_INVALID));
        }
        let mut active = Active::begin(operation, mechanism, Some(key))?;
        let mut out = Zeroizing::new(active.update(data)?);
        let rest = Zeroizing::new(self.tools.finish(operation, active.state, &[])?);
        out.extend_from_slice(&rest);
        Ok(out)
    }

    pub(super) fn unwrap_key(
        &mut self,
        session: u64,
        mechanism: &Mechanism,
        unwrapping: u64,
        data: &[u8],
        template: &Template,
    ) -> Response {
        self.session(session)?;
        let wrong = rv::UNWRAPPING_KEY_HANDLE_INVALID;
        let unwrapping =
            self.wrapping_key(unwrapping, attribute::UNWRAP, mechanism.mechanism, wrong)?.clone();
        let mut object = rules::begin(template, &[], Origin::Unwrapped, self.is_officer())?;
        object.key_type().ok_or(INCOMPLETE)?;
        let bad_type = Error::Rv(rv::UNWRAPPING_KEY_TYPE_INCONSISTENT);
        let bad_data = |_| Error::Rv(rv::WRAPPED_KEY_INVALID);
        let contents = if let Some(padding) = rsa_encryption(mechanism) {
            if !unwrapping.is(class::PRIVATE_KEY, key::RSA) {
                return Err(bad_type);
            }
            let (key, mut rng) = self.tools.rsa(&unwrapping)?;
            let opened = rsa_key::decrypt(key, &padding?, data, &mut rng);
            Zeroizing::new(rng.finish(opened)?.map_err(bad_data)?)
        } else {
            let secret = unwrapping.secret().filter(|_| unwrapping.is_aes()).ok_or(bad_type)?;
            match wrap::aes_unwrap(mechanism.mechanism, secret, data) {
                Some(opened) => {
                    no_parameter(mechanism)?;
                    opened?
                }
                None => self.cipher(Operation::Decrypt, mechanism, &unwrapping, data).map_err(|error| {
                    if error == Error::Rv(rv::MECHANISM_INVALID) {
                        error
                    } else {
                        Error::Rv(rv::WRAPPED_KEY_INVALID)
                    }
                })?,
            }
        };
        wrap::set_contents(&mut object, &contents)?;
        let mut rng = Rng::new(&mut self.tools.platform);
        check_created(&mut object, self.tools.adx, &mut rng)?;
        rng.finish(())?;
        rules::complete(&mut object, Origin::Unwrapped)?;
        self.add_one(session, object)
    }

    pub(super) fn derive_key(
        &mut self,
        session: u64,
        mechanism: &Mechanism,
        base: u64,
        template: &Template,
    ) -> Response {
        self.session(session)?;
        let base = self.key(base, rv::KEY_HANDLE_INVALID)?;
        permitted(base, attribute::DERIVE, mechanism.mechanism)?;
        each_time(base)?;
        let base = base.clone();
        let origin = Origin::Derived {
            sensitive: base.flag(attribute::ALWAYS_SENSITIVE),
            never_extractable: base.flag(attribute::NEVER_EXTRACTABLE),
        };
        let mut object =
            rules::begin(template, &[(attribute::CLASS, class::SECRET_KEY)], origin, self.is_officer())?;
        let kind = object.key_type().unwrap_or(key::GENERIC_SECRET);
        object.set_number(attribute::KEY_TYPE, kind);
        let secret = self.derived(mechanism, &base)?;
        let length = match object.number(attribute::VALUE_LEN) {
            Some(length) => usize::try_from(length).map_err(|_| Error::Rv(rv::KEY_SIZE_RANGE))?,
            None if kind == key::AES => [32, 24, 16].into_iter().find(|l| *l <= secret.len()).unwrap_or(32),
            None => secret.len(),
        };
        // Of a shared secret the leading bytes are left out (PKCS#11, 2.3.8), of all else the last.
        let from = match (secret.len().checked_sub(length), &mechanism.parameter) {
            (None, Parameter::Ecdh { .. }) => return Err(Error::Rv(rv::KEY_SIZE_RANGE)),
            // The parameter is what is too short.
            (None, _) => return Err(Error::Rv(rv::MECHANISM_PARAM_INVALID)),
            (Some(from), Parameter::Ecdh { kdf: kdf::NULL, .. }) => from,
            _ => 0,
        };
        set_secret(&mut object, &secret[from..from + length])?;
        rules::complete(&mut object, origin)?;
        self.add_one(session, object)
    }

    fn derived(&mut self, mechanism: &Mechanism, base: &Object) -> Result<Zeroizing<Vec<u8>>, Error> {
        let bad_type = Error::Rv(rv::KEY_TYPE_INCONSISTENT);
        let encrypted = |this: &mut Self, by: u64, parameter, data: &[u8]| {
            base.secret().filter(|_| base.is_aes()).ok_or(bad_type)?;
            let mechanism = Mechanism { mechanism: by, parameter };
            let mut active = Active::begin(Operation::Encrypt, &mechanism, Some(base))?;
            let mut out = Zeroizing::new(active.update(data).map_err(|_| BAD_PARAMETER)?);
            let rest = this.tools.finish(Operation::Encrypt, active.state, &[]).map_err(|_| BAD_PARAMETER)?;
            out.extend_from_slice(&rest);
            Ok(out)
        };
        match (mechanism.mechanism, &mechanism.parameter) {
            (m::ECDH1_DERIVE | m::ECDH1_COFACTOR_DERIVE, Parameter::Ecdh { kdf, shared, public }) => {
                if !base.is(class::PRIVATE_KEY, key::EC) {
                    return Err(bad_type);
                }
                let secret = ec::agree(base, public)?;
                x9_63(*kdf, &secret, shared)
            }
            (m::AES_ECB_ENCRYPT_DATA, Parameter::StringData(data)) => {
                encrypted(self, m::AES_ECB, Parameter::None, data)
            }
            (m::AES_CBC_ENCRYPT_DATA, Parameter::CbcData { iv, data }) => {
                encrypted(self, m::AES_CBC, Parameter::Bytes(iv.to_vec()), data)
            }
            (
                m::ECDH1_DERIVE
                | m::ECDH1_COFACTOR_DERIVE
                | m::AES_ECB_ENCRYPT_DATA
                | m::AES_CBC_ENCRYPT_DATA,
                _,
            ) => Err(BAD_PARAMETER),
            _ => Err(Error::Rv(rv::MECHANISM_INVALID)),
        }
    }

    pub(super) fn evidence(&mut self, session: u64, key: u64, nonce: &[u8]) -> Response {
        const LONGEST_NONCE: usize = 64;
        self.session(session)?;
        self.is_current()?;
        if nonce.len() > LONGEST_NONCE {
            return Err(Error::Rv(rv::ARGUMENTS_BAD));
        }
        let key = self.key(key, rv::KEY_HANDLE_INVALID)?;
        if key.class() != class::PRIVATE_KEY {
            return Err(Error::Rv(rv::KEY_TYPE_INCONSISTENT));
        }
        let key_type = key.key_type().ok_or(Error::Rv(rv::KEY_TYPE_INCONSISTENT))?;
        let parts = if key_type == key::RSA {
            [attribute::MODULUS, attribute::PUBLIC_EXPONENT]
        } else {
            [attribute::EC_PARAMS, attribute::EC_POINT]
        };
        let [mut parameter, public] = parts.map(|part| key.get(part).unwrap_or_default().to_vec());
        if let Ok(curve) = Curve::of(key) {
            // A curve can have more than one name.
            parameter = curve.params().to_vec();
        }
        let statement = Statement {
            nonce: nonce.to_vec(),
            key_type,
            parameter,
            public,
            local: key.flag(attribute::LOCAL),
            always_sensitive: key.flag(attribute::ALWAYS_SENSITIVE),
            never_extractable: key.flag(attribute::NEVER_EXTRACTABLE),
        };
        let report = self.tools.platform.report(&statement.digest())?;
        Ok(Answer::Evidence { report, statement: statement.to_bytes() })
    }
}

/// A key for which the PIN is to be shown each time is for operations, which have a place to show it at.
fn each_time(key: &Object) -> Result<(), Error> {
    if key.flag(attribute::ALWAYS_AUTHENTICATE) {
        return Err(Error::Rv(rv::KEY_FUNCTION_NOT_PERMITTED));
    }
    Ok(())
}

fn no_parameter(mechanism: &Mechanism) -> Result<(), Error> {
    if mechanism.parameter == Parameter::None { Ok(()) } else { Err(BAD_PARAMETER) }
}

/// ANSI X9.63, 5.6.3, as long as one hash; or nothing.
fn x9_63(function: u64, secret: &[u8], shared: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let hash = match function {
        kdf::NULL if shared.is_empty() => return Ok(Zeroizing::new(secret.to_vec())),
        kdf::SHA1_KDF => Hash::Sha1,
        kdf::SHA224_KDF => Hash::Sha224,
        kdf::SHA256_KDF => Hash::Sha256,
        kdf::SHA384_KDF => Hash::Sha384,
        kdf::SHA512_KDF => Hash::Sha512,
        _ => return Err(BAD_PARAMETER),
    };
    let mut hasher = hash.start();
    hasher.update(secret);
    hasher.update(&1u32.to_be_bytes());
    hasher.update(shared);
    Ok(Zeroizing::new(hasher.finish()))
}
