//! `libtrustvisor_pkcs11.so` in the full guest under TrustVisor, used by programs that know nothing of it: OpenSC's pkcs11-tool, OpenSSL with
//! its engine, OpenSSH, GnuTLS's p11tool, and the integration tests of the crate `cryptoki`.

mod shared;

use std::sync::MutexGuard;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::{Boot, Machine, system};
use shared::Shared;
use trustvisor_tests::{SOON, built};

static MACHINE: Shared = Shared::new();

const LIMIT: Duration = Duration::from_secs(240);
const MODULE: &str = "/usr/local/lib/libtrustvisor_pkcs11.so";
const TOOL: &str = "pkcs11-tool --module /usr/local/lib/libtrustvisor_pkcs11.so --token-label test";

fn boot(name: &str) -> Result<Boot> {
    let limit = Duration::from_secs(1_200);
    Ok(Boot::new(name, built()?.as_ref()).system(&system()?).limit(limit))
}

/// With a token `test` whose user's PIN is 1234, and an RSA key `web` in it.
fn machine() -> Result<MutexGuard<'static, Machine>> {
    MACHINE.lend_prepared(
        || Ok((boot("pkcs11")?, ())),
        |machine| {
            machine.succeed(
                &format!("pkcs11-tool --module {MODULE} --init-token --label test --so-pin 5678"),
                LIMIT,
            )?;
            let set = format!("{TOOL} --login --login-type so --so-pin 5678 --init-pin --new-pin 1234");
            machine.succeed(&set, LIMIT)?;
            let pair =
                format!("{TOOL} --login --pin 1234 --keypairgen --key-type rsa:2048 --label web --id 01");
            machine.succeed(&pair, LIMIT).map(drop)
        },
    )
}

/// Runs a command with OpenSSL's engine and the module configured.
fn with_engine(machine: &Machine, command: &str) -> Result<Vec<String>> {
    let configuration = format!(
        "printf 'openssl_conf = d\\n[d]\\nengines = e\\n[e]\\npkcs11 = p\\n[p]\\nengine_id = pkcs11\\nMODULE_PATH = {MODULE}\\n\
         init = 0\\n[req]\\ndistinguished_name = n\\n[n]\\n' >/tmp/engine.cnf"
    );
    machine.succeed(&configuration, SOON)?;
    machine.succeed(&format!("OPENSSL_CONF=/tmp/engine.cnf; export OPENSSL_CONF; {command}"), LIMIT)
}

const KEY: &str = "'pkcs11:token=test;object=web;type=private?pin-value=1234'";

#[test]
fn pkcs11_tool_s_own_tests_pass() -> Result<()> {
    let machine = machine()?;
    for test in ["--test", "--test-ec"] {
        let so =
            if test == "--test-ec" { " --session-rw --id 02 --label ec --key-type EC:secp256r1" } else { "" };
        let output = machine.command(&format!("{TOOL} --login --pin 1234{so} {test} 2>&1"), LIMIT)?;
        output.lines.iter().for_each(|line| println!("pkcs11-tool {test}: {line}"));
        ensure!(output.code == 0, "pkcs11-tool {test} exits {}: {:?}", output.code, output.lines.last());
        let bad = output.lines.iter().find(|line| line.contains("ERR") || line.contains("FAIL"));
        ensure!(bad.is_none(), "pkcs11-tool {test}: {bad:?}");
    }
    Ok(())
}

#[test]
fn openssl_signs_and_serves_with_the_token_s_key() -> Result<()> {
    let machine = machine()?;
    let certificate = format!(
        "openssl req -new -x509 -sha256 -days 2 -subj /CN=localhost -engine pkcs11 -keyform engine -key {KEY} -out /tmp/web.pem"
    );
    with_engine(&machine, &certificate)?;
    machine.succeed("openssl verify -CAfile /tmp/web.pem /tmp/web.pem", SOON)?;
    machine.succeed(
        "openssl x509 -in /tmp/web.pem -noout -pubkey >/tmp/web.pub; head -c 9999 /dev/urandom >/tmp/data",
        SOON,
    )?;
    let sign = format!(
        "openssl dgst -sha256 -engine pkcs11 -keyform engine -sign {KEY} -out /tmp/data.sig /tmp/data"
    );
    with_engine(&machine, &sign)?;
    let verify = "openssl dgst -sha256 -verify /tmp/web.pub -signature /tmp/data.sig /tmp/data";
    machine.succeed(verify, SOON)?;
    ensure!(machine.command(&format!("echo x >>/tmp/data; {verify}"), SOON)?.code != 0, "anything verifies");
    for version in ["-tls1_2", "-tls1_3"] {
        let serve = format!(
            "openssl s_server -engine pkcs11 -keyform engine -key {KEY} -cert /tmp/web.pem -accept 4433 -www -naccept 1 \
             >/tmp/server 2>&1 & sleep 2; \
             echo | openssl s_client -connect 127.0.0.1:4433 {version} -CAfile /tmp/web.pem -verify_return_error 2>&1 | \
             grep 'Verify return code: 0'; wait"
        );
        let lines = with_engine(&machine, &serve)?;
        ensure!(lines.iter().any(|line| line.contains("code: 0 (ok)")), "{version}: {lines:?}");
    }
    Ok(())
}

#[test]
fn ssh_logs_in_with_the_token_s_key() -> Result<()> {
    let machine = machine()?;
    let prepare = "mkdir -p /root/.ssh /run/sshd; chmod 700 /root/.ssh; ssh-keygen -A >/dev/null; \
                   SSH_ASKPASS=/tmp/pin; printf '#!/bin/sh\\necho 1234\\n' >/tmp/pin; chmod +x /tmp/pin; \
                   ssh-keygen -D /usr/local/lib/libtrustvisor_pkcs11.so >/root/.ssh/authorized_keys; \
                   cat /root/.ssh/authorized_keys; /usr/sbin/sshd -p 2222";
    let keys = machine.succeed(prepare, LIMIT)?;
    ensure!(keys.iter().any(|line| line.starts_with("ssh-rsa ")), "no key: {keys:?}");
    let login = "DISPLAY=:0 SSH_ASKPASS=/tmp/pin SSH_ASKPASS_REQUIRE=force ssh -p 2222 -I /usr/local/lib/libtrustvisor_pkcs11.so \
                 -o StrictHostKeyChecking=no -o PasswordAuthentication=no root@127.0.0.1 'echo logged in as $USER' 2>/tmp/ssh.err; \
                 tail -n 3 /tmp/ssh.err";
    let said = machine.succeed(login, LIMIT)?;
    ensure!(said.iter().any(|line| line == "logged in as root"), "{said:?}");
    Ok(())
}

#[test]
fn p11tool_lists_the_token_and_its_keys() -> Result<()> {
    let machine = machine()?;
    let list =
        format!("GNUTLS_PIN=1234 p11tool --provider {MODULE} --login --list-all 'pkcs11:token=test' 2>&1");
    let lines = machine.succeed(&list, LIMIT)?;
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    ensure!(has("object=web;type=private") && has("CKA_SENSITIVE"), "{lines:?}");
    Ok(())
}

#[test]
fn an_old_token_file_is_refused_and_a_killed_process_loses_nothing() -> Result<()> {
    let machine = machine()?;
    let list = format!("{TOOL} --list-objects");
    machine.succeed("cp -a /var/lib/trustvisor/tokens/token-0 /tmp/old", SOON)?;
    let write = format!("{TOOL} --login --pin 1234 --write-object /etc/hostname --type data --label");
    machine.succeed(&format!("{write} new"), LIMIT)?;
    machine.succeed("cp -a /var/lib/trustvisor/tokens/token-0 /tmp/present; cp -a /tmp/old /var/lib/trustvisor/tokens/token-0", SOON)?;
    let rolled_back = machine.command(&format!("{list} 2>&1"), LIMIT)?;
    ensure!(rolled_back.code != 0, "an old file is taken: {:?}", rolled_back.lines);
    machine.succeed("cp -a /tmp/present /var/lib/trustvisor/tokens/token-0", SOON)?;
    for attempt in 0..6 {
        let killed =
            format!("{write} killed{attempt} & sleep 0.{}; kill -9 $! 2>/dev/null; wait", attempt + 1);
        machine.command(&killed, LIMIT)?;
        let objects = machine.succeed(&format!("{TOOL} --login --pin 1234 --list-objects"), LIMIT)?;
        ensure!(objects.iter().any(|line| line.contains("web")), "the key is lost: {objects:?}");
    }
    Ok(())
}

/// Root's wrong PINs are counted, whatever process shows them; the officer gives the tries back.
#[test]
fn wrong_pins_lock_the_token() -> Result<()> {
    let machine = machine()?;
    let login = |pin: &str| format!("{TOOL} --login --pin {pin} --list-objects --type privkey 2>&1");
    let mut wrong = 0;
    while !machine.command(&login("4321"), LIMIT)?.lines.iter().any(|line| line.contains("PIN_LOCKED")) {
        wrong += 1;
        ensure!(wrong < 20, "the token is never locked");
    }
    ensure!(wrong >= 8, "locked after {wrong} wrong PINs");
    ensure!(machine.command(&login("1234"), LIMIT)?.code != 0, "the right PIN unlocks it");
    let set = format!("{TOOL} --login --login-type so --so-pin 5678 --init-pin --new-pin 1234");
    machine.succeed(&set, LIMIT)?;
    let keys = machine.succeed(&login("1234"), LIMIT)?;
    ensure!(keys.iter().any(|line| line.contains("web")), "{keys:?}");
    Ok(())
}

/// On a curve, and by schemes with context and pre-hash, that the token does not have.
const NOT_OURS: [&str; 2] =
    ["sign_verify_eddsa_with_ed448_schemes", "sign_verify_eddsa_with_ed25519_schemes"];

/// The tests of the crate `cryptoki`, half of them on each of two machines: each initialises the token, and the hardware TPM
/// keeps a launch's first 256 versions at once.
fn cryptoki(name: &str, half: usize) -> Result<()> {
    let machine = boot(name)?.start()?;
    machine.wait_until_ready()?;
    let environment = format!("TEST_PKCS11_MODULE={MODULE} TEST_PRETEND_LIBRARY=softhsm");
    // One of them allocates 4 GiB and touches none of it.
    machine.succeed("echo 1 >/proc/sys/vm/overcommit_memory", SOON)?;
    let (mut passed, mut failed) = (0, Vec::new());
    for program in ["cryptoki-basic", "cryptoki-allowed_mechanisms"] {
        let list = machine.succeed(&format!("{program} --list"), SOON)?;
        let tests: Vec<_> = list.iter().filter_map(|line| line.strip_suffix(": test")).collect();
        let mine: Vec<_> =
            tests.into_iter().filter(|test| !NOT_OURS.contains(test)).skip(half).step_by(2).collect();
        let run = format!("{environment} {program} --test-threads=1 --exact {} 2>&1", mine.join(" "));
        let output = machine.command(&run, Duration::from_secs(900))?;
        for line in output.lines.iter().filter(|line| line.starts_with("test ")) {
            if line.ends_with("... ok") {
                passed += 1;
            } else if !line.contains("... ignored") && !line.starts_with("test result") {
                failed.push(line.clone());
            }
        }
        if output.code != 0 {
            output.lines.iter().for_each(|line| println!("{name}: {line}"));
        }
        let result = output.lines.iter().find(|line| line.starts_with("test result"));
        println!("{name}: {program}: {}", result.context("no result")?);
    }
    ensure!(failed.is_empty() && passed > 30, "{passed} passed, failed: {failed:?}");
    Ok(())
}

#[test]
fn cryptoki_s_own_tests_pass_first_half() -> Result<()> {
    cryptoki("pkcs11-cryptoki-1", 0)
}

#[test]
fn cryptoki_s_own_tests_pass_second_half() -> Result<()> {
    cryptoki("pkcs11-cryptoki-2", 1)
}
