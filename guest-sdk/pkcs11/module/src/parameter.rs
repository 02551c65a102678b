//! Mechanisms with their parameters: C structures into [`Parameter`]s.

use crate::memory;
use crate::outcome::Rv;
use cryptoki_sys::*;
use token::protocol::{Mechanism, Parameter};

/// What NSS calls `CK_GCM_PARAMS`: PKCS#11 v2.40's text, without its header's bits of the nonce.
#[repr(C)]
#[derive(Clone, Copy)]
struct ShortGcm {
    iv: *mut CK_BYTE,
    iv_length: CK_ULONG,
    aad: *mut CK_BYTE,
    aad_length: CK_ULONG,
    tag_bits: CK_ULONG,
}

/// The mechanism.
///
/// # Safety
/// `from` is null or points at a mechanism whose parameter is as long as it says, and what that points at too.
pub unsafe fn read(from: *const CK_MECHANISM) -> Result<Mechanism, Rv> {
    // SAFETY: as the caller vouches.
    let [mechanism] = unsafe { memory::copy(from, 1) }?[..] else { return Err(CKR_ARGUMENTS_BAD) };
    // SAFETY: the same.
    let parameter = unsafe { parameter(&mechanism) }.map_err(|_| CKR_MECHANISM_PARAM_INVALID)?;
    Ok(Mechanism { mechanism: mechanism.mechanism, parameter })
}

/// # Safety
/// The parameter is as long as the mechanism says, and what it points at too.
unsafe fn parameter(of: &CK_MECHANISM) -> Result<Parameter, Rv> {
    if of.ulParameterLen == 0 {
        return Ok(Parameter::None);
    }
    // SAFETY (of every block below): lengths are those of the parameter itself, for which the caller vouches.
    match of.mechanism {
        CKM_RSA_PKCS_PSS
        | CKM_SHA1_RSA_PKCS_PSS
        | CKM_SHA224_RSA_PKCS_PSS
        | CKM_SHA256_RSA_PKCS_PSS
        | CKM_SHA384_RSA_PKCS_PSS
        | CKM_SHA512_RSA_PKCS_PSS => {
            // SAFETY: see above.
            let pss: CK_RSA_PKCS_PSS_PARAMS = unsafe { structure(of) }?;
            Ok(Parameter::Pss { hash: pss.hashAlg, mgf: pss.mgf, salt: pss.sLen })
        }
        CKM_RSA_PKCS_OAEP => {
            // SAFETY: see above.
            let oaep: CK_RSA_PKCS_OAEP_PARAMS = unsafe { structure(of) }?;
            // SAFETY: see above.
            let label = unsafe { memory::copy(oaep.pSourceData as *const u8, oaep.ulSourceDataLen) }?;
            if oaep.source != CKZ_DATA_SPECIFIED && !(oaep.source == 0 && label.is_empty()) {
                return Err(CKR_MECHANISM_PARAM_INVALID);
            }
            Ok(Parameter::Oaep { hash: oaep.hashAlg, mgf: oaep.mgf, label })
        }
        CKM_AES_CTR => {
            // SAFETY: see above.
            let ctr: CK_AES_CTR_PARAMS = unsafe { structure(of) }?;
            Ok(Parameter::Counter { bits: ctr.ulCounterBits, block: ctr.cb })
        }
        // SAFETY: see above.
        CKM_AES_GCM => unsafe { gcm(of) },
        CKM_ECDH1_DERIVE | CKM_ECDH1_COFACTOR_DERIVE => {
            // SAFETY: see above.
            let ecdh: CK_ECDH1_DERIVE_PARAMS = unsafe { structure(of) }?;
            // SAFETY: see above.
            let shared = unsafe { memory::copy(ecdh.pSharedData, ecdh.ulSharedDataLen) }?;
            // SAFETY: see above.
            let public = unsafe { memory::copy(ecdh.pPublicData, ecdh.ulPublicDataLen) }?;
            Ok(Parameter::Ecdh { kdf: ecdh.kdf, shared, public })
        }
        CKM_AES_CBC_ENCRYPT_DATA => {
            // SAFETY: see above.
            let cbc: CK_AES_CBC_ENCRYPT_DATA_PARAMS = unsafe { structure(of) }?;
            // SAFETY: see above.
            let data = unsafe { memory::copy(cbc.pData, cbc.length) }?;
            Ok(Parameter::CbcData { iv: cbc.iv, data })
        }
        CKM_AES_ECB_ENCRYPT_DATA
        | CKM_CONCATENATE_BASE_AND_DATA
        | CKM_CONCATENATE_DATA_AND_BASE
        | CKM_XOR_BASE_AND_DATA => {
            // SAFETY: see above.
            let string: CK_KEY_DERIVATION_STRING_DATA = unsafe { structure(of) }?;
            // SAFETY: see above.
            Ok(Parameter::StringData(unsafe { memory::copy(string.pData, string.ulLen) }?))
        }
        CKM_EDDSA => {
            // SAFETY: see above.
            let eddsa: CK_EDDSA_PARAMS = unsafe { structure(of) }?;
            // SAFETY: see above.
            let context = unsafe { memory::copy(eddsa.pContextData, eddsa.ulContextDataLen) }?;
            Ok(Parameter::Eddsa { prehash: eddsa.phFlag != 0, context })
        }
        CKM_CONCATENATE_BASE_AND_KEY => {
            // SAFETY: see above.
            Ok(Parameter::Object(unsafe { structure::<CK_OBJECT_HANDLE>(of) }?))
        }
        // SAFETY: see above.
        _ => Ok(Parameter::Bytes(unsafe { memory::copy(of.pParameter as *const u8, of.ulParameterLen) }?)),
    }
}

/// # Safety
/// As with [`parameter`].
unsafe fn gcm(of: &CK_MECHANISM) -> Result<Parameter, Rv> {
    let short = if of.ulParameterLen as usize == size_of::<ShortGcm>() {
        // SAFETY: as the caller vouches.
        unsafe { structure::<ShortGcm>(of) }?
    } else {
        // SAFETY: the same.
        let gcm: CK_GCM_PARAMS = unsafe { structure(of) }?;
        ShortGcm {
            iv: gcm.pIv,
            iv_length: gcm.ulIvLen,
            aad: gcm.pAAD,
            aad_length: gcm.ulAADLen,
            tag_bits: gcm.ulTagBits,
        }
    };
    // SAFETY: as the caller vouches.
    let (iv, aad) =
        unsafe { (memory::copy(short.iv, short.iv_length)?, memory::copy(short.aad, short.aad_length)?) };
    Ok(Parameter::Gcm { iv, aad, tag_bits: short.tag_bits })
}

/// The parameter as a structure, if it is just as long.
///
/// # Safety
/// As with [`parameter`]; every bit pattern is a `T`.
unsafe fn structure<T: Copy>(of: &CK_MECHANISM) -> Result<T, Rv> {
    if of.pParameter.is_null() || of.ulParameterLen as usize != size_of::<T>() {
        return Err(CKR_MECHANISM_PARAM_INVALID);
    }
    // SAFETY: it is as long, as the caller vouches, and need not be aligned.
    Ok(unsafe { (of.pParameter as *const T).read_unaligned() })
}
