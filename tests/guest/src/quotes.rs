//! Quotes, as an application has them made: S's report, and the quoting PAL.

use crate::support::{IMAGE, TestPal, header, hex, register};
use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};
use std::fs;
use trustvisor::abi::quote::{AttestedCall, MAX_NONCE, MAX_REPORT, TAG_CALL, TAG_QUOTE, key};
use trustvisor::abi::{Status, VERSION};
use trustvisor::args::{Argument, Registers};
use trustvisor::{Error, Out, Quoting, image};

/// Index of S's entry.
const REVERSE: u16 = 5;
/// What S answers where there is no report.
const FAILED: u64 = 0x100_0000;

fn report(s: &TestPal, select: u8, key: u8, nonce: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = vec![0; MAX_REPORT];
    let length = s.report(u32::from(key) << 8 | u32::from(select), nonce, Out(&mut out))?;
    ensure!(length < FAILED, "no report: {length:#x}");
    out.truncate(length as usize);
    Ok(out)
}

pub fn run() -> anyhow::Result<()> {
    let (s, quoting) = (register()?, Quoting::register()?);
    let report = report(&s, 1, key::P256, b"nonce")?;
    let (quoted, signature) = quoting.sign(&report)?;
    ensure!(quoted[44..50] == [&[TAG_QUOTE][..], b"nonce"].concat(), "another nonce");
    ensure!(signature.len() == 72, "{} bytes of signature", signature.len());
    ensure!(quoting.sign(&report)?.1 == signature, "ECDSA is deterministic here");

    // What TrustVisor did not write is not signed, whatever it says.
    for at in [0, 31, 32, 33, 44, 60, report.len() - 1] {
        let mut forged = report.clone();
        forged[at] ^= 1;
        ensure!(matches!(quoting.sign(&forged), Err(Error::Quoting)), "signed a report changed at {at}");
    }
    for length in [0, 1, 32, report.len() - 1] {
        ensure!(matches!(quoting.sign(&report[..length]), Err(Error::Quoting)), "signed {length} bytes");
    }

    let none = |what, nonce: &[u8], status: Status| -> anyhow::Result<()> {
        let answer = s.report(what, nonce, Out(&mut [0; MAX_REPORT]))?;
        ensure!(answer == FAILED + status as u64, "{what:#x}: {answer:#x}");
        Ok(())
    };
    none(0xfe | u32::from(key::P256) << 8, b"", Status::BadArgument)?;
    none(1 | u32::from(key::P256) << 8, &[0; MAX_NONCE + 1], Status::BadArgument)?;
    none(1 | 7 << 8, b"", Status::Unsupported)?;
    if trustvisor::saved_key().is_err() {
        none(1 | u32::from(key::RSA) << 8, b"", Status::Unsupported)?;
    }

    // The keys of the launch are the quoting PAL's alone.
    ensure!(s.hypercall(0x87, 0, 0)? == Status::Unsupported as u64, "S got the keys");
    let keys = quoting.public_keys()?;
    ensure!(keys.last().is_some_and(|key| key.len() == 88), "no P-256 key");
    s.unregister()?;
    Ok(())
}

/// The digest that the report of the last attested call is on, and what TrustVisor says of the call.
fn attested(s: &TestPal, quoting: &Quoting) -> anyhow::Result<(Vec<u8>, AttestedCall)> {
    let (call, report) = s.pal().call_report(1, key::P256)?;
    let (quoted, signature) = quoting.sign(&report)?;
    ensure!(quoted[42..45] == [0, 33, TAG_CALL] && signature.len() == 72, "no quote of a call");
    Ok((quoted[45..77].to_vec(), call))
}

/// S reverses a long buffer while the timer interrupts; the hashes are the application's own of what it gave and got.
pub fn calls() -> anyhow::Result<()> {
    let (s, quoting) = (register()?, Quoting::register()?);
    let none = s.pal().call_report(1, key::P256);
    ensure!(none.is_err_and(|error| error.status() == Some(Status::Unsupported)), "attested nothing");
    let before: Vec<u8> = (0..40_000u32).map(|i| (i / 3) as u8).collect();
    let mut chain = [0; 32];
    for round in 1..=3u8 {
        let mut data = before.clone();
        let mut registers = Registers::default();
        data.as_mut_slice().put(&mut registers);
        let value = s.pal().call_attested(REVERSE, registers, &[round; 32])?;
        ensure!(data.iter().eq(before.iter().rev()), "not reversed");
        let words = [0, before.len() as u64, 0, 0, 0, 0].map(u64::to_le_bytes);
        let input_hash = sha256(&[words.as_flattened(), &before]);
        let output_hash = sha256(&[&value.to_le_bytes(), &data]);
        let (digest, call) = attested(&s, &quoting)?;
        let expected = AttestedCall { input_hash, output_hash, number: round.into(), chain };
        ensure!(call == expected, "TrustVisor says {call:?} of round {round}");
        let signature = header().entries[usize::from(REVERSE)].args;
        let fields: [&[u8]; 8] = [
            &VERSION.to_be_bytes(),
            &REVERSE.to_be_bytes(),
            &signature,
            &[round; 32],
            &call.input_hash,
            &call.output_hash,
            &call.number.to_be_bytes(),
            &call.chain,
        ];
        let prefixed = fields.map(|field| [&(field.len() as u16).to_be_bytes()[..], field].concat());
        ensure!(digest == sha256(&prefixed.each_ref().map(Vec::as_slice)), "another digest of round {round}");
        chain = sha256(&[&chain, &digest]);
    }
    s.unregister()?;
    Ok(())
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

/// Evidence for a verifier outside: a call with its nonce, and a quote.
pub fn evidence() -> anyhow::Result<()> {
    let (s, quoting) = (register()?, Quoting::register()?);
    let nonce: [u8; 32] = *fs::read("/tmp/nonce")?.first_chunk().context("a nonce of 32 bytes")?;
    let mut data = b"Output = S(Input)".to_vec();
    let ((), call) = s.attested(&nonce).reverse(&mut data)?;
    ensure!(data == b")tupnI(S = tuptuO", "not reversed");
    fs::write("/tmp/call.json", call.evidence(&quoting)?)?;
    for (name, key) in [("p256", key::P256), ("rsa", key::RSA)] {
        if key == key::P256 || trustvisor::saved_key().is_ok() {
            let evidence = s.pal().evidence(&quoting, &report(&s, 1, key, &nonce)?, &nonce, &[])?;
            fs::write(format!("/tmp/{name}.json"), evidence)?;
        }
    }
    // And of what S has noted since it began.
    ensure!(s.pcr_extend(2, &[0x33; 52])? == 0, "PCR 2");
    let noted = sha256(&[&[0; 32], &[0x33; 32]]);
    let evidence =
        s.pal().evidence(&quoting, &report(&s, 0b101, key::P256, &nonce)?, &nonce, &[(2, noted)])?;
    fs::write("/tmp/pcrs.json", evidence)?;
    let ((), call) = s.attested(&nonce).reverse(&mut data)?;
    fs::write("/tmp/call-pcrs.json", call.evidence_with(&quoting, &[(2, noted)])?)?;
    s.unregister()?;
    Ok(())
}

/// Prints a quote of the 1.2 form and what is needed to check it.
pub fn print_1_2() -> anyhow::Result<()> {
    let (s, quoting) = (register()?, Quoting::register()?);
    ensure!(s.pcr_extend(2, &[0x33; 52])? == 0, "PCR 2");
    let (quoted, signature) = quoting.sign(&report(&s, 0b101, key::RSA_SHA1, b"nonce of 1.2")?)?;
    println!("tvtest: quoted {}", hex(&quoted));
    println!("tvtest: signature {}", hex(&signature));
    println!("tvtest: public {}", hex(&quoting.public_keys()?[0]));
    println!("tvtest: identity {}", hex(&image::measure(IMAGE).sha1));
    s.unregister()?;
    Ok(())
}
