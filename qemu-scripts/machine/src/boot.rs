//! Describes a machine and what it boots, and starts it.

use std::fs::{self, File};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::{Artifacts, DEFAULT_OPTIONS};
use crate::console::{Console, Echo};
use crate::files;
use crate::flatten::symbol;
use crate::iso::{self, Start};
use crate::machine::{Machine, Parts};
use crate::paths::log_dir;
use crate::process::Process;
use crate::qmp::Qmp;
use crate::skinit::{self, StandIn, Tampering};
use crate::tpm::{Family, Locality4, Tpm};

/// Which multiboot protocol GRUB speaks with the loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Multiboot {
    /// Multiboot 0.6.96.
    #[value(name = "1")]
    One,
    /// Multiboot 2.
    #[value(name = "2")]
    Two,
}

/// How QEMU executes the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// QEMU's translator.
    Tcg,
    /// KVM, on a machine with nested SVM.
    Kvm,
}

/// A boot module and its command line.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its contents.
    pub bytes: Vec<u8>,
    /// Its command line.
    pub options: String,
}

/// A machine to be. All that is not said is as on an ordinary AMD machine with TPM 2.0 under TrustVisor.
#[derive(Clone, Debug)]
pub struct Boot {
    name: String,
    loader: Vec<u8>,
    options: String,
    modules: Vec<Module>,
    multiboot: Multiboot,
    hypervisor: bool,
    skinit: bool,
    tampering: Vec<Tampering>,
    tpm: Option<Family>,
    accel: Accel,
    cpu: String,
    processors: u32,
    memory_mib: u32,
    reboots: bool,
    qemu: Vec<String>,
    echo: Echo,
    limit: Duration,
}

const KERNEL: usize = 1;
const INITRD: usize = 2;
/// The whole of the guest kernel's command line but for what it runs.
const KERNEL_OPTIONS: &str = "console=ttyS0 earlyprintk=ttyS0 loglevel=4 panic=-1";
const LIMIT: Duration = Duration::from_secs(300);

impl Boot {
    /// Boots what was built; the guest's console can be sent commands ([`Machine::command`]). The log carries the name.
    pub fn new(name: &str, built: &Artifacts) -> Self {
        let module = |bytes: &[u8], options: &str| Module { bytes: bytes.into(), options: options.into() };
        let boot = Self {
            name: name.into(),
            loader: built.loader.clone(),
            options: DEFAULT_OPTIONS.into(),
            modules: vec![
                module(&built.hypervisor, ""),
                module(&built.guest.kernel, KERNEL_OPTIONS),
                module(&built.guest.initrd, ""),
            ],
            multiboot: Multiboot::Two,
            hypervisor: true,
            skinit: true,
            tampering: Vec::new(),
            tpm: Some(Family::V20),
            accel: Accel::Tcg,
            cpu: "EPYC".into(),
            processors: 1,
            memory_mib: 1024,
            reboots: false,
            qemu: Vec::new(),
            echo: Echo::Nothing,
            limit: LIMIT,
        };
        boot.run("serve")
    }

    /// The loader's command line (it replaces the default, which is `dma=unprotected console=com1`).
    #[must_use]
    pub fn options(mut self, options: &str) -> Self {
        self.options = options.into();
        self
    }

    /// The guest kernel's command line (it replaces the default). Before [`Boot::run`].
    #[must_use]
    pub fn kernel_options(mut self, options: &str) -> Self {
        self.modules[KERNEL].options = options.into();
        self
    }

    /// What the guest runs: `NAME[,ARGUMENT...]`, `serve` or `shell`.
    #[must_use]
    pub fn run(mut self, what: &str) -> Self {
        let kept = self.modules[KERNEL].options.split_whitespace().filter(|w| !w.starts_with("tv.run="));
        let kept: Vec<_> = kept.map(str::to_owned).collect();
        self.modules[KERNEL].options = format!("{} tv.run={what}", kept.join(" "));
        self
    }

    /// Another hypervisor module.
    #[must_use]
    pub fn hypervisor(mut self, bytes: Vec<u8>) -> Self {
        self.modules[0].bytes = bytes;
        self
    }

    /// The modules: hypervisor, kernel and initrd, to be changed at will. After all other settings of them.
    #[must_use]
    pub fn modules(mut self, change: impl FnOnce(&mut Vec<Module>)) -> Self {
        change(&mut self.modules);
        self
    }

    /// The protocol between GRUB and loader.
    #[must_use]
    pub fn multiboot(mut self, version: Multiboot) -> Self {
        self.multiboot = version;
        self
    }

    /// Whether TrustVisor is there at all; without it GRUB starts Linux.
    #[must_use]
    pub fn with_hypervisor(mut self, there: bool) -> Self {
        self.hypervisor = there;
        self
    }

    /// Whether somebody plays SKINIT; else it is #UD.
    #[must_use]
    pub fn skinit(mut self, there: bool) -> Self {
        self.skinit = there;
        self
    }

    /// A loader that writes these bytes, at this offset from the SLB's base, as its last act before SKINIT.
    #[must_use]
    pub fn tamper(mut self, offset: u64, bytes: Vec<u8>) -> Self {
        self.tampering.push((offset, bytes));
        self
    }

    /// The TPM.
    #[must_use]
    pub fn tpm(mut self, family: impl Into<Option<Family>>) -> Self {
        self.tpm = family.into();
        self
    }

    /// How instructions are executed.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// QEMU's CPU model with its properties.
    #[must_use]
    pub fn cpu(mut self, model: &str) -> Self {
        self.cpu = model.into();
        self
    }

    /// Number of processors.
    #[must_use]
    pub fn processors(mut self, count: u32) -> Self {
        self.processors = count;
        self
    }

    /// Size of the memory.
    #[must_use]
    pub fn memory_mib(mut self, size: u32) -> Self {
        self.memory_mib = size;
        self
    }

    /// Whether a reset boots again (else it switches the machine off).
    #[must_use]
    pub fn reboots(mut self, again: bool) -> Self {
        self.reboots = again;
        self
    }

    /// A virtio disk (`/dev/vda` is the first), raw.
    #[must_use]
    pub fn disk(mut self, image: &Path) -> Self {
        let drive = format!("file={},format=raw,if=virtio,cache=unsafe", image.display());
        self.qemu.extend(["-drive".into(), drive]);
        self
    }

    /// More arguments for QEMU.
    #[must_use]
    pub fn qemu(mut self, arguments: &[&str]) -> Self {
        self.qemu.extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// Shows the console's lines on standard output.
    #[must_use]
    pub fn shown(mut self) -> Self {
        self.echo = Echo::Lines;
        self
    }

    /// Passes the console's bytes to standard output as they come.
    #[must_use]
    pub fn interactive(mut self) -> Self {
        self.echo = Echo::Raw;
        self
    }

    /// How long the machine may be on.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Switches it on.
    pub fn start(self) -> Result<Machine> {
        let folder = files::run_folder()?;
        let iso = self.iso(folder.path())?;
        let tpm = self.tpm.map(|family| Tpm::start(family, folder.path())).transpose()?;
        let log = self.log_path();
        fs::create_dir_all(log_dir())?;
        let log_file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;

        let (serial, serial_end) = UnixStream::pair()?;
        let (monitor, monitor_end) = UnixStream::pair()?;
        let mut inherit = vec![OwnedFd::from(serial_end), OwnedFd::from(monitor_end)];
        if let Some(tpm) = &tpm {
            inherit.push(tpm.share()?.into());
        }
        let numbers: Vec<_> = inherit.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let debugger = folder.path().join("gdb");
        let stand_in = self.hypervisor && self.skinit;
        let mut command = self.qemu_command(&iso, &numbers);
        if stand_in {
            command.args(["-S", "-gdb"]).arg(format!("unix:{},server=on,wait=off", debugger.display()));
        }
        let errors = folder.path().join("qemu.log");
        let errors_file = File::create(&errors)?;
        command.stdin(Stdio::null()).stdout(errors_file.try_clone()?).stderr(errors_file);

        let console = Console::open(serial.try_clone()?, log_file, self.echo)?;
        let qemu = Process::spawn("QEMU", command, inherit)?;
        let started = || -> Result<_> {
            let monitor = Qmp::open(monitor)?;
            let debugger = stand_in.then(|| {
                let instruction = symbol(&self.loader, skinit::SYMBOL).context("loader")?;
                let locality_4 = tpm.as_ref().map(Locality4::new).transpose()?;
                StandIn::attach(&debugger, instruction, locality_4, self.tampering.clone())?
                    .attend(console.clone())
            });
            Ok((monitor, debugger.transpose()?))
        };
        let (monitor, debugger) = started().map_err(|error| {
            // The console's reader must not outlive this attempt.
            let _ = serial.shutdown(Shutdown::Both);
            let said = fs::read_to_string(&errors).unwrap_or_default();
            error.context(format!("QEMU did not start: {}", said.lines().last().unwrap_or("it says nothing")))
        })?;
        let parts = Parts { name: self.name, qemu, monitor, debugger, console, tpm, folder, log };
        Ok(Machine::new(parts, self.limit))
    }

    fn iso(&self, folder: &Path) -> Result<PathBuf> {
        let start = if self.hypervisor {
            let (version, loader, options) = (self.multiboot, &self.loader[..], &self.options[..]);
            Start::Kernel { version, loader, options, modules: &self.modules }
        } else {
            let (kernel, initrd) = (&self.modules[KERNEL], &self.modules[INITRD]);
            Start::Linux { kernel: &kernel.bytes, initrd: &initrd.bytes, options: &kernel.options }
        };
        iso::make(folder, &start)
    }

    fn log_path(&self) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        log_dir().join(format!("{}-{}-{number}.log", self.name, std::process::id()))
    }

    /// `descriptors`: serial port, monitor and the TPM's control channel.
    fn qemu_command(&self, iso: &Path, descriptors: &[String]) -> Command {
        let accel = match self.accel {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
        };
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]);
        command.arg("-machine").arg(format!("q35,accel={accel}"));
        command.arg("-cpu").arg(&self.cpu);
        command.arg("-smp").arg(self.processors.to_string());
        command.arg("-m").arg(self.memory_mib.to_string());
        command.arg("-chardev").arg(format!("socket,id=serial,fd={}", descriptors[0]));
        command.args(["-serial", "chardev:serial"]);
        command.arg("-chardev").arg(format!("socket,id=monitor,fd={}", descriptors[1]));
        command.args(["-mon", "chardev=monitor,mode=control"]);
        if let Some(descriptor) = descriptors.get(2) {
            command.arg("-chardev").arg(format!("socket,id=tpm,fd={descriptor}"));
            command.args(["-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm"]);
        }
        if !self.reboots {
            command.arg("-no-reboot");
        }
        command.arg("-cdrom").arg(iso).args(["-boot", "d"]).args(&self.qemu);
        command
    }
}
