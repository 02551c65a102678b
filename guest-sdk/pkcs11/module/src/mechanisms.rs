//! The mechanisms of the token: one table, of which `C_GetMechanismList` and `C_GetMechanismInfo` are two views.
//!
//! Each has `CKF_HW`: what OpenSC's tests leave out for want of it is done in S here.

use cryptoki_sys::*;

/// A row: the mechanism, the smallest and largest key, and what it is for.
type Row = (CK_MECHANISM_TYPE, CK_ULONG, CK_ULONG, CK_FLAGS);

const CRYPT: CK_FLAGS = CKF_ENCRYPT | CKF_DECRYPT;
const SIGN: CK_FLAGS = CKF_SIGN | CKF_VERIFY;
const WRAP: CK_FLAGS = CKF_WRAP | CKF_UNWRAP;
const CURVE: CK_FLAGS = CKF_EC_F_P | CKF_EC_OID | CKF_EC_UNCOMPRESS;

/// Bits of RSA.
const RSA: (CK_ULONG, CK_ULONG) = (2048, 4096);
/// Bits of a curve.
const EC: (CK_ULONG, CK_ULONG) = (256, 384);
/// Bits of Ed25519.
const ED: (CK_ULONG, CK_ULONG) = (255, 255);
/// Bytes.
const AES: (CK_ULONG, CK_ULONG) = (16, 32);
/// Bytes.
const SECRET: (CK_ULONG, CK_ULONG) = (1, 512);
/// No key.
const NONE: (CK_ULONG, CK_ULONG) = (0, 0);

const fn row(mechanism: CK_MECHANISM_TYPE, sizes: (CK_ULONG, CK_ULONG), flags: CK_FLAGS) -> Row {
    (mechanism, sizes.0, sizes.1, flags | CKF_HW)
}

static TABLE: &[Row] = &[
    row(CKM_RSA_PKCS_KEY_PAIR_GEN, RSA, CKF_GENERATE_KEY_PAIR),
    row(CKM_RSA_PKCS, RSA, CRYPT | SIGN | WRAP),
    row(CKM_RSA_X_509, RSA, CRYPT | SIGN),
    row(CKM_SHA1_RSA_PKCS, RSA, SIGN),
    row(CKM_SHA224_RSA_PKCS, RSA, SIGN),
    row(CKM_SHA256_RSA_PKCS, RSA, SIGN),
    row(CKM_SHA384_RSA_PKCS, RSA, SIGN),
    row(CKM_SHA512_RSA_PKCS, RSA, SIGN),
    row(CKM_RSA_PKCS_PSS, RSA, SIGN),
    row(CKM_SHA1_RSA_PKCS_PSS, RSA, SIGN),
    row(CKM_SHA224_RSA_PKCS_PSS, RSA, SIGN),
    row(CKM_SHA256_RSA_PKCS_PSS, RSA, SIGN),
    row(CKM_SHA384_RSA_PKCS_PSS, RSA, SIGN),
    row(CKM_SHA512_RSA_PKCS_PSS, RSA, SIGN),
    row(CKM_RSA_PKCS_OAEP, RSA, CRYPT | WRAP),
    row(CKM_EC_KEY_PAIR_GEN, EC, CKF_GENERATE_KEY_PAIR | CURVE),
    row(CKM_ECDSA, EC, SIGN | CURVE),
    row(CKM_ECDSA_SHA1, EC, SIGN | CURVE),
    row(CKM_ECDSA_SHA224, EC, SIGN | CURVE),
    row(CKM_ECDSA_SHA256, EC, SIGN | CURVE),
    row(CKM_ECDSA_SHA384, EC, SIGN | CURVE),
    row(CKM_ECDSA_SHA512, EC, SIGN | CURVE),
    row(CKM_ECDH1_DERIVE, EC, CKF_DERIVE | CURVE),
    row(CKM_ECDH1_COFACTOR_DERIVE, EC, CKF_DERIVE | CURVE),
    row(CKM_EC_EDWARDS_KEY_PAIR_GEN, ED, CKF_GENERATE_KEY_PAIR | CURVE),
    row(CKM_EDDSA, ED, SIGN | CURVE),
    row(CKM_AES_KEY_GEN, AES, CKF_GENERATE),
    row(CKM_AES_ECB, AES, CRYPT),
    row(CKM_AES_CBC, AES, CRYPT),
    row(CKM_AES_CBC_PAD, AES, CRYPT | WRAP),
    row(CKM_AES_CTR, AES, CRYPT),
    row(CKM_AES_GCM, AES, CRYPT),
    row(CKM_AES_CMAC, AES, SIGN),
    row(CKM_AES_KEY_WRAP, AES, WRAP),
    row(CKM_AES_KEY_WRAP_PAD, AES, WRAP),
    row(CKM_AES_KEY_WRAP_KWP, AES, WRAP),
    row(CKM_AES_ECB_ENCRYPT_DATA, AES, CKF_DERIVE),
    row(CKM_AES_CBC_ENCRYPT_DATA, AES, CKF_DERIVE),
    row(CKM_GENERIC_SECRET_KEY_GEN, SECRET, CKF_GENERATE),
    row(CKM_SHA_1_HMAC, SECRET, SIGN),
    row(CKM_SHA224_HMAC, SECRET, SIGN),
    row(CKM_SHA256_HMAC, SECRET, SIGN),
    row(CKM_SHA384_HMAC, SECRET, SIGN),
    row(CKM_SHA512_HMAC, SECRET, SIGN),
    row(CKM_SHA_1, NONE, CKF_DIGEST),
    row(CKM_SHA224, NONE, CKF_DIGEST),
    row(CKM_SHA256, NONE, CKF_DIGEST),
    row(CKM_SHA384, NONE, CKF_DIGEST),
    row(CKM_SHA512, NONE, CKF_DIGEST),
];

/// All of them.
pub fn list() -> Vec<CK_MECHANISM_TYPE> {
    TABLE.iter().map(|row| row.0).collect()
}

/// What is known of one.
pub fn info(mechanism: CK_MECHANISM_TYPE) -> Option<CK_MECHANISM_INFO> {
    let (_, min, max, flags) = *TABLE.iter().find(|row| row.0 == mechanism)?;
    Some(CK_MECHANISM_INFO { ulMinKeySize: min, ulMaxKeySize: max, flags })
}
