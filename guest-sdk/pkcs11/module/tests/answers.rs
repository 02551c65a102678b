//! What comes back: lists, lengths, attributes, handles.

mod common;

use common::*;
use cryptoki_sys::*;
use std::ptr::null_mut;

fn slots() -> Vec<CK_SLOT_ID> {
    let (mut slots, mut count) = ([99; 4], 4);
    assert_eq!(c!(C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &mut count)), CKR_OK);
    slots[..count as usize].to_vec()
}

#[test]
fn initialised_tokens_are_listed_and_one_that_is_not() {
    alone(|_| {
        initialize();
        assert_eq!(slots(), [0]);
        let mut info = CK_TOKEN_INFO::default();
        assert_eq!(c!(C_GetTokenInfo(0, &mut info)), CKR_OK);
        assert_eq!(info.flags & CKF_TOKEN_INITIALIZED, 0);
        assert_eq!(init_token(0, "first"), CKR_OK);
        assert_eq!(slots(), [0, 1]);
        assert_eq!(init_token(2, "third"), CKR_OK);
        assert_eq!(slots(), [0, 2, 1]);
        assert_eq!(init_token(1, "second"), CKR_OK);
        assert_eq!(init_token(3, "fourth"), CKR_OK);
        assert_eq!(slots(), [0, 1, 2, 3]);
        let mut count = 3;
        assert_eq!(c!(C_GetSlotList(0, [0; 4].as_mut_ptr(), &mut count)), CKR_BUFFER_TOO_SMALL);
        assert_eq!(count, 4);
        assert_eq!(c!(C_GetTokenInfo(2, &mut info)), CKR_OK);
        assert_eq!(info.label, *b"third                           ");
        assert_ne!(info.flags & CKF_TOKEN_INITIALIZED, 0);
    });
}

#[test]
fn a_length_is_asked_for_and_room_is_checked() {
    alone(|_| {
        let session = ready();
        let (key, mut ecb) = (aes(session), mechanism(CKM_AES_ECB));
        let (data, mut out) = ([7u8; 32], [0u8; 40]);
        assert_eq!(c!(C_EncryptInit(session, &mut ecb, key)), CKR_OK);
        assert_eq!(c!(C_EncryptInit(session, &mut ecb, key)), CKR_OPERATION_ACTIVE);
        let mut length = 0;
        assert_eq!(c!(C_Encrypt(session, mutable(&data), 32, null_mut(), &mut length)), CKR_OK);
        assert!((32..=48).contains(&length));
        length = 31;
        let small = c!(C_Encrypt(session, mutable(&data), 32, out.as_mut_ptr(), &mut length));
        assert_eq!((small, out), (CKR_BUFFER_TOO_SMALL, [0; 40]));
        length = 40;
        assert_eq!(c!(C_Encrypt(session, mutable(&data), 32, out.as_mut_ptr(), &mut length)), CKR_OK);
        assert_eq!(length, 32);
        assert_ne!(out[..32], data);
        // In place.
        assert_eq!(c!(C_DecryptInit(session, &mut ecb, key)), CKR_OK);
        assert_eq!(c!(C_Decrypt(session, out.as_mut_ptr(), 32, out.as_mut_ptr(), &mut length)), CKR_OK);
        assert_eq!((&out[..32], length), (&data[..], 32));
        let again = c!(C_Decrypt(session, out.as_mut_ptr(), 32, out.as_mut_ptr(), &mut length));
        assert_eq!(again, CKR_OPERATION_NOT_INITIALIZED);
        // Without a mechanism an operation ends.
        assert_eq!(c!(C_EncryptInit(session, &mut ecb, key)), CKR_OK);
        assert_eq!(c!(C_EncryptInit(session, null_mut(), 0)), CKR_OK);
        assert_eq!(c!(C_EncryptInit(session, &mut ecb, key)), CKR_OK);
    });
}

#[test]
fn long_data_is_taken_in_pieces() {
    alone(|_| {
        let session = ready();
        let data: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
        let mut sha256 = mechanism(CKM_SHA256);
        let digest = |parts: &[&[u8]]| {
            let (mut digest, mut length) = ([0u8; 32], 32);
            assert_eq!(c!(C_DigestInit(session, &raw const sha256 as *mut _)), CKR_OK);
            for part in parts {
                assert_eq!(c!(C_DigestUpdate(session, mutable(part), part.len() as u64)), CKR_OK);
            }
            assert_eq!(c!(C_DigestFinal(session, digest.as_mut_ptr(), &mut length)), CKR_OK);
            digest
        };
        let whole = digest(&[&data]);
        assert_eq!(whole, digest(&data.chunks(1000).collect::<Vec<_>>()));
        let (mut once, mut length) = ([0u8; 32], 5);
        let size = data.len() as u64;
        assert_eq!(c!(C_DigestInit(session, &mut sha256)), CKR_OK);
        let small = c!(C_Digest(session, mutable(&data), size, once.as_mut_ptr(), &mut length));
        assert_eq!((small, length), (CKR_BUFFER_TOO_SMALL, 32));
        assert_eq!(c!(C_Digest(session, mutable(&data), size, once.as_mut_ptr(), &mut length)), CKR_OK);
        assert_eq!((once, length), (whole, 32));

        let (key, mut ecb) = (aes(session), mechanism(CKM_AES_ECB));
        let data = &data[..65536 * 3 + 16];
        let size = data.len() as u64;
        let (mut cipher, mut length) = (vec![0u8; data.len() + 64], 0);
        assert_eq!(c!(C_EncryptInit(session, &mut ecb, key)), CKR_OK);
        assert_eq!(c!(C_Encrypt(session, mutable(data), size, null_mut(), &mut length)), CKR_OK);
        length = cipher.len() as u64;
        assert_eq!(c!(C_Encrypt(session, mutable(data), size, cipher.as_mut_ptr(), &mut length)), CKR_OK);
        assert_eq!(length, size);
        assert_eq!(c!(C_DecryptInit(session, &mut ecb, key)), CKR_OK);
        let (mut plain, mut have) = (vec![0u8; data.len() + 64], (data.len() + 64) as u64);
        let rv = c!(C_DecryptUpdate(session, cipher.as_mut_ptr(), length, plain.as_mut_ptr(), &mut have));
        assert_eq!((rv, have), (CKR_OK, size));
        assert_eq!(plain[..data.len()], *data);
    });
}

#[test]
fn each_attribute_is_answered_by_itself() {
    alone(|_| {
        let session = ready();
        assert_eq!(create(session, "a label", CK_FALSE), CKR_OK);
        let [object] = find(session, &[attribute(CKA_LABEL, b"a label".as_slice())])[..] else { panic!() };
        let (mut label, small) = ([0u8; 20], [0u8; 2]);
        let mut asked = [
            attribute(CKA_LABEL, &label),
            attribute(CKA_MODULUS, &small),
            attribute(CKA_VALUE, &small),
            CK_ATTRIBUTE { type_: CKA_VALUE, pValue: null_mut(), ulValueLen: 0 },
        ];
        asked[0].pValue = label.as_mut_ptr().cast();
        let rv = c!(C_GetAttributeValue(session, object, asked.as_mut_ptr(), 4));
        assert!([CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL].contains(&rv));
        assert_eq!(asked.map(|attribute| attribute.ulValueLen), [7, u64::MAX, u64::MAX, 5]);
        assert_eq!(label[..7], *b"a label");

        let key = aes(session);
        let mut value = [attribute(CKA_VALUE, &[0u8; 16])];
        let rv = c!(C_GetAttributeValue(session, key, value.as_mut_ptr(), 1));
        assert_eq!((rv, value[0].ulValueLen), (CKR_ATTRIBUTE_SENSITIVE, u64::MAX));
    });
}

#[test]
fn objects_are_found_a_few_at_a_time() {
    alone(|_| {
        let session = ready();
        for _ in 0..8 {
            assert_eq!(create(session, "many", CK_FALSE), CKR_OK);
        }
        assert_eq!(create(session, "other", CK_FALSE), CKR_OK);
        assert_eq!(count(session, "many"), 8);
        assert_eq!(find(session, &[]).len(), 9);
        assert_eq!(c!(C_FindObjectsInit(session, null_mut(), 0)), CKR_OK);
        assert_eq!(c!(C_FindObjectsInit(session, null_mut(), 0)), CKR_OPERATION_ACTIVE);
        assert_eq!(c!(C_FindObjectsFinal(session)), CKR_OK);
    });
}

#[test]
fn threads_share_a_token() {
    alone(|_| {
        let session = ready();
        let key = aes(session);
        std::thread::scope(|scope| {
            for number in 0..8u8 {
                scope.spawn(move || {
                    let (session, mut ecb) = (open(0), mechanism(CKM_AES_ECB));
                    for _ in 0..20 {
                        let (data, mut out, mut length) = ([number; 16], [0u8; 16], 16);
                        assert_eq!(c!(C_EncryptInit(session, &mut ecb, key)), CKR_OK);
                        let rv = c!(C_Encrypt(session, mutable(&data), 16, out.as_mut_ptr(), &mut length));
                        assert_eq!(rv, CKR_OK);
                        assert_eq!(c!(C_DecryptInit(session, &mut ecb, key)), CKR_OK);
                        let rv = c!(C_Decrypt(session, out.as_mut_ptr(), 16, out.as_mut_ptr(), &mut length));
                        assert_eq!((rv, out), (CKR_OK, data));
                    }
                    assert_eq!(c!(C_CloseSession(session)), CKR_OK);
                });
            }
        });
    });
}

#[test]
fn random_bytes_are_many_and_different() {
    alone(|_| {
        let session = ready();
        let mut random = vec![0u8; 10_000];
        assert_eq!(c!(C_GenerateRandom(session, random.as_mut_ptr(), 10_000)), CKR_OK);
        assert!(random.chunks(16).all(|some| some.iter().any(|byte| *byte != 0)));
        assert_eq!(c!(C_GenerateRandom(session, random.as_mut_ptr(), 0)), CKR_OK);
    });
}

#[test]
fn what_the_table_promises_the_token_knows() {
    alone(|_| {
        let session = ready();
        let key = |purposes: [CK_ATTRIBUTE_TYPE; 6]| {
            let mut template = purposes.map(|purpose| attribute(purpose, &CK_TRUE)).to_vec();
            template.push(attribute(CKA_VALUE_LEN, &16u64));
            let (mut mechanism, mut key, count) = (mechanism(CKM_AES_KEY_GEN), 0, template.len() as u64);
            let rv = c!(C_GenerateKey(session, &mut mechanism, template.as_mut_ptr(), count, &mut key));
            assert_eq!(rv, CKR_OK);
            key
        };
        let using = key([CKA_ENCRYPT, CKA_DECRYPT, CKA_SIGN, CKA_VERIFY, CKA_DERIVE, CKA_EXTRACTABLE]);
        let wrapping = key([CKA_WRAP, CKA_UNWRAP, CKA_SIGN, CKA_VERIFY, CKA_DERIVE, CKA_EXTRACTABLE]);
        let (mut list, mut count, mut new, mut other) = ([0; 100], 100, 0, 0);
        assert_eq!(c!(C_GetMechanismList(0, list.as_mut_ptr(), &mut count)), CKR_OK);
        for kind in &list[..count as usize] {
            let (mut info, mut mechanism) = (CK_MECHANISM_INFO::default(), mechanism(*kind));
            let mechanism = &raw mut mechanism;
            assert_eq!(c!(C_GetMechanismInfo(0, *kind, &mut info)), CKR_OK);
            assert_ne!(info.flags & CKF_HW, 0);
            let null = null_mut();
            let known = |flag, rv: &dyn Fn() -> CK_RV| {
                if info.flags & flag != 0 {
                    assert_ne!(rv(), CKR_MECHANISM_INVALID, "mechanism {kind:#x}, flag {flag:#x}");
                }
            };
            known(CKF_ENCRYPT, &|| c!(C_EncryptInit(session, mechanism, using)));
            known(CKF_DECRYPT, &|| c!(C_DecryptInit(session, mechanism, using)));
            known(CKF_DIGEST, &|| c!(C_DigestInit(session, mechanism)));
            known(CKF_SIGN, &|| c!(C_SignInit(session, mechanism, using)));
            known(CKF_VERIFY, &|| c!(C_VerifyInit(session, mechanism, using)));
            for end in [
                common::list().C_EncryptInit,
                common::list().C_DecryptInit,
                common::list().C_SignInit,
                common::list().C_VerifyInit,
            ] {
                // SAFETY: without a mechanism an operation ends.
                unsafe { end.unwrap()(session, null_mut(), 0) };
            }
            c!(C_DigestInit(session, null_mut()));
            let (new, other) = (&raw mut new, &raw mut other);
            known(CKF_GENERATE, &|| c!(C_GenerateKey(session, mechanism, null, 0, new)));
            known(CKF_GENERATE_KEY_PAIR, &|| {
                c!(C_GenerateKeyPair(session, mechanism, null, 0, null, 0, new, other))
            });
            known(CKF_DERIVE, &|| c!(C_DeriveKey(session, mechanism, using, null, 0, new)));
            known(CKF_WRAP, &|| c!(C_WrapKey(session, mechanism, wrapping, using, null_mut(), new)));
            known(CKF_UNWRAP, &|| c!(C_UnwrapKey(session, mechanism, wrapping, null_mut(), 0, null, 0, new)));
        }
    });
}
