//! A machine that tells the truth, in software: what it launched, its TPM, its PAL. Tests change one thing about it and let it
//! sign again, so that what they find wrong is that one thing.

use crate::call::Signature;
use crate::challenge::extra_data;
use crate::event_log::LAUNCH_PCRS;
use crate::evidence::{CallClaim, Evidence, Hardware, Quote};
use crate::hash::{Family, Hash, hex, sha256};
use crate::key::attribute;
use crate::tests::keys::TestKey;
use crate::{Challenge, Failure, Policy, Verified, verify};

pub(crate) const NONCE: [u8; 32] = [7; 32];
pub(crate) const OPTIONS: &[u8] = b"dma=unprotected\ntpm=required\n";
pub(crate) const FIRMWARE: u64 = 1;
pub(crate) const EVENT_IPL: u32 = 13;
pub(crate) const EVENT_ACTION: u32 = 5;
pub(crate) const EVENT_SEPARATOR: u32 = 4;
/// In the policy, `counter` is asked for quotes and `adder` is called.
pub(crate) const COUNTER: &[u8] = b"image of counter";
pub(crate) const ADDER: &[u8] = b"image of adder";
/// What `counter` has in its micro-PCR 1.
pub(crate) const STATE: &[u8] = b"state of counter";

/// An event and the bytes whose hash it has.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) pcr: u8,
    pub(crate) kind: u32,
    pub(crate) measured: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) tpm: Family,
    pub(crate) form: Family,
    pub(crate) hardware: TestKey,
    pub(crate) attributes: u32,
    pub(crate) certificate: Option<Vec<u8>>,
    /// The bank that the hardware quotes, and the registers.
    pub(crate) selections: Vec<(u16, u32)>,
    pub(crate) hardware_extra: Option<Vec<u8>>,
    pub(crate) nonce: Vec<u8>,
    /// What the log says.
    pub(crate) events: Vec<Event>,
    /// What was extended, if the log lies.
    pub(crate) extended: Option<Vec<Event>>,
    /// The banks of the log.
    pub(crate) banks: Vec<u16>,
    pub(crate) identity: Vec<Vec<u8>>,
    pub(crate) signer: TestKey,
    pub(crate) signer_name: Option<Vec<u8>>,
    pub(crate) firmware: u64,
    pub(crate) micro_selections: Option<Vec<(u16, u32)>>,
    pub(crate) pcrs: Vec<(u8, Vec<u8>)>,
    pub(crate) extra: Option<Vec<u8>>,
    pub(crate) call: Option<CallClaim>,
}

impl World {
    /// `counter` answers a nonce.
    pub(crate) fn quote(family: Family) -> Self {
        let identity = [TestKey::Rsa(0), TestKey::P256(1)].map(TestKey::public);
        let hash = family.hash();
        Self {
            tpm: family,
            form: family,
            hardware: if family == Family::V20 { TestKey::P256(2) } else { TestKey::Rsa(1) },
            attributes: attribute::IDENTITY,
            certificate: None,
            selections: vec![(hash.number(), LAUNCH_PCRS)],
            hardware_extra: None,
            nonce: NONCE.into(),
            events: launch(&identity),
            extended: None,
            banks: vec![0x0b],
            identity: identity.into(),
            signer: if family == Family::V20 { TestKey::P256(1) } else { TestKey::Rsa(0) },
            signer_name: None,
            firmware: FIRMWARE,
            micro_selections: None,
            pcrs: vec![(0, hash.of(&[COUNTER])), (1, hash.of(&[STATE])), (5, vec![0; hash.size()])],
            extra: None,
            call: None,
        }
    }

    /// `adder` was called.
    pub(crate) fn call() -> Self {
        let input = crate::input(adds(), &[crate::Argument::Int(2), crate::Argument::In(&[3, 1])]).unwrap();
        let output = crate::output(6, &[]);
        let call = CallClaim {
            abi: 1,
            entry: 0,
            signature: adds().bytes(),
            nonce: NONCE,
            input_hash: sha256(&[&input]),
            output_hash: sha256(&[&output]),
            number: 1,
            chain: [0; 32],
            input: Some(input),
            output: Some(output),
        };
        let pcrs = vec![(0, Hash::Sha256.of(&[ADDER]))];
        Self { pcrs, call: Some(call), ..Self::quote(Family::V20) }
    }

    pub(crate) fn evidence(&self) -> Evidence {
        let quote = self.micro_quote();
        let quoted = self.hardware_quote(&quote.quoted);
        let hash = self.tpm.hash();
        let hardware = Hardware {
            signature: self.hardware.sign(hash, &quoted),
            key: self.hardware.public_with(self.attributes, hash),
            certificate: self.certificate.clone(),
            quoted,
        };
        Evidence {
            tpm: self.tpm,
            event_log: self.log(),
            hardware,
            identity: self.identity.clone(),
            quote,
            pcrs: self.pcrs.clone(),
            call: self.call.clone(),
        }
    }

    /// All steps, the file's included.
    pub(crate) fn verify(&self) -> Result<Verified, Failure> {
        let evidence = Evidence::parse(to_json(&self.evidence()).as_bytes())?;
        verify(&policy(self.tpm), &evidence, &challenge())
    }

    fn micro_quote(&self) -> Quote {
        let hash = self.form.hash();
        let extra = self.extra.clone().unwrap_or_else(|| match &self.call {
            Some(call) => [&[2][..], &call.digest()].concat(),
            None => [&[1][..], &self.nonce].concat(),
        });
        let bits = self.pcrs.iter().fold(0, |bits, (number, _)| bits | 1 << number);
        let values: Vec<u8> = self.pcrs.iter().flat_map(|(_, value)| value.clone()).collect();
        let quoted = match self.form {
            Family::V12 => info(bits, &values, &hash.of(&[&extra])),
            Family::V20 => {
                let name = [&[0, 0x0b][..], &sha256(&[&self.signer.public()])].concat();
                let signer = self.signer_name.clone().unwrap_or(name);
                let selections = self.micro_selections.clone().unwrap_or(vec![(hash.number(), bits)]);
                attest(&signer, &extra, self.firmware, &selections, &hash.of(&[&values]))
            }
        };
        Quote { form: self.form, signature: self.signer.sign(hash, &quoted), quoted }
    }

    fn hardware_quote(&self, micro: &[u8]) -> Vec<u8> {
        let hash = self.tpm.hash();
        let extra = self.hardware_extra.clone().unwrap_or_else(|| extra_data(self.tpm, &self.nonce, micro));
        let events = self.extended.as_ref().unwrap_or(&self.events);
        let value = |pcr| {
            let of_pcr = events.iter().filter(|event| event.pcr == pcr);
            of_pcr.fold(vec![0; hash.size()], |value, event| hash.of(&[&value, &hash.of(&[&event.measured])]))
        };
        let values: Vec<u8> = [17, 18, 19].into_iter().flat_map(value).collect();
        match self.tpm {
            Family::V12 => info(LAUNCH_PCRS, &values, &extra),
            // A TPM writes the qualified name of its key.
            Family::V20 => attest(
                &[&[0, 0x0b][..], &[9; 32]].concat(),
                &extra,
                7,
                &self.selections,
                &hash.of(&[&values]),
            ),
        }
    }

    fn log(&self) -> Vec<u8> {
        let mut log = Vec::new();
        if self.tpm == Family::V20 {
            let algorithms = self.banks.iter().flat_map(|bank| [*bank, size(*bank) as u16]);
            let algorithms: Vec<u8> = algorithms.flat_map(u16::to_le_bytes).collect();
            let count = (self.banks.len() as u32).to_le_bytes();
            let spec = [&b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02"[..], &count, &algorithms, &[0]].concat();
            log.extend(
                [&[0; 4][..], &[3, 0, 0, 0], &[0; 20], &(spec.len() as u32).to_le_bytes(), &spec].concat(),
            );
        }
        for event in &self.events {
            log.extend(u32::from(event.pcr).to_le_bytes());
            log.extend(event.kind.to_le_bytes());
            if self.tpm == Family::V12 {
                log.extend(Hash::Sha1.of(&[&event.measured]));
            } else {
                log.extend((self.banks.len() as u32).to_le_bytes());
                for bank in &self.banks {
                    let capped = || vec![0xca; size(*bank)];
                    let digest =
                        Hash::from_number(*bank).map_or_else(capped, |hash| hash.of(&[&event.measured]));
                    log.extend([&bank.to_le_bytes()[..], &digest].concat());
                }
            }
            log.extend((event.data.len() as u32).to_le_bytes());
            log.extend(&event.data);
        }
        log
    }
}

fn size(bank: u16) -> usize {
    Hash::from_number(bank).map_or(48, Hash::size)
}

pub(crate) fn adds() -> Signature {
    Signature::from_words(&["int", "in", "length"]).unwrap()
}

pub(crate) fn challenge() -> Challenge {
    Challenge::new(NONCE).unwrap()
}

/// TrustVisor's events.
pub(crate) fn launch(identity: &[Vec<u8>]) -> Vec<Event> {
    let event = |pcr, kind, measured: &[u8], data: &[u8]| Event {
        pcr,
        kind,
        measured: measured.into(),
        data: data.into(),
    };
    let mut events = vec![
        event(17, EVENT_IPL, b"the SLB", b"TrustVisor SLB"),
        event(17, EVENT_IPL, b"the runtime", b"TrustVisor runtime"),
        event(18, EVENT_ACTION, OPTIONS, OPTIONS),
    ];
    events.extend(identity.iter().map(|key| event(19, EVENT_ACTION, key, b"identity key")));
    events.push(event(19, EVENT_SEPARATOR, &[0; 4], &[0; 4]));
    events
}

fn attest(signer: &[u8], extra: &[u8], firmware: u64, selections: &[(u16, u32)], digest: &[u8]) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let mut attest = vec![0xff, b'T', b'C', b'G', 0x80, 0x18];
    attest.extend([sized(signer), sized(extra)].concat());
    // clock, resetCount, restartCount, safe
    attest.extend([&1234u64.to_be_bytes()[..], &3u32.to_be_bytes(), &[0; 4], &[1]].concat());
    attest.extend(firmware.to_be_bytes());
    attest.extend((selections.len() as u32).to_be_bytes());
    for (bank, bits) in selections {
        attest.extend([&bank.to_be_bytes()[..], &[3], &bits.to_le_bytes()[..3]].concat());
    }
    attest.extend(sized(digest));
    attest
}

fn info(bits: u32, values: &[u8], external: &[u8]) -> Vec<u8> {
    let size = (values.len() as u32).to_be_bytes();
    let composite = Hash::Sha1.of(&[&[0, 3], &bits.to_le_bytes()[..3], &size, values]);
    [b"\x01\x01\0\0QUOT", &composite[..], external].concat()
}

/// The file, as a machine writes it.
pub(crate) fn to_json(evidence: &Evidence) -> String {
    use base64ct::{Base64, Encoding};
    let text = |bytes: &[u8]| format!("\"{}\"", Base64::encode_string(bytes));
    let optional = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or("null".into(), |bytes| text(bytes));
    let Evidence { hardware, quote, .. } = evidence;
    let identity: Vec<_> = evidence.identity.iter().map(|key| text(key)).collect();
    let pcrs: Vec<_> =
        evidence.pcrs.iter().map(|(number, value)| format!("\"{number}\": \"{}\"", hex(value))).collect();
    let call = evidence.call.as_ref().map_or("null".into(), |call| {
        format!(
            "{{\n    \"abi\": {},\n    \"entry\": {},\n    \"signature\": \"{}\",\n    \"nonce\": \"{}\",\n    \
             \"input_hash\": \"{}\",\n    \"output_hash\": \"{}\",\n    \"number\": {},\n    \"chain\": \"{}\",\n    \
             \"input\": {},\n    \"output\": {}\n  }}",
            call.abi,
            call.entry,
            hex(call.signature),
            hex(call.nonce),
            hex(call.input_hash),
            hex(call.output_hash),
            call.number,
            hex(call.chain),
            optional(&call.input),
            optional(&call.output)
        )
    });
    format!(
        "{{\n  \"version\": 1,\n  \"tpm\": \"{}\",\n  \"event_log\": {},\n  \"hardware\": {{\n    \"quoted\": {},\n    \
         \"signature\": {},\n    \"key\": {},\n    \"certificate\": {}\n  }},\n  \"identity\": [{}],\n  \"quote\": {{\n    \
         \"form\": \"{}\",\n    \"quoted\": {},\n    \"signature\": {}\n  }},\n  \"pcrs\": {{{}}},\n  \"call\": {}\n}}\n",
        evidence.tpm,
        text(&evidence.event_log),
        text(&hardware.quoted),
        text(&hardware.signature),
        text(&hardware.key),
        optional(&hardware.certificate),
        identity.join(", "),
        quote.form,
        text(&quote.quoted),
        text(&quote.signature),
        pcrs.join(", "),
        call
    )
}

/// The policy that believes such machines; for TPM 2.0 it is the documented example.
pub(crate) fn policy(family: Family) -> Policy {
    Policy::parse(&policy_text(family)).unwrap()
}

pub(crate) fn policy_text(family: Family) -> String {
    let digests = |bytes: &[u8]| {
        let (sha1, sha256) = (Hash::Sha1.of(&[bytes]), Hash::Sha256.of(&[bytes]));
        format!("{{ sha1 = \"{}\", sha256 = \"{}\" }}", hex(sha1), hex(sha256))
    };
    let name = |key: TestKey, hash| {
        hex([&[0, 0x0b][..], &sha256(&[&key.public_with(attribute::IDENTITY, hash)])].concat())
    };
    include_str!("policy.toml")
        .replace("{family}", &family.to_string())
        .replace("{p256}", &name(TestKey::P256(2), Hash::Sha256))
        .replace("{rsa}", &name(TestKey::Rsa(1), family.hash()))
        .replace("{revoked}", &hex(sha256(&[b"a runtime with a hole"])))
        .replace("{slb}", &digests(b"the SLB"))
        .replace("{runtime}", &digests(b"the runtime"))
        .replace("{counter}", &digests(COUNTER))
        .replace("{adder}", &digests(ADDER))
        .replace("{state}", &digests(STATE))
}
