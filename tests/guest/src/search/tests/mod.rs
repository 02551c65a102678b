//! Factors are found wherever they lie, and nothing else is.

use super::{Divisors, PIECE, Stream, digits};

const P: &str = "e45b50df536e9330ae9337385f483fbb637bc4fd28d16937eb9c9d86d265e6ef45fc469fa2bd71baaaea2de53b9ee06343bb0211094e6ccd3cdd19b1666350d1\
    5738707c0da6b68654b1fedb7e59aff55f0a87c2c43d335c31806049dd6c86725bcd6c4df86407e7d0fafd8f7216edb878538c7757182239e2e7d11113d26063";
const Q: &str = "cfd02cacefa80071ceca8cde7f07e55acad16b587998e62be2fd5a639c96c43d2f47876b4013efbba6b39752435cbe4397a93b18ed4e068774af95798a1379c2\
    044165872389369a33ac0d1a330d12b12f67745f9fdaa748fa05123db054272e3830df41fce150e1b64165e42316cda721f2616e774e46efd2b27e36fdfe4c1b";
const MODULUS: &str = "b95f88703ef208121a85fb52d81205547a41f83c47c384faa787053f5888cf4e4008bc88d8dfffcfcb0326c6a3ae9f877896c8ce07c5fa1ae8a2c6929b21cec0\
    955e5a6a30b1f8d0786ea3be55a58cfd2621a6b527aa84b43c422f8957453538a57e2bd35254ad3920e224a7d7f89a09ccecdf61b7cea1873257c40fac3cb390\
    4285049a6c212370a94505ad97665c6f523a302b1fe13c002cb7a5af5caf85b3b0bd0d49c6826cbfeba048e73c135a00cdf6c22f405b4586e785663ce17e4b3e\
    285f72492898f9dfe5b5973e8aa75d13a004e6daf4eb5b97ca0d18733b04596f852dcbe304c53acc2a8c4c02b593816b4ed2c398453ef23804b3c18f05078e71";

fn divisors() -> Divisors {
    Divisors::of(&digits(MODULUS).unwrap()).unwrap()
}

/// What no factor is in: numbers that look random, and code that does not.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|at| if at & 0x1000 == 0 { random() } else { b"\x48\x89\xe5\xc3"[at & 3] }).collect()
}

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

#[test]
fn both_factors_in_both_orders_at_each_offset() {
    let divisors = divisors();
    for factor in [digits(P).unwrap(), digits(Q).unwrap()] {
        for written in [factor.clone(), reversed(&factor)] {
            for offset in (0..64).chain([4000, 4096, 8192 - factor.len()]) {
                let mut bytes = noise(8192);
                bytes[offset..offset + factor.len()].copy_from_slice(&written);
                assert_eq!(divisors.inside(&bytes), [(offset, factor.clone())], "at {offset}");
            }
        }
    }
}

#[test]
fn nothing_else_is_found() {
    let divisors = divisors();
    assert!(divisors.inside(&noise(64 << 10)).is_empty());
    let mut almost = digits(P).unwrap();
    almost[64] ^= 1;
    assert!(divisors.inside(&almost).is_empty());
    assert!(divisors.inside(&digits(MODULUS).unwrap()).is_empty());
    assert!(divisors.inside(&digits(P).unwrap()[1..]).is_empty());
    assert!(divisors.inside(&[]).is_empty());
}

#[test]
fn what_is_no_modulus_is_refused() {
    for bad in [&MODULUS[..510], &MODULUS[..128], "", &"80".repeat(256), &"0f".repeat(256)] {
        assert!(Divisors::of(&digits(bad).unwrap()).is_err());
    }
    assert!(digits("0").is_err() && digits("0g").is_err());
}

#[test]
fn across_two_pieces() {
    let divisors = divisors();
    let p = digits(P).unwrap();
    for offset in [PIECE - 1, PIECE - 127, PIECE - 128, PIECE - 64, PIECE] {
        let mut bytes = vec![0; PIECE + 4096];
        bytes[offset..offset + p.len()].copy_from_slice(&p);
        let mut stream = Stream::default();
        stream.take(&divisors, 0x1000, &bytes[..PIECE]);
        stream.take(&divisors, 0x1000 + PIECE as u64, &bytes[PIECE..]);
        assert_eq!(stream.hits.into_keys().collect::<Vec<_>>(), [0x1000 + offset as u64]);
        assert_eq!(stream.factors, std::slice::from_ref(&p));
    }
}

#[test]
fn in_a_pem_file() {
    let divisors = divisors();
    for before in [0, 1, 2] {
        let contents = [&b"\x30\x82"[..before], &digits(Q).unwrap(), b"\x02"].concat();
        let text = base64(&contents);
        for offset in [0, 1, 2, 3, 4, PIECE - 300, PIECE - 5] {
            let mut bytes = vec![0; PIECE + 4096];
            bytes[offset..offset + text.len()].copy_from_slice(text.as_bytes());
            let mut stream = Stream::default();
            stream.take(&divisors, 0, &bytes[..PIECE]);
            stream.take(&divisors, PIECE as u64, &bytes[PIECE..]);
            assert_eq!(stream.hits.into_iter().collect::<Vec<_>>(), [(offset as u64, "in a PEM file")]);
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for (number, three) in bytes.chunks(3).enumerate() {
        if number % 16 == 0 {
            text.push('\n');
        }
        let bits =
            three.iter().chain([0; 2].iter()).take(3).fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let digits = [18, 12, 6, 0].map(|at| char::from(DIGITS[(bits >> at) as usize & 63]));
        text.extend(&digits[..=three.len()]);
        text.push_str(&"="[..1].repeat(3 - three.len()));
    }
    format!("-----BEGIN PRIVATE KEY-----{text}\n-----END PRIVATE KEY-----\n")
}
