//! The OS keeps its TPM: Linux's driver and Debian's tools work at locality 0, for either family; what TrustVisor measured is out of their
//! reach, and localities 1 to 4 are not there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::{Boot, Family, Machine, tpm_tools};
use trustvisor_tests::{SOON, built, pcr_in_guest};

use super::from_hex;

/// For many commands of the tools.
const LONG: Duration = Duration::from_secs(120);
/// TPM_RC_LOCALITY (TPM 2.0 Library part 2, 6.6.3).
const RC_LOCALITY: &str = "0x907";
/// TPM_RC_AUTH_UNAVAILABLE; TPM_RC_POLICY_FAIL, of session 1; TPM_RC_VALUE, of parameter 1: as the tools print them.
const RC_AUTH_UNAVAILABLE: &str = "0x12F";
const RC_POLICY_FAIL: &str = "0x99D";
const RC_VALUE: &str = "0x1C4";
/// What TrustVisor measured, for the tools.
const LAUNCHED: &str = "sha256:17,18,19";
/// TPM_BAD_LOCALITY, TPM_NOTLOCAL (TPM Main 1.2 part 2, 16).
const BAD_LOCALITY: u32 = 0x3d;
const NOT_LOCAL: u32 = 0x33;

fn start(family: Family) -> Result<Machine> {
    let tools = tpm_tools()?;
    let boot = Boot::new("tpm-tools", built()?.as_ref()).tpm(family);
    // The kernel unpacks one archive after the other.
    let machine = boot.modules(|modules| modules[2].bytes.extend(&tools)).start()?;
    machine.wait_until_ready()?;
    Ok(machine)
}

/// PCR 17 to 19 as Linux reads them.
fn measurements(machine: &Machine, bank: &str) -> Result<Vec<String>> {
    let values = (17..20).map(|register| pcr_in_guest(machine, bank, register));
    let values = values.collect::<Result<Vec<_>>>()?;
    let good = |value: &String| value.bytes().any(|digit| digit != b'0') && value.bytes().any(|d| d != b'f');
    ensure!(values.iter().all(good), "no measurements: {values:?}");
    Ok(values)
}

/// The command fails, and says this.
fn fails(machine: &Machine, command: &str, why: &str) -> Result<()> {
    let output = machine.command(&format!("{command} 2>&1"), SOON)?;
    ensure!(output.code != 0, "{command} succeeds");
    ensure!(output.lines.iter().any(|line| line.contains(why)), "{command}: {:?}", output.lines);
    Ok(())
}

#[test]
fn linux_and_tpm2_tools_have_their_tpm_but_for_what_trustvisor_measured() -> Result<()> {
    let machine = start(Family::V20)?;
    let before = [measurements(&machine, "sha1")?, measurements(&machine, "sha256")?];
    let succeed = |command: &str| machine.succeed(command, SOON);

    ensure!(succeed("ls -1 /dev/tpm0 /dev/tpmrm0")?.len() == 2, "no devices");
    let random = [succeed("tpm2_getrandom --hex 16")?, succeed("tpm2_getrandom --hex 16")?];
    ensure!(random[0] != random[1] && random[0].concat().len() == 32, "random numbers: {random:?}");
    let read = succeed(&format!("tpm2_pcrread {LAUNCHED}"))?.concat().to_lowercase();
    ensure!(before[1].iter().all(|value| read.contains(value)), "{read} instead of {before:?}");

    let digest = "5a".repeat(32);
    for register in [16, 23] {
        let fresh = pcr_in_guest(&machine, "sha256", register)?;
        succeed(&format!("tpm2_pcrextend {register}:sha256={digest}"))?;
        ensure!(pcr_in_guest(&machine, "sha256", register)? != fresh, "PCR {register} is not extended");
        succeed(&format!("tpm2_pcrreset {register}"))?;
        ensure!(pcr_in_guest(&machine, "sha256", register)? == fresh, "PCR {register} is not reset");
    }
    beside_increments(&machine)?;
    succeed("tpm2_nvdefine -C o -s 32 0x1500001 && tpm2_nvundefine -C o 0x1500001")?;

    for register in 17..20 {
        fails(&machine, &format!("tpm2_pcrextend {register}:sha256={digest}"), RC_LOCALITY)?;
        fails(&machine, &format!("tpm2_pcrreset {register}"), RC_LOCALITY)?;
    }
    machine.succeed("tvtest localities", SOON)?;
    let after = [measurements(&machine, "sha1")?, measurements(&machine, "sha256")?];
    ensure!(before == after, "{after:?} instead of {before:?}");
    Ok(())
}

/// The saved root is a file, and its parent a key that everybody can have the TPM make: it loads, and does not open.
#[test]
fn tpm2_tools_load_the_saved_root_and_cannot_open_it() -> Result<()> {
    let machine = start(Family::V20)?;
    let lines = machine.succeed("tvtest save-root && head -c 1024 /tmp/root | xxd -p -c 1024", SOON)?;
    let root = from_hex(lines.last().context("no root")?)?;
    // Behind the magic: TPM2B_PRIVATE, TPM2B_PUBLIC (hypervisor/src/tpm/root20.rs).
    let mut at = 8;
    for name in ["private", "public"] {
        let size = root.get(at..at + 2).context("no saved root")?;
        let size = 2 + usize::from(size[0]) * 256 + usize::from(size[1]);
        machine.succeed(&format!("tail -c +{} /tmp/root | head -c {size} >/tmp/{name}", at + 1), SOON)?;
        at += size;
    }
    let parent = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
    let parent =
        format!("tpm2_createprimary -Q -C o -g sha256 -G ecc256:aes128cfb -a '{parent}' -c /tmp/parent");
    machine.succeed(&parent, SOON)?;
    let load = |private, public| {
        machine.succeed(&format!("tpm2_load -Q -C /tmp/parent -r {private} -u {public} -c /tmp/object"), SOON)
    };
    let session = "tpm2_startauthsession --policy-session -S /tmp/session";
    let policy = |locality: &str| {
        format!(
            "tpm2_policylocality -Q -S /tmp/session {locality} && tpm2_policypcr -Q -S /tmp/session -l {LAUNCHED}"
        )
    };
    let end = "tpm2_flushcontext /tmp/session";
    let unseal = "tpm2_unseal -c /tmp/object -p session:/tmp/session";

    // The same way opens what was sealed for the OS.
    let own = format!(
        "tpm2_startauthsession -S /tmp/session && {} -L /tmp/policy && {end} && echo open | tpm2_create -Q -C /tmp/parent \
         -a 'fixedtpm|fixedparent|adminwithpolicy|noda' -L /tmp/policy -i - -r /tmp/own-private -u /tmp/own-public",
        policy("zero")
    );
    machine.succeed(&own, SOON)?;
    load("/tmp/own-private", "/tmp/own-public")?;
    let opened = machine.succeed(&format!("{session} && {} && {unseal} && {end}", policy("zero")), SOON)?;
    ensure!(opened.concat() == "open", "opened {opened:?}");

    load("/tmp/private", "/tmp/public")?;
    fails(&machine, "tpm2_unseal -c /tmp/object", RC_AUTH_UNAVAILABLE)?;
    for locality in ["zero", "one"] {
        machine.succeed(&format!("{session} && {}", policy(locality)), SOON)?;
        fails(&machine, unseal, RC_POLICY_FAIL)?;
        machine.succeed(end, SOON)?;
    }
    // PCR 19 was zero when it was sealed, and is not any more.
    let values = [17, 18].map(|register| pcr_in_guest(&machine, "sha256", register));
    let values = values.into_iter().chain([Ok("0".repeat(64))]).collect::<Result<String>>()?;
    machine.succeed(&format!("echo {values} | xxd -r -p >/tmp/values && {session}"), SOON)?;
    let then = format!("tpm2_policypcr -Q -S /tmp/session -l {LAUNCHED} -f /tmp/values");
    fails(&machine, &then, RC_VALUE)
}

/// The tools, while S's counters are incremented: all that is asked for is done.
fn beside_increments(machine: &Machine) -> Result<()> {
    let tools = "tpm2_createprimary -G ecc -c /tmp/primary && tpm2_flushcontext -t && \
         tpm2_create -G ecc -C /tmp/primary -u /tmp/public -r /tmp/private && tpm2_flushcontext -t && \
         tpm2_getrandom --hex 16 && tpm2_pcrread sha256:17,18,19";
    let rounds = format!("for round in 1 2; do {tools} || exit 1; done; touch /tmp/stop");
    let both = format!("tvtest count-meanwhile & ( {rounds} ) >/dev/null && wait $!");
    let lines = machine.succeed(&both, LONG)?;
    let count = lines.iter().find_map(|line| line.strip_prefix("tvtest: increments meanwhile "));
    let count: u32 = count.context("nothing is counted")?.parse()?;
    ensure!(count >= 10, "{count} increments alone");
    Ok(())
}

/// A command of TPM 1.2 as it is, to the driver; the code that comes back.
fn raw(machine: &Machine, command: &[u8]) -> Result<u32> {
    let octal: String = command.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let exchange = format!("(printf '{octal}' >&3; head -c 4096 <&3 | xxd -p) 3<>/dev/tpm0");
    let lines = machine.succeed(&exchange, SOON)?.concat();
    u32::from_str_radix(lines.get(12..20).context("no answer")?, 16).context("no code")
}

#[test]
fn linux_and_trousers_have_their_tpm_1_2_but_for_what_trustvisor_measured() -> Result<()> {
    let machine = start(Family::V12)?;
    let before = measurements(&machine, "sha1")?;
    // TrouSerS wants to be somebody else, and to be asked over the network.
    let daemon = "echo root:x:0:0::/root:/bin/sh >/etc/passwd; echo tss:x:100:100::/var/lib/tpm:/bin/sh >>/etc/passwd; \
         echo tss:x:100: >/etc/group; echo 127.0.0.1 localhost >/etc/hosts; touch /etc/tcsd.conf; \
         chown root:tss /etc/tcsd.conf; chmod 640 /etc/tcsd.conf; chown tss:tss /var/lib/tpm; chmod 700 /var/lib/tpm; \
         chown tss:tss /dev/tpm0; tcsd";
    machine.succeed(daemon, SOON)?;
    let version =
        machine.succeed("for i in 1 2 3 4 5 6 7 8 9 10; do tpm_version && break; sleep 1; done", SOON)?;
    ensure!(version.iter().any(|line| line.contains("Chip Version") && line.contains("1.2")), "{version:?}");
    machine.succeed("tpm_selftest", SOON)?;
    machine.succeed("tpm_nvinfo", SOON)?;
    // The driver gives the TPM to one at a time.
    machine.succeed("killall tcsd; while ! true 3<>/dev/tpm0; do sleep 1; done", Duration::from_secs(30))?;

    // TPM_Extend (TPM Main 1.2 part 3, 16.1), TPM_PCR_Reset (16.4).
    let extend = |register: u8| {
        let head = [0, 0xc1, 0, 0, 0, 34, 0, 0, 0, 0x14, 0, 0, 0, register];
        raw(&machine, &[&head[..], &[0x5a; 20]].concat())
    };
    let reset = |register: u8| {
        let mut select = [0, 3, 0, 0, 0];
        select[2 + usize::from(register / 8)] = 1 << (register % 8);
        raw(&machine, &[&[0, 0xc1, 0, 0, 0, 15, 0, 0, 0, 0xc8][..], &select].concat())
    };
    for register in [16, 23] {
        ensure!((extend(register)?, reset(register)?) == (0, 0), "PCR {register}");
    }
    for register in 17..20 {
        let codes = (extend(register)?, reset(register)?);
        ensure!(codes == (BAD_LOCALITY, NOT_LOCAL), "PCR {register}: {codes:x?}");
    }
    machine.succeed("tvtest localities", SOON)?;
    let after = measurements(&machine, "sha1")?;
    ensure!(before == after, "{after:?} instead of {before:?}");
    Ok(())
}
