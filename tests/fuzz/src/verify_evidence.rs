//! Evidence as the relying party reads it, and all steps of its verification.
//!
//! Demanded: what is read can be explained in printable characters; a file that holds is one of the two that the documentation shows,
//! but for white space, the data of a call and what its event log names the events, for nobody has the keys to make another.

use trustvisor_verify::{Challenge, Evidence, Policy, Proof, Verified, verify};

const POLICY: &str = include_str!("../../../guest-sdk/verify/tests/data/policy.toml");
const FILES: [&[u8]; 2] = [
    include_bytes!("../../../guest-sdk/verify/tests/data/quote.json"),
    include_bytes!("../../../guest-sdk/verify/tests/data/call.json"),
];

/// The bytes are a file; or if the first is no bracket, one of the files with the others written into it.
pub fn check(bytes: &[u8]) {
    let Ok(evidence) = Evidence::parse(&file(bytes)) else { return };
    let text = evidence.explain();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    let policy = Policy::parse(POLICY).expect("the documentation's");
    let challenge = Challenge::new([7; 32]).expect("32 bytes");
    let proved = |evidence| verify(&policy, evidence, &challenge).ok().map(without_data);
    let Some(verified) = proved(&evidence) else { return };
    let known = FILES.map(|file| Evidence::parse(file).expect("the documentation's"));
    assert!(known.iter().any(|known| proved(known).as_ref() == Some(&verified)));
}

/// A file may leave out what was hashed.
fn without_data(mut verified: Verified) -> Verified {
    if let Proof::Call(call) = &mut verified.proof {
        (call.input, call.output) = (None, None);
    }
    verified
}

fn file(bytes: &[u8]) -> Vec<u8> {
    match bytes {
        [] | [b'{', ..] => bytes.to_vec(),
        [which, at @ .., _] if at.len() >= 2 => {
            let mut file = FILES[usize::from(which & 1)].to_vec();
            let start = usize::from(u16::from_le_bytes([at[0], at[1]])) % file.len();
            for (byte, new) in file[start..].iter_mut().zip(&bytes[3..]) {
                *byte = *new;
            }
            file
        }
        _ => bytes.to_vec(),
    }
}
