//! Sealed blobs as a hostile OS hands them to S.
//!
//! Demanded: a blob opens exactly if it is, byte by byte, one that was sealed for a PAL with the PCRs that unseal it; then it gives the
//! data and the sealer back. The first bytes say what is sealed by whom for whom, the rest how the blob is changed.

use abi::seal::{MAX_DATA, OVERHEAD, Policy};
use utpm::{Pcrs, Root, digest, seal};

use crate::input::Input;

const PALS: [&[u8]; 3] = [b"S", b"S1", b"S2"];

pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let root = Root::new(&[3; Root::SIZE], [0; 32]);
    let mut pals = PALS.map(|image| Pcrs::new(digest(image)));
    for _ in 0..input.below(4) {
        let (pal, pcr) = (input.below(3) as usize, input.below(10));
        let _ = pals[pal].extend(pcr, &digest(&[input.u8()]));
    }
    let [sealer, target, unsealer] = [0; 3].map(|_| &pals[input.below(3) as usize]);
    let select = u32::from(input.u8()) | u32::from(input.u8() & 1) << 8;
    let mut policy = Policy { select, reserved: 0, values: [[0; 32]; 8] };
    for (value, index) in policy.values.iter_mut().zip(0..) {
        *value = target.read(index).expect("eight PCRs").sha256;
    }
    let data = vec![input.u8(); input.below(MAX_DATA as u64 + 2) as usize];
    let mut blob = [0; OVERHEAD + MAX_DATA];
    let sealed = seal::seal(&root, sealer, &policy, [input.u8(); 16], &data, &mut blob);
    let possible = select & 1 != 0 && select < 0x100 && data.len() <= MAX_DATA;
    assert_eq!(sealed.is_some(), possible);
    let Some(length) = sealed else {
        // Anything at all.
        let mut any = input.rest().to_vec();
        assert!(seal::unseal(&root, unsealer, &mut any).is_none());
        return;
    };
    assert_eq!(length, data.len() + OVERHEAD);
    let whole = blob[..length].to_vec();
    let mut changed = whole.clone();
    for _ in 0..input.below(3) {
        let at = input.below(length as u64) as usize;
        changed[at] ^= input.u8();
    }
    match input.below(4) {
        0 => changed.truncate(input.below(length as u64 + 1) as usize),
        1 => changed.extend(input.rest()),
        _ => {}
    }
    let fits = (0..8).all(|index| {
        select >> index & 1 == 0 || unsealer.read(index).unwrap().sha256 == policy.values[index as usize]
    });
    let genuine = changed == whole;
    match seal::unseal(&root, unsealer, &mut changed) {
        Some((creator, back)) => {
            assert!(fits && genuine);
            assert_eq!(back, data);
            assert!((0..8).all(|i| creator.pcrs[i as usize] == sealer.read(i).unwrap().sha256));
        }
        None => assert!(!fits || !genuine),
    }
}
