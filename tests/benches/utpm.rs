//! The micro-TPM's commands on the host, each beside the primitives that it is made of as OpenSSL has them. `cargo bench -p trustvisor-tests`.

#[path = "../../utpm/tests/cavp/rsp.rs"]
mod rsp;

use abi::quote::{TAG_QUOTE, key};
use abi::seal::{MAX_DATA, OVERHEAD, Policy};
use criterion::{Bencher, BenchmarkId, Criterion, criterion_group, criterion_main};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::RsaPrivateKeyBuilder;
use openssl::sha;
use openssl::sign::Signer;
use openssl::symm::{Cipher, encrypt};
use rand_core::{TryCryptoRng, TryRng};
use rsa::{BoxedUint, Pkcs1v15Sign, PrivateKey};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::hint::black_box;
use utpm::quote::{Report, Subject, genuine};
use utpm::random::Random;
use utpm::seal::{Blob, seal, unseal};
use utpm::{Pcrs, Root, digest};

const SIZES: [usize; 2] = [32, 1024];

/// A row of the table: ours and OpenSSL's.
fn beside(
    criterion: &mut Criterion,
    name: &str,
    size: usize,
    mut ours: impl FnMut(&mut Bencher),
    mut openssl: impl FnMut(&mut Bencher),
) {
    let mut group = criterion.benchmark_group(name);
    group.bench_function(BenchmarkId::new("utpm", size), &mut ours);
    group.bench_function(BenchmarkId::new("openssl", size), &mut openssl);
    group.finish();
}

/// SHA-1 and SHA-256, of the old value and the digest.
fn extend(criterion: &mut Criterion) {
    let mut pcrs = Pcrs::new(digest(b"S"));
    let more = digest(b"more");
    let (mut one, mut two) = ([1; 40], [2; 64]);
    let ours = |bencher: &mut Bencher| bencher.iter(|| pcrs.extend(1, black_box(&more)));
    let theirs = |bencher: &mut Bencher| {
        bencher.iter(|| {
            let digests = (sha::sha1(black_box(&one)), sha::sha256(black_box(&two)));
            one[..20].copy_from_slice(&digests.0);
            two[..32].copy_from_slice(&digests.1);
        });
    };
    beside(criterion, "extend", 32, ours, theirs);
}

fn policy(pcrs: &Pcrs) -> Policy {
    let mut policy = Policy { select: 1, reserved: 0, values: [[0; 32]; Pcrs::COUNT] };
    policy.values[0] = pcrs.read(0).expect("PCR 0").sha256;
    policy
}

/// AES-256-CTR of the data, HMAC-SHA-256 of all but the tag.
fn openssl_seal(bencher: &mut Bencher, size: usize) {
    let key = PKey::hmac(&[1; 32]).expect("a key");
    let mut blob = vec![0; OVERHEAD - 32];
    let header = blob.len();
    bencher.iter(|| {
        let data = vec![7; size];
        blob.truncate(header);
        blob.extend(encrypt(Cipher::aes_256_ctr(), &[2; 32], Some(&[3; 16]), &data).expect("AES"));
        let mut signer = Signer::new(MessageDigest::sha256(), &key).expect("HMAC");
        signer.sign_oneshot_to_vec(black_box(&blob)).expect("HMAC")
    });
}

fn sealing(criterion: &mut Criterion) {
    let (root, pcrs) = (Root::new(&[5; Root::SIZE], [0; 32]), Pcrs::new(digest(b"S")));
    let policy = policy(&pcrs);
    for size in SIZES {
        let data = vec![7; size];
        let mut blob: Blob = [0; OVERHEAD + MAX_DATA];
        let mut sealed = || seal(&root, &pcrs, &policy, [3; 16], black_box(&data), &mut blob);
        let length = sealed().expect("sealed");
        let ours = |bencher: &mut Bencher| bencher.iter(&mut sealed);
        beside(criterion, "seal", size, ours, |bencher| openssl_seal(bencher, size));
        let ours = |bencher: &mut Bencher| {
            bencher.iter(|| {
                let mut copy = blob;
                unseal(&root, &pcrs, black_box(&mut copy[..length])).expect("unsealed").1.len()
            });
        };
        // The same two primitives.
        beside(criterion, "unseal", size, ours, |bencher| openssl_seal(bencher, size));
    }
}

/// Seeded with what needs no entropy.
fn random() -> Random<impl FnMut() -> Option<u64> + Send> {
    let mut words = 1..;
    Random::seeded(move || words.next(), &[]).expect("a seed")
}

fn getrandom(criterion: &mut Criterion) {
    let mut random = random();
    for size in [32, 512] {
        let mut bytes = vec![0; size];
        let ours = |bencher: &mut Bencher| bencher.iter(|| random.fill(black_box(&mut bytes)));
        let mut bytes = vec![0; size];
        let theirs =
            |bencher: &mut Bencher| bencher.iter(|| openssl::rand::rand_bytes(black_box(&mut bytes)));
        beside(criterion, "getrandom", size, ours, theirs);
    }
}

/// What the runtime does for a quote: a report, authenticated by HMAC-SHA-256, with SHA-256 of the PCRs.
fn report(criterion: &mut Criterion) {
    let pcrs = Pcrs::new(digest(b"S"));
    let ours = |bencher: &mut Bencher| {
        bencher.iter(|| {
            let nonce = black_box([8; 32]);
            let subject = Subject {
                pcrs: &pcrs,
                select: 1,
                tag: TAG_QUOTE,
                data: &nonce,
                clock: 1,
                boot: 2,
                release: 3,
            };
            let report = Report::new(&[1; 32], key::RSA, &[2; 32], &subject).expect("a report");
            genuine(&[1; 32], report.bytes()).is_some()
        });
    };
    let key = PKey::hmac(&[1; 32]).expect("a key");
    let theirs = |bencher: &mut Bencher| {
        bencher.iter(|| {
            let digest = sha::sha256(black_box(&[7; 32]));
            for _ in ["written", "looked at"] {
                let mut signer = Signer::new(MessageDigest::sha256(), &key).expect("HMAC");
                black_box(signer.sign_oneshot_to_vec(&[&digest[..], &[9; 114]].concat()).expect("HMAC"));
            }
        });
    };
    beside(criterion, "report", 32, ours, theirs);
}

struct Blinding<F>(F);

impl<F: FnMut(&mut [u8])> TryRng for Blinding<F> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|value| value as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        (self.0)(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        (self.0)(bytes);
        Ok(())
    }
}

impl<F: FnMut(&mut [u8])> TryCryptoRng for Blinding<F> {}

/// What the quoting PAL does for a quote: RSA-2048, blinded. The key is NIST's and protects nothing.
fn signature(criterion: &mut Criterion) {
    let vectors = rsp::vectors(include_str!("../../utpm/tests/cavp/SigVer15_186-3.rsp"), "Result");
    let (p, q) = (vectors[0].bytes("p"), vectors[0].bytes("q"));
    let prime = |bytes: &[u8]| BoxedUint::from_be_slice(bytes, 1024).expect("a prime");
    let ours = PrivateKey::from_p_q(prime(&p), prime(&q), 65537u32.into()).expect("a key");
    let (mut random, message) = (random(), [6; 145]);
    let by_us = |bencher: &mut Bencher| {
        bencher.iter(|| {
            let digest = Sha256::digest(black_box(message));
            let mut blinding = Blinding(|bytes: &mut [u8]| random.fill(bytes));
            ours.sign_with_rng(&mut blinding, Pkcs1v15Sign::new::<Sha256>(), &digest).expect("a signature")
        });
    };
    let theirs = openssl_key(&ours).expect("a key");
    let by_them = |bencher: &mut Bencher| {
        bencher.iter(|| {
            let mut signer = Signer::new(MessageDigest::sha256(), &theirs).expect("RSA");
            signer.sign_oneshot_to_vec(black_box(&message)).expect("a signature")
        });
    };
    beside(criterion, "rsa_signature", 145, by_us, by_them);
}

/// The same key.
fn openssl_key(key: &PrivateKey) -> Result<PKey<openssl::pkey::Private>, openssl::error::ErrorStack> {
    use rsa::traits::{PrivateKeyParts, PublicKeyParts};
    let number = |number: &[u8]| BigNum::from_slice(number);
    let (n, d) = (number(&key.n_bytes())?, number(&key.d().to_be_bytes())?);
    let [p, q] = key.primes() else { panic!("two primes") };
    let (p, q) = (number(&p.to_be_bytes())?, number(&q.to_be_bytes())?);
    let (mut one, mut context) = (BigNum::from_u32(1)?, openssl::bn::BigNumContext::new()?);
    let mut exponent = |prime: &BigNum| {
        let (mut less, mut rest) = (BigNum::new()?, BigNum::new()?);
        less.checked_sub(prime, &one)?;
        rest.nnmod(&d, &less, &mut context)?;
        Ok::<_, openssl::error::ErrorStack>(rest)
    };
    let (dp, dq) = (exponent(&p)?, exponent(&q)?);
    one.mod_inverse(&q, &p, &mut context)?;
    let builder = RsaPrivateKeyBuilder::new(n, BigNum::from_u32(65537)?, d)?;
    PKey::from_rsa(builder.set_factors(p, q)?.set_crt_params(dp, dq, one)?.build())
}

criterion_group!(benches, extend, sealing, getrandom, report, signature);
criterion_main!(benches);
