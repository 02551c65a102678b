//! What needs an RSA private key: signing, decrypting, making keys. For code inside S, where registers are the general ones
//! and every instruction counts; verifying and encrypting need no secret and are left to the `rsa` crate.
//!
//! - [`Key`] is a private key of 2048 to 4096 bits, by the Chinese remainder theorem. [`Key::private`] is the bare operation;
//!   [`pkcs1`], [`pss`] and [`oaep`] are the paddings on top of it, [`generate()`] makes a key.
//! - What takes how long, and which addresses are touched, depends on sizes and the public key only. Inputs are blinded besides,
//!   and a result is checked with the public key before it is returned: one computed wrongly would tell the factors.
//!   Exceptions: [`generate()`] tells how many candidates it refused, and how many times 2 divides p-1 shows where a key is made or read.
//! - Secrets are wiped when dropped. What was on the stack or in a register may be left there: S's memory is closed to the outside.
//! - A [`Kernel`] says which multiplication is used; S may not ask CPUID, so the caller says it.
//!
//! Relies on the random numbers it is given, and on `MUL`, `MULX` and `CMOV` taking the same time for all operands, as on all
//! processors that TrustVisor runs on.

#![no_std]
#![warn(missing_docs)]

extern crate alloc;

mod generate;
mod hash;
mod key;
mod limbs;
mod load;
mod mont;
pub mod oaep;
pub mod pkcs1;
mod prime;
pub mod pss;
#[cfg(test)]
mod tests;

pub use generate::generate;
pub use hash::Hash;
pub use key::Key;
pub use load::Components;
pub use mont::Kernel;

/// Why there is no result. None of them tells anything about a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a size of key that is supported.
    #[error("the modulus must have 2048 to 4096 bits, a multiple of 64, and two primes of equal size")]
    Size,
    /// Not a public exponent that is supported, or not one that fits the primes.
    #[error(
        "the public exponent must be odd, 3 or more, less than 2^64, and have no factor in common with p-1 and q-1"
    )]
    Exponent,
    /// The primes are even, not prime, equal, or so close that the modulus is easily factored.
    #[error("p and q are not two primes that may be used")]
    Primes,
    /// The modulus or the private exponent belongs to other primes.
    #[error("modulus and private exponent do not belong to p, q and the public exponent")]
    Inconsistent,
    /// The input has not the length of the modulus, or is not less than it.
    #[error("the input must be as long as the modulus and less than it")]
    Input,
    /// The key is too small for this message, digest or salt.
    #[error("too long for this key")]
    TooLong,
    /// A digest has not the length of its hash's digests.
    #[error("not a digest of this hash")]
    Digest,
    /// OAEP: the ciphertext was not made for this key, label and hash.
    #[error("decryption failed")]
    Decryption,
    /// The result is wrong: the processor made a mistake, or the key was damaged in memory.
    #[error("the result is wrong and is withheld")]
    Fault,
}
