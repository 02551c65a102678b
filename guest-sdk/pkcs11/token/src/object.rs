//! An object: its attributes, the secret ones among them, as PKCS#11 has them. What an object may be made of and what may be changed is in
//! [`crate::rules`]; what may be read is said here.

use crate::ck::{attribute, class, key};
use crate::protocol::{Template, Value};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// An object. Its values are wiped when it goes.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object(BTreeMap<u64, Vec<u8>>);

impl Drop for Object {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

/// What nobody reads of a key that is sensitive or not extractable.
const SECRET: [u64; 7] = [
    attribute::VALUE,
    attribute::PRIVATE_EXPONENT,
    attribute::PRIME_1,
    attribute::PRIME_2,
    attribute::EXPONENT_1,
    attribute::EXPONENT_2,
    attribute::COEFFICIENT,
];

impl Object {
    /// The attribute's value.
    pub fn get(&self, kind: u64) -> Option<&[u8]> {
        self.0.get(&kind).map(Vec::as_slice)
    }

    /// Sets an attribute; the old value is wiped.
    pub fn set(&mut self, kind: u64, value: impl Into<Vec<u8>>) {
        if let Some(mut old) = self.0.insert(kind, value.into()) {
            old.zeroize();
        }
    }

    /// Sets a `CK_ULONG`.
    pub fn set_number(&mut self, kind: u64, value: u64) {
        self.set(kind, value.to_le_bytes());
    }

    /// Sets a `CK_BBOOL`.
    pub fn set_flag(&mut self, kind: u64, value: bool) {
        self.set(kind, [u8::from(value)]);
    }

    /// Sets an attribute that has no value yet.
    pub fn set_default(&mut self, kind: u64, value: impl Into<Vec<u8>>) {
        self.0.entry(kind).or_insert_with(|| value.into());
    }

    /// A `CK_ULONG`.
    pub fn number(&self, kind: u64) -> Option<u64> {
        number(self.get(kind)?)
    }

    /// A `CK_BBOOL`; false if it is not there.
    pub fn flag(&self, kind: u64) -> bool {
        self.get(kind).is_some_and(|value| value == [1])
    }

    /// Its class.
    pub fn class(&self) -> u64 {
        self.number(attribute::CLASS).unwrap_or(u64::MAX)
    }

    /// Its key type.
    pub fn key_type(&self) -> Option<u64> {
        self.number(attribute::KEY_TYPE)
    }

    /// Whether it is a secret or private key.
    pub fn is_secret(&self) -> bool {
        matches!(self.class(), class::PRIVATE_KEY | class::SECRET_KEY)
    }

    /// Whether it is of this class and key type.
    pub fn is(&self, class: u64, key_type: u64) -> bool {
        self.class() == class && self.key_type() == Some(key_type)
    }

    /// The secret key's bytes, if it may be used as one of this type; generic secrets serve for HMAC.
    pub fn secret(&self) -> Option<&[u8]> {
        self.get(attribute::VALUE).filter(|_| self.class() == class::SECRET_KEY)
    }

    /// Whether it is an AES key.
    pub fn is_aes(&self) -> bool {
        self.is(class::SECRET_KEY, key::AES)
    }

    /// What somebody who asks for an attribute gets.
    pub fn read(&self, kind: u64) -> Value {
        let hidden = self.is_secret() && SECRET.contains(&kind);
        let hidden = hidden && (self.flag(attribute::SENSITIVE) || !self.flag(attribute::EXTRACTABLE));
        match self.get(kind) {
            None => Value::Invalid,
            Some(_) if hidden => Value::Sensitive,
            Some(value) => Value::Is(value.to_vec()),
        }
    }

    /// Whether it has all of these, as far as they can be read.
    pub fn matches(&self, template: &Template) -> bool {
        template.iter().all(|(kind, value)| self.read(*kind) == Value::Is(value.clone()))
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        self.0.values().map(|value| value.len() + 16).sum()
    }
}

/// A `CK_ULONG`.
pub fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(value.try_into().ok()?))
}
