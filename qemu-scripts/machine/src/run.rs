//! `run`: boots the guest under TrustVisor, shows the console, and runs the example in it.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use hypervisor::options::COM1;
use loader::options::CommandLine;
use machine::{Accel, Artifacts, Boot, Family, Machine, Multiboot, say};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

use crate::demo;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Family of the machine's TPM
    #[arg(long, value_enum, default_value_t = Family::V20)]
    tpm: Family,
    /// Let SKINIT be #UD, as on a CPU without it
    #[arg(long)]
    no_skinit: bool,
    /// Boot the same guest without TrustVisor
    #[arg(long)]
    no_hypervisor: bool,
    /// A shell in the guest instead of the example (Ctrl-] leaves it)
    #[arg(long)]
    shell: bool,
    /// A demonstration in the full guest instead of the example
    #[arg(long, value_enum)]
    demo: Option<Demo>,
    #[command(flatten)]
    server: demo::Server,
    /// How QEMU executes the guest
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    accel: Accel,
    /// Number of processors
    #[arg(long, default_value_t = 1)]
    smp: u32,
    /// The protocol between GRUB and the loader
    #[arg(long, value_enum, default_value_t = Multiboot::Two)]
    multiboot: Multiboot,
    /// The loader's command line
    #[arg(long, default_value = "console=com1")]
    options: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Demo {
    /// Debian's Apache, for a client on this machine
    Apache,
}

/// From power on to the guest's last word.
const LIMIT: Duration = Duration::from_secs(240);
const SHELL_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
const POLL: Duration = Duration::from_millis(100);
const QUIET: &str = "console=ttyS0 quiet panic=-1";

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let built = machine::artifacts()?;
    built.announce();
    let boot = boot(arguments, &built);
    if arguments.shell {
        return shell(boot.interactive().run("shell").limit(SHELL_LIMIT).start()?);
    }
    if let Some(Demo::Apache) = arguments.demo {
        return demo::apache(boot, &arguments.server);
    }
    // Without TrustVisor there is nothing for the example to talk to.
    let what = if arguments.no_hypervisor { "uname,-a" } else { "hello" };
    say("starting the machine");
    let machine = boot.shown().run(what).limit(LIMIT).start()?;
    let exit = machine.wait_for("guest: exit ", LIMIT)?;
    machine.wait_until_off(Duration::from_secs(30))?;
    if !exit.text.ends_with("guest: exit 0") {
        bail!("the guest's program failed: {} (log: {})", exit.text, machine.log().display());
    }
    if !arguments.no_hypervisor {
        compare_pcrs(arguments, &built, &machine)?;
    }
    say(format_args!("done (log: {})", machine.log().display()));
    Ok(())
}

/// Whether the machine's PCRs are those that the build predicts: after a dynamic launch they must be.
fn compare_pcrs(arguments: &Arguments, built: &Artifacts, machine: &Machine) -> Result<()> {
    let expected = machine::predict(&built.hypervisor, &arguments.options)?;
    let lines = machine.lines();
    let CommandLine { options, .. } =
        CommandLine::parse(&arguments.options).map_err(|error| anyhow!("{error}"))?;
    if options.tpm_none != 0 || options.console != COM1 {
        say("the PCRs are not compared: nothing is measured, or the console does not tell");
        return Ok(());
    }
    for (register, pcr) in [(17, expected.pcr17), (18, expected.pcr18)] {
        let line = format!("slb: PCR {register} sha1 {}", pcr.sha1());
        let same = lines.contains(&line);
        match (same, arguments.no_skinit) {
            (true, _) => say(format_args!("PCR {register} holds the value that the build predicts")),
            (false, true) => say(format_args!("PCR {register} shows that this was no dynamic launch")),
            (false, false) => {
                bail!("PCR {register} is not the predicted one (log: {})", machine.log().display())
            }
        }
    }
    Ok(())
}

fn boot(arguments: &Arguments, built: &Artifacts) -> Boot {
    Boot::new("run", built)
        .kernel_options(QUIET)
        .options(&arguments.options)
        .tpm(arguments.tpm)
        .skinit(!arguments.no_skinit)
        .with_hypervisor(!arguments.no_hypervisor)
        .accel(arguments.accel)
        .processors(arguments.smp)
        .multiboot(arguments.multiboot)
}

/// Passes standard input to the machine until the machine is off or Ctrl-] is typed.
fn shell(machine: Machine) -> Result<()> {
    machine.wait_for("guest: shell", LIMIT)?;
    let _terminal = RawTerminal::enter()?;
    let machine = Arc::new(machine);
    let typed = machine.clone();
    let (leave, left) = mpsc::channel();
    thread::spawn(move || pass_input(&typed, &leave));
    while !machine.is_off() {
        match left.recv_timeout(POLL) {
            Ok(()) => break,
            Err(RecvTimeoutError::Timeout) => {}
            // Input has ended, what was typed still runs.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
        }
    }
    machine.switch_off();
    Ok(())
}

fn pass_input(machine: &Machine, leave: &mpsc::Sender<()>) {
    const LEAVE: u8 = 0x1d;
    let mut buffer = [0; 256];
    while let Ok(count) = io::stdin().read(&mut buffer) {
        if count == 0 {
            return;
        }
        if buffer[..count].contains(&LEAVE) || machine.send_bytes(&buffer[..count]).is_err() {
            break;
        }
    }
    // Nobody to tell: the machine is off already.
    let _ = leave.send(());
}

/// Keys go to the guest as they are typed, while this exists.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let stdin = io::stdin();
        if !isatty(stdin.as_fd()) {
            return Ok(Self(None));
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
            let _ = io::stdout().write_all(b"\r\n");
        }
    }
}
