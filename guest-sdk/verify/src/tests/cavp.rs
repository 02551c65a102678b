//! NIST's CAVP vectors of RSA signatures, good and bad.

use crate::hash::Hash;
use crate::key::{Key, Signature, Value};

#[path = "../../../../utpm/tests/cavp/rsp.rs"]
mod rsp;

#[test]
fn signatures_are_told_from_what_is_none() {
    let text = include_str!("../../../../utpm/tests/cavp/SigVer15_186-3.rsp");
    let vectors = rsp::vectors(text, "Result");
    let (mut good, mut bad) = (0, 0);
    for vector in &vectors {
        let (zeroes, exponent) = vector.text("e").split_at(vector.text("e").len() - 8);
        assert!(zeroes.bytes().all(|digit| digit == b'0'), "the exponent is a small one");
        let exponent = u32::from_str_radix(exponent, 16).unwrap();
        let key = Key::Rsa { modulus: vector.bytes("n"), exponent };
        let hash = match vector.text("SHAAlg") {
            "SHA1" => Hash::Sha1,
            "SHA256" => Hash::Sha256,
            other => panic!("{other}"),
        };
        let signature = Signature { hash, value: Value::Rsa(vector.bytes("S")) };
        let found = key.verifies(&vector.bytes("Msg"), &signature);
        let expected = vector.text("Result");
        assert_eq!(found, expected == "P", "{expected}");
        *if found { &mut good } else { &mut bad } += 1;
    }
    assert_eq!((good, bad), (6, 30));
}
