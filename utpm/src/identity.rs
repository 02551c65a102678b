//! The identity keys of this TrustVisor, which quotes are signed with: an RSA key, made by the quoting PAL once in the root's life and
//! kept in a blob that only that PAL opens, and a P-256 key, derived from the root.
//!
//! Both are known to the outside by PCR 19 of the hardware TPM alone. Their private parts are the quoting PAL's: it unseals the one
//! and is given the other.

use abi::Digests;
use abi::quote::{KEY_BLOB, key};
use p256::elliptic_curve::sec1::ToSec1Point;
use zerocopy::FromBytes;
use zeroize::Zeroizing;

use crate::quote::{Report, ReportKey, Subject, p256_public};
use crate::seal::unseal;
use crate::{Pcrs, Root, digest};

/// What the quoting PAL works with: the report key, then the private P-256 key.
pub type QuotingKeys = Zeroizing<[u8; 64]>;

/// The identity of this launch.
pub struct Identity {
    keys: QuotingKeys,
    rsa: Option<Digests>,
    p256: Digests,
}

impl Identity {
    /// From the root, a new report key, the measurement of the quoting PAL and the key blob (which may be none, or anything).
    pub fn new(root: &Root, report_key: &ReportKey, quoting: Digests, key_blob: &[u8]) -> Self {
        let secret = root.p256_key();
        let public = secret.public_key().to_sec1_point(false);
        let (xy, _) = public.as_bytes()[1..].as_chunks::<32>();
        let mut keys = Zeroizing::new([0; 64]);
        keys[..32].copy_from_slice(report_key);
        keys[32..].copy_from_slice(&Zeroizing::new(secret.to_bytes())[..]);
        Self { keys, rsa: rsa_digests(root, quoting, key_blob), p256: digest(&p256_public(&xy[0], &xy[1])) }
    }

    /// Digests of the TPMT_PUBLICs, as PCR 19 is extended with them.
    pub fn digests(&self) -> impl Iterator<Item = &Digests> {
        self.rsa.iter().chain([&self.p256])
    }

    /// Whether there is an RSA key.
    pub fn has_rsa(&self) -> bool {
        self.rsa.is_some()
    }

    /// For the quoting PAL alone.
    pub fn quoting_keys(&self) -> &QuotingKeys {
        &self.keys
    }

    /// A report for the key of this kind.
    pub fn report(&self, kind: u8, subject: &Subject<'_>) -> Option<Report> {
        let digests = if kind == key::P256 { Some(&self.p256) } else { self.rsa.as_ref() };
        Report::new(self.keys.first_chunk()?, kind, &digests?.sha256, subject)
    }
}

/// What the key blob says of its public key, if the quoting PAL sealed it under this root.
fn rsa_digests(root: &Root, quoting: Digests, key_blob: &[u8]) -> Option<Digests> {
    let mut blob = Zeroizing::new([0; KEY_BLOB]);
    *blob = key_blob.try_into().ok()?;
    let (creator, data) = unseal(root, &Pcrs::new(quoting), &mut *blob)?;
    let ours = creator.pcrs[0] == quoting.sha256;
    Some(Digests::read_from_prefix(data).ok()?.0).filter(|_| ours)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::quote::TAG_QUOTE;
    use abi::seal::{MAX_DATA, OVERHEAD, Policy};
    use p256::PublicKey;
    use p256::elliptic_curve::sec1::FromSec1Point;
    use zerocopy::IntoBytes;

    fn root(seed: u8) -> Root {
        Root::new(&[seed; Root::SIZE], digest(b"quoting").sha256)
    }

    /// A key blob for `whom`, sealed by `sealer`.
    fn key_blob(root: &Root, sealer: Digests, whom: Digests, data: &[u8]) -> Vec<u8> {
        let mut policy = Policy { select: 1, reserved: 0, values: [[0; 32]; 8] };
        policy.values[0] = whom.sha256;
        let mut blob = [0; OVERHEAD + MAX_DATA];
        let length = crate::seal::seal(root, &Pcrs::new(sealer), &policy, [1; 16], data, &mut blob).unwrap();
        blob[..length].to_vec()
    }

    fn identity(root: &Root, blob: &[u8]) -> Identity {
        Identity::new(root, &[7; 32], digest(b"quoting"), blob)
    }

    fn digests(identity: &Identity) -> Vec<Digests> {
        identity.digests().copied().collect()
    }

    #[test]
    fn the_p256_key_is_the_root_s() {
        let (one, two) = (identity(&root(1), &[]), identity(&root(2), &[]));
        assert_eq!(digests(&one), digests(&identity(&root(1), &[])));
        assert_ne!(digests(&one), digests(&two));
        assert_eq!(one.quoting_keys()[..32], [7; 32]);
        let secret = p256::SecretKey::from_slice(&one.quoting_keys()[32..]).unwrap();
        let point = secret.public_key().to_sec1_point(false);
        let public = p256_public(
            point.as_bytes()[1..33].try_into().unwrap(),
            point.as_bytes()[33..].try_into().unwrap(),
        );
        assert_eq!(digests(&one), [digest(&public)]);
        assert!(PublicKey::from_sec1_point(&point).is_some().to_bool());
    }

    #[test]
    fn an_rsa_key_is_the_quoting_pal_s_own() {
        let (root1, quoting, other) = (root(1), digest(b"quoting"), digest(b"other"));
        let data = [digest(b"TPMT_PUBLIC").as_bytes(), &[9; 256]].concat();
        let good = key_blob(&root1, quoting, quoting, &data);
        assert_eq!(good.len(), KEY_BLOB);
        let identity1 = identity(&root1, &good);
        assert_eq!(digests(&identity1)[0], digest(b"TPMT_PUBLIC"));
        assert!(identity1.has_rsa() && digests(&identity1).len() == 2);
        for bad in [
            key_blob(&root1, other, quoting, &data),
            key_blob(&root1, quoting, other, &data),
            key_blob(&root(2), quoting, quoting, &data),
            key_blob(&root1, quoting, quoting, &data[1..]),
            [&good[..KEY_BLOB - 1], &[good[KEY_BLOB - 1] ^ 1]].concat(),
            good[1..].to_vec(),
            [&good[..], &[0]].concat(),
            vec![],
        ] {
            let identity = identity(&root1, &bad);
            assert!(!identity.has_rsa() && digests(&identity).len() == 1);
        }
    }

    #[test]
    fn a_report_names_its_signer() {
        let (root, quoting) = (root(1), digest(b"quoting"));
        let data = [digest(b"TPMT_PUBLIC").as_bytes(), &[9; 256]].concat();
        let both = identity(&root, &key_blob(&root, quoting, quoting, &data));
        let pcrs = Pcrs::new(digest(b"S"));
        let subject =
            Subject { pcrs: &pcrs, select: 1, tag: TAG_QUOTE, data: b"", clock: 0, boot: 0, release: 0 };
        let name = |kind| {
            let report = both.report(kind, &subject).unwrap();
            report.bytes()[43..75].to_vec()
        };
        assert_eq!(name(key::RSA), digest(b"TPMT_PUBLIC").sha256);
        assert_eq!(name(key::P256), digests(&both)[1].sha256);
        assert!(both.report(key::RSA_SHA1, &subject).is_some());
        let one = identity(&root, &[]);
        for kind in [key::RSA, key::RSA_SHA1, 3, 255] {
            assert!(one.report(kind, &subject).is_none());
        }
        assert!(one.report(key::P256, &subject).is_some());
    }
}
