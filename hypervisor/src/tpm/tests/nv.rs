//! The counters in a real TPM.

use super::root::Failing;
use super::swtpm::SwTpm;
use crate::tpm::Tpm;
use crate::tpm::nv::{INDEX, write_command};
use crate::tpm::v20::{SESSIONS, authorise};
use crate::tpm::wire::Command;
use abi::{CountersState, RootState};
use utpm::Counters;

const AUTH: [u8; 32] = [7; 32];
const PAL: [u8; 32] = [9; 32];

type Found = Result<(Counters, u64), CountersState>;

/// A launch at which a root was made, or opened.
fn launch(tpm: &mut SwTpm, root: RootState) -> Found {
    tpm.at(1).counters(&AUTH, root)
}

fn launches(found: Found) -> Result<u64, CountersState> {
    found.map(|(_, launches)| launches)
}

/// What the OS does with the owner's empty authorisation.
fn owner(tpm: &mut SwTpm, code: u32, handles: &[u32], rest: &[u8]) -> u32 {
    let mut command = Command::new(SESSIONS, code);
    for handle in handles {
        command.u32(*handle);
    }
    authorise(&mut command).bytes(rest);
    command.exchange(&mut tpm.at(0).transport).unwrap().code
}

/// TPM_RH_OWNER, TPM2_NV_UndefineSpace, TPM2_NV_DefineSpace.
const OWNER: u32 = 0x4000_0001;
const UNDEFINE: u32 = 0x122;
const DEFINE: u32 = 0x12a;

fn increment(tpm: &mut SwTpm, counters: &mut Counters) {
    let increment = counters.increment(&PAL, 0).unwrap();
    let mut command = write_command(&AUTH, increment.offset(), increment.bytes());
    command.run(&mut tpm.at(1).transport).unwrap();
    counters.apply(&increment);
}

#[test]
fn they_go_on_at_every_launch() {
    let mut tpm = SwTpm::new();
    let (mut counters, first) = launch(&mut tpm, RootState::NewNoBlob).unwrap();
    assert_eq!((first, counters.read(&PAL, 0)), (1, 0));
    let old = [RootState::Opened, RootState::TakenOver, RootState::HandedOver, RootState::NotHandedOver];
    for (launches, root) in (2..).zip(old) {
        increment(&mut tpm, &mut counters);
        increment(&mut tpm, &mut counters);
        tpm = tpm.restart();
        let found = launch(&mut tpm, root).unwrap();
        assert_eq!((found.1, found.0.read(&PAL, 0)), (launches, 2 * (launches - 1)));
        counters = found.0;
    }
}

/// The OS owns the TPM: it can take the counters away, and that is seen.
#[test]
fn what_the_owner_removes_is_gone() {
    let mut tpm = SwTpm::new();
    launch(&mut tpm, RootState::NewNoBlob).unwrap();
    assert_eq!(owner(&mut tpm, UNDEFINE, &[OWNER, INDEX], &[]), 0);
    assert_eq!(launches(launch(&mut tpm, RootState::Opened)), Err(CountersState::Gone));
    assert_eq!(launches(launch(&mut tpm, RootState::Opened)), Err(CountersState::Gone), "and stays so");
    // A new root begins anew.
    assert_eq!(launches(launch(&mut tpm, RootState::NewMalformed)), Ok(1));
    // Another root's are left alone.
    assert_eq!(launches(tpm.at(1).counters(&[8; 32], RootState::NewNoBlob)), Err(CountersState::NotOurs));
    assert_eq!(launches(tpm.at(1).counters(&[8; 32], RootState::Opened)), Err(CountersState::NotOurs));
    assert_eq!(launches(launch(&mut tpm, RootState::Opened)), Ok(2));
}

/// Indices of the same place and size that the OS makes and fills with small numbers: they open to no password, to an empty one, or
/// for the owner; and one that was never written.
#[test]
fn no_other_passes_for_ours() {
    for (auth, attributes) in
        [(&[][..], 0x0206_0006u32), (&[], 0x0204_0004), (&[1; 32], 0x0204_0004), (&[], 0x0202_0002)]
    {
        for written in [true, false] {
            let mut tpm = SwTpm::new();
            let mut public = vec![(auth.len() >> 8) as u8, auth.len() as u8];
            public.extend(auth);
            public.extend([0, 14]);
            public.extend(INDEX.to_be_bytes());
            public.extend([0, 0x0b]);
            public.extend(attributes.to_be_bytes());
            public.extend([0, 0]);
            public.extend((Counters::SIZE as u16).to_be_bytes());
            assert_eq!(owner(&mut tpm, DEFINE, &[OWNER], &public), 0);
            if written && auth.is_empty() {
                let zeros =
                    [&(Counters::SIZE as u16).to_be_bytes()[..], &[0; Counters::SIZE], &[0, 0]].concat();
                let by = if attributes & 2 != 0 { OWNER } else { INDEX };
                assert_eq!(owner(&mut tpm, 0x137, &[by, INDEX], &zeros), 0);
            }
            for root in [RootState::Opened, RootState::NewNoBlob] {
                let found = launches(launch(&mut tpm, root));
                assert_eq!(found, Err(CountersState::NotOurs), "{auth:?} {attributes:#x} {written} {root:?}");
            }
        }
    }
}

/// The OS, at every locality, without the secret.
#[test]
fn the_os_neither_reads_nor_writes_them() {
    let mut tpm = SwTpm::new();
    launch(&mut tpm, RootState::NewNoBlob).unwrap();
    let zeros = [&[0, 8][..], &[0; 8], &[0, 16]].concat();
    for by in [OWNER, INDEX, 0x4000_000c] {
        assert_ne!(owner(&mut tpm, 0x137, &[by, INDEX], &zeros), 0, "write by {by:#x}");
        assert_ne!(owner(&mut tpm, 0x14e, &[by, INDEX], &[0, 8, 0, 16]), 0, "read by {by:#x}");
    }
    for locality in 0..4 {
        let mut command = write_command(&[0; 32], 0, &[0; 24]);
        let code = command.exchange(&mut tpm.at(locality).transport).unwrap().code;
        assert_eq!(code, 0x9a2);
    }
    assert_eq!(launches(launch(&mut tpm, RootState::Opened)), Ok(2), "and no lock-out by all that");
}

/// The power goes after any command of a launch, done or not, or the TPM refuses it: the next launch is like any other, and what was
/// counted is still there. Only a launch that made the root may have left no counters.
#[test]
fn a_launch_that_ends_early_loses_nothing() {
    for (answer, late) in
        [(None, false), (None, true), (Some(0x921), false), (Some(0x101), false), (Some(0x923), false)]
    {
        for fails_in in 1.. {
            let mut tpm = SwTpm::new();
            let (mut counters, _) = launch(&mut tpm, RootState::NewNoBlob).unwrap();
            increment(&mut tpm, &mut counters);
            tpm.at(1);
            let failing = Failing { tpm: &mut tpm, fails_in, answer, late };
            let found = Tpm::open(failing).unwrap().counters(&AUTH, RootState::Opened);
            let finished = found.is_ok();
            assert!(finished || launches(found) == Err(CountersState::TpmFails));
            tpm = tpm.restart();
            let (counters, launches) = launch(&mut tpm, RootState::Opened).unwrap();
            assert!(counters.read(&PAL, 0) == 1 && launches >= 2);
            if finished {
                assert!(fails_in > 2);
                break;
            }
        }
        for fails_in in 1.. {
            let mut tpm = SwTpm::new();
            tpm.at(1);
            let failing = Failing { tpm: &mut tpm, fails_in, answer, late };
            let finished = Tpm::open(failing).unwrap().counters(&AUTH, RootState::NewNoBlob).is_ok();
            tpm = tpm.restart();
            match launches(launch(&mut tpm, RootState::Opened)) {
                Ok(launches) => assert!(launches <= 2),
                Err(state) => {
                    assert!([CountersState::Gone, CountersState::TpmFails].contains(&state) && !finished)
                }
            }
            if finished {
                assert!(fails_in > 3);
                break;
            }
        }
    }
}
