//! The relying party: checks offline what a machine under TrustVisor proves about one of its PALs (pieces of application logic, *S*).
//! Needs no TPM, no AMD processor and no network.
//!
//! A machine answers a nonce with an evidence file, [`Evidence`]. [`verify()`] says whether it is what a [`Policy`] believes:
//!
//! | step | what holds after it |
//! |---|---|
//! | format | the file is canonical: there is one way to write it |
//! | hardware key | the TPM's attestation key is pinned by the policy, or certified by one of its authorities, and signs only what the TPM made |
//! | hardware signature, hardware quote | that TPM quotes PCR 17, 18 and 19, for this nonce and this micro-quote |
//! | event log | what was extended into them, from a dynamic launch on, is TrustVisor's and nothing else |
//! | release | the policy lists SLB, runtime and options; nothing is revoked or too old |
//! | identity | the identity keys are those that TrustVisor measured into PCR 19 |
//! | micro-quote | one of them signed the quote of the PAL's micro-PCRs |
//! | PAL | the policy lists its measurement, and the micro-PCRs are as the policy says |
//! | binding | the PAL asked for a quote of the nonce, or TrustVisor saw the call: entry, H(in), H(out), nonce |
//!
//! All that is checked comes from the policy and the [`Challenge`]; all that the evidence says is a claim until then. [`verify()`] has
//! an example.
//!
//! # The policy
//! A TOML file. Unknown keys are refused; digests are lower-case hexadecimal, `sha256` for TPM 2.0 and `sha1` for TPM 1.2, and who gives
//! one of them does not believe the other family.
//!
//! ```toml
#![doc = include_str!("../tests/data/policy.toml")]
//! ```
//!
//! - `tpm`: the family of the hardware TPM. A TPM 1.2, and with it SHA-1, is believed only by a policy that says so.
//! - `max_age`: seconds, optional. Then an older hardware quote will do, if the relying party asked for it itself no longer ago:
//!   [`Earlier`]. Without it every micro-quote needs a hardware quote of its own.
//! - `options`: the canonical bytes of the options that are accepted, as PCR 18 has them.
//! - `revoked`: digests of SLBs and runtimes that are refused whatever else is listed.
//! - `[[hardware_key]]`: an attestation key, by its Name; how to learn it safely: [`credential`].
//! - `[[authority]]` with `name` and `certificate` (PEM): who certifies attestation keys. The certificate of a hardware key has to be
//!   signed by one directly, valid at the challenge's time, and for attestation keys by its extended key usage
//!   (tcg-kp-AIKCertificate). There is no revocation of certificates. Not for TPM 1.2, whose keys have to be pinned: a key of a TPM 2.0
//!   can be made to sign what looks like a quote of a TPM 1.2, and a certificate does not tell the family.
//! - `[[release]]`: a build of TrustVisor writes it, `build/release.toml`. `firmware` is the number in a micro-quote.
//! - `[[pal]]`: `trustvisor measure` prints the measurement. `pcrs` are values that micro-PCRs 1 to 7 must have. A PAL with
//!   entries is believed for attested calls of these, one without for quotes: neither passes for the other.

#![warn(missing_docs)]

mod call;
mod certificate;
mod challenge;
pub mod credential;
mod event_log;
mod evidence;
mod explain;
mod hash;
mod json;
mod key;
mod policy;
mod quoted;
mod steps;
#[cfg(test)]
mod tests;
pub mod token_key;
mod verify;
mod wire;

pub use call::{Argument, Signature, input, output};
pub use certificate::CertificateError;
pub use challenge::{Challenge, Earlier, NonceError};
pub use event_log::{EventLog, EventLogError};
pub use evidence::Evidence;
pub use hash::Family;
pub use key::SignatureError;
pub use policy::{Policy, PolicyError};
pub use steps::binding::BindingError;
pub use steps::hardware::{HardwareKeyError, HardwareQuoteError};
pub use steps::launch::{IdentityError, ReleaseError};
pub use steps::micro::{MicroQuoteError, PalError};
pub use verify::{Call, Failure, Proof, Step, Verified, verify};
pub use wire::Malformed;
