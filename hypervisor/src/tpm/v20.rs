//! The commands of TPM 2.0 (TCG TPM 2.0 Library part 3), and finding out that it is one.

use abi::Digests;

use super::bank::{Algorithm, Banks};
use super::wire::{Command, Reader};
use super::{Done, Error, Transport};

/// TPM_ST_RSP_COMMAND, TPM_ST_NO_SESSIONS, TPM_ST_SESSIONS (part 2, 6.9).
const RSP_COMMAND: u16 = 0x00c4;
pub(super) const NO_SESSIONS: u16 = 0x8001;
pub(super) const SESSIONS: u16 = 0x8002;

/// Command codes (part 2, 6.5.2).
pub(super) mod code {
    pub const CREATE_PRIMARY: u32 = 0x131;
    pub const STARTUP: u32 = 0x144;
    pub const CERTIFY_CREATION: u32 = 0x14a;
    pub const CREATE: u32 = 0x153;
    pub const LOAD: u32 = 0x157;
    pub const UNSEAL: u32 = 0x15e;
    pub const FLUSH_CONTEXT: u32 = 0x165;
    pub const POLICY_LOCALITY: u32 = 0x16f;
    pub const START_AUTH_SESSION: u32 = 0x176;
    pub const GET_CAPABILITY: u32 = 0x17a;
    pub const GET_RANDOM: u32 = 0x17b;
    pub const PCR_READ: u32 = 0x17e;
    pub const POLICY_PCR: u32 = 0x17f;
    pub const PCR_EXTEND: u32 = 0x182;
}
/// TPM_SU_CLEAR (part 2, 6.10), TPM_CAP_PCRS (6.12), TPM_RH_OWNER, TPM_RH_NULL, TPM_RS_PW (7.4).
const SU_CLEAR: u16 = 0;
const CAP_PCRS: u32 = 5;
pub(super) const OWNER: u32 = 0x4000_0001;
pub(super) const NULL: u32 = 0x4000_0007;
pub(super) const RS_PW: u32 = 0x4000_0009;

/// Response code (part 2, 6.6.3): not started.
const INITIALIZE: u32 = 0x100;

/// Bytes of a PCR selection: 24 PCRs.
const SELECT: usize = 3;

/// The allocated banks (TPM2_GetCapability, 30.2); `None` if it is no 2.0 TPM that answers. Starts it if need be.
pub fn banks(transport: &mut impl Transport) -> Done<Option<Banks>> {
    for _ in 0..2 {
        let mut command = Command::new(NO_SESSIONS, code::GET_CAPABILITY);
        let reply = command.u32(CAP_PCRS).u32(0).u32(1).exchange(transport)?;
        if reply.tag == RSP_COMMAND && reply.code != 0 {
            return Ok(None);
        }
        if reply.code != INITIALIZE {
            return parse_banks(reply.success(NO_SESSIONS)?).map(Some);
        }
        Command::new(NO_SESSIONS, code::STARTUP).u16(SU_CLEAR).run(transport)?.end()?;
    }
    Err(Error::Refused(INITIALIZE))
}

/// TPMI_YES_NO, TPMS_CAPABILITY_DATA with TPML_PCR_SELECTION (part 2, 10.9.7).
fn parse_banks(mut body: Reader<'_>) -> Done<Banks> {
    let more = body.u8()?;
    if more != 0 || body.u32()? != CAP_PCRS {
        return Err(Error::Malformed("PCR allocation"));
    }
    let mut banks = Banks::new();
    for _ in 0..body.u32()? {
        let number = body.u16()?;
        let select = body.u8()?;
        let allocated = body.take(select.into())?.iter().any(|bits| *bits != 0);
        if allocated {
            let bank = Algorithm::from_number(number)?;
            if banks.contains(&bank) || banks.try_push(bank).is_err() {
                return Err(Error::Malformed("PCR banks"));
            }
        }
    }
    body.end()?;
    Ok(banks)
}

/// TPM2_PCR_Extend (22.2), with the empty password that PCRs have.
pub fn extend(transport: &mut impl Transport, pcr: u8, banks: &Banks, digests: &Digests) -> Done {
    let mut command = Command::new(SESSIONS, code::PCR_EXTEND);
    authorise(command.u32(pcr.into())).u32(banks.len() as u32);
    for algorithm in banks {
        command.u16(algorithm.number()).bytes(algorithm.digest(digests));
    }
    command.run(transport).map(drop)
}

/// TPM2_PCR_Read (22.4) of one PCR in one bank, into a value of that bank's size.
pub fn read(transport: &mut impl Transport, pcr: u8, bank: Algorithm, value: &mut [u8]) -> Done {
    let mut select = [0; SELECT];
    *select.get_mut(usize::from(pcr / 8)).ok_or(Error::Malformed("PCR number"))? = 1 << (pcr % 8);
    let mut command = Command::new(NO_SESSIONS, code::PCR_READ);
    let mut body = command.u32(1).u16(bank.number()).u8(SELECT as u8).bytes(&select).run(transport)?;
    let _update_counter = body.u32()?;
    let selected = (body.u32()?, body.u16()?, usize::from(body.u8()?), body.array()?);
    if selected != (1, bank.number(), SELECT, select) {
        return Err(Error::Malformed("PCR selection"));
    }
    if (body.u32()?, usize::from(body.u16()?)) != (1, value.len()) {
        return Err(Error::Malformed("PCR digest"));
    }
    value.copy_from_slice(body.take(value.len())?);
    body.end()
}

/// Authorisation by an empty password.
pub(super) fn authorise(command: &mut Command) -> &mut Command {
    command.u32(9).u32(RS_PW).u16(0).u8(0).u16(0)
}
