//! The counters' place in a TPM 2.0: an NV index that opens to a secret derived from the root, so that only who has the root reads or
//! writes it, at every locality. The OS can destroy it, and cannot make another that would pass for it.
//!
//! It is defined when a root is made, and never for one that was opened: there it would be a way back to zero. It is as large as one
//! command writes, so that it is there whole or not at all.

use abi::{CountersState, RootState};
use utpm::Counters;

use super::bank::Algorithm;
use super::clock::Clock;
use super::tis::{Registers, Tis};
use super::v20::{OWNER, RS_PW, SESSIONS, authorise};
use super::wire::{Answer, Command, MESSAGE};
use super::{Done, Error, Family, Tpm, Transport};

/// The index, of those that are the owner's ("TV").
pub(super) const INDEX: u32 = 0x0180_5456;
/// What opens it.
pub type Auth = [u8; 32];

/// Command codes (2.0 part 2, 6.5.2).
const DEFINE_SPACE: u32 = 0x12a;
const WRITE: u32 = 0x137;
const READ: u32 = 0x14e;
/// TPMA_NV (part 2, 13.4): AUTHWRITE, AUTHREAD, NO_DA.
const ATTRIBUTES: u32 = 1 << 2 | 1 << 18 | 1 << 25;

/// Response codes (part 2, 6.6.3): not there (of handle 1); not ours: it is there already, its attributes do not allow it, or it opens
/// to something else (of session 1).
const NO_INDEX: u32 = 0x18b;
const NOT_OURS: [u32; 5] = [0x14c, 0x12f, 0x149, 0x98e, 0x9a2];

/// The identity, that no PAL has, of the counter of launches.
const LAUNCHES: [u8; 32] = [0; 32];

/// TPM2_NV_Write, or the start of TPM2_NV_Read.
fn access(code: u32, auth: &Auth) -> Command {
    let mut command = Command::new(SESSIONS, code);
    command.u32(INDEX).u32(INDEX).u32(9 + auth.len() as u32).u32(RS_PW).u16(0).u8(0).sized(auth);
    command
}

/// TPM2_NV_Write (part 3, 31.7).
pub fn write_command(auth: &Auth, offset: u16, bytes: &[u8]) -> Command {
    let mut command = access(WRITE, auth);
    command.sized(bytes).u16(offset);
    command
}

/// Its answer, from a TPM that has one.
pub fn receive_written(tpm: &mut Tis<impl Registers, impl Clock>) -> Done {
    let mut answer = [0; MESSAGE];
    let length = tpm.receive(&mut answer)?;
    Answer::parse(&answer, length)?.success(SESSIONS).map(drop)
}

impl<T: Transport> Tpm<T> {
    /// The counters, and how often TrustVisor has been launched with this root.
    pub fn counters(&mut self, auth: &Auth, root: RootState) -> Result<(Counters, u64), CountersState> {
        if self.family == Family::V12 {
            return Err(CountersState::Tpm12);
        }
        let found = if root.is_old() { self.nv_read(auth) } else { self.nv_define(auth) };
        let mut counters = match found {
            Ok(table) => Counters::new(&table),
            Err(Error::Refused(NO_INDEX)) => return Err(CountersState::Gone),
            Err(Error::Refused(code)) if NOT_OURS.contains(&code) => return Err(CountersState::NotOurs),
            Err(error) => return Err(failed(error)),
        };
        let launch = counters.increment(&LAUNCHES, 0).ok_or(CountersState::TpmFails)?;
        self.nv_write(auth, launch.offset(), launch.bytes()).map_err(failed)?;
        counters.apply(&launch);
        Ok((counters, launch.value()))
    }

    /// TPM2_NV_DefineSpace (part 3, 31.3), all zero.
    fn nv_define(&mut self, auth: &Auth) -> Done<[u8; Counters::SIZE]> {
        let mut command = Command::new(SESSIONS, DEFINE_SPACE);
        authorise(command.u32(OWNER));
        // TPMS_NV_PUBLIC (part 2, 13.5): no policy.
        command.sized(auth).u16(14).u32(INDEX).u16(Algorithm::SHA256.number()).u32(ATTRIBUTES).u16(0);
        command.u16(Counters::SIZE as u16);
        command.run(&mut self.transport)?;
        let none = [0; Counters::SIZE];
        self.nv_write(auth, 0, &none).map(|()| none)
    }

    fn nv_write(&mut self, auth: &Auth, offset: u16, bytes: &[u8]) -> Done {
        write_command(auth, offset, bytes).run(&mut self.transport).map(drop)
    }

    /// TPM2_NV_Read (part 3, 31.13).
    fn nv_read(&mut self, auth: &Auth) -> Done<[u8; Counters::SIZE]> {
        let mut command = access(READ, auth);
        let mut body = command.u16(Counters::SIZE as u16).u16(0).run(&mut self.transport)?;
        let _size = body.u32()?;
        body.sized_array()
    }
}

fn failed(error: Error) -> CountersState {
    log::error!("no counters: {error}");
    CountersState::TpmFails
}
