//! The guest: Debian's unmodified cloud kernel, and an initrd of busybox, our programs, Debian's virtio modules and the
//! attack modules of the tests. Nothing of it is installed on this machine but the kernel's headers, which the attack
//! modules are built with; the kernel is of the same version.
//!
//! Another guest, for what the cloud kernel has no drivers for (AHCI, e1000, the IOMMU): Debian's generic kernel of that version, without
//! attack modules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::build::{Sources, c_library, library_and_program, linux_program, quoting_pal};
use crate::files;
use crate::initrd::Initrd;
use crate::paths::{build_dir, root};
use crate::process::{self, run, say};

const HEADERS: &str = "linux-headers-cloud-amd64";
/// Drivers, in the order in which they need one another.
pub(crate) const VIRTIO: &[&str] = &[
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
];
/// Virtio's network.
pub(crate) const NETWORK: &[&str] =
    &["net/core/failover.ko", "drivers/net/net_failover.ko", "drivers/net/virtio_net.ko"];
/// What the generic kernel has as modules besides.
const MORE: &[&str] = &[
    "drivers/net/ethernet/intel/e1000/e1000.ko",
    "drivers/net/ethernet/intel/e1000e/e1000e.ko",
    "crypto/crct10dif_common.ko",
    "crypto/crct10dif_generic.ko",
    "lib/crc-t10dif.ko",
    "lib/crc64.ko",
    "crypto/crc64_rocksoft_generic.ko",
    "lib/crc64-rocksoft.ko",
    "block/t10-pi.ko",
    "drivers/scsi/scsi_common.ko",
    "drivers/scsi/scsi_mod.ko",
    "drivers/scsi/sd_mod.ko",
    "drivers/ata/libata.ko",
    "drivers/ata/libahci.ko",
    "drivers/ata/ahci.ko",
    "drivers/nvme/host/nvme-core.ko",
    "drivers/nvme/host/nvme.ko",
];
const LIMIT: Duration = Duration::from_secs(300);
/// What both guests do with the kernel's command line.
pub(crate) const USERLAND: &[u8] = include_bytes!("userland.sh");

/// Kernel and initrd.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The kernel's release, as `uname -r` says it.
    pub release: String,
    /// The bzImage.
    pub kernel: Vec<u8>,
    /// The initrd.
    pub initrd: Vec<u8>,
}

impl Guest {
    /// A disk with the lengths of kernel and initrd, 8 bytes each, and then both: for a guest that starts the same kernel again (kexec).
    pub fn disk(&self) -> Vec<u8> {
        const SECTOR: usize = 512;
        let lengths = [&self.kernel, &self.initrd].map(|part| (part.len() as u64).to_le_bytes());
        let mut disk = [lengths.as_flattened(), &self.kernel, &self.initrd].concat();
        disk.resize(disk.len().next_multiple_of(SECTOR), 0);
        disk
    }
}

pub(crate) fn build() -> Result<Guest> {
    let kernel = KernelPackage::cloud()?;
    let attacks = attack_modules(&kernel.release)?;
    kernel.guest(VIRTIO, &attacks)
}

/// The guest with Debian's generic kernel, fetched and built when somebody needs it.
pub fn generic_guest() -> Result<Guest> {
    let _lock = files::lock(&build_dir())?;
    KernelPackage::generic()?.guest(&[VIRTIO, NETWORK, MORE].concat(), &[])
}

/// The SDK's command, the examples and the tests' program, each with its PAL inside; and a PAL's image for the command.
pub(crate) fn programs() -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let sdk = linux_program("trustvisor", &[])?;
    let images = images(&sdk)?;
    let ours = ["hello", "password", "tvtest"].map(|package| linux_program(package, &images));
    let ours = ours.into_iter().collect::<Result<Vec<_>>>()?;
    let hello = images.iter().filter(|(variable, _)| *variable == "HELLO_PAL");
    let hello = hello.map(|(_, image)| image.clone()).collect();
    Ok(([vec![sdk, c_example(&images)?], ours].concat(), hello))
}

/// Our PKCS#11 module, and the command beside it, with their PAL inside.
pub(crate) fn pkcs11_module() -> Result<(PathBuf, PathBuf)> {
    library_and_program("trustvisor-pkcs11", "trustvisor-token", &images(&linux_program("trustvisor", &[])?)?)
}

/// The example in C, with the static library and the image of S.
fn c_example(images: &[(&str, PathBuf)]) -> Result<PathBuf> {
    let (_, pal) = images.iter().find(|(variable, _)| *variable == "HELLO_PAL").context("no image")?;
    let library = c_library()?;
    let folder = build_dir().join("c");
    fs::create_dir_all(&folder)?;
    let program = folder.join("c-hello");
    let mut compile = Command::new("gcc");
    compile.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s"]);
    compile.arg(format!("-DPAL=\"{}\"", pal.display()));
    compile.arg("-I").arg(root().join("guest-sdk/c"));
    compile.arg(root().join("guest-sdk/examples/c-hello/main.c")).arg(library);
    compile.args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&program);
    run("building c-hello", compile, LIMIT)?;
    Ok(program)
}

/// Makes the PAL images that the guest's programs include, by the variables that name them to the compiler.
pub fn pal_images() -> Result<Vec<(&'static str, PathBuf)>> {
    let _lock = files::lock(&build_dir())?;
    let mut images = images(&linux_program("trustvisor", &[])?)?;
    images.push(("QUOTING_PAL", quoting_pal()?));
    Ok(images)
}

/// The PALs, by the variables that name their images.
const PALS: [(&str, &str); 5] = [
    ("HELLO_PAL", "hello-pal"),
    ("PASSWORD_PAL", "password-pal"),
    ("PKCS11_PAL", "pkcs11-pal"),
    ("SDK_PAL", "sdk-pal"),
    ("TVTEST_PAL", "tvtest-pal"),
];

fn images(sdk: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let image = |package: &str| -> Result<PathBuf> {
        let elf = Sources::pal(package)?;
        let folder = build_dir().join("pal");
        fs::create_dir_all(&folder)?;
        // A new file would have its program compiled again.
        let new = tempfile::NamedTempFile::new_in(&folder)?;
        let mut convert = Command::new(sdk);
        convert.arg("image").arg(elf).arg("-o").arg(new.path());
        run(&format!("image of {package}"), convert, LIMIT)?;
        files::write(&folder.join(package), &files::read(new.path())?)?;
        Ok(folder.join(package))
    };
    PALS.into_iter().map(|(variable, package)| Ok((variable, image(package)?))).collect()
}

/// The modules of `tests/guest/modules`, built out of tree by the kernel's own makefiles in a copy of the folder.
pub(crate) fn attack_modules(release: &str) -> Result<Vec<PathBuf>> {
    let copy = build_dir().join("modules");
    fs::create_dir_all(&copy)?;
    // What the sources no longer make must not be taken for theirs.
    modules_in(&copy)?.iter().try_for_each(fs::remove_file)?;
    for entry in fs::read_dir(root().join("tests/guest/modules"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files::write(&copy.join(entry.file_name()), &files::read(&entry.path())?)?;
        }
    }
    let mut make = Command::new("make");
    make.arg("-C").arg(format!("/usr/src/linux-headers-{release}"));
    make.arg(format!("M={}", copy.display())).arg("modules");
    run("building the attack modules", make, LIMIT)?;
    modules_in(&copy)
}

fn modules_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut modules: Vec<_> =
        files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "ko")).collect();
    modules.sort();
    Ok(modules)
}

/// A kernel package of Debian's, unpacked below `build/`.
pub(crate) struct KernelPackage {
    pub(crate) release: String,
    folder: PathBuf,
}

impl KernelPackage {
    pub(crate) fn cloud() -> Result<Self> {
        let (release, version) = installed_headers()?;
        Self::fetch(release, &version)
    }

    fn generic() -> Result<Self> {
        let (release, version) = installed_headers()?;
        Self::fetch(release.replace("-cloud", ""), &version)
    }

    fn fetch(release: String, version: &str) -> Result<Self> {
        let folder = build_dir().join("kernel").join(format!("{release}_{version}"));
        let debian = Self { release, folder };
        if !debian.kernel().exists() {
            debian.download(version)?;
        }
        Ok(debian)
    }

    fn guest(&self, drivers: &[&str], attacks: &[PathBuf]) -> Result<Guest> {
        let mut initrd = Initrd::default();
        for folder in ["bin", "dev", "proc", "sys", "lib", "lib/drivers", "lib/pal", "modules"] {
            initrd.folder(folder);
        }
        initrd.console();
        initrd.program("init", include_bytes!("init.sh"));
        initrd.program("bin/busybox", &files::read(Path::new("/bin/busybox"))?);
        initrd.link("bin/sh", "busybox");
        initrd.program("lib/userland", USERLAND);
        self.drivers(drivers, &mut initrd)?;
        say("building the guest's programs and PALs");
        let (programs, pals) = programs()?;
        for (folder, paths) in [("bin", &programs[..]), ("lib/pal", &pals), ("modules", attacks)] {
            initrd.copies(folder, paths)?;
        }
        self.boots(initrd)
    }

    /// Puts drivers into an initrd, and a list of them in their order.
    pub(crate) fn drivers(&self, drivers: &[&str], initrd: &mut Initrd) -> Result<()> {
        let mut order = String::new();
        for driver in drivers {
            let name = driver.rsplit('/').next().unwrap_or(driver);
            initrd.program(&format!("lib/drivers/{name}"), &files::read(&self.modules().join(driver))?);
            order += &format!("{name}\n");
        }
        initrd.program("lib/drivers/order", order.as_bytes());
        Ok(())
    }

    /// The guest of this kernel and an initrd.
    pub(crate) fn boots(&self, initrd: Initrd) -> Result<Guest> {
        let (kernel, release) = (files::read(&self.kernel())?, self.release.clone());
        Ok(Guest { release, kernel, initrd: initrd.finish() })
    }

    fn download(&self, version: &str) -> Result<()> {
        let package = format!("linux-image-{}={version}", self.release);
        say(format_args!("fetching {package}"));
        fs::create_dir_all(build_dir().join("kernel"))?;
        let folder = tempfile::tempdir_in(build_dir().join("kernel"))?;
        let mut download = Command::new("apt-get");
        download.arg("download").arg(&package).current_dir(&folder);
        run("fetching the guest's kernel", download, LIMIT)?;
        let mut archives = fs::read_dir(&folder)?.filter_map(|e| Some(e.ok()?.path()));
        let archive = archives.find(|p| p.extension().is_some_and(|e| e == "deb"));
        let unpacked = folder.path().join("unpacked");
        let mut unpack = Command::new("dpkg");
        unpack.arg("-x").arg(archive.context("apt-get downloaded nothing")?).arg(&unpacked);
        run("unpacking the guest's kernel", unpack, LIMIT)?;
        fs::rename(&unpacked, &self.folder)?;
        Ok(())
    }

    fn kernel(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release).join("kernel")
    }
}

/// Release and Debian version of the installed headers, from what the meta-package depends on:
/// `linux-headers-RELEASE (= VERSION)`.
fn installed_headers() -> Result<(String, String)> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f=${Depends}", HEADERS]);
    let depends = process::output("dpkg-query", query, LIMIT)?;
    parse_headers(&depends).with_context(|| format!("{HEADERS} is not installed"))
}

fn parse_headers(depends: &str) -> Result<(String, String)> {
    let (package, version) = depends.split_once(" (= ").context("no version")?;
    let release = package.strip_prefix("linux-headers-").context("no headers")?;
    let version = version.split(')').next().unwrap_or_default();
    ensure!(!release.is_empty() && !version.is_empty(), "no version");
    Ok((release.into(), version.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_headers_package_depends_on() {
        let (release, version) = parse_headers("linux-headers-6.1.0-9-cloud-amd64 (= 6.1.27-1)").unwrap();
        assert_eq!((release.as_str(), version.as_str()), ("6.1.0-9-cloud-amd64", "6.1.27-1"));
        assert!(parse_headers("").is_err());
        assert!(parse_headers("linux-headers-6.1").is_err());
    }
}
