//! Measuring the launch: PCR 17 gets the runtime (the CPU has put the SLB there), PCR 18 the configuration.
//!
//! Guarantees: whether this was a dynamic launch is judged by PCR 17 alone, in every bank that TrustVisor can hash into;
//! nothing that the loader says counts. What is handed on as PCR 17 and 18 was read back and is what extending must have
//! given, or the launch is refused.

use abi::{Digests, Extends};
use utpm::digest;

use crate::launch::Handover;
use crate::tpm::{Error, Tpm, Transport, extended};

/// PCR of the code: SLB and runtime.
pub const PCR_CODE: u8 = 17;
/// PCR of the launch configuration.
pub const PCR_CONFIGURATION: u8 = 18;

/// What is measured.
pub struct Launch<'a> {
    /// The SLB's own first `length` bytes.
    pub slb: &'a [u8],
    /// The runtime's image.
    pub runtime: &'a [u8],
    /// [`crate::options::Options::measured`].
    pub options: &'a [u8],
}

/// Extends and keeps a list of it; fills in the handover's part about the TPM. Returns PCR 17 as it was found.
pub fn measure<T: Transport>(
    tpm: &mut Tpm<T>,
    launch: &Launch<'_>,
    handover: &mut Handover,
) -> Result<Digests, Error> {
    for (number, bank) in handover.extends.banks.iter_mut().zip(&tpm.banks) {
        *number = bank.number();
    }
    let found = tpm.read(PCR_CODE)?;
    let slb = digest(launch.slb);
    let dynamic = tpm.same(&found, &extended(&Digests::default(), &slb));
    if dynamic {
        handover.extends.add(PCR_CODE, &slb);
    }
    handover.pcr17 = extend(tpm, &mut handover.extends, PCR_CODE, launch.runtime)?;
    handover.pcr18 = extend(tpm, &mut handover.extends, PCR_CONFIGURATION, launch.options)?;
    handover.tpm_family = tpm.family as u32;
    handover.dynamic_launch = dynamic.into();
    Ok(found)
}

fn extend(tpm: &mut Tpm<impl Transport>, list: &mut Extends, pcr: u8, data: &[u8]) -> Result<Digests, Error> {
    let digests = digest(data);
    let value = tpm.extend(pcr, &digests)?;
    list.add(pcr, &digests);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::LaunchInfo;
    use crate::tpm::tests::model::Model;
    use crate::tpm::{Family, NOT_EXTENDED};

    const LAUNCH: Launch<'_> = Launch { slb: b"slb", runtime: b"runtime", options: b"dma=unprotected\n" };
    const BANKS: [u16; 4] = [0x04, 0x0b, 0x0c, 0x0d];
    const ZERO: Digests = Digests { sha1: [0; 20], sha256: [0; 32] };
    const ONES: Digests = Digests { sha1: [0xff; 20], sha256: [0xff; 32] };

    fn handover() -> Box<Handover> {
        // SAFETY: Handover consists of integers and arrays of them; all zeroes is a value of it.
        let handover: Handover = unsafe { core::mem::zeroed() };
        assert_eq!(size_of_val(&handover.info), size_of::<LaunchInfo>());
        Box::new(handover)
    }

    fn run(model: Model) -> Result<(Box<Handover>, Digests), Error> {
        let mut handover = handover();
        let found = measure(&mut Tpm::open(model)?, &LAUNCH, &mut handover)?;
        Ok((handover, found))
    }

    fn launched(mut model: Model) -> Model {
        model.hash(LAUNCH.slb);
        model
    }

    fn fold(start: &Digests, inputs: &[&[u8]]) -> Digests {
        inputs.iter().fold(*start, |pcr, input| extended(&pcr, &digest(input)))
    }

    #[test]
    fn a_dynamic_launch_of_either_family() {
        let (h, found) = run(launched(Model::v20(&BANKS))).unwrap();
        assert_eq!((h.dynamic_launch, h.tpm_family), (1, Family::V20 as u32));
        assert_eq!(found, fold(&ZERO, &[b"slb"]));
        assert_eq!(h.pcr17, fold(&ZERO, &[b"slb", b"runtime"]));
        assert_eq!(h.pcr18, fold(&ZERO, &[LAUNCH.options]));

        let (h, _) = run(launched(Model::v12())).unwrap();
        assert_eq!((h.dynamic_launch, h.tpm_family), (1, Family::V12 as u32));
        assert_eq!(h.pcr17.sha1, fold(&ZERO, &[b"slb", b"runtime"]).sha1);
        assert_eq!(h.pcr17.sha256, [0; 32]);
    }

    #[test]
    fn no_dynamic_launch_shows() {
        for model in [Model::v12(), Model::v20(&BANKS)] {
            let (h, found) = run(model).unwrap();
            assert_eq!(h.dynamic_launch, 0);
            assert_eq!(found.sha1, [0xff; 20]);
            assert_eq!(h.pcr17.sha1, fold(&ONES, &[b"runtime"]).sha1);
        }
    }

    #[test]
    fn another_slb_than_ours_is_no_dynamic_launch() {
        let mut model = Model::v20(&BANKS);
        model.hash(b"slB");
        assert_eq!(run(model).unwrap().0.dynamic_launch, 0);
    }

    /// One bank shows our launch, the other something more: no dynamic launch.
    #[test]
    fn every_bank_must_agree() {
        for (bank, size) in [(4, 20), (0x0b, 32)] {
            let mut model = launched(Model::v20(&[0x04, 0x0b]));
            model.extend(bank, 17, &vec![7; size]);
            assert_eq!(run(model).unwrap().0.dynamic_launch, 0);
        }
    }

    #[test]
    fn extends_that_fail_or_do_nothing_are_refused() {
        for mut model in [launched(Model::v12()), launched(Model::v20(&BANKS))] {
            model.forgets = true;
            assert_eq!(run(model.clone()).unwrap_err(), NOT_EXTENDED);
            model.refuses = Some(0x907);
            assert_eq!(run(model).unwrap_err(), Error::Refused(0x907));
        }
    }

    /// The list replays to the PCRs, and has nothing else in it.
    #[test]
    fn what_was_extended_replays_to_the_pcrs() {
        for (model, start) in [(launched(Model::v20(&BANKS)), ZERO), (Model::v20(&BANKS), ONES)] {
            let (h, _) = run(model).unwrap();
            assert_eq!(h.extends.banks, [0x04, 0x0b, 0x0c, 0x0d, 0, 0, 0, 0]);
            let replay = |pcr| {
                let of_pcr = h.extends.list.iter().filter(|extend| extend.pcr == pcr);
                of_pcr.fold(start, |value, extend| extended(&value, &extend.digests))
            };
            assert_eq!((replay(17), replay(18)), (h.pcr17, h.pcr18));
            let used = h.extends.list.iter().filter(|extend| extend.pcr != 0).count();
            assert_eq!(used, if start == ZERO { 3 } else { 2 });
        }
        let (h, _) = run(launched(Model::v12())).unwrap();
        assert_eq!(h.extends.banks, [0x04, 0, 0, 0, 0, 0, 0, 0]);
    }
}
