//! From S in the guest to a verifier outside: the whole chain, and the stock tools' word on its parts.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use machine::Machine;
use serde_json::Value;
use sha1::{Digest, Sha1};
use trustvisor_tests::SOON;
use trustvisor_verify::{Challenge, Evidence, Policy, Step, verify};

use super::secrets::{Keys, Pem, search};
use super::{Computer, LATE, from_hex, word_after};
pub(super) use crate::policy::{base64, hex, name, policy};

pub(super) const NONCE: [u8; 32] = [0x5a; 32];
/// The index of S's `reverse`.
pub(super) const ENTRY: u16 = 5;
/// Little, to be searched soon.
const RAM_MIB: u32 = 512;

/// A machine whose RSA identity key was saved in an earlier boot answers a nonce.
#[test]
fn a_verifier_believes_s_and_nobody_else() -> Result<()> {
    let mut computer = Computer::new()?;
    let pem = Pem::on(&computer.disk())?;
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    computer.seal(&machine)?;
    // The key is made once: it stays what it was.
    machine.succeed(
        "cp /tmp/root /tmp/first && trustvisor root save /tmp/root && cmp /tmp/first /tmp/root",
        LATE,
    )?;
    drop(machine);
    let machine = computer.start(computer.boot()?.memory_mib(RAM_MIB), "the saved one, opened")?;
    machine.succeed("trustvisor root save /tmp/root", SOON)?;
    ensure!(super::length(&machine, "/tmp/root")? == computer.root.len(), "another key");

    machine.succeed(&format!("{} && tvtest evidence", give_nonce()), SOON)?;
    let measurement =
        word_after(&machine.succeed("tvtest quote-1.2 | tee /tmp/quote12", SOON)?, "tvtest: identity ")?;
    let call = file(&machine, "call.json")?;
    let quotes = [("rsa", 0), ("p256", 1)].map(|(name, key)| (file(&machine, &format!("{name}.json")), key));
    checks_1_2(&machine, &measurement)?;

    let policy = policy(&call, Some(("reverse", ENTRY)))?;
    let challenge = Challenge::new(NONCE)?;
    let verified = verify(&Policy::parse(&policy)?, &Evidence::parse(call.as_bytes())?, &challenge)?;
    println!("{verified:?}");
    // For another nonce, another output, another entry, another release, another machine: not believed.
    fails(&policy, &call, &Challenge::new([1; 32])?)?;
    let mut other = challenge.clone();
    other.output = Some(trustvisor_verify::output(0, &[b"Output = S(Input)"]));
    fails(&policy, &call, &other)?;
    let mut right = challenge.clone();
    right.output = Some(trustvisor_verify::output(0, &[b")tupnI(S = tuptuO"]));
    verify(&Policy::parse(&policy)?, &Evidence::parse(call.as_bytes())?, &right)?;
    let mut other = challenge.clone();
    other.entry = Some(ENTRY + 1);
    fails(&policy, &call, &other)?;
    let json: Value = serde_json::from_str(&call)?;
    let release = fs::read_to_string(machine::root().join("build/release.toml"))?;
    let runtime = release.split_once("runtime").and_then(|(_, rest)| rest.split_once("sha256 = \""));
    let runtime = &runtime.context("no runtime")?.1[..64];
    for digest in [runtime, &name(&json)?, json["pcrs"]["0"].as_str().context("no PCR 0")?] {
        fails(&policy.replace(digest, &"0".repeat(digest.len())), &call, &challenge)?;
    }

    for (quote, key) in quotes {
        let quote = quote?;
        let policy = self::policy(&quote, None)?;
        verify(&Policy::parse(&policy)?, &Evidence::parse(quote.as_bytes())?, &challenge)?;
        // A quote is no call, and a call no quote.
        fails(&policy, &call, &challenge)?;
        checkquote(&quote, key)?;
    }
    let noted = hex(&sha2::Sha256::digest([[0; 32], [0x33; 32]].as_flattened()));
    for (name, entry) in [("pcrs.json", None), ("call-pcrs.json", Some(("reverse", ENTRY)))] {
        let quote = file(&machine, name)?;
        let pcrs = format!("name = \"S\"\npcrs = {{ 2 = {{ sha256 = \"{noted}\" }} }}\n");
        let policy = self::policy(&quote, entry)?.replace("name = \"S\"\n", &pcrs);
        verify(&Policy::parse(&policy)?, &Evidence::parse(quote.as_bytes())?, &challenge)?;
        fails(&policy.replace(&noted, &"0".repeat(noted.len())), &quote, &challenge)?;
    }
    let [rsa, p256] = [0, 1].map(|key| base64(&json["identity"][key]));
    let (rsa, p256) = (rsa?, p256?);
    // TPMT_PUBLICs: both end in a TPM2B for each number.
    let point = [&p256[22..54], &p256[56..88]].concat();
    let keys = Keys { modulus: &rsa[24..], point: point.as_slice().try_into()? };
    search(&machine, u64::from(RAM_MIB) << 20, &computer.disk(), &keys, &pem)
}

/// The command that gives the guest the nonce.
pub(super) fn give_nonce() -> String {
    let octal: String = NONCE.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("printf '{octal}' >/tmp/nonce")
}

pub(super) fn file(machine: &Machine, name: &str) -> Result<String> {
    let lines = machine.succeed(&format!("xxd -p /tmp/{name}"), SOON)?;
    Ok(String::from_utf8(from_hex(&lines.concat())?)?)
}

pub(super) fn fails(policy: &str, evidence: &str, challenge: &Challenge) -> Result<Step> {
    match verify(&Policy::parse(policy)?, &Evidence::parse(evidence.as_bytes())?, challenge) {
        Ok(_) => bail!("believed"),
        Err(failure) => {
            println!("{failure}");
            Ok(failure.step())
        }
    }
}

/// `tpm2_checkquote` verifies the hardware quote and the micro-quote, with nonce, PCR values and hash given.
fn checkquote(evidence: &str, key: usize) -> Result<()> {
    let json: Value = serde_json::from_str(evidence)?;
    let quoted = base64(&json["quote"]["quoted"])?;
    let pcr0 = from_hex(json["pcrs"]["0"].as_str().context("no PCR 0")?)?;
    let over = [&[1][..], &NONCE].concat();
    let signature = base64(&json["quote"]["signature"])?;
    tool(&base64(&json["identity"][key])?, &quoted, &signature, Some((&pcr0, "sha256:0")), &over)?;
    let extra = sha2::Sha256::new().chain_update(b"TV-HW-1").chain_update(NONCE);
    let extra = extra.chain_update(sha2::Sha256::digest(&quoted)).finalize();
    let hardware = |name| base64(&json["hardware"][name]);
    tool(&hardware("key")?, &hardware("quoted")?, &hardware("signature")?, None, &extra)
}

fn tool(key: &[u8], quoted: &[u8], signature: &[u8], pcrs: Option<(&[u8], &str)>, over: &[u8]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let public = [&(key.len() as u16).to_be_bytes()[..], key].concat();
    for (name, bytes) in [("key", &public[..]), ("quoted", quoted), ("signature", signature)] {
        fs::write(path(name), bytes)?;
    }
    let mut command = Command::new("tpm2_checkquote");
    command.current_dir(folder.path());
    command.args(["-u", "key", "-m", "quoted", "-s", "signature", "-g", "sha256", "-q", &hex(over)]);
    if let Some((values, selection)) = pcrs {
        fs::write(path("values"), values)?;
        command.args(["-f", "values", "-l", selection]);
    }
    run(command)
}

/// openssl's word on a quote of the 1.2 form, whose structure is written here once more from the specification (TPM Main 1.2
/// part 2, 5.4.1 and 11.3).
fn checks_1_2(machine: &Machine, identity: &str) -> Result<()> {
    let lines = machine.succeed("cat /tmp/quote12", SOON)?;
    let bytes = |what: &str| from_hex(&word_after(&lines, &format!("tvtest: {what} "))?);
    let (quoted, signature, public) = (bytes("quoted")?, bytes("signature")?, bytes("public")?);
    let pcr2 = Sha1::digest([[0; 20], [0x33; 20]].concat());
    let composite = [&[0, 3, 0b101, 0, 0, 0, 0, 0, 40][..], &from_hex(identity)?, &pcr2].concat();
    let external = Sha1::digest([&[1][..], b"nonce of 1.2"].concat());
    let expected = [&[1, 1, 0, 0][..], b"QUOT", &Sha1::digest(composite), &external].concat();
    ensure!(quoted == expected, "quoted {}", hex(&quoted));
    signed_1_2(&public, &quoted, &signature)
}

/// openssl's word on a signature of the 1.2 form (RSASSA with SHA-1), as TPMT_SIGNATURE, by an RSA-2048 key, as TPMT_PUBLIC whose last part
/// the modulus is.
pub(super) fn signed_1_2(public: &[u8], quoted: &[u8], signature: &[u8]) -> Result<()> {
    ensure!(signature[..6] == [0, 0x14, 0, 4, 1, 0], "signature {}", hex(signature));
    let modulus = public.last_chunk::<256>().context("no modulus")?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    // SubjectPublicKeyInfo of an RSA-2048 key with exponent 65537 (RFC 8017, A.1.1; RFC 3279, 2.3.1).
    let head = "30820122300d06092a864886f70d01010105000382010f003082010a0282010100";
    let key = [&from_hex(head)?[..], modulus, &[2, 3, 1, 0, 1]].concat();
    for (name, bytes) in [("key", &key[..]), ("quoted", quoted), ("signature", &signature[6..])] {
        fs::write(path(name), bytes)?;
    }
    let mut command = Command::new("openssl");
    command.current_dir(folder.path()).args(["dgst", "-sha1", "-keyform", "DER", "-verify", "key"]);
    command.args(["-signature", "signature", "quoted"]);
    run(command)
}

fn run(mut command: Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(output.status.success(), "{command:?}: {said:?}");
    Ok(())
}
