//! What depends on a secret, found by valgrind's memcheck: secrets are declared undefined, so each branch and each address that depends on
//! one is an error. For the test command, which runs without valgrind, the test is ignored:
//!
//! `valgrind $(cargo test -p trustvisor-rsa --lib --no-run 2>&1 | grep -o '/.*[0-9a-f]') --ignored --test-threads=1`

use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;

use super::Repeatable;
use crate::{Hash, Kernel, Key, oaep, pkcs1, pss};

/// Has p and q after n and d.
const DATA: &str = include_str!("../../tests/data/implicit_rejection.txt");

const RUNNING_ON_VALGRIND: usize = 0x1001;
const COUNT_ERRORS: usize = 0x1201;
const MAKE_UNDEFINED: usize = 0x4d43_0001;
const MAKE_DEFINED: usize = 0x4d43_0002;

/// Valgrind takes this for a request; a processor, for nothing. The answer without valgrind is 0.
fn request(which: usize, data: &[u8]) -> usize {
    let arguments = [which, data.as_ptr() as usize, data.len(), 0, 0, 0];
    let mut answer = 0;
    // SAFETY: rdi is turned by 128 bits, and put back by that.
    unsafe {
        asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rax") &arguments, inout("rdx") answer,
        );
    }
    answer
}

fn hide(limbs: &[u64]) {
    // SAFETY: bytes of limbs.
    request(MAKE_UNDEFINED, unsafe { limbs.align_to().1 });
}

fn hide_key(key: &Key) {
    for prime in [&key.p, &key.q] {
        [&prime.n, &prime.rr, &prime.rrr].into_iter().for_each(|limbs| hide(limbs));
        hide(core::slice::from_ref(&prime.n0));
    }
    [&key.d, &key.dp, &key.dq, &key.qinv].into_iter().for_each(|limbs| hide(limbs));
    let blinding = key.blinding.as_ref().unwrap();
    [&blinding.factor, &blinding.inverse].into_iter().for_each(|limbs| hide(limbs));
}

/// How many errors valgrind found in this.
fn errors(what: impl FnOnce()) -> usize {
    let before = request(COUNT_ERRORS, &[]);
    what();
    request(COUNT_ERRORS, &[]) - before
}

#[test]
#[ignore = "needs valgrind"]
fn nothing_but_the_outcome_depends_on_a_secret() {
    assert_eq!(request(RUNNING_ON_VALGRIND, &[]), 1, "not under valgrind");
    let secret = black_box([5u64]);
    hide(&secret);
    let found = errors(|| {
        if secret[0] & 1 == 1 {
            black_box(());
        }
    });
    assert_eq!(found, 1, "valgrind does not see a branch on a secret");
    // Valgrind knows the instructions of both, though its CPUID does not say so.
    for kernel in &[Kernel::Adx, Kernel::Portable] {
        let rng = &mut Repeatable(3);
        let [p, q] = [2, 3].map(|line| {
            let line = DATA.lines().filter(|line| !line.starts_with('#')).nth(line).unwrap();
            let digit = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
            line.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect::<Vec<_>>()
        });
        let mut key = Key::assemble(*kernel, 65537, &p, &q).unwrap();
        let ciphertext = [1; 256];
        let show = |bytes: &[u8]| request(MAKE_DEFINED, bytes);
        key.private(rng, &ciphertext).unwrap();
        // One branch: whether the result is right.
        hide_key(&key);
        assert_eq!(errors(|| drop(key.private(rng, &ciphertext).unwrap())), 1);
        hide_key(&key);
        assert_eq!(errors(|| drop(pkcs1::sign_raw(&mut key, rng, b"digest").unwrap())), 1);
        hide_key(&key);
        let digest = [0; 32];
        assert_eq!(
            errors(|| drop(pss::sign(&mut key, rng, Hash::Sha256, Hash::Sha256, 32, &digest).unwrap())),
            1
        );
        // Another: whether the padding is right. That it is not, is what is learnt.
        hide_key(&key);
        let found = errors(|| {
            let result = oaep::decrypt(&mut key, rng, Hash::Sha256, Hash::Sha256, b"", &ciphertext);
            assert!(result.is_err());
        });
        assert_eq!(found, 2);
        // The length of the message shows: where it is copied from, by memcpy.
        hide_key(&key);
        let mut message = Vec::new();
        let found = errors(|| {
            message = pkcs1::decrypt(&mut key, rng, &ciphertext).unwrap().to_vec();
        });
        show(&message);
        extern crate std;
        std::eprintln!("{kernel:?}: {found} errors for a message whose length is a secret");
    }
}
