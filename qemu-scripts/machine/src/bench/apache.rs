//! What it costs a web server that its private key is a token's: handshakes a second of Debian's Apache, all by a client beside it in the
//! full guest, and signatures a second. In the guest's time, which goes by instructions (two nanoseconds each): that of this machine would
//! measure what else it does.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machine::apache::{self, Key};
use machine::{Artifacts, Boot, Machine, say, system};

use super::{Values, round};

const ICOUNT: [&str; 2] = ["-icount", "shift=1,sleep=off"];
const NANOSECONDS: f64 = 2.0;
const LIMIT: Duration = Duration::from_secs(600);
const REQUESTS: u32 = 400;
const CONCURRENT: u32 = 200;
const VERSIONS: [&str; 2] = ["1.3", "1.2"];
const SIGNATURES: u32 = 200;

pub(super) fn run(built: &Artifacts, values: &mut Values) -> Result<()> {
    let boot = Boot::new("bench-apache", built).system(&system()?);
    let machine = boot.qemu(&ICOUNT).limit(LIMIT * 3).start()?;
    machine.wait_until_ready()?;
    let keys = [Key::Pem, Key::Softhsm, Key::Trustvisor];
    for key in keys {
        // Ours has the names without another.
        let name = if key == Key::Trustvisor { String::new() } else { format!("{}_", key.name()) };
        apache::start(&machine, key)?;
        for version in VERSIONS {
            say(format_args!("apache: handshakes by TLS {version}, the key: {}", key.name()));
            let cost = handshakes(&machine, version)?;
            let tls = format!("tls{}", version.replace('.', ""));
            values.insert(format!("apache_{name}{tls}_per_s"), round(cost.per_second));
            if version == "1.3" {
                values.insert(format!("{name}exits_per_handshake"), round(cost.exits));
                values.insert(format!("{name}instructions_per_handshake"), round(cost.instructions));
            }
            if key != Key::Pem {
                let pem = values.get(&format!("apache_pem_{tls}_per_s")).context("PEM is first")?;
                values.insert(format!("apache_{name}{tls}_ratio"), round(cost.per_second / pem));
            }
        }
        say(format_args!("apache: signatures, the key: {}", key.name()));
        let signatures = match key.module() {
            None => openssl_speed(&machine)?,
            Some(module) => signatures(&machine, module, key.name())?,
        };
        values.insert(format!("sign_{name}rsa2048_per_s"), round(signatures));
        if key != Key::Pem {
            let pem = values.get("sign_pem_rsa2048_per_s").context("PEM is first")?;
            values.insert(format!("sign_{name}rsa2048_ratio"), round(signatures / pem));
        }
    }
    Ok(())
}

struct Cost {
    per_second: f64,
    exits: f64,
    instructions: f64,
}

fn handshakes(machine: &Machine, version: &str) -> Result<Cost> {
    let bench = |requests: u32, concurrent: u32| {
        let options = format!("-q -n {requests} -c {concurrent} -f TLS{version}");
        format!("tvtest counted ab {options} https://localhost/index.html 2>&1")
    };
    // The children start, and find their token.
    machine.succeed(&bench(50, 50), LIMIT)?;
    let lines = machine.succeed(&bench(REQUESTS, CONCURRENT), LIMIT)?;
    // ab takes a failed handshake for a complete request.
    let failed = lines.iter().find(|line| {
        line.contains("handshake failed") || line.starts_with("Non-2xx") || line.starts_with("Total of ")
    });
    ensure!(failed.is_none(), "{failed:?}");
    let number = |of: &str| first_number(&lines, of);
    let (complete, failed) = (number("Complete requests:")?, number("Failed requests:")?);
    ensure!(complete == f64::from(REQUESTS) && failed == 0.0, "{complete} complete, {failed} failed");
    let counted = lines.iter().find_map(|line| counted(line)).context("nothing is counted")?;
    let requests = f64::from(REQUESTS);
    Ok(Cost {
        per_second: number("Requests per second:")?,
        exits: counted.0 / requests,
        instructions: counted.1 / NANOSECONDS / requests,
    })
}

fn first_number(lines: &[String], start: &str) -> Result<f64> {
    let line = lines.iter().find_map(|line| line.strip_prefix(start));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).with_context(|| format!("no {start:?} in {lines:?}"))
}

/// `counted: EXITS exits in TIME ns`.
fn counted(line: &str) -> Option<(f64, f64)> {
    let (exits, time) = line.strip_prefix("counted: ")?.split_once(" exits in ")?;
    Some((exits.parse().ok()?, time.strip_suffix(" ns")?.parse().ok()?))
}

/// `rsa 2048 bits 0.008000s 0.000250s    125.0   4000.0`: the last but one is signatures a second.
fn openssl_speed(machine: &Machine) -> Result<f64> {
    let lines = machine.succeed("openssl speed -seconds 3 rsa2048 2>/dev/null", LIMIT)?;
    let line = lines.iter().find(|line| line.starts_with("rsa 2048 bits")).context("no speed")?;
    line.split_whitespace().rev().nth(1).and_then(|word| word.parse().ok()).context("no number")
}

fn signatures(machine: &Machine, module: &str, token: &str) -> Result<f64> {
    let lines = machine.succeed(&format!("pkcs11-speed {module} {token} 1234 {SIGNATURES}"), LIMIT)?;
    let line = lines.iter().find_map(|line| line.strip_prefix("signed: ")).context("nothing is signed")?;
    let (count, time) = line.split_once(" in ").context("no time")?;
    let time: f64 = time.trim_end_matches(" ns").parse()?;
    Ok(count.parse::<f64>()? * 1e9 / time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read() {
        assert_eq!(counted("counted: 120 exits in 3000 ns"), Some((120.0, 3000.0)));
        assert_eq!(counted("counted: failed: no command"), None);
        let lines = ["Requests per second:    289.24 [#/sec] (mean)".to_owned()];
        assert!((first_number(&lines, "Requests per second:").unwrap() - 289.24).abs() < 1e-9);
        assert!(first_number(&lines, "Failed requests:").is_err());
    }
}
