//! The full guest: Debian 12 with Apache and the programs that use a PKCS#11 token, on a disk that is made once and then never written
//! (each machine writes to a snapshot of its own). Its kernel is the plain guest's, and so are its programs: they come with the initrd, so
//! that a change of them makes no new disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::boot::{Boot, VIRTIO_BY_IOMMU};
use crate::build::dynamic_program;
use crate::cryptoki::cryptoki_tests;
use crate::files;
use crate::guest::{
    Guest, KernelPackage, NETWORK, USERLAND, VIRTIO, attack_modules, pkcs11_module, programs,
};
use crate::initrd::Initrd;
use crate::paths::build_dir;
use crate::process::{run, say};

const SUITE: &str = "bookworm";
const PACKAGES: &[&str] = &[
    "apache2",
    "apache2-utils",
    "busybox-static",
    "gnutls-bin",
    "libengine-pkcs11-openssl",
    "netbase",
    "opensc",
    "openssh-client",
    "openssh-server",
    "openssl",
    "softhsm2",
];
/// Nobody reads there.
const LEFT_OUT: &[&str] =
    &["/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*"];
/// What the smallest Debian does not have, and what is to be there before the disk is mounted.
const FILES: &[(&str, &str)] = &[("etc/hosts", "127.0.0.1 localhost guest\n"), ("etc/hostname", "guest\n")];
/// What is done once and not by each machine.
const PREPARED: &str =
    r#"chroot "$1" sh -c 'a2enmod -q ssl && a2dissite -q 000-default && usermod -a -G softhsm www-data'"#;
/// Room for what a machine writes; it costs nothing until then.
const SIZE: &str = "512M";
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// The full guest. [`Boot::system`] boots it.
#[derive(Debug, Clone)]
pub struct System {
    /// Kernel and initrd.
    pub guest: Guest,
    /// The disk with its root.
    pub disk: PathBuf,
}

/// Makes the full guest, and its disk if that is not there yet.
pub fn system() -> Result<System> {
    let _lock = files::lock(&build_dir())?;
    let disk = disk()?;
    let kernel = KernelPackage::cloud()?;
    let mut initrd = Initrd::default();
    for folder in ["bin", "dev", "proc", "sys", "lib", "lib/drivers", "system"] {
        initrd.folder(folder);
    }
    for folder in ["local", "local/bin", "local/lib", "local/lib/trustvisor", MODULES] {
        initrd.folder(folder);
    }
    initrd.console();
    initrd.program("init", include_bytes!("debian/init.sh"));
    initrd.program("bin/busybox", &files::read(Path::new("/bin/busybox"))?);
    initrd.link("bin/sh", "busybox");
    kernel.drivers(&[VIRTIO, NETWORK].concat(), &mut initrd)?;
    initrd.program("local/lib/trustvisor/start", include_bytes!("debian/start.sh"));
    initrd.program("local/lib/trustvisor/userland", USERLAND);
    initrd.program("local/bin/with-apache", include_bytes!("debian/apache.sh"));
    say("building the guest's programs and PALs");
    initrd.copies("local/bin", &programs()?.0)?;
    initrd.copies("local/bin", &[dynamic_program("pkcs11-speed")?])?;
    let (module, command) = pkcs11_module()?;
    initrd.copies("local/lib", &[module])?;
    initrd.copies("local/bin", &[command])?;
    initrd.copies("local/bin", &cryptoki_tests()?)?;
    initrd.copies("local/lib/trustvisor", &[build_dir().join("pal/pkcs11-pal")])?;
    initrd.copies(MODULES, &attack_modules(&kernel.release)?)?;
    Ok(System { guest: kernel.boots(initrd)?, disk })
}

const MODULES: &str = "local/lib/trustvisor/modules";

impl Boot {
    /// The full guest. Before other disks and before [`Boot::modules`].
    #[must_use]
    pub fn system(self, system: &System) -> Self {
        let drive = format!("file={},format=raw,if=none,id=system,snapshot=on", system.disk.display());
        let device = format!("virtio-blk-pci,{VIRTIO_BY_IOMMU},drive=system");
        self.guest(&system.guest).qemu(&["-drive", &drive, "-device", &device])
    }
}

/// The disk, whose name tells what it was made of.
fn disk() -> Result<PathBuf> {
    let folder = build_dir().join("debian");
    let disk = folder.join(format!("{}.ext4", recipe()));
    if disk.exists() {
        return Ok(disk);
    }
    say("making the full guest's disk");
    ensure!(rustix::process::getuid().is_root(), "the full guest's disk is made by root");
    fs::create_dir_all(&folder)?;
    for old in fs::read_dir(&folder)? {
        let old = old?.path();
        if old.extension().is_some_and(|e| e == "ext4") {
            fs::remove_file(old)?;
        }
    }
    let work = tempfile::tempdir_in(&folder)?;
    let root = work.path().join("root");
    bootstrap(&root)?;
    for (path, contents) in FILES {
        let path = root.join(path);
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let new = work.path().join("disk");
    let mut format = Command::new("mke2fs");
    // A machine that is switched off takes its snapshot with it: nothing is ever recovered.
    format.args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d"]).arg(&root).arg(&new).arg(SIZE);
    run("making the file system of the full guest", format, LIMIT)?;
    fs::rename(&new, &disk)?;
    Ok(disk)
}

fn bootstrap(root: &Path) -> Result<()> {
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap.args(["--mode=root", "--format=directory", "--variant=minbase"]);
    bootstrap.arg("--dpkgopt=force-unsafe-io");
    bootstrap.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    bootstrap.arg(format!("--customize-hook={PREPARED}"));
    bootstrap.arg(format!("--include={}", PACKAGES.join(","))).arg(SUITE).arg(root);
    run("fetching and unpacking the full guest's packages", bootstrap, LIMIT)
}

fn recipe() -> String {
    let mut hash = Sha256::new();
    for part in [PACKAGES, LEFT_OUT, &[PREPARED, SUITE, SIZE]].concat() {
        hash.update(part);
        hash.update([0]);
    }
    for (path, contents) in FILES {
        hash.update(format!("{path}\0{contents}\0"));
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_recipe_has_a_short_name() {
        let name = super::recipe();
        assert!(name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    }
}
