//! Describes a machine and what it boots.

mod start;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::build::{Artifacts, DEFAULT_OPTIONS};
use crate::console::Echo;
use crate::faulty_tpm::Fault;
use crate::guest::Guest;
use crate::skinit::Tampering;
use crate::tpm::Family;

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
    watched: Option<Range<u64>>,
    tpm: Option<Family>,
    tpm_state: Option<PathBuf>,
    tpm_fault: Option<Fault>,
    accel: Accel,
    cpu: String,
    processors: u32,
    memory_mib: u32,
    iommu: bool,
    disks: usize,
    reboots: bool,
    qemu: Vec<String>,
    echo: Echo,
    limit: Duration,
}

const KERNEL: usize = 1;
const INITRD: usize = 2;
/// Without these properties QEMU's virtio devices reach memory past the IOMMU (VIRTIO 1.1, 6.1: VIRTIO_F_ACCESS_PLATFORM not offered).
pub const VIRTIO_BY_IOMMU: &str = "iommu_platform=on,disable-legacy=on";
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
            watched: None,
            tpm: Some(Family::V20),
            tpm_state: None,
            tpm_fault: None,
            accel: Accel::Tcg,
            cpu: "EPYC".into(),
            processors: 1,
            memory_mib: 1024,
            iommu: true,
            disks: 0,
            reboots: false,
            qemu: Vec::new(),
            echo: Echo::Nothing,
            limit: LIMIT,
        };
        boot.run("serve")
    }

    /// The loader's command line (it replaces the default, which is `console=com1`).
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

    /// Another guest. Before [`Boot::modules`].
    #[must_use]
    pub fn guest(mut self, guest: &Guest) -> Self {
        self.modules[KERNEL].bytes.clone_from(&guest.kernel);
        self.modules[INITRD].bytes.clone_from(&guest.initrd);
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

    /// Stops at SKINIT, and when these bytes (from the SLB's base) are first read after it. Each time the console says so, and
    /// [`Machine::go_on`](crate::Machine::go_on) lets it go on.
    #[must_use]
    pub fn watched(mut self, bytes: Range<u64>) -> Self {
        self.watched = Some(bytes);
        self
    }

    /// The TPM.
    #[must_use]
    pub fn tpm(mut self, family: impl Into<Option<Family>>) -> Self {
        self.tpm = family.into();
        self
    }

    /// Where the TPM's state is, and stays: without it each machine has a TPM fresh from the factory. What is not there yet is made.
    #[must_use]
    pub fn tpm_state(mut self, folder: &Path) -> Self {
        self.tpm_state = Some(folder.to_owned());
        self
    }

    /// What is wrong with the TPM.
    #[must_use]
    pub fn tpm_fault(mut self, fault: Fault) -> Self {
        self.tpm_fault = Some(fault);
        self
    }

    /// Hands in a saved root. After all other settings of the modules but [`Boot::modules`].
    #[must_use]
    pub fn root(mut self, bytes: Vec<u8>) -> Self {
        self.modules.push(Module { bytes, options: "trustvisor-root".into() });
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

    /// Whether there is an IOMMU.
    #[must_use]
    pub fn iommu(mut self, there: bool) -> Self {
        self.iommu = there;
        self
    }

    /// A virtio disk (`/dev/vda` is the first), raw.
    #[must_use]
    pub fn disk(self, image: &Path) -> Self {
        self.device_with_disk(image, &format!("virtio-blk-pci,{VIRTIO_BY_IOMMU}"))
    }

    /// A device of QEMU's (`NAME[,PROPERTY...]`) with a disk, raw.
    #[must_use]
    pub fn device_with_disk(mut self, image: &Path, device: &str) -> Self {
        let id = format!("disk{}", self.disks);
        self.disks += 1;
        let drive = format!("file={},format=raw,if=none,id={id},cache=unsafe", image.display());
        self.qemu(&["-drive", &drive, "-device", &format!("{device},drive={id}")])
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
}
