//! Quotes: what a PAL is and in which state, in the TPM's own structures, for the quoting PAL to sign.
//!
//! The runtime writes a [`Report`] and authenticates it with a key that lives as long as the launch; the quoting PAL signs what is
//! [`genuine`] and nothing else. So an identity key signs only structures that the runtime has built. The report is public.

use abi::quote::{AttestedCall, MAX_NONCE, MAX_REPORT, key};
use arrayvec::ArrayVec;
use hmac::Mac;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::pcrs::composite;
use crate::{Pcrs, mac};

/// Authenticates reports.
pub type ReportKey = [u8; 32];

const TAG: usize = 32;

/// What is quoted of a PAL: the selected PCRs, and with `tag` and `data` what the verifier wants to find.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// All of the PAL's.
    pub pcrs: &'a Pcrs,
    /// Bit *i* for PCR *i*.
    pub select: u8,
    /// Says what the data is.
    pub tag: u8,
    /// A nonce, or the digest of an attested call.
    pub data: &'a [u8],
    /// Milliseconds since the launch.
    pub clock: u64,
    /// The launch's number in the root's life.
    pub boot: u32,
    /// The release of TrustVisor.
    pub release: u64,
}

/// A report.
pub struct Report(ArrayVec<u8, MAX_REPORT>);

impl Report {
    /// For a signing key of this kind; `name` is SHA-256 of its TPMT_PUBLIC. None: PCR 0 is not selected, the data is too long, or
    /// there is no such kind of key.
    pub fn new(report_key: &ReportKey, kind: u8, name: &[u8; 32], subject: &Subject<'_>) -> Option<Self> {
        if subject.select & 1 == 0 || subject.data.len() > MAX_NONCE {
            return None;
        }
        let mut report = Self(ArrayVec::new());
        report.put(&[0; TAG]).put(&[kind]);
        match kind {
            key::RSA | key::P256 => report.attest(name, subject),
            key::RSA_SHA1 => report.quote_info(subject),
            _ => return None,
        }
        let tag = mac(report_key, &[&report.0[TAG..]]).finalize().into_bytes();
        report.0[..TAG].copy_from_slice(&tag);
        Some(report)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// TPMS_ATTEST with a TPMS_QUOTE_INFO (TPM 2.0 part 2, 10.12.12 and 10.12.4).
    fn attest(&mut self, name: &[u8; 32], subject: &Subject<'_>) {
        let Subject { pcrs, select, tag, data, clock, boot, release } = *subject;
        let digest = composite(pcrs.sha256(), select.into());
        // TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE; the signer's name.
        self.put(b"\xffTCG\x80\x18").put(&[0, 34, 0, 0x0b]).put(name);
        self.put(&[0, data.len() as u8 + 1, tag]).put(data);
        // TPMS_CLOCK_INFO: no restart without a reset; the clock never goes back.
        self.put(&clock.to_be_bytes()).put(&boot.to_be_bytes()).put(&[0, 0, 0, 0, 1]);
        self.put(&release.to_be_bytes());
        self.put(&[0, 0, 0, 1, 0, 0x0b, 3, select, 0, 0]).put(&[0, 32]).put(&digest);
    }

    /// TPM_QUOTE_INFO (TPM 1.2 part 2, 11.3) with the digest of a TPM_PCR_COMPOSITE (5.4.1).
    fn quote_info(&mut self, subject: &Subject<'_>) {
        let Subject { pcrs, select, tag, data, .. } = *subject;
        let count = select.count_ones() as u8;
        let head = Sha1::new().chain_update([0, 3, select, 0, 0]).chain_update([0, 0, 0, 20 * count]);
        let selected = (0..8).filter(|i| select >> i & 1 != 0).filter_map(|i| pcrs.read(i));
        let composite = selected.fold(head, |hash, value| hash.chain_update(value.sha1)).finalize();
        let external = Sha1::new().chain_update([tag]).chain_update(data).finalize();
        self.put(b"\x01\x01\0\0QUOT").put(&composite).put(&external);
    }

    /// All that is put fits: the longest TPMS_ATTEST has 182 bytes.
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes.iter().copied());
        self
    }
}

/// The key that is to sign, and the structure, if the runtime wrote this report at this launch.
pub fn genuine<'a>(report_key: &ReportKey, report: &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, content) = report.split_at_checked(TAG)?;
    mac(report_key, &[content]).verify_slice(tag).ok()?;
    content.split_first().map(|(key, structure)| (*key, structure))
}

/// What an attested call's quote says, after its tag ([`AttestedCall`]).
pub fn call_digest(entry: u16, signature: &[u8; 6], nonce: &[u8; 32], call: &AttestedCall) -> [u8; 32] {
    let AttestedCall { input_hash, output_hash, number, chain } = call;
    let (version, entry, number) = (abi::VERSION.to_be_bytes(), entry.to_be_bytes(), number.to_be_bytes());
    let fields: [&[u8]; 8] = [&version, &entry, signature, nonce, input_hash, output_hash, &number, chain];
    let add = |hash: Sha256, field: &&[u8]| {
        hash.chain_update((field.len() as u16).to_be_bytes()).chain_update(field)
    };
    fields.iter().fold(Sha256::new(), add).finalize().into()
}

/// TPMT_PUBLIC of an identity key, up to the key itself, with its size: SHA-256; fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth,
/// restricted, sign; no policy (TPM 2.0 part 2, 12.2.4).
const RSA_PUBLIC: [u8; 24] =
    [0, 1, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0b, 8, 0, 0, 0, 0, 0, 1, 0];
const P256_PUBLIC: [u8; 22] =
    [0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 32];

/// TPMT_PUBLIC of an RSA-2048 identity key.
pub fn rsa_public(modulus: &[u8; 256]) -> [u8; 280] {
    let mut public = [0; 280];
    public[..24].copy_from_slice(&RSA_PUBLIC);
    public[24..].copy_from_slice(modulus);
    public
}

/// TPMT_PUBLIC of a P-256 identity key.
pub fn p256_public(x: &[u8; 32], y: &[u8; 32]) -> [u8; 88] {
    let mut public = [0; 88];
    public[..22].copy_from_slice(&P256_PUBLIC);
    public[22..54].copy_from_slice(x);
    public[54..56].copy_from_slice(&[0, 32]);
    public[56..].copy_from_slice(y);
    public
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest;
    use crate::tests::hex;
    use abi::quote::{TAG_CALL, TAG_QUOTE};
    use proptest::prelude::*;

    const KEY: ReportKey = [3; 32];
    const NAME: [u8; 32] = [0xaa; 32];

    fn pcrs() -> Pcrs {
        let mut pcrs = Pcrs::new(digest(b"S"));
        pcrs.extend(2, &digest(b"state")).unwrap();
        pcrs
    }

    fn report(kind: u8, select: u8, tag: u8, data: &[u8]) -> Option<Vec<u8>> {
        let (clock, boot, release) = (0x0102_0304_0506_0708, 9, 10);
        let subject = Subject { pcrs: &pcrs(), select, tag, data, clock, boot, release };
        Report::new(&KEY, kind, &NAME, &subject).map(|report| report.bytes().to_vec())
    }

    /// TPM 2.0 part 2: 10.12.12 (TPMS_ATTEST), 10.11.1 (TPMS_CLOCK_INFO), 10.12.4 (TPMS_QUOTE_INFO), 10.9.7 (TPML_PCR_SELECTION).
    #[test]
    fn an_attest_byte_by_byte() {
        let report = report(key::P256, 0b101, TAG_QUOTE, b"nonce").unwrap();
        let pcrs = pcrs();
        let values = [pcrs.sha256()[0].as_slice(), pcrs.sha256()[2]].concat();
        let expected = [
            "01",
            "ff544347",
            "8018",
            "0022",
            "000b",
            &hex(&NAME),
            "0006",
            "01",
            &hex(b"nonce"),
            "0102030405060708",
            "00000009",
            "00000000",
            "01",
            "000000000000000a",
            "00000001",
            "000b",
            "03",
            "050000",
            "0020",
            &hex(&digest(&values).sha256),
        ]
        .concat();
        assert_eq!(hex(&report[32..]), expected);
        assert_eq!(hex(&report[..32]), hex(&mac(&KEY, &[&report[32..]]).finalize().into_bytes()));
    }

    /// TPM 1.2 part 2: 11.3 (TPM_QUOTE_INFO), 5.4.1 (TPM_PCR_COMPOSITE), 8.1 (TPM_PCR_SELECTION).
    #[test]
    fn a_quote_info_byte_by_byte() {
        let report = report(key::RSA_SHA1, 0b101, TAG_CALL, &[7; 32]).unwrap();
        let pcrs = pcrs();
        let (first, second) = (pcrs.read(0).unwrap().sha1, pcrs.read(2).unwrap().sha1);
        let composite = [&[0, 3, 5, 0, 0, 0, 0, 0, 40][..], &first, &second].concat();
        let external = [&[TAG_CALL][..], &[7; 32]].concat();
        let expected =
            ["02", "01010000", "51554f54", &hex(&digest(&composite).sha1), &hex(&digest(&external).sha1)]
                .concat();
        assert_eq!(hex(&report[32..]), expected);
    }

    #[test]
    fn what_is_no_quote() {
        assert!(report(key::RSA, 0xff, TAG_CALL, &[1; MAX_NONCE]).is_some());
        assert_eq!(report(key::RSA, 0xff, TAG_CALL, &[1; MAX_NONCE + 1]), None);
        assert_eq!(report(key::RSA, 0xfe, TAG_CALL, &[]), None);
        assert_eq!(report(3, 1, TAG_QUOTE, &[]), None);
    }

    proptest! {
        #[test]
        fn only_the_runtime_s_reports_are_genuine(
            data in prop::collection::vec(any::<u8>(), 0..=MAX_NONCE),
            select: u8,
            at: prop::sample::Index,
            change in 1..=255u8,
        ) {
            let mut report = report(key::RSA, select | 1, TAG_QUOTE, &data).unwrap();
            prop_assert_eq!(genuine(&KEY, &report), Some((key::RSA, &report[33..])));
            prop_assert_eq!(genuine(&[4; 32], &report), None);
            prop_assert_eq!(genuine(&KEY, &report[..report.len() - 1]), None);
            let at = at.index(report.len());
            report[at] ^= change;
            prop_assert_eq!(genuine(&KEY, &report), None);
        }
    }

    #[test]
    fn what_is_too_short_is_not_genuine() {
        for length in 0..=32 {
            assert_eq!(genuine(&KEY, &[0; 32][..length]), None);
        }
        let empty = mac(&KEY, &[]).finalize().into_bytes();
        assert_eq!(genuine(&KEY, &empty), None);
    }

    /// [`AttestedCall`]: eight fields, each after its length.
    #[test]
    fn an_attested_call_byte_by_byte() {
        let call = AttestedCall { input_hash: [3; 32], output_hash: [4; 32], number: 0x0102, chain: [5; 32] };
        let fields = [
            "0004",
            &hex(&abi::VERSION.to_be_bytes()),
            "0002",
            "0a0b",
            "0006",
            "010203040506",
            "0020",
            &"07".repeat(32),
            "0020",
            &"03".repeat(32),
            "0020",
            &"04".repeat(32),
            "0008",
            "0000000000000102",
            "0020",
            &"05".repeat(32),
        ];
        let expected = digest(&crate::tests::bytes(&fields.concat())).sha256;
        let nonce = [7; 32];
        assert_eq!(call_digest(0x0a0b, &[1, 2, 3, 4, 5, 6], &nonce, &call), expected);
        assert_ne!(call_digest(0x0a0b, &[1, 2, 3, 4, 5, 6], &[8; 32], &call), expected);
    }

    /// TPM 2.0 part 2, 12.2.4 (TPMT_PUBLIC), with 12.2.3.5 and 12.2.3.6 (parameters); written by hand.
    #[test]
    fn public_areas_byte_by_byte() {
        let rsa =
            ["0001", "000b", "00050072", "0000", "0010", "0014", "000b", "0800", "00000000", "0100"].concat();
        assert_eq!(hex(&rsa_public(&[0x5a; 256])), rsa + &"5a".repeat(256));
        let curve = ["0023", "000b", "00050072", "0000", "0010", "0018", "000b", "0003", "0010"].concat();
        let expected = curve + "0020" + &"01".repeat(32) + "0020" + &"02".repeat(32);
        assert_eq!(hex(&p256_public(&[1; 32], &[2; 32])), expected);
    }
}
