//! Evidence: all that a verifier far away needs to believe a quote or an attested call, in one file. `trustvisor-verify` checks it.

use crate::tpm::{HardwareQuote, hardware_quote};
use crate::{Error, Pal, Quoting, event_log};
use abi::quote::{AttestedCall, key};
use std::fmt::Write;

/// A quote, not yet tied to the machine.
struct Quote {
    quoted: Vec<u8>,
    signature: Vec<u8>,
    /// The selected micro-PCRs (SHA-256 bank), in ascending order.
    pcrs: Vec<(u8, [u8; 32])>,
    call: Option<Call>,
}

struct Call {
    entry: u16,
    signature: [u8; 6],
    nonce: [u8; 32],
    call: AttestedCall,
}

/// An attested call that was made. There is evidence of it until the next one to the same PAL.
#[must_use]
pub struct Attested<'a> {
    pal: &'a Pal,
    entry: u16,
    nonce: [u8; 32],
}

impl<'a> Attested<'a> {
    /// The last attested call to this PAL, which was of this entry and with this nonce.
    pub fn last(pal: &'a Pal, entry: u16, nonce: &[u8; 32]) -> Self {
        Self { pal, entry, nonce: *nonce }
    }

    /// Evidence of it.
    pub fn evidence(&self, quoting: &Quoting) -> Result<String, Error> {
        self.evidence_with(quoting, &[])
    }

    /// Evidence of it, and of micro-PCRs 1 to 7, in ascending order, with the values that S says they have (SHA-256 bank).
    pub fn evidence_with(&self, quoting: &Quoting, pcrs: &[(u8, [u8; 32])]) -> Result<String, Error> {
        let Self { pal, entry, nonce } = *self;
        let select =
            pcrs.iter().fold(1, |select, (pcr, _)| select | 1u8.checked_shl((*pcr).into()).unwrap_or(0));
        let (call, report) = pal.call_report(select, key::P256)?;
        let (quoted, signature) = quoting.sign(&report)?;
        let call = Some(Call { entry, signature: pal.signature(entry)?, nonce, call });
        evidence(quoting, &Quote { quoted, signature, pcrs: with_identity(pal, pcrs)?, call }, &nonce)
    }
}

impl Pal {
    /// Evidence for a report of S ([`key::RSA`] or [`key::P256`]) with this nonce, on its identity and on micro-PCRs 1 to 7, in ascending
    /// order, with the values that S says they have (SHA-256 bank).
    pub fn evidence(
        &self,
        quoting: &Quoting,
        report: &[u8],
        nonce: &[u8],
        pcrs: &[(u8, [u8; 32])],
    ) -> Result<String, Error> {
        let (quoted, signature) = quoting.sign(report)?;
        evidence(quoting, &Quote { quoted, signature, pcrs: with_identity(self, pcrs)?, call: None }, nonce)
    }
}

fn with_identity(pal: &Pal, pcrs: &[(u8, [u8; 32])]) -> Result<Vec<(u8, [u8; 32])>, Error> {
    let identity = (0, pal.info()?.measurement.sha256);
    Ok([&[identity], pcrs].concat())
}

/// Has the hardware TPM quote the launch for this nonce and this quote, and puts all together.
fn evidence(quoting: &Quoting, quote: &Quote, nonce: &[u8]) -> Result<String, Error> {
    let hardware = hardware_quote(nonce, &quote.quoted)?;
    Ok(format(&event_log()?, &hardware, &quoting.public_keys()?, quote))
}

/// The canonical file: these keys in this order.
fn format(event_log: &[u8], hardware: &HardwareQuote, identity: &[Vec<u8>], quote: &Quote) -> String {
    let identity: Vec<_> = identity.iter().map(|key| format!("\"{}\"", base64(key))).collect();
    let pcrs: Vec<_> =
        quote.pcrs.iter().map(|(pcr, value)| format!("\"{pcr}\": \"{}\"", hex(value))).collect();
    let call = quote.call.as_ref().map_or("null".into(), format_call);
    format!(
        "{{\n  \"version\": 1,\n  \"tpm\": \"{}\",\n  \"event_log\": \"{}\",\n  \"hardware\": {{ \"quoted\": \"{}\", \
         \"signature\": \"{}\", \"key\": \"{}\", \"certificate\": null }},\n  \"identity\": [{}],\n  \"quote\": {{ \
         \"form\": \"2.0\", \"quoted\": \"{}\", \"signature\": \"{}\" }},\n  \"pcrs\": {{ {} }},\n  \"call\": {call}\n}}\n",
        hardware.family,
        base64(event_log),
        base64(&hardware.quoted),
        base64(&hardware.signature),
        base64(&hardware.key),
        identity.join(", "),
        base64(&quote.quoted),
        base64(&quote.signature),
        pcrs.join(", "),
    )
}

fn format_call(call: &Call) -> String {
    let Call { entry, signature, nonce, call } = call;
    format!(
        "{{ \"abi\": {}, \"entry\": {entry}, \"signature\": \"{}\", \"nonce\": \"{}\", \"input_hash\": \"{}\", \
         \"output_hash\": \"{}\", \"number\": {}, \"chain\": \"{}\", \"input\": null, \"output\": null }}",
        abi::VERSION,
        hex(signature),
        hex(nonce),
        hex(&call.input_hash),
        hex(&call.output_hash),
        call.number,
        hex(&call.chain),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 4648, 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let byte = |i: usize| u32::from(part.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= part.len() { digit.into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648, 10.
    #[test]
    fn base64_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}
