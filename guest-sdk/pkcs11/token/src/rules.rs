//! What an object may be made of, and what may be changed later. The rules that keep keys in are here:
//!
//! - `CKA_SENSITIVE` and `CKA_WRAP_WITH_TRUSTED` never go back to false, `CKA_EXTRACTABLE` never to true;
//! - `CKA_LOCAL`, `CKA_ALWAYS_SENSITIVE`, `CKA_NEVER_EXTRACTABLE` are the token's own word: of generation, and of what is
//!   derived from what was generated so;
//! - no key has `CKA_WRAP` and `CKA_DECRYPT`, or `CKA_UNWRAP` and `CKA_ENCRYPT`: what it wrapped it could decrypt, what it encrypted it
//!   could unwrap (Clulow 2003; Delaune, Kremer, Steel 2008). Nor one after the other: a key and its copies lose these four and do not
//!   gain them. Nor in two objects of one value: a key that came in wrapped or was derived, which can be done twice, has neither
//!   `CKA_WRAP` nor `CKA_UNWRAP`;
//! - `CKA_TRUSTED` is the security officer's to give.

use crate::ck::{attribute, class, key, rv};
use crate::object::{Object, number};
use crate::protocol::{Error, Template, Value};

/// How an object comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Its values are the caller's.
    Created,
    /// By the token, of random numbers.
    Generated {
        /// `CKM_…`.
        mechanism: u64,
    },
    /// It came in wrapped.
    Unwrapped,
    /// From another key.
    Derived {
        /// Whether that key was always sensitive.
        sensitive: bool,
        /// Whether it was never extractable.
        never_extractable: bool,
    },
}

const BAD_TYPE: Error = Error::Rv(rv::ATTRIBUTE_TYPE_INVALID);
const BAD_VALUE: Error = Error::Rv(rv::ATTRIBUTE_VALUE_INVALID);
const READ_ONLY: Error = Error::Rv(rv::ATTRIBUTE_READ_ONLY);
const INCOMPLETE: Error = Error::Rv(rv::TEMPLATE_INCOMPLETE);
const INCONSISTENT: Error = Error::Rv(rv::TEMPLATE_INCONSISTENT);

/// The longest value that the caller may choose.
const LONGEST: usize = 16 << 10;

/// What kind of value an attribute has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flag,
    Number,
    Bytes,
    /// `CK_DATE`: nothing or 8 digits.
    Date,
    /// `CK_MECHANISM_TYPE`s.
    Mechanisms,
}

/// Every attribute that objects may have: of which classes, and what its value is. Classes are bits, by number.
const KNOWN: &[(u64, u8, Kind)] = {
    use Kind::{Bytes, Date, Flag, Mechanisms, Number};
    use attribute as a;
    const DATA: u8 = 1;
    const CERTIFICATE: u8 = 2;
    const PUBLIC: u8 = 4;
    const PRIVATE: u8 = 8;
    const SECRET: u8 = 16;
    const KEYS: u8 = PUBLIC | PRIVATE | SECRET;
    const ALL: u8 = DATA | CERTIFICATE | KEYS;
    &[
        (a::CLASS, ALL, Number),
        (a::TOKEN, ALL, Flag),
        (a::PRIVATE, ALL, Flag),
        (a::MODIFIABLE, ALL, Flag),
        (a::COPYABLE, ALL, Flag),
        (a::DESTROYABLE, ALL, Flag),
        (a::LABEL, ALL, Bytes),
        (a::APPLICATION, DATA, Bytes),
        (a::OBJECT_ID, DATA, Bytes),
        (a::VALUE, ALL & !PUBLIC, Bytes),
        (a::CERTIFICATE_TYPE, CERTIFICATE, Number),
        (a::CERTIFICATE_CATEGORY, CERTIFICATE, Number),
        (a::TRUSTED, CERTIFICATE | PUBLIC | SECRET, Flag),
        (a::CHECK_VALUE, CERTIFICATE | SECRET, Bytes),
        (a::SUBJECT, CERTIFICATE | PUBLIC | PRIVATE, Bytes),
        (a::ID, CERTIFICATE | KEYS, Bytes),
        (a::ISSUER, CERTIFICATE, Bytes),
        (a::SERIAL_NUMBER, CERTIFICATE, Bytes),
        (a::URL, CERTIFICATE, Bytes),
        (a::HASH_OF_SUBJECT_PUBLIC_KEY, CERTIFICATE, Bytes),
        (a::HASH_OF_ISSUER_PUBLIC_KEY, CERTIFICATE, Bytes),
        (a::NAME_HASH_ALGORITHM, CERTIFICATE, Number),
        (a::JAVA_MIDP_SECURITY_DOMAIN, CERTIFICATE, Number),
        (a::START_DATE, CERTIFICATE | KEYS, Date),
        (a::END_DATE, CERTIFICATE | KEYS, Date),
        (a::PUBLIC_KEY_INFO, CERTIFICATE | PUBLIC | PRIVATE, Bytes),
        (a::KEY_TYPE, KEYS, Number),
        (a::DERIVE, KEYS, Flag),
        (a::LOCAL, KEYS, Flag),
        (a::KEY_GEN_MECHANISM, KEYS, Number),
        (a::ALLOWED_MECHANISMS, KEYS, Mechanisms),
        (a::ENCRYPT, PUBLIC | SECRET, Flag),
        (a::VERIFY, PUBLIC | SECRET, Flag),
        (a::VERIFY_RECOVER, PUBLIC, Flag),
        (a::WRAP, PUBLIC | SECRET, Flag),
        (a::DECRYPT, PRIVATE | SECRET, Flag),
        (a::SIGN, PRIVATE | SECRET, Flag),
        (a::SIGN_RECOVER, PRIVATE, Flag),
        (a::UNWRAP, PRIVATE | SECRET, Flag),
        (a::SENSITIVE, PRIVATE | SECRET, Flag),
        (a::EXTRACTABLE, PRIVATE | SECRET, Flag),
        (a::ALWAYS_SENSITIVE, PRIVATE | SECRET, Flag),
        (a::NEVER_EXTRACTABLE, PRIVATE | SECRET, Flag),
        (a::WRAP_WITH_TRUSTED, PRIVATE | SECRET, Flag),
        (a::ALWAYS_AUTHENTICATE, PRIVATE, Flag),
        (a::VALUE_LEN, SECRET, Number),
        (a::MODULUS, PUBLIC | PRIVATE, Bytes),
        (a::MODULUS_BITS, PUBLIC, Number),
        (a::PUBLIC_EXPONENT, PUBLIC | PRIVATE, Bytes),
        (a::PRIVATE_EXPONENT, PRIVATE, Bytes),
        (a::PRIME_1, PRIVATE, Bytes),
        (a::PRIME_2, PRIVATE, Bytes),
        (a::EXPONENT_1, PRIVATE, Bytes),
        (a::EXPONENT_2, PRIVATE, Bytes),
        (a::COEFFICIENT, PRIVATE, Bytes),
        (a::EC_PARAMS, PUBLIC | PRIVATE, Bytes),
        (a::EC_POINT, PUBLIC | PRIVATE, Bytes),
    ]
};

fn known(class: u64, kind: u64) -> Option<Kind> {
    let (_, classes, value) = KNOWN.iter().find(|(known, ..)| *known == kind)?;
    (class < 8 && classes >> class & 1 == 1).then_some(*value)
}

/// The token's own word.
const OWN: [u64; 4] = [
    attribute::LOCAL,
    attribute::KEY_GEN_MECHANISM,
    attribute::ALWAYS_SENSITIVE,
    attribute::NEVER_EXTRACTABLE,
];

/// What is made of a key and cannot be said beforehand by who has it made.
const MADE: [u64; 10] = [
    attribute::VALUE,
    attribute::MODULUS,
    attribute::PRIVATE_EXPONENT,
    attribute::PRIME_1,
    attribute::PRIME_2,
    attribute::EXPONENT_1,
    attribute::EXPONENT_2,
    attribute::COEFFICIENT,
    attribute::EC_POINT,
    attribute::PUBLIC_KEY_INFO,
];

/// What may be changed of an object that is there.
const CHANGEABLE: [u64; 22] = [
    attribute::LABEL,
    attribute::ID,
    attribute::SUBJECT,
    attribute::ISSUER,
    attribute::SERIAL_NUMBER,
    attribute::APPLICATION,
    attribute::OBJECT_ID,
    attribute::START_DATE,
    attribute::END_DATE,
    attribute::TRUSTED,
    attribute::SENSITIVE,
    attribute::EXTRACTABLE,
    attribute::WRAP_WITH_TRUSTED,
    attribute::ENCRYPT,
    attribute::DECRYPT,
    attribute::SIGN,
    attribute::SIGN_RECOVER,
    attribute::VERIFY,
    attribute::VERIFY_RECOVER,
    attribute::WRAP,
    attribute::UNWRAP,
    attribute::DERIVE,
];

fn check_value(class: u64, kind: u64, value: &[u8]) -> Result<(), Error> {
    let good = match known(class, kind).ok_or(BAD_TYPE)? {
        Kind::Flag => matches!(value, [0 | 1]),
        Kind::Number => value.len() == 8,
        Kind::Bytes => value.len() <= LONGEST,
        Kind::Date => value.is_empty() || value.len() == 8 && value.iter().all(u8::is_ascii_digit),
        Kind::Mechanisms => value.len().is_multiple_of(8) && value.len() <= 1024,
    };
    good.then_some(()).ok_or(BAD_VALUE)
}

/// The attribute of a template that may have it once.
pub fn find(template: &Template, kind: u64) -> Option<&[u8]> {
    template.iter().find(|(k, _)| *k == kind).map(|(_, value)| value.as_slice())
}

/// The attributes of an object to be, as its template gives them. `implied` is what the way of its making says already (class, key type);
/// a template that says otherwise is refused.
pub fn begin(
    template: &Template,
    implied: &[(u64, u64)],
    origin: Origin,
    officer: bool,
) -> Result<Object, Error> {
    let mut object = Object::default();
    for (kind, value) in implied {
        object.set_number(*kind, *value);
    }
    if let Some(value) = find(template, attribute::CLASS) {
        let value = number(value).ok_or(BAD_VALUE)?;
        if object.number(attribute::CLASS).is_some_and(|implied| implied != value) {
            return Err(INCONSISTENT);
        }
        object.set_number(attribute::CLASS, value);
    }
    let class = object.number(attribute::CLASS).ok_or(INCOMPLETE)?;
    if class > class::SECRET_KEY {
        return Err(BAD_VALUE);
    }
    for (at, (kind, value)) in template.iter().enumerate() {
        if template[..at].iter().any(|(earlier, other)| earlier == kind && other != value) {
            return Err(INCONSISTENT);
        }
        if OWN.contains(kind) {
            return Err(READ_ONLY);
        }
        check_value(class, *kind, value)?;
        if origin != Origin::Created && MADE.contains(kind) {
            return Err(INCONSISTENT);
        }
        if *kind == attribute::TRUSTED && *value == [1] && !officer {
            return Err(READ_ONLY);
        }
        if implied.iter().any(|(implied, wanted)| implied == kind && number(value) != Some(*wanted)) {
            return Err(INCONSISTENT);
        }
        object.set(*kind, value.clone());
    }
    Ok(object)
}

/// What was left unsaid, and the token's own word. Refuses what contradicts itself.
pub fn complete(object: &mut Object, origin: Origin) -> Result<(), Error> {
    let class = object.class();
    for kind in [attribute::MODIFIABLE, attribute::COPYABLE, attribute::DESTROYABLE] {
        object.set_default(kind, [1]);
    }
    object.set_default(attribute::TOKEN, [0]);
    object.set_default(attribute::PRIVATE, [u8::from(object.is_secret())]);
    object.set_default(attribute::LABEL, []);
    match class {
        class::DATA => {
            for kind in [attribute::APPLICATION, attribute::OBJECT_ID, attribute::VALUE] {
                object.set_default(kind, []);
            }
            return Ok(());
        }
        class::CERTIFICATE => return complete_certificate(object),
        _ => {}
    }
    object.set_default(attribute::ID, []);
    object.set_default(attribute::START_DATE, []);
    object.set_default(attribute::END_DATE, []);
    object.set_default(attribute::DERIVE, [0]);
    object.set_default(attribute::ALLOWED_MECHANISMS, []);
    if class != class::SECRET_KEY {
        object.set_default(attribute::SUBJECT, []);
    }
    if class != class::PRIVATE_KEY {
        object.set_default(attribute::TRUSTED, [0]);
    }
    let twice = matches!(origin, Origin::Unwrapped | Origin::Derived { .. });
    if twice && (object.flag(attribute::WRAP) || object.flag(attribute::UNWRAP)) {
        return Err(INCONSISTENT);
    }
    uses(object);
    let generated = if let Origin::Generated { mechanism } = origin { Some(mechanism) } else { None };
    object.set_flag(attribute::LOCAL, generated.is_some());
    object.set_number(attribute::KEY_GEN_MECHANISM, generated.unwrap_or(u64::MAX));
    if object.is_secret() {
        object.set_default(attribute::SENSITIVE, [1]);
        object.set_default(attribute::EXTRACTABLE, [0]);
        object.set_default(attribute::WRAP_WITH_TRUSTED, [0]);
        let (always, never) = match origin {
            Origin::Generated { .. } => (true, true),
            Origin::Derived { sensitive, never_extractable } => (sensitive, never_extractable),
            Origin::Created | Origin::Unwrapped => (false, false),
        };
        object.set_flag(attribute::ALWAYS_SENSITIVE, always && object.flag(attribute::SENSITIVE));
        object.set_flag(attribute::NEVER_EXTRACTABLE, never && !object.flag(attribute::EXTRACTABLE));
    }
    if class == class::PRIVATE_KEY {
        object.set_default(attribute::ALWAYS_AUTHENTICATE, [0]);
    }
    check_uses(object)
}

fn complete_certificate(object: &mut Object) -> Result<(), Error> {
    let kind = object.number(attribute::CERTIFICATE_TYPE).ok_or(INCOMPLETE)?;
    if kind != crate::ck::certificate::X_509 {
        return Err(BAD_VALUE);
    }
    for kind in [attribute::SUBJECT, attribute::VALUE] {
        object.get(kind).ok_or(INCOMPLETE)?;
    }
    for kind in [attribute::ID, attribute::ISSUER, attribute::SERIAL_NUMBER] {
        object.set_default(kind, []);
    }
    object.set_default(attribute::TRUSTED, [0]);
    object.set_default(attribute::CERTIFICATE_CATEGORY, 0u64.to_le_bytes());
    Ok(())
}

/// What a key can be used for if nothing is said: everything it is made for, but for wrapping.
fn uses(object: &mut Object) {
    let (class, kind) = (object.class(), object.key_type());
    let signs = kind != Some(key::AES) || class != class::SECRET_KEY;
    let encrypts = matches!(kind, Some(key::RSA | key::AES));
    let wraps = object.flag(attribute::WRAP);
    let unwraps = object.flag(attribute::UNWRAP);
    let mut set = |kind, value: bool| object.set_default(kind, [u8::from(value)]);
    match class {
        class::PUBLIC_KEY => {
            set(attribute::ENCRYPT, encrypts);
            set(attribute::VERIFY, true);
            set(attribute::VERIFY_RECOVER, false);
            set(attribute::WRAP, false);
        }
        class::PRIVATE_KEY => {
            set(attribute::DECRYPT, encrypts);
            set(attribute::SIGN, true);
            set(attribute::SIGN_RECOVER, false);
            set(attribute::UNWRAP, false);
        }
        _ => {
            set(attribute::ENCRYPT, encrypts && !unwraps);
            set(attribute::DECRYPT, encrypts && !wraps);
            set(attribute::SIGN, signs);
            set(attribute::VERIFY, signs);
            set(attribute::WRAP, false);
            set(attribute::UNWRAP, false);
        }
    }
}

/// The same of a pair: what the public key wraps the private key does not decrypt, and so on. What was left unsaid gives way.
pub fn check_pair(public: (&mut Object, &Template), private: (&mut Object, &Template)) -> Result<(), Error> {
    let said = |template, kind| find(template, kind).is_some();
    if public.0.flag(attribute::WRAP) && private.0.flag(attribute::DECRYPT) {
        if said(private.1, attribute::DECRYPT) {
            return Err(INCONSISTENT);
        }
        private.0.set_flag(attribute::DECRYPT, false);
    }
    if private.0.flag(attribute::UNWRAP) && public.0.flag(attribute::ENCRYPT) {
        if said(public.1, attribute::ENCRYPT) {
            return Err(INCONSISTENT);
        }
        public.0.set_flag(attribute::ENCRYPT, false);
    }
    Ok(())
}

fn check_uses(object: &Object) -> Result<(), Error> {
    let both = |a, b| object.flag(a) && object.flag(b);
    if both(attribute::WRAP, attribute::DECRYPT) || both(attribute::UNWRAP, attribute::ENCRYPT) {
        return Err(INCONSISTENT);
    }
    Ok(())
}

/// Changes an object that is there, or (`copy`) a copy of one.
pub fn change(object: &mut Object, template: &Template, copy: bool, officer: bool) -> Result<(), Error> {
    for (kind, value) in template {
        check_value(object.class(), *kind, value)?;
        // Comparing would tell how much of a guess is right.
        if object.read(*kind) == Value::Sensitive {
            return Err(READ_ONLY);
        }
        if object.get(*kind) == Some(value) {
            continue;
        }
        let rises = *value == [1];
        let allowed = match *kind {
            attribute::SENSITIVE | attribute::WRAP_WITH_TRUSTED => rises,
            attribute::EXTRACTABLE => !rises,
            attribute::TRUSTED => !rises || officer,
            attribute::TOKEN | attribute::MODIFIABLE | attribute::DESTROYABLE => copy,
            // A secret does not become public.
            attribute::PRIVATE => copy && rises,
            // Once false, for ever.
            attribute::COPYABLE => copy && !rises,
            attribute::ENCRYPT
            | attribute::DECRYPT
            | attribute::WRAP
            | attribute::UNWRAP
            | attribute::DERIVE => !rises,
            kind => CHANGEABLE.contains(&kind),
        };
        if !allowed {
            return Err(READ_ONLY);
        }
        object.set(*kind, value.clone());
    }
    check_uses(object)
}
