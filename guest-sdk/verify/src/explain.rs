//! What an evidence file claims, for a person to read.

use std::fmt::{self, Write};

use crate::event_log::EventLog;
use crate::evidence::{CallClaim, Evidence};
use crate::hash::{Family, hex};
use crate::key::{Key, Public};
use crate::quoted::Quoted;

impl Evidence {
    /// The claims, a line each. Nothing is checked but that they can be read; what others chose is printed without
    /// control characters.
    ///
    /// [`Evidence`] has an example.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "claims, nothing of this is verified:")?;
        writeln!(text, "hardware: TPM {}, {}", self.tpm, key(&self.hardware.key))?;
        if let Some(certificate) = &self.hardware.certificate {
            writeln!(text, "  with a certificate of {} bytes", certificate.len())?;
        }
        quoted(text, self.tpm, &self.hardware.quoted)?;
        writeln!(text, "event log:")?;
        match EventLog::parse(&self.event_log, self.tpm) {
            Ok(log) => log.events.iter().try_for_each(|event| {
                let (pcr, kind, digest) = (event.pcr, event.kind, hex(event.digest));
                writeln!(text, "  PCR {pcr} type {kind} {digest} \"{}\"", event.data.escape_ascii())
            })?,
            Err(error) => writeln!(text, "  unreadable: {error}")?,
        }
        for (index, bytes) in self.identity.iter().enumerate() {
            writeln!(text, "identity key {index}: {}", key(bytes))?;
        }
        writeln!(text, "micro-quote: form {}", self.quote.form)?;
        quoted(text, self.quote.form, &self.quote.quoted)?;
        for (number, value) in &self.pcrs {
            let what = if *number == 0 { " (the PAL's measurement)" } else { "" };
            writeln!(text, "  micro-PCR {number} {}{what}", hex(value))?;
        }
        match &self.call {
            Some(claim) => call(text, claim),
            None => writeln!(text, "no attested call"),
        }
    }
}

fn key(bytes: &[u8]) -> String {
    match Public::parse("key", bytes) {
        Ok(public) => {
            let kind = match &public.key {
                Key::Rsa { modulus, .. } => format!("RSA-{}", modulus.len() * 8),
                Key::P256 { .. } => "P-256".into(),
            };
            format!("{kind}, attributes {:#010x}, Name {}", public.attributes, hex(&public.name))
        }
        Err(error) => format!("unreadable: {error}"),
    }
}

fn quoted(text: &mut String, family: Family, bytes: &[u8]) -> fmt::Result {
    match Quoted::parse("quote", family, bytes) {
        Ok(Quoted::V20(attest)) => {
            writeln!(text, "  signed by the key {}", hex(&attest.signer))?;
            writeln!(text, "  over {}", hex(&attest.extra_data))?;
            let (boot, clock, firmware) = (attest.reset_count, attest.clock, attest.firmware);
            writeln!(text, "  boot {boot}, clock {clock} ms, firmware {firmware:#x}")
        }
        Ok(Quoted::V12 { external, .. }) => writeln!(text, "  over {}", hex(external)),
        Err(error) => writeln!(text, "  unreadable: {error}"),
    }
}

fn call(text: &mut String, claim: &CallClaim) -> fmt::Result {
    writeln!(text, "attested call: entry {}, signature {}", claim.entry, hex(claim.signature))?;
    writeln!(text, "  interface {}, call {} of this PAL", claim.abi, claim.number)?;
    writeln!(text, "  nonce  {}", hex(claim.nonce))?;
    for (what, hash, data) in
        [("H(in) ", claim.input_hash, &claim.input), ("H(out)", claim.output_hash, &claim.output)]
    {
        let shown =
            data.as_ref().map_or("not shown".into(), |data| format!("of {} bytes, shown", data.len()));
        writeln!(text, "  {what} {} ({shown})", hex(hash))?;
    }
    writeln!(text, "  chain  {}", hex(claim.chain))
}
