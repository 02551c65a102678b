//! The commands of TPM 1.2 (TCG TPM Main part 3).

use super::wire::Command;
use super::{Done, Error, Transport};

/// TPM_TAG_RQU_COMMAND (part 2, 6.1).
pub(super) const REQUEST: u16 = 0x00c1;

/// Ordinals (part 2, 17).
const EXTEND: u32 = 0x14;
const PCR_READ: u32 = 0x15;
const GET_RANDOM: u32 = 0x46;
const CONTINUE_SELF_TEST: u32 = 0x53;
const STARTUP: u32 = 0x99;
/// TPM_ST_CLEAR (part 2, 4.6).
const ST_CLEAR: u16 = 1;

/// Return codes (part 2, 16): not started yet, or started already; the TPM wants its self test.
const INVALID_POSTINIT: u32 = 0x26;
const NEEDS_SELF_TEST: u32 = 0x801;

/// Any PCR that can be read in every state; used to see whether the TPM is started.
const PROBED_PCR: u8 = 17;

/// Starts the TPM and its self test if that has not been done.
pub fn start(transport: &mut impl Transport) -> Done {
    for _ in 0..3 {
        let mut command;
        match read(transport, PROBED_PCR) {
            Ok(_) => return Ok(()),
            Err(Error::Refused(INVALID_POSTINIT)) => {
                command = Command::new(REQUEST, STARTUP);
                command.u16(ST_CLEAR);
            }
            Err(Error::Refused(NEEDS_SELF_TEST)) => command = Command::new(REQUEST, CONTINUE_SELF_TEST),
            Err(error) => return Err(error),
        }
        command.run(transport)?.end()?;
    }
    read(transport, PROBED_PCR).map(|_| ())
}

/// TPM_Extend (16.1).
pub fn extend(transport: &mut impl Transport, pcr: u8, digest: &[u8; 20]) -> Done {
    let mut command = Command::new(REQUEST, EXTEND);
    let mut body = command.u32(pcr.into()).bytes(digest).run(transport)?;
    body.take(20)?;
    body.end()
}

/// TPM_PCRRead (16.2).
pub fn read(transport: &mut impl Transport, pcr: u8) -> Done<[u8; 20]> {
    let mut command = Command::new(REQUEST, PCR_READ);
    let mut body = command.u32(pcr.into()).run(transport)?;
    let value = body.array()?;
    body.end()?;
    Ok(value)
}

/// TPM_GetRandom (13.6), as often as it takes to fill `bytes`.
pub fn random(transport: &mut impl Transport, mut bytes: &mut [u8]) -> Done {
    while !bytes.is_empty() {
        let mut command = Command::new(REQUEST, GET_RANDOM);
        let mut body = command.u32(bytes.len() as u32).run(transport)?;
        let got = body.u32()? as usize;
        let given = bytes.split_off_mut(..got).filter(|_| got > 0).ok_or(Error::Malformed("random bytes"))?;
        given.copy_from_slice(body.take(got)?);
        body.end()?;
    }
    Ok(())
}
