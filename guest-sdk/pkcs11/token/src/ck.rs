//! The numbers of PKCS#11 v3.0 that the token knows, by their names in it.

#![allow(missing_docs)]

/// Object classes (`CKO_…`).
pub mod class {
    pub const DATA: u64 = 0x0;
    pub const CERTIFICATE: u64 = 0x1;
    pub const PUBLIC_KEY: u64 = 0x2;
    pub const PRIVATE_KEY: u64 = 0x3;
    pub const SECRET_KEY: u64 = 0x4;
}

/// Key types (`CKK_…`).
pub mod key {
    pub const RSA: u64 = 0x0;
    pub const EC: u64 = 0x3;
    pub const GENERIC_SECRET: u64 = 0x10;
    pub const AES: u64 = 0x1f;
    pub const SHA_1_HMAC: u64 = 0x28;
    pub const SHA224_HMAC: u64 = 0x2e;
    pub const SHA256_HMAC: u64 = 0x2b;
    pub const SHA384_HMAC: u64 = 0x2c;
    pub const SHA512_HMAC: u64 = 0x2d;
    pub const EC_EDWARDS: u64 = 0x40;
}

/// Certificate types (`CKC_…`).
pub mod certificate {
    pub const X_509: u64 = 0x0;
}

/// Attributes (`CKA_…`).
pub mod attribute {
    pub const CLASS: u64 = 0x0;
    pub const TOKEN: u64 = 0x1;
    pub const PRIVATE: u64 = 0x2;
    pub const LABEL: u64 = 0x3;
    pub const UNIQUE_ID: u64 = 0x4;
    pub const APPLICATION: u64 = 0x10;
    pub const VALUE: u64 = 0x11;
    pub const OBJECT_ID: u64 = 0x12;
    pub const CERTIFICATE_TYPE: u64 = 0x80;
    pub const ISSUER: u64 = 0x81;
    pub const SERIAL_NUMBER: u64 = 0x82;
    pub const TRUSTED: u64 = 0x86;
    pub const CERTIFICATE_CATEGORY: u64 = 0x87;
    pub const CHECK_VALUE: u64 = 0x90;
    pub const KEY_TYPE: u64 = 0x100;
    pub const SUBJECT: u64 = 0x101;
    pub const ID: u64 = 0x102;
    pub const SENSITIVE: u64 = 0x103;
    pub const ENCRYPT: u64 = 0x104;
    pub const DECRYPT: u64 = 0x105;
    pub const WRAP: u64 = 0x106;
    pub const UNWRAP: u64 = 0x107;
    pub const SIGN: u64 = 0x108;
    pub const SIGN_RECOVER: u64 = 0x109;
    pub const VERIFY: u64 = 0x10a;
    pub const VERIFY_RECOVER: u64 = 0x10b;
    pub const DERIVE: u64 = 0x10c;
    pub const START_DATE: u64 = 0x110;
    pub const END_DATE: u64 = 0x111;
    pub const MODULUS: u64 = 0x120;
    pub const MODULUS_BITS: u64 = 0x121;
    pub const PUBLIC_EXPONENT: u64 = 0x122;
    pub const PRIVATE_EXPONENT: u64 = 0x123;
    pub const PRIME_1: u64 = 0x124;
    pub const PRIME_2: u64 = 0x125;
    pub const EXPONENT_1: u64 = 0x126;
    pub const EXPONENT_2: u64 = 0x127;
    pub const COEFFICIENT: u64 = 0x128;
    pub const PUBLIC_KEY_INFO: u64 = 0x129;
    pub const VALUE_LEN: u64 = 0x161;
    pub const EXTRACTABLE: u64 = 0x162;
    pub const LOCAL: u64 = 0x163;
    pub const NEVER_EXTRACTABLE: u64 = 0x164;
    pub const ALWAYS_SENSITIVE: u64 = 0x165;
    pub const KEY_GEN_MECHANISM: u64 = 0x166;
    pub const MODIFIABLE: u64 = 0x170;
    pub const COPYABLE: u64 = 0x171;
    pub const DESTROYABLE: u64 = 0x172;
    pub const EC_PARAMS: u64 = 0x180;
    pub const EC_POINT: u64 = 0x181;
    pub const ALWAYS_AUTHENTICATE: u64 = 0x202;
    pub const WRAP_WITH_TRUSTED: u64 = 0x210;
    pub const WRAP_TEMPLATE: u64 = 0x40000211;
    pub const UNWRAP_TEMPLATE: u64 = 0x40000212;
    pub const DERIVE_TEMPLATE: u64 = 0x40000213;
    pub const ALLOWED_MECHANISMS: u64 = 0x40000600;
    pub const URL: u64 = 0x89;
    pub const HASH_OF_SUBJECT_PUBLIC_KEY: u64 = 0x8a;
    pub const HASH_OF_ISSUER_PUBLIC_KEY: u64 = 0x8b;
    pub const NAME_HASH_ALGORITHM: u64 = 0x8c;
    pub const JAVA_MIDP_SECURITY_DOMAIN: u64 = 0x88;
}

/// Mechanisms (`CKM_…`).
pub mod mechanism {
    pub const RSA_PKCS_KEY_PAIR_GEN: u64 = 0x0;
    pub const RSA_PKCS: u64 = 0x1;
    pub const RSA_X_509: u64 = 0x3;
    pub const SHA1_RSA_PKCS: u64 = 0x6;
    pub const RSA_PKCS_OAEP: u64 = 0x9;
    pub const RSA_PKCS_PSS: u64 = 0xd;
    pub const SHA1_RSA_PKCS_PSS: u64 = 0xe;
    pub const SHA256_RSA_PKCS: u64 = 0x40;
    pub const SHA384_RSA_PKCS: u64 = 0x41;
    pub const SHA512_RSA_PKCS: u64 = 0x42;
    pub const SHA256_RSA_PKCS_PSS: u64 = 0x43;
    pub const SHA384_RSA_PKCS_PSS: u64 = 0x44;
    pub const SHA512_RSA_PKCS_PSS: u64 = 0x45;
    pub const SHA224_RSA_PKCS: u64 = 0x46;
    pub const SHA224_RSA_PKCS_PSS: u64 = 0x47;
    pub const SHA_1: u64 = 0x220;
    pub const SHA_1_HMAC: u64 = 0x221;
    pub const SHA224: u64 = 0x255;
    pub const SHA224_HMAC: u64 = 0x256;
    pub const SHA256: u64 = 0x250;
    pub const SHA256_HMAC: u64 = 0x251;
    pub const SHA384: u64 = 0x260;
    pub const SHA384_HMAC: u64 = 0x261;
    pub const SHA512: u64 = 0x270;
    pub const SHA512_HMAC: u64 = 0x271;
    pub const GENERIC_SECRET_KEY_GEN: u64 = 0x350;
    pub const EC_KEY_PAIR_GEN: u64 = 0x1040;
    pub const ECDSA: u64 = 0x1041;
    pub const ECDSA_SHA1: u64 = 0x1042;
    pub const ECDSA_SHA224: u64 = 0x1043;
    pub const ECDSA_SHA256: u64 = 0x1044;
    pub const ECDSA_SHA384: u64 = 0x1045;
    pub const ECDSA_SHA512: u64 = 0x1046;
    pub const ECDH1_DERIVE: u64 = 0x1050;
    pub const ECDH1_COFACTOR_DERIVE: u64 = 0x1051;
    pub const EC_EDWARDS_KEY_PAIR_GEN: u64 = 0x1055;
    pub const EDDSA: u64 = 0x1057;
    pub const AES_KEY_GEN: u64 = 0x1080;
    pub const AES_ECB: u64 = 0x1081;
    pub const AES_CBC: u64 = 0x1082;
    pub const AES_CBC_PAD: u64 = 0x1085;
    pub const AES_CTR: u64 = 0x1086;
    pub const AES_GCM: u64 = 0x1087;
    pub const AES_CMAC: u64 = 0x108a;
    pub const AES_ECB_ENCRYPT_DATA: u64 = 0x1104;
    pub const AES_CBC_ENCRYPT_DATA: u64 = 0x1105;
    pub const AES_KEY_WRAP: u64 = 0x2109;
    pub const AES_KEY_WRAP_PAD: u64 = 0x210a;
    pub const AES_KEY_WRAP_KWP: u64 = 0x210b;
}

/// Mask generation functions (`CKG_…`).
pub mod mgf {
    pub const MGF1_SHA1: u64 = 0x1;
    pub const MGF1_SHA224: u64 = 0x5;
    pub const MGF1_SHA256: u64 = 0x2;
    pub const MGF1_SHA384: u64 = 0x3;
    pub const MGF1_SHA512: u64 = 0x4;
}

/// Key derivation functions (`CKD_…`).
pub mod kdf {
    pub const NULL: u64 = 0x1;
    pub const SHA1_KDF: u64 = 0x2;
    pub const SHA224_KDF: u64 = 0x5;
    pub const SHA256_KDF: u64 = 0x6;
    pub const SHA384_KDF: u64 = 0x7;
    pub const SHA512_KDF: u64 = 0x8;
}

/// Session states (`CKS_…`).
pub mod state {
    pub const RO_PUBLIC_SESSION: u64 = 0x0;
    pub const RO_USER_FUNCTIONS: u64 = 0x1;
    pub const RW_PUBLIC_SESSION: u64 = 0x2;
    pub const RW_USER_FUNCTIONS: u64 = 0x3;
    pub const RW_SO_FUNCTIONS: u64 = 0x4;
}

/// Flags (`CKF_…`).
pub mod flag {
    pub const RW_SESSION: u64 = 0x2;
    pub const SERIAL_SESSION: u64 = 0x4;
    pub const RNG: u64 = 0x1;
    pub const LOGIN_REQUIRED: u64 = 0x4;
    pub const USER_PIN_INITIALIZED: u64 = 0x8;
    pub const TOKEN_INITIALIZED: u64 = 0x400;
    pub const USER_PIN_COUNT_LOW: u64 = 0x10000;
    pub const USER_PIN_FINAL_TRY: u64 = 0x20000;
    pub const USER_PIN_LOCKED: u64 = 0x40000;
    pub const SO_PIN_COUNT_LOW: u64 = 0x100000;
    pub const SO_PIN_FINAL_TRY: u64 = 0x200000;
    pub const SO_PIN_LOCKED: u64 = 0x400000;
}

/// Return values (`CKR_…`).
pub mod rv {
    pub const OK: u64 = 0x0;
    pub const HOST_MEMORY: u64 = 0x2;
    pub const GENERAL_ERROR: u64 = 0x5;
    pub const FUNCTION_FAILED: u64 = 0x6;
    pub const ARGUMENTS_BAD: u64 = 0x7;
    pub const ATTRIBUTE_READ_ONLY: u64 = 0x10;
    pub const ATTRIBUTE_SENSITIVE: u64 = 0x11;
    pub const ATTRIBUTE_TYPE_INVALID: u64 = 0x12;
    pub const ATTRIBUTE_VALUE_INVALID: u64 = 0x13;
    pub const ACTION_PROHIBITED: u64 = 0x1b;
    pub const DATA_INVALID: u64 = 0x20;
    pub const DATA_LEN_RANGE: u64 = 0x21;
    pub const DEVICE_ERROR: u64 = 0x30;
    pub const DEVICE_MEMORY: u64 = 0x31;
    pub const ENCRYPTED_DATA_INVALID: u64 = 0x40;
    pub const ENCRYPTED_DATA_LEN_RANGE: u64 = 0x41;
    pub const FUNCTION_NOT_SUPPORTED: u64 = 0x54;
    pub const KEY_HANDLE_INVALID: u64 = 0x60;
    pub const KEY_SIZE_RANGE: u64 = 0x62;
    pub const KEY_TYPE_INCONSISTENT: u64 = 0x63;
    pub const KEY_INDIGESTIBLE: u64 = 0x67;
    pub const KEY_FUNCTION_NOT_PERMITTED: u64 = 0x68;
    pub const KEY_NOT_WRAPPABLE: u64 = 0x69;
    pub const KEY_UNEXTRACTABLE: u64 = 0x6a;
    pub const MECHANISM_INVALID: u64 = 0x70;
    pub const MECHANISM_PARAM_INVALID: u64 = 0x71;
    pub const OBJECT_HANDLE_INVALID: u64 = 0x82;
    pub const OPERATION_ACTIVE: u64 = 0x90;
    pub const OPERATION_NOT_INITIALIZED: u64 = 0x91;
    pub const PIN_INCORRECT: u64 = 0xa0;
    pub const PIN_LEN_RANGE: u64 = 0xa2;
    pub const PIN_LOCKED: u64 = 0xa4;
    pub const SESSION_COUNT: u64 = 0xb1;
    pub const SESSION_HANDLE_INVALID: u64 = 0xb3;
    pub const SESSION_READ_ONLY: u64 = 0xb5;
    pub const SESSION_EXISTS: u64 = 0xb6;
    pub const SESSION_READ_ONLY_EXISTS: u64 = 0xb7;
    pub const SESSION_READ_WRITE_SO_EXISTS: u64 = 0xb8;
    pub const SIGNATURE_INVALID: u64 = 0xc0;
    pub const SIGNATURE_LEN_RANGE: u64 = 0xc1;
    pub const TEMPLATE_INCOMPLETE: u64 = 0xd0;
    pub const TEMPLATE_INCONSISTENT: u64 = 0xd1;
    pub const TOKEN_NOT_RECOGNIZED: u64 = 0xe1;
    pub const TOKEN_WRITE_PROTECTED: u64 = 0xe2;
    pub const UNWRAPPING_KEY_HANDLE_INVALID: u64 = 0xf0;
    pub const UNWRAPPING_KEY_TYPE_INCONSISTENT: u64 = 0xf2;
    pub const USER_ALREADY_LOGGED_IN: u64 = 0x100;
    pub const USER_NOT_LOGGED_IN: u64 = 0x101;
    pub const USER_PIN_NOT_INITIALIZED: u64 = 0x102;
    pub const USER_TYPE_INVALID: u64 = 0x103;
    pub const USER_ANOTHER_ALREADY_LOGGED_IN: u64 = 0x104;
    pub const WRAPPED_KEY_INVALID: u64 = 0x110;
    pub const WRAPPED_KEY_LEN_RANGE: u64 = 0x112;
    pub const WRAPPING_KEY_HANDLE_INVALID: u64 = 0x113;
    pub const WRAPPING_KEY_TYPE_INCONSISTENT: u64 = 0x115;
    pub const RANDOM_NO_RNG: u64 = 0x121;
    pub const DOMAIN_PARAMS_INVALID: u64 = 0x130;
    pub const CURVE_NOT_SUPPORTED: u64 = 0x140;
    pub const NEW_PIN_MODE: u64 = 0x1b0;
    pub const TOKEN_NOT_PRESENT: u64 = 0xe0;
}
