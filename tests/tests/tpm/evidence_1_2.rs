//! From S in the guest to a verifier outside, on a machine with a TPM 1.2: its attestation key, which is made once, and the hardware quote
//! by it; and what openssl says of that, by the specification alone.

use anyhow::{Context, Result, ensure};
use machine::{Family, Machine};
use serde_json::Value;
use sha1::{Digest, Sha1};
use trustvisor_tests::{SOON, pcr_in_guest};
use trustvisor_verify::{Challenge, Evidence, Policy, Step, verify};

use super::evidence::{ENTRY, NONCE, base64, fails, file, give_nonce, hex, name, policy, signed_1_2};
use super::{Computer, another_tpm, from_hex, length};

const AIK: &str = "/var/lib/trustvisor/aik";
const MAKE: &str = "trustvisor tpm aik --owner-password /tmp/owner";

#[test]
fn a_verifier_believes_s_beside_a_tpm_1_2() -> Result<()> {
    let computer = Computer::with(Family::V12)?;
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    machine.succeed(&give_nonce(), SOON)?;
    says(&machine, "tvtest evidence", "this TPM 1.2 has no attestation key yet")?;
    // The owner's secret is the digest of 20 zero bytes here (`swtpm_setup --owner-well-known`).
    says(&machine, "trustvisor tpm aik", "the TPM's owner has another password")?;
    machine.succeed("head -c 20 /dev/zero >/tmp/owner", SOON)?;
    let pinned = machine.succeed(MAKE, SOON)?.concat();
    is_believed(&machine, &pinned)?;
    let size = length(&machine, AIK)?;
    machine.succeed(&format!("cat {AIK} >/dev/vda && sync"), SOON)?;
    drop(machine);

    // The key is made once.
    let restore = format!("mkdir -p /var/lib/trustvisor && head -c {size} /dev/vda >{AIK}");
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    machine.succeed(&format!("{restore} && {}", give_nonce()), SOON)?;
    is_believed(&machine, &pinned)?;
    drop(machine);
    another_tpm(computer.family, &computer.tpm())?;
    let machine = computer.start(computer.boot()?, "none was handed in")?;
    machine.succeed(&format!("{restore} && head -c 20 /dev/zero >/tmp/owner"), SOON)?;
    says(&machine, "trustvisor tpm aik", "is no attestation key of this TPM")?;
    let made = machine.succeed(&format!("rm {AIK} && {MAKE}"), SOON)?.concat();
    ensure!(made != pinned && made.len() == pinned.len(), "{made} beside {pinned}");
    // It takes one of few places in the TPM, and gives it back.
    machine.succeed("for i in $(seq 30); do trustvisor tpm aik || exit 1; done", SOON)?;
    Ok(())
}

fn says(machine: &Machine, command: &str, why: &str) -> Result<()> {
    let output = machine.command(&format!("{command} 2>&1"), SOON)?;
    ensure!(output.code != 0, "{command} succeeds");
    ensure!(output.lines.iter().any(|line| line.contains(why)), "{command}: {:?}", output.lines);
    Ok(())
}

/// Evidence made now, by a policy that pins this key; and nothing else is.
fn is_believed(machine: &Machine, pinned: &str) -> Result<()> {
    ensure!(machine.succeed("trustvisor tpm aik", SOON)?.concat() == pinned, "another key");
    machine.succeed("tvtest evidence", SOON)?;
    let challenge = Challenge::new(NONCE)?;
    for (name, entry) in [("call.json", Some(("reverse", ENTRY))), ("p256.json", None)] {
        let evidence = file(machine, name)?;
        let policy = policy(&evidence, entry)?;
        ensure!(policy.contains("tpm = \"1.2\"") && policy.contains(pinned), "another policy: {policy}");
        let verified = verify(&Policy::parse(&policy)?, &Evidence::parse(evidence.as_bytes())?, &challenge)?;
        println!("{verified:?}");

        let step = fails(&policy, &evidence, &Challenge::new([1; 32])?)?;
        ensure!(step == Step::HardwareQuote, "another nonce: {step}");
        let step = fails(&policy.replace(pinned, &format!("000b{}", "0".repeat(64))), &evidence, &challenge)?;
        ensure!(step == Step::HardwareKey, "another key: {step}");
        let step = fails(&policy.replace("tpm = \"1.2\"", "tpm = \"2.0\""), &evidence, &challenge)?;
        ensure!(step == Step::HardwareKey, "another family: {step}");
        let json: Value = serde_json::from_str(&evidence)?;
        let changed = |value: &Value, at: usize| -> Result<String> {
            use base64ct::{Base64, Encoding};
            let mut bytes = base64(value)?;
            bytes[at] ^= 1;
            Ok(evidence.replace(value.as_str().context("no text")?, &Base64::encode_string(&bytes)))
        };
        // The digest of the first event; that of the PCRs.
        let step = fails(&policy, &changed(&json["event_log"], 8)?, &challenge)?;
        ensure!(step == Step::EventLog, "another event: {step}");
        let step = fails(&policy, &changed(&json["hardware"]["quoted"], 8)?, &challenge)?;
        ensure!(step == Step::HardwareSignature, "another PCR: {step}");
        openssl(machine, &json)?;
    }
    Ok(())
}

/// The hardware quote once more from the specification (TPM Main 1.2 part 2, 8.2 and 11.3): of the PCRs as Linux reads them, for nonce and
/// micro-quote; signed by the key of this Name.
fn openssl(machine: &Machine, evidence: &Value) -> Result<()> {
    let mut composite = vec![0, 3, 0, 0, 0b1110, 0, 0, 0, 60];
    for register in 17..20 {
        composite.extend(from_hex(&pcr_in_guest(machine, "sha1", register)?)?);
    }
    let micro = Sha1::digest(base64(&evidence["quote"]["quoted"])?);
    let external = Sha1::digest([&b"TV-HW-1"[..], &NONCE, &micro].concat());
    let expected = [&[1, 1, 0, 0][..], b"QUOT", &Sha1::digest(composite), &external].concat();
    let part = |name| base64(&evidence["hardware"][name]);
    let quoted = part("quoted")?;
    ensure!(quoted == expected, "quoted {}", hex(&quoted));
    println!("openssl verifies by {}", name(evidence)?);
    signed_1_2(&part("key")?, &quoted, &part("signature")?)
}
