//! The steps of verification in their order, and what each of them gives the next.

use std::fmt;

use crate::challenge::Challenge;
use crate::evidence::Evidence;
use crate::policy::Policy;
use crate::steps::binding::{self, BindingError};
use crate::steps::hardware::{self, HardwareKeyError, HardwareQuoteError};
use crate::steps::launch::{self, IdentityError, ReleaseError};
use crate::steps::micro::{self, MicroQuoteError, PalError};
use crate::wire::Malformed;
use crate::{EventLogError, SignatureError};

/// A step of verification; each relies on those before it.
///
/// ```
/// use trustvisor_verify::Step;
///
/// assert_eq!(Step::ALL[0], Step::Format);
/// assert_eq!(Step::HardwareKey.to_string(), "hardware key");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The file is canonical.
    Format,
    /// The hardware TPM's attestation key is one that the policy believes.
    HardwareKey,
    /// It signed the hardware quote.
    HardwareSignature,
    /// That is a fresh quote of PCR 17, 18 and 19.
    HardwareQuote,
    /// The event log gives those PCRs, and is a launch of TrustVisor.
    EventLog,
    /// The policy believes that release and its options.
    Release,
    /// The identity keys are those in PCR 19.
    Identity,
    /// One of them signed the micro-quote.
    MicroQuote,
    /// The PAL is one of the policy's.
    Pal,
    /// The micro-quote answers the challenge.
    Binding,
}

impl Step {
    /// All steps, in the order in which they are taken.
    pub const ALL: [Self; 10] = [
        Self::Format,
        Self::HardwareKey,
        Self::HardwareSignature,
        Self::HardwareQuote,
        Self::EventLog,
        Self::Release,
        Self::Identity,
        Self::MicroQuote,
        Self::Pal,
        Self::Binding,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Format => "format",
            Self::HardwareKey => "hardware key",
            Self::HardwareSignature => "hardware signature",
            Self::HardwareQuote => "hardware quote",
            Self::EventLog => "event log",
            Self::Release => "release",
            Self::Identity => "identity",
            Self::MicroQuote => "micro-quote",
            Self::Pal => "PAL",
            Self::Binding => "binding",
        })
    }
}

/// The first thing that does not hold.
///
/// ```
/// use trustvisor_verify::{Evidence, Failure, Step};
///
/// let failure = Failure::from(Evidence::parse(b"[]").unwrap_err());
/// assert_eq!(failure.step(), Step::Format);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// [`Step::Format`]
    #[error(transparent)]
    Format(#[from] Malformed),
    /// [`Step::HardwareKey`]
    #[error(transparent)]
    HardwareKey(#[from] HardwareKeyError),
    /// [`Step::HardwareSignature`]
    #[error(transparent)]
    HardwareSignature(#[from] SignatureError),
    /// [`Step::HardwareQuote`]
    #[error(transparent)]
    HardwareQuote(#[from] HardwareQuoteError),
    /// [`Step::EventLog`]
    #[error(transparent)]
    EventLog(#[from] EventLogError),
    /// [`Step::Release`]
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// [`Step::Identity`]
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// [`Step::MicroQuote`]
    #[error(transparent)]
    MicroQuote(#[from] MicroQuoteError),
    /// [`Step::Pal`]
    #[error(transparent)]
    Pal(#[from] PalError),
    /// [`Step::Binding`]
    #[error(transparent)]
    Binding(#[from] BindingError),
}

impl Failure {
    /// The step that failed; all before it hold.
    pub fn step(&self) -> Step {
        match self {
            Self::Format(_) => Step::Format,
            Self::HardwareKey(_) => Step::HardwareKey,
            Self::HardwareSignature(_) => Step::HardwareSignature,
            Self::HardwareQuote(_) => Step::HardwareQuote,
            Self::EventLog(_) => Step::EventLog,
            Self::Release(_) => Step::Release,
            Self::Identity(_) => Step::Identity,
            Self::MicroQuote(_) => Step::MicroQuote,
            Self::Pal(_) => Step::Pal,
            Self::Binding(_) => Step::Binding,
        }
    }
}

/// What holds, if all does. [`verify()`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// The machine, as the policy calls its key, or the authority that certified it.
    pub machine: String,
    /// The Name of its attestation key: under an authority, the only thing that says which machine it was.
    pub hardware_key: Vec<u8>,
    /// How old the hardware quote is at most, in seconds, if it is not fresh.
    pub age: Option<u64>,
    /// The release of TrustVisor.
    pub release: String,
    /// Its security version.
    pub security_version: u32,
    /// The options that matter to security.
    pub options: String,
    /// The Name of the identity key that signed.
    pub signer: Vec<u8>,
    /// The PAL, as the policy calls it.
    pub pal: String,
    /// The micro-PCRs quoted.
    pub pcrs: Vec<(u8, Vec<u8>)>,
    /// What the PAL proves.
    pub proof: Proof,
}

/// What the quote is about. [`verify()`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The PAL asked for a quote over the nonce.
    Quote,
    /// TrustVisor saw this call of the PAL.
    Call(Box<Call>),
}

/// An attested call. [`verify()`] has an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The entry, as the policy calls it.
    pub entry: String,
    /// Which call of the PAL this was.
    pub number: u64,
    /// H(in).
    pub input_hash: [u8; 32],
    /// H(out).
    pub output_hash: [u8; 32],
    /// What H(in) is the hash of, if the challenge or the evidence has it.
    pub input: Option<Vec<u8>>,
    /// What H(out) is the hash of, if the challenge or the evidence has it.
    pub output: Option<Vec<u8>>,
    /// The chain before this call.
    pub chain: [u8; 32],
    /// The chain that the PAL's next attested call has.
    pub next_chain: [u8; 32],
}

/// Takes all steps.
///
/// ```
/// use trustvisor_verify::{Challenge, Evidence, Policy, Proof, verify};
///
/// let policy = Policy::parse(include_str!("../tests/data/policy.toml"))?;
/// let evidence = Evidence::parse(include_bytes!("../tests/data/call.json"))?;
/// let verified = verify(&policy, &evidence, &Challenge::new([7; 32])?)?;
/// assert_eq!(verified.pal, "adder");
/// let Proof::Call(call) = verified.proof else { panic!("a quote") };
/// assert_eq!((call.entry.as_str(), call.number), ("add", 1));
///
/// // The answer to one question is none to another.
/// let failure = verify(&policy, &evidence, &Challenge::new([8; 32])?).unwrap_err();
/// assert_eq!(failure.step().to_string(), "hardware quote");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(policy: &Policy, evidence: &Evidence, challenge: &Challenge) -> Result<Verified, Failure> {
    let hardware = hardware::key(policy, evidence, challenge)?;
    hardware::signature(&hardware, evidence)?;
    let (quoted, age) = hardware::quote(policy, evidence, challenge)?;
    let log = launch::log(evidence)?;
    let launch = launch::replay(&log, &quoted)?;
    let release = launch::release(policy, &launch)?;
    let identity = launch::identity(evidence, &launch)?;
    let micro = micro::quote(evidence, &identity, release)?;
    let pal = micro::pal(policy, evidence)?;
    let proof = binding::binding(pal, evidence, &micro, challenge)?;
    Ok(Verified {
        machine: hardware.machine,
        hardware_key: hardware.name,
        age,
        release: release.version.clone(),
        security_version: release.security_version,
        options: String::from_utf8_lossy(launch.options).into_owned(),
        signer: micro.signer.clone(),
        pal: pal.name.clone(),
        pcrs: evidence.pcrs.clone(),
        proof,
    })
}
