//! Sealed storage: data that only the PALs it was sealed for get back.
//!
//! # A blob
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 4 | which micro-PCRs it depends on, bit *i* for PCR *i*, little-endian |
//! | 12 | 4 | bytes of the data, little-endian |
//! | 16 | 32 | SHA-256 over these PCRs' values (SHA-256 bank, ascending), as they must be to unseal |
//! | 48 | 16 | IV |
//! | 64 | 256 | the sealer's micro-PCRs (SHA-256 bank) when it sealed: who made the blob, in which state |
//! | 320 | *n* | the data, AES-256-CTR |
//! | 320 + *n* | 32 | HMAC-SHA-256 over all of the above |
//!
//! Both keys are derived from the root and from PCR 0 as it must be, the identity of the PAL that the data is for. PCR 0 is always one
//! of those it depends on.
//!
//! Guarantees: nothing is decrypted before all of the blob is found genuine; who cannot open it learns nothing but that, whatever
//! the reason; and who opens it learns who sealed it, for anybody can seal for anybody.

use abi::seal::{Creator, MAGIC, MAX_DATA, OVERHEAD, Policy};
use aes::Aes256;
use aes::cipher::{KeyIvInit, StreamCipher};
use ctr::Ctr128BE;
use hmac::Mac;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::pcrs::composite;
use crate::{Pcrs, Root, mac};

/// What a blob begins with.
#[repr(C)]
#[derive(FromBytes, IntoBytes, Immutable)]
struct Head {
    magic: [u8; 8],
    select: U32,
    length: U32,
    pcrs: [u8; 32],
    iv: [u8; 16],
    creator: [[u8; 32]; Pcrs::COUNT],
}

const DATA: usize = size_of::<Head>();
const TAG: usize = 32;
const _: () = assert!(DATA == 320 && DATA + TAG == OVERHEAD);

/// A blob, as long as the longest.
pub type Blob = [u8; OVERHEAD + MAX_DATA];

/// Seals `data` for who has the PCRs that the policy names; returns the blob's length. None: this cannot be sealed.
pub fn seal(
    root: &Root,
    sealer: &Pcrs,
    policy: &Policy,
    iv: [u8; 16],
    data: &[u8],
    blob: &mut Blob,
) -> Option<usize> {
    let known = (1 << Pcrs::COUNT) - 1;
    if policy.select & 1 == 0 || policy.select & !known != 0 || policy.reserved != 0 || data.len() > MAX_DATA
    {
        return None;
    }
    let head = Head {
        magic: MAGIC,
        select: policy.select.into(),
        length: (data.len() as u32).into(),
        pcrs: composite(&policy.values, policy.select),
        iv,
        creator: sealer.sha256().map(|value| *value),
    };
    blob[..DATA].copy_from_slice(head.as_bytes());
    let end = DATA + data.len();
    blob[DATA..end].copy_from_slice(data);
    let keys = root.storage_keys(&policy.values[0]);
    let (encryption, authentication) = keys.split_at(32);
    cipher(encryption, &iv).apply_keystream(&mut blob[DATA..end]);
    let tag = mac(authentication, &[&blob[..end]]).finalize().into_bytes();
    blob[end..end + TAG].copy_from_slice(&tag);
    Some(end + TAG)
}

/// Opens a blob for who has these PCRs: who sealed it, and the data, which lies in `blob`. None: it does not open here and now.
pub fn unseal<'a>(root: &Root, unsealer: &Pcrs, blob: &'a mut [u8]) -> Option<(Creator, &'a [u8])> {
    let end = blob.len().checked_sub(TAG).filter(|end| *end >= DATA)?;
    let (content, tag) = blob.split_at_mut(end);
    let [identity, ..] = unsealer.sha256();
    let keys = root.storage_keys(identity);
    let (encryption, authentication) = keys.split_at(32);
    mac(authentication, &[content]).verify_slice(tag).ok()?;
    // From here on all of it is as some PAL's micro-TPM wrote it, under this root and for this PAL.
    let (head, data) = content.split_at_mut(DATA);
    let head = Head::read_from_bytes(head).ok()?;
    let now = composite(unsealer.sha256(), head.select.get());
    let well_formed = head.magic == MAGIC && head.length.get() as usize == data.len();
    if !well_formed || head.pcrs != now {
        return None;
    }
    cipher(encryption, &head.iv).apply_keystream(data);
    Some((Creator { pcrs: head.creator }, data))
}

fn cipher(key: &[u8], iv: &[u8; 16]) -> Ctr128BE<Aes256> {
    Ctr128BE::new_from_slices(key, iv).expect("32 bytes and 16")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest as digests;
    use crate::tests::{bytes, hex};
    use abi::seal::PCRS;
    use sha2::{Digest, Sha256};

    /// NIST SP 800-38A, F.5.5: CTR-AES256.Encrypt.
    #[test]
    fn sp_800_38a_example() {
        let key = bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let iv = bytes("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let mut text = bytes(
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51\
             30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
        );
        cipher(&key, &iv).apply_keystream(&mut text);
        assert_eq!(
            hex(&text),
            "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5\
             2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
        );
    }

    /// RFC 4231, test cases 1 and 2.
    #[test]
    fn rfc_4231_examples() {
        for (key, data, tag) in [
            (
                vec![0x0b; 20],
                &b"Hi There"[..],
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
        ] {
            assert_eq!(hex(&mac(&key, &[data]).finalize().into_bytes()), tag);
        }
    }

    const IV_: [u8; 16] = [9; 16];

    fn root() -> Root {
        Root::new(&[7; Root::SIZE], [0; 32])
    }

    /// A PAL, known by its image, that has extended its PCR 1 by something.
    fn pal(image: &[u8], state: &[u8]) -> Pcrs {
        let mut pcrs = Pcrs::new(digests(image));
        if !state.is_empty() {
            pcrs.extend(1, &digests(state)).unwrap();
        }
        pcrs
    }

    fn policy(pal: &Pcrs, select: u32) -> Policy {
        Policy { select, reserved: 0, values: pal.sha256().map(|value| *value) }
    }

    fn sealed(sealer: &Pcrs, policy: &Policy, data: &[u8]) -> Vec<u8> {
        let mut blob = [0xee; OVERHEAD + MAX_DATA];
        let length = seal(&root(), sealer, policy, IV_, data, &mut blob).unwrap();
        assert!(blob[length..].iter().all(|byte| *byte == 0xee));
        blob[..length].to_vec()
    }

    fn opened(unsealer: &Pcrs, blob: &[u8]) -> Option<(Creator, Vec<u8>)> {
        let mut blob = blob.to_vec();
        unseal(&root(), unsealer, &mut blob).map(|(creator, data)| (creator, data.to_vec()))
    }

    /// The format, computed once more by openssl and python from the table above.
    #[test]
    fn a_blob_byte_by_byte() {
        let s = pal(b"S", b"");
        let blob = sealed(&s, &policy(&s, 1), b"secret");
        assert_eq!(blob.len(), OVERHEAD + 6);
        assert_eq!(&blob[..8], b"TVSEAL\0\x01");
        assert_eq!(&blob[8..16], [1, 0, 0, 0, 6, 0, 0, 0]);
        assert_eq!(hex(&blob[16..48]), hex(&Sha256::digest(s.sha256()[0])));
        assert_eq!(blob[48..64], IV_);
        assert_eq!(&blob[64..96], s.sha256()[0]);
        assert!(blob[96..320].iter().all(|byte| *byte == 0));
        assert_eq!(hex(&blob[320..]), BLOB_END);
    }

    const BLOB_END: &str = "31723aed4741d6ec36e430523093e9ed68266818d7a0160956f36ce9b278ac477fa5d6e6326a";

    #[test]
    fn who_it_is_for_opens_it_and_learns_who_sealed_it() {
        let (s1, s2) = (pal(b"S1", b"state"), pal(b"S2", b""));
        let blob = sealed(&s1, &policy(&s2, 1), b"for S2");
        let (creator, data) = opened(&s2, &blob).unwrap();
        assert_eq!(data, b"for S2");
        assert_eq!(creator.pcrs, s1.sha256().map(|value| *value));
        // PCRs that do not count may be anything.
        assert!(opened(&pal(b"S2", b"any"), &blob).is_some());
        // Not even the sealer opens it.
        assert_eq!(opened(&s1, &blob), None);
        assert_eq!(opened(&pal(b"S2'", b""), &blob), None);
        let mut copy = blob.clone();
        assert!(unseal(&Root::new(&[8; Root::SIZE], [0; 32]), &s2, &mut copy).is_none(), "another root");
    }

    #[test]
    fn selected_pcrs_count() {
        let then = pal(b"S", b"ready");
        let blob = sealed(&then, &policy(&then, 0b11), b"secret");
        assert!(opened(&then, &blob).is_some());
        for now in [pal(b"S", b""), pal(b"S", b"steady")] {
            assert_eq!(opened(&now, &blob), None);
        }
        let mut further = then.clone();
        further.extend(2, &digests(b"more")).unwrap();
        assert!(opened(&further, &blob).is_some());
        further.extend(1, &digests(b"more")).unwrap();
        assert_eq!(opened(&further, &blob), None);
    }

    #[test]
    fn the_identity_always_counts() {
        let s = pal(b"S", b"");
        let mut blob = [0; OVERHEAD + MAX_DATA];
        for select in [0, 2, 0xfe, 0x101, 1 << 31 | 1] {
            let result = seal(&root(), &s, &policy(&s, select), IV_, b"x", &mut blob);
            assert_eq!(result, None, "{select:#x}");
        }
        assert!(seal(&root(), &s, &policy(&s, 0xff), IV_, b"x", &mut blob).is_some());
        let long = seal(&root(), &s, &policy(&s, 1), IV_, &[0; MAX_DATA + 1], &mut blob);
        assert_eq!(long, None);
    }

    #[test]
    fn every_bit_counts() {
        let s = pal(b"S", b"");
        let blob = sealed(&s, &policy(&s, 1), b"key");
        for bit in 0..blob.len() * 8 {
            let mut changed = blob.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(opened(&s, &changed), None, "bit {bit}");
        }
        for length in 0..blob.len() {
            assert_eq!(opened(&s, &blob[..length]), None, "{length} bytes");
        }
        assert_eq!(opened(&s, &[&blob[..], &[0]].concat()), None);
    }

    proptest! {
        #[test]
        fn what_is_sealed_comes_back(
            data in proptest::collection::vec(any::<u8>(), 0..=MAX_DATA),
            select in 0u32..128,
            iv: [u8; 16],
            states in proptest::collection::vec(any::<Vec<u8>>(), 0..PCRS),
        ) {
            let mut s = pal(b"S", b"");
            for (index, state) in states.iter().enumerate().skip(1) {
                s.extend(index as u64, &digests(state)).unwrap();
            }
            let mut blob = [0; OVERHEAD + MAX_DATA];
            let length = seal(&root(), &s, &policy(&s, select << 1 | 1), iv, &data, &mut blob).unwrap();
            prop_assert_eq!(length, OVERHEAD + data.len());
            let (creator, back) = unseal(&root(), &s, &mut blob[..length]).unwrap();
            prop_assert_eq!(creator.pcrs, s.sha256().map(|value| *value));
            prop_assert_eq!(back, &data[..]);
        }

        #[test]
        fn garbage_does_not_open(mut blob: Vec<u8>) {
            prop_assert!(unseal(&root(), &pal(b"S", b""), &mut blob).is_none());
        }
    }
}
