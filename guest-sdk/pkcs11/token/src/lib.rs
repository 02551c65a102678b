//! The token: what S does for `libtrustvisor_pkcs11.so`. Keys are in clear here and nowhere else; what leaves is what PKCS#11 lets leave.
//!
//! [`Engine::request`] answers one [`protocol::Request`]. The engine knows nothing of hardware ([`platform::Platform`]) or of the OS, so that
//! all of it is tried on a host; `guest-sdk/pkcs11/pal` makes a PAL of it.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

mod cipher;
pub mod ck;
mod ec;
mod engine;
mod hash;
mod keys;
mod object;
mod operation;
mod pin;
pub mod platform;
pub mod protocol;
mod rsa_key;
mod rules;
mod store;
#[cfg(test)]
mod tests;
mod wrap;

pub use engine::Engine;
