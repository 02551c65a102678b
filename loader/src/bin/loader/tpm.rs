//! As much of the TPM as the loader needs: is one there, and has its locality 0 been given back (TCG PC Client TPM Interface
//! Specification 1.3, 5.2; PC Client Platform TPM Profile 1.05, 6.5). The firmware may leave it active, and then a request at
//! locality 2 would wait for ever.

use loader::refusal::Lack;

/// Locality 0's page.
const BASE: u64 = 0xfed4_0000;
const ACCESS: u64 = BASE;
const INTERFACE_ID: u64 = BASE + 0x30;

/// tpmRegValidSts: the other bits mean something.
const VALID: u8 = 0x80;
const ACTIVE_LOCALITY: u8 = 0x20;
/// What a bus reads where nobody answers; an emulated one reads 0, which is not valid either.
const NOBODY: u8 = 0xff;
/// InterfaceType of the interface identifier, bits 3:0.
const INTERFACE_CRB: u8 = 1;

/// Reads of ACCESS, each an access over the LPC or SPI bus: longer than the 30 ms a TPM may take until it is valid.
const PATIENCE: u32 = 1 << 17;

/// Says if there is no TPM that SLB and runtime could use.
pub fn check() -> Result<(), Lack> {
    let access = (0..PATIENCE).map(|_| read(ACCESS)).find(|access| access & VALID != 0);
    if matches!(access, None | Some(NOBODY)) {
        return Err(Lack::Tpm);
    }
    match read(INTERFACE_ID) & 0xf {
        INTERFACE_CRB => Err(Lack::TpmInterface),
        _ => Ok(()),
    }
}

/// Gives locality 0 back.
pub fn relinquish() {
    if read(ACCESS) & ACTIVE_LOCALITY != 0 {
        // SAFETY: writing the bit ends the locality's turn and touches no memory.
        unsafe { (ACCESS as *mut u8).write_volatile(ACTIVE_LOCALITY) };
        let _ = (0..PATIENCE).find(|_| read(ACCESS) & ACTIVE_LOCALITY == 0);
    }
}

fn read(register: u64) -> u8 {
    // SAFETY: mapped by identity (uncached by the firmware's MTRRs); where no TPM answers, the bus reads as FF.
    unsafe { (register as *const u8).read_volatile() }
}
