//! A verifier's policy for what is tested.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::Digest;

/// Believes this build, this machine's TPM and S.
pub fn policy(evidence: &str, entry: Option<(&str, u16)>) -> Result<String> {
    let json: Value = serde_json::from_str(evidence)?;
    let (tpm, name) = (json["tpm"].as_str().context("no TPM")?, name(&json)?);
    let measurement = json["pcrs"]["0"].as_str().context("no PCR 0")?;
    let release = fs::read_to_string(machine::root().join("build/release.toml"))?;
    let mut policy = format!(
        "tpm = \"{tpm}\"\nminimum_security_version = 1\noptions = [\"dma=protected\\ntpm=required\\n\"]\n\
         [[hardware_key]]\nmachine = \"this one\"\nname = \"{name}\"\n{release}\n[[pal]]\nname = \"S\"\n\
         measurement = {{ sha256 = \"{measurement}\" }}\n"
    );
    if let Some((name, number)) = entry {
        policy += &format!(
            "[[pal.entry]]\nnumber = {number}\nname = \"{name}\"\nsignature = [\"in-out\", \"length\"]\n"
        );
    }
    Ok(policy)
}

/// Of the attestation key, as enrolment would tell it.
pub fn name(evidence: &Value) -> Result<String> {
    let key = base64(&evidence["hardware"]["key"])?;
    Ok(hex(&[&[0, 0x0b][..], &sha2::Sha256::digest(&key)].concat()))
}

pub fn base64(value: &Value) -> Result<Vec<u8>> {
    use base64ct::{Base64, Encoding};
    Base64::decode_vec(value.as_str().context("no text")?).map_err(|error| anyhow::anyhow!("{error}"))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
