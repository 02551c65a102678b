//! What the runtime does with the hardware TPM at launch: random numbers, the root, and PCR 19.
//!
//! Guarantees: the root is opened or made before PCR 19 is extended, and from then on its blob is shut; PCR 19 holds the identity keys
//! of this launch and the separator, nothing else; the localities are given back.

use crate::start::refuse;
use abi::{CountersState, Digests, Extends, RootState};
use hypervisor::addr::PAGE_SIZE;
use hypervisor::launch::{Handover, NO_TPM};
use hypervisor::memory::DirectMap;
use hypervisor::npt;
use hypervisor::pal::counters::Counting;
use hypervisor::pal::{MicroTpm, Random};
use hypervisor::release::RELEASE;
use hypervisor::serial;
use hypervisor::tpm::clock::{Clock, TscClock};
use hypervisor::tpm::mmio::Mmio;
use hypervisor::tpm::root::Blob;
use hypervisor::tpm::tis::Tis;
use hypervisor::tpm::{self, Family, Tpm};
use spin::Mutex;
use utpm::{Hasher, Identity, Root};
use x86_64::instructions::random::RdRand;
use zeroize::Zeroizing;

/// The image of the quoting PAL.
static QUOTING_PAL: &[u8] = include_bytes!(env!("QUOTING_PAL"));

/// What is to be saved for the next launch.
pub struct Blobs {
    pub root: Blob,
    pub key: Blob,
}

/// The hardware TPM.
type HardwareTpm = Tpm<Tis<Mmio, TscClock>>;

/// What became of the root and of the counters.
pub type States = (RootState, CountersState);

fn fails<T>(error: tpm::Error) -> T {
    refuse(format_args!("the TPM fails: {error}"))
}

/// Hands the secrets on to be published. In a frame of its own, which is wiped: they go over the stack on their way.
#[inline(never)]
pub fn with_secrets(
    handover: &Handover,
    mem: DirectMap,
    clock: TscClock,
    publish: impl FnOnce(MicroTpm, States, Blobs, Extends),
) -> Result<(), &'static str> {
    let mut blobs = Blobs { root: Blob::new(), key: Blob::new() };
    let mut quoting = Hasher::measurement();
    quoting.update(QUOTING_PAL);
    let quoting = quoting.finish();
    let open = |locality| match handover.tpm_family {
        NO_TPM => None,
        _ => Some(open_tpm(mem, clock, locality).unwrap_or_else(fails)),
    };
    let (mut secrets, states) = secrets(handover, open(1), clock, &quoting, &mut blobs.root)?;
    log::info!("root: {:?}, counters: {:?}", states.0, states.1);
    identify(handover, &mut secrets, quoting, &mut blobs.key);
    let mut extends = handover.extends;
    extend_identity(open(2), &secrets.identity, &mut extends).unwrap_or_else(fails);
    publish(secrets, states, blobs, extends);
    Ok(())
}

/// The identity keys of this launch; a saved one that is good is kept.
fn identify(handover: &Handover, secrets: &mut MicroTpm, quoting: Digests, key: &mut Blob) {
    let Some(root) = &secrets.root else { return };
    let mut report_key = Zeroizing::new([0; 32]);
    secrets.random.get_mut().fill(&mut *report_key);
    let saved = handover.info.key_blob.get(..handover.info.key_blob_len as usize).unwrap_or_default();
    let identity = Identity::new(root, &report_key, quoting, saved);
    if identity.has_rsa() && key.try_extend_from_slice(saved).is_err() {
        log::error!("the RSA identity key is too long to be saved");
    }
    secrets.identity = Some(identity);
}

/// Random numbers, out of the processor's generator and the hardware TPM's, if there is one and it works: then nobody has to believe
/// in one alone. And what the hardware TPM keeps, before PCR 19 is extended: the root, opened or sealed, and the counters.
fn secrets(
    handover: &Handover,
    mut tpm: Option<HardwareTpm>,
    clock: TscClock,
    quoting: &Digests,
    blob: &mut Blob,
) -> Result<(MicroTpm, States), &'static str> {
    let seeded = |more: &[u8]| {
        Random::seeded(|| RdRand::new()?.get_u64(), more)
            .ok_or("the processor's random number generator (RDRAND) does not work")
    };
    // The processor's alone keep the TPM's from who listens on the bus.
    let mut random = seeded(&[])?;
    let drawn = tpm.as_mut().map(|tpm| tpm.random(&mut random)).transpose();
    if let Ok(Some(chip)) = &drawn {
        random = seeded(&**chip)?;
    }
    let mut secret = Zeroizing::new([0; Root::SIZE]);
    random.fill(&mut *secret);
    let saved = handover.info.root.get(..handover.info.root_len as usize).unwrap_or(&[0]);
    let state = match &mut tpm {
        None => RootState::NoTpm,
        Some(_) if handover.dynamic_launch == 0 => RootState::NoLaunch,
        Some(tpm) => match drawn.and_then(|_| tpm.root(&mut random, &RELEASE, saved, &mut secret, blob)) {
            Ok(state) => state,
            Err(error) => {
                log::error!("no root: {error}");
                *blob = Blob::new();
                RootState::TpmFails
            }
        },
    };
    let root = (state != RootState::TpmFails).then(|| Root::new(&secret, quoting.sha256));
    let kept = tpm.as_mut().zip(root.as_ref()).filter(|_| !blob.as_slice().is_empty());
    let counters = kept.ok_or(CountersState::NoRoot).and_then(|(tpm, root)| {
        let auth = root.counters_auth();
        let (counters, launches) = tpm.counters(&auth, state)?;
        Ok((Counting::new(counters, auth, clock.ms()), launches))
    });
    if let Some(tpm) = tpm {
        tpm.close().unwrap_or_else(fails);
    }
    let (state_of_counters, counting, launches) = match counters {
        Ok((counting, launches)) => (CountersState::Ready, Some(counting), launches),
        Err(state) => (state, None, 0),
    };
    let launches = u32::try_from(launches).unwrap_or(u32::MAX);
    let (random, counting) = (Mutex::new(random), Mutex::new(counting));
    let secrets = MicroTpm { random, root, identity: None, quoting: QUOTING_PAL, counting, launches };
    Ok((secrets, (state, state_of_counters)))
}

/// PCR 19: the public keys of the identity, then the separator.
fn extend_identity(
    tpm: Option<HardwareTpm>,
    identity: &Option<Identity>,
    extends: &mut Extends,
) -> Result<(), tpm::Error> {
    let Some(mut tpm) = tpm else { return Ok(()) };
    let separator = utpm::digest(&tpm::SEPARATOR);
    let keys = identity.iter().flat_map(Identity::digests);
    let mut pcr = Digests::default();
    for digests in keys.chain([&separator]) {
        pcr = tpm.extend(19, digests)?;
        extends.add(19, digests);
    }
    let (bank, value): (_, &[u8]) = match tpm.family {
        Family::V12 => ("sha1", &pcr.sha1),
        Family::V20 => ("sha256", &pcr.sha256),
    };
    tpm.close()?;
    let keys = identity.iter().flat_map(Identity::digests).count();
    log::info!("PCR 19 {bank} {}: {keys} identity key(s)", serial::Hex(value));
    Ok(())
}

/// Before memory could outlive TrustVisor in other hands: PCR 17 to 19 no longer say that it runs. A TPM that fails keeps nobody up.
pub fn cap(mem: DirectMap, clock: TscClock) {
    if let Ok(mut tpm) = open_tpm(mem, clock, 2) {
        for pcr in 17..=19 {
            let _ = tpm.extend(pcr, &utpm::digest(&tpm::SEPARATOR));
        }
    }
}

/// The hardware TPM at a locality.
fn open_tpm(mem: DirectMap, clock: TscClock, locality: u8) -> Result<HardwareTpm, tpm::Error> {
    Tpm::open(Tis::request(registers(mem), clock, locality)?)
}

/// The registers of all its localities.
pub fn registers(mem: DirectMap) -> Mmio {
    // SAFETY: the direct map covers the low 4 GiB, the TPM's registers among them, for ever.
    unsafe { Mmio::new(mem.pointer(npt::TPM, 5 * PAGE_SIZE)) }
}
