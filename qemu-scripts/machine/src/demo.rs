//! `run --demo apache`: Apache in the full guest, whose private key is a token's, for a client on this machine.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use machine::apache::{self, HTTPS, Key};
use machine::{Boot, build_dir, say, system};

#[derive(clap::Args)]
pub(crate) struct Server {
    /// With --demo: where the server's private key is
    #[arg(long, value_enum, default_value_t = Key::Trustvisor, requires = "demo")]
    key: Key,
    /// With --demo: how long the server runs (else until Ctrl-C)
    #[arg(long, value_name = "SECONDS", requires = "demo")]
    seconds: Option<u64>,
}

const A_DAY: u64 = 24 * 60 * 60;
/// For it to be ready.
const START: Duration = Duration::from_secs(10 * 60);
const POLL: Duration = Duration::from_millis(200);

pub(crate) fn apache(boot: Boot, arguments: &Server) -> Result<()> {
    let time = Duration::from_secs(arguments.seconds.unwrap_or(A_DAY));
    let system = system()?;
    say("starting the machine");
    let boot = boot.system(&system).forward(HTTPS).run("serve").limit(time.saturating_add(START));
    let machine = boot.start()?;
    machine.wait_until_ready()?;
    say(format_args!("starting Apache in it, the key: {}", arguments.key.name()));
    let certificate = apache::start(&machine, arguments.key)?;
    let file = build_dir().join("demo-apache.pem");
    std::fs::write(&file, &certificate)?;
    let page = apache::fetch(&machine, &certificate, "1.3")?;
    say(format_args!("https://127.0.0.1:{}/ says: {}", machine.forwarded()?, page.trim_end()));
    let client = apache::client(&machine, &file)?;
    let words = client.get_args().map(|word| word.to_string_lossy());
    println!("curl {}", words.collect::<Vec<_>>().join(" "));
    say("Ctrl-C ends it");
    let end = Instant::now() + time;
    while Instant::now() < end {
        ensure!(!machine.is_off(), "the machine is off (log: {})", machine.log().display());
        thread::sleep(POLL);
    }
    Ok(())
}
