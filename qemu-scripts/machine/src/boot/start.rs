//! Starts a machine: its boot medium, its TPM, QEMU, and whoever plays SKINIT.

use std::fs::{self, File};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::{Accel, Boot, INITRD, KERNEL};
use crate::console::Console;
use crate::files;
use crate::flatten::symbol;
use crate::gdb::Closer;
use crate::iso::{self, Start};
use crate::machine::{ERRORS, Machine, Parts};
use crate::paths::log_dir;
use crate::process::Process;
use crate::qmp::Qmp;
use crate::skinit::{self, StandIn};
use crate::tpm::{Locality4, Tpm};

/// QEMU's ends of its channels.
struct Channels {
    serial: OwnedFd,
    monitor: OwnedFd,
    tpm: Option<OwnedFd>,
}

impl Boot {
    /// Switches it on.
    pub fn start(self) -> Result<Machine> {
        let folder = files::run_folder()?;
        let iso = self.iso(folder.path())?;
        let tpm = self
            .tpm
            .map(|family| {
                Tpm::start(family, folder.path(), self.tpm_state.as_deref(), self.tpm_fault.clone())
            })
            .transpose()?;
        let (serial, serial_end) = UnixStream::pair()?;
        let (monitor, monitor_end) = UnixStream::pair()?;
        let channels = Channels {
            serial: serial_end.into(),
            monitor: monitor_end.into(),
            tpm: tpm.as_ref().map(Tpm::share).transpose()?.map(OwnedFd::from),
        };
        let log = self.log_path();
        fs::create_dir_all(log_dir())?;
        let log_file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;

        let console = Console::open(serial.try_clone()?, log_file, self.echo)?;
        let qemu = self.start_qemu(&iso, folder.path(), channels)?;
        let attended = || Ok((Qmp::open(monitor)?, self.attend(folder.path(), tpm.as_ref(), &console)?));
        let (monitor, debugger) = attended().map_err(|error: anyhow::Error| {
            // The console's reader must not outlive this attempt.
            let _ = serial.shutdown(Shutdown::Both);
            let said = fs::read_to_string(folder.path().join(ERRORS)).unwrap_or_default();
            error.context(format!("QEMU did not start: {}", said.lines().last().unwrap_or("it says nothing")))
        })?;
        let parts = Parts { name: self.name, qemu, monitor, debugger, console, tpm, folder, log };
        Ok(Machine::new(parts, self.limit))
    }

    /// Starts the machine itself, if it waits for whoever plays SKINIT.
    fn attend(&self, folder: &Path, tpm: Option<&Tpm>, console: &Console) -> Result<Option<Closer>> {
        if !self.has_stand_in() {
            return Ok(None);
        }
        let instruction = symbol(&self.loader, skinit::SYMBOL).context("loader")?;
        let locality_4 = tpm.map(Locality4::new).transpose()?;
        let mut stand_in = StandIn::attach(&folder.join(DEBUGGER), instruction, locality_4)?;
        stand_in.tampering.clone_from(&self.tampering);
        stand_in.watched.clone_from(&self.watched);
        stand_in.attend(console.clone()).map(Some)
    }

    fn has_stand_in(&self) -> bool {
        self.hypervisor && self.skinit
    }

    /// Makes the medium that it boots from.
    pub(crate) fn iso(&self, folder: &Path) -> Result<PathBuf> {
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

    fn start_qemu(&self, iso: &Path, folder: &Path, channels: Channels) -> Result<Process> {
        let mut command = self.qemu_command(iso);
        let socket = |id, end: &OwnedFd| format!("socket,id={id},fd={}", end.as_raw_fd());
        command.arg("-chardev").arg(socket("serial", &channels.serial)).args(["-serial", "chardev:serial"]);
        command.arg("-chardev").arg(socket("monitor", &channels.monitor));
        command.args(["-mon", "chardev=monitor,mode=control"]);
        if let Some(tpm) = &channels.tpm {
            command.arg("-chardev").arg(socket("tpm", tpm));
            command.args(["-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm"]);
        }
        if self.has_stand_in() {
            let socket = folder.join(DEBUGGER);
            command.args(["-S", "-gdb"]).arg(format!("unix:{},server=on,wait=off", socket.display()));
        }
        let errors = File::create(folder.join(ERRORS))?;
        command.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors);
        let ends = [channels.serial, channels.monitor].into_iter().chain(channels.tpm);
        Process::spawn("QEMU", command, ends.collect())
    }

    fn qemu_command(&self, iso: &Path) -> Command {
        let accel = match self.accel {
            Accel::Tcg => "tcg",
            // The kernel's I/O APIC would send its interrupts past the IOMMU.
            Accel::Kvm => "kvm,kernel-irqchip=split",
        };
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]);
        command.arg("-machine").arg(format!("q35,accel={accel}"));
        command.arg("-cpu").arg(&self.cpu);
        command.arg("-smp").arg(self.processors.to_string());
        command.arg("-m").arg(self.memory_mib.to_string());
        if self.iommu {
            // Before the devices: each asks for its IOMMU when it is made.
            command.args(["-device", "amd-iommu,intremap=on"]);
        }
        if !self.reboots {
            command.arg("-no-reboot");
        }
        command.arg("-cdrom").arg(iso).args(["-boot", "d"]).args(&self.qemu);
        command
    }
}

/// The debugger's socket, in the machine's folder.
const DEBUGGER: &str = "gdb";
