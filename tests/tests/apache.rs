//! Debian's unmodified Apache in the full guest under TrustVisor, its private key a PEM file or in a PKCS#11 token: what a client on this
//! machine sees, and what root in the guest finds when it searches memory and disk for the key.

#[path = "shared/policy.rs"]
mod policy;
mod shared;

use std::sync::MutexGuard;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::apache::{self, HTTPS, Key};
use machine::{Boot, Machine, system};
use shared::Shared;
use trustvisor_tests::{SOON, built};
use trustvisor_verify::{Challenge, Evidence, Policy, token_key, verify};

static MACHINE: Shared = Shared::new();

const SEARCH_LIMIT: Duration = Duration::from_secs(400);
/// Little, to be searched soon.
const RAM_MIB: u32 = 640;
const VERSIONS: [&str; 2] = ["1.3", "1.2"];

fn machine() -> Result<MutexGuard<'static, Machine>> {
    MACHINE.lend(|| {
        let boot = Boot::new("apache", built()?.as_ref()).memory_mib(RAM_MIB);
        let boot = boot.system(&system()?).forward(HTTPS);
        Ok((boot.limit(Duration::from_secs(1_500)), ()))
    })
}

#[test]
fn a_key_in_a_file_serves_and_root_finds_it() -> Result<()> {
    let machine = machine()?;
    serves(&machine, Key::Pem)?;
    let found = search(&machine, Key::Pem)?;
    ensure!(found.factors == 2, "of two factors root finds {}", found.factors);
    for place in ["physical memory", "processes", "the disk"] {
        ensure!(found.hits(place)? > 0, "root finds no factor in {place}");
    }
    Ok(())
}

#[test]
fn a_key_in_softhsm_serves() -> Result<()> {
    serves(&*machine()?, Key::Softhsm)
}

#[test]
fn a_key_in_s_serves_and_root_does_not_find_it() -> Result<()> {
    let machine = machine()?;
    serves(&machine, Key::Trustvisor)?;
    let found = search(&machine, Key::Trustvisor)?;
    ensure!(found.factors == 0, "root finds {} factors: {:?}", found.factors, found.lines);
    Ok(())
}

/// What the client has asked for with her nonce, and the certificate that the server shows: she believes, for a policy that lists this
/// build, this machine's TPM and the token's S, that the key was made in S and stays there.
#[test]
fn a_client_verifies_that_the_key_is_s_s_own() -> Result<()> {
    const NONCE: [u8; 32] = [0x5a; 32];
    let machine = machine()?;
    let certificate = apache::start(&machine, Key::Trustvisor)?;
    ensure!(apache::fetch(&machine, &certificate, "1.3")? == Key::Trustvisor.page());
    let nonce = policy::hex(&NONCE);
    machine.succeed(
        &format!(
            "echo 1234 >/tmp/pin; trustvisor-token evidence --pin /tmp/pin --label web --nonce {nonce} \
             --statement /tmp/statement --evidence /tmp/evidence"
        ),
        SEARCH_LIMIT,
    )?;
    let [statement, evidence] = ["/tmp/statement", "/tmp/evidence"].map(|file| bytes(&machine, file));
    let (statement, evidence) = (statement?, String::from_utf8(evidence?)?);
    let quoted = token_key::nonce(&statement, certificate.as_bytes(), &NONCE)?;
    let text = policy::policy(&evidence, None)?;
    let believed = |policy: &str, nonce| {
        let (policy, evidence) = (Policy::parse(policy)?, Evidence::parse(evidence.as_bytes())?);
        Ok::<_, anyhow::Error>(verify(&policy, &evidence, &Challenge::new(nonce)?).is_ok())
    };
    ensure!(believed(&text, quoted)?, "the evidence is not believed");
    let measured = machine.succeed("trustvisor measure /usr/local/lib/trustvisor/pkcs11-pal", SOON)?;
    let measured = measured.iter().find_map(|line| line.strip_prefix("sha256 ")).context("no measurement")?;
    ensure!(text.contains(measured), "the quote is of another S than was built");
    ensure!(!believed(&text.replace(measured, &"0".repeat(64)), quoted)?, "any S is believed");
    ensure!(!believed(&text, [1; 32])?, "evidence for anything is believed");

    // Neither another key of the token, nor the PEM key's certificate, nor an imported key.
    let pem = apache::start(&machine, Key::Pem)?;
    ensure!(token_key::nonce(&statement, pem.as_bytes(), &NONCE).is_err(), "another certificate is believed");
    ensure!(token_key::nonce(&statement, certificate.as_bytes(), &[1; 32]).is_err(), "an old statement");
    Ok(())
}

fn bytes(machine: &Machine, file: &str) -> Result<Vec<u8>> {
    let lines = machine.succeed(&format!("busybox xxd -p {file}"), SOON)?.concat();
    let pairs = lines.trim().as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(str::from_utf8(pair)?, 16)?)).collect()
}

#[test]
fn a_client_refuses_another_certificate() -> Result<()> {
    let machine = machine()?;
    apache::start(&machine, Key::Pem)?;
    let other = "openssl req -new -x509 -newkey rsa:2048 -noenc -keyout /dev/null -subj /CN=localhost \
                 -addext subjectAltName=IP:127.0.0.1 2>/dev/null";
    let other = machine.succeed(other, SOON)?.join("\n");
    ensure!(
        apache::fetch(&machine, &other, "1.3").is_err(),
        "the server has a certificate that it does not have"
    );
    Ok(())
}

#[test]
fn the_full_guest_without_trustvisor() -> Result<()> {
    let boot = Boot::new("apache-bare", built()?.as_ref()).with_hypervisor(false);
    let machine = boot.system(&system()?).forward(HTTPS).start()?;
    machine.wait_until_ready()?;
    let certificate = apache::start(&machine, Key::Pem)?;
    ensure!(apache::fetch(&machine, &certificate, "1.3")? == Key::Pem.page());
    let output = machine.command("trustvisor info", SOON)?;
    ensure!(output.code == 1, "TrustVisor is there: {:?}", output.lines);
    Ok(())
}

/// Starts the server and looks at it as a client: at once, after a graceful restart, and after its children were killed.
fn serves(machine: &Machine, key: Key) -> Result<()> {
    let certificate = apache::start(machine, key)?;
    let fetch = |when: &str| {
        for version in VERSIONS {
            let page = apache::fetch(machine, &certificate, version);
            let page = page.with_context(|| format!("{when}, by TLS {version}"))?;
            ensure!(page == key.page(), "{when}, by TLS {version}: {page:?}");
        }
        Ok(())
    };
    fetch("at first")?;
    machine.succeed("apachectl graceful", SOON)?;
    fetch("after a graceful restart")?;
    let before = children(machine)?;
    machine.succeed(&format!("kill -9 {}", before.join(" ")), SOON)?;
    fetch("after its children were killed")?;
    let after = children(machine)?;
    ensure!(!after.is_empty(), "Apache has no children");
    let survivor = after.iter().find(|child| before.contains(child));
    ensure!(survivor.is_none(), "a child was not killed: {before:?}, {after:?}");
    Ok(())
}

fn children(machine: &Machine) -> Result<Vec<String>> {
    let children = "parent=$(cat /run/apache2/apache2.pid) && cat /proc/$parent/task/$parent/children";
    let lines = machine.succeed(children, SOON)?;
    Ok(lines.concat().split_whitespace().map(str::to_owned).collect())
}

struct Found {
    factors: u32,
    lines: Vec<String>,
}

impl Found {
    /// Of `search: PLACE: SIZE MiB, COUNT hits...`.
    fn hits(&self, place: &str) -> Result<u32> {
        let start = format!("search: {place}: ");
        let line = self.lines.iter().find_map(|line| line.strip_prefix(&start));
        let hits = line.and_then(|line| line.split(", ").nth(1)?.strip_suffix(" hits")?.parse().ok());
        hits.with_context(|| format!("{place} was not searched: {:?}", self.lines))
    }
}

/// Has root look for the key of this certificate.
fn search(machine: &Machine, key: Key) -> Result<Found> {
    let modulus = apache::modulus(machine, key)?;
    let search = format!("tvtest search {modulus} /dev/vda");
    // An idle server may have a key in clear only while it signs; one that reads it from a file has it all the time.
    let search = match key {
        Key::Pem => format!("sync; {search}"),
        _ => format!(
            "sync; ab -q -n 1000000 -c 2 -f TLS1.3 https://127.0.0.1/ >/dev/null 2>&1 & {search}; code=$?; kill $!; exit $code"
        ),
    };
    let lines = machine.succeed(&search, SEARCH_LIMIT)?;
    let factors = lines
        .iter()
        .find_map(|line| line.strip_prefix("search: ")?.strip_suffix(" factors found")?.parse().ok());
    Ok(Found { factors: factors.context("the search has no end")?, lines })
}
