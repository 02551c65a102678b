//! Builds everything a boot needs: the loader, the hypervisor module, the guest; and `build/boot/`, the folder for an AMD
//! machine's /boot; and what others have to know of this release.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use hypervisor::addr::PAGE_SIZE;
use hypervisor::launch::{
    RESERVE_VA, RUNTIME_END, RUNTIME_MAGIC, RUNTIME_OFFSET, SLB_MAGIC, SLB_MAGIC_OFFSET, SLB_MAX_LENGTH,
    SLB_SIZE,
};
use hypervisor::release::RELEASE;

use crate::files;
use crate::flatten::{flatten, static_};
use crate::guest::{self, Guest};
use crate::mutation;
use crate::paths::{build_dir, root, target_dir};
use crate::pcr::{self, BootPcrs, measured_length};
use crate::process::{self, say};
use crate::release;

const CARGO_LIMIT: Duration = Duration::from_secs(15 * 60);
const BARE_TARGET: &str = "x86_64-trustvisor";
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";
/// The command line of the menu entry, and of a boot that names none.
pub(crate) const DEFAULT_OPTIONS: &str = "console=com1";

/// What was built.
#[derive(Debug)]
pub struct Artifacts {
    /// The multiboot kernel (ELF).
    pub loader: Vec<u8>,
    /// The hypervisor module: SLB, then runtime.
    pub hypervisor: Vec<u8>,
    /// What runs above.
    pub guest: Guest,
    /// What the PCRs must hold after a launch with the default options.
    pub pcrs: BootPcrs,
}

/// Builds what is not up to date, once in a process.
pub fn artifacts() -> Result<Arc<Artifacts>> {
    static BUILT: LazyLock<Result<Arc<Artifacts>, String>> =
        LazyLock::new(|| build().map(Arc::new).map_err(|e| format!("{e:#}")));
    BUILT.clone().map_err(|e| anyhow!("{e}"))
}

fn build() -> Result<Artifacts> {
    let _lock = files::lock(&build_dir())?;
    say("building the loader");
    let loader = Sources::here().loader()?;
    say("building the hypervisor (SLB and runtime)");
    let hypervisor = Sources::here().hypervisor()?;
    let pcrs = pcr::predict(&hypervisor, DEFAULT_OPTIONS)?;
    let guest = guest::build()?;
    let artifacts = Artifacts { loader, hypervisor, guest, pcrs };
    artifacts.write_boot_folder(&build_dir().join("boot"))?;
    files::write(&build_dir().join("release.toml"), release::entry(&artifacts.hypervisor).as_bytes())?;
    let manifest = release::manifest(&artifacts.hypervisor, RELEASE.security_version)?;
    files::write(&build_dir().join("release.manifest"), &manifest)?;
    Ok(artifacts)
}

/// The image of the quoting PAL, for whoever checks the runtime's sources.
pub(crate) fn quoting_pal() -> Result<PathBuf> {
    Sources::here().quoting_pal()
}

/// The hypervisor module with one of the [`crate::mutations`], or with several (`a+b`): what a system test attacks to show that the
/// attack is real.
pub fn mutated_hypervisor(name: &str) -> Result<Vec<u8>> {
    mutated(name, Sources::hypervisor)
}

/// The same, and where a static of its runtime is, in bytes from the reserve's start.
pub fn mutated_hypervisor_and_static(name: &str, of: &str) -> Result<(Vec<u8>, Range<u64>)> {
    mutated(name, |sources| Ok((sources.hypervisor()?, sources.runtime_static(of)?)))
}

fn mutated<T>(name: &str, build: impl FnOnce(&Sources) -> Result<T>) -> Result<T> {
    let mutations = name.split('+').map(mutation::named).collect::<Result<Vec<_>>>()?;
    let folder = target_dir().join("mutated");
    let _lock = files::lock(&folder)?;
    say(format_args!("building the hypervisor without {}", name.replace('+', ", ")));
    let sources = Sources { root: folder.join("sources"), target: folder.join("target") };
    mutation::mirror(&sources.root, &mutations)?;
    build(&sources)
}

/// Where a static of the runtime that was built is, in bytes from the reserve's start.
pub fn runtime_static(name: &str) -> Result<Range<u64>> {
    let _lock = files::lock(&build_dir())?;
    Sources::here().runtime_static(name)
}

/// The hypervisor module of a release that says this of itself, in `hypervisor/src/release.rs`.
pub fn another_release(itself: &str) -> Result<Vec<u8>> {
    let folder = target_dir().join("mutated");
    let _lock = files::lock(&folder)?;
    say("building another release");
    let sources = Sources { root: folder.join("sources"), target: folder.join("target") };
    mutation::mirror(&sources.root, &[mutation::release(itself)?])?;
    sources.hypervisor()
}

impl Artifacts {
    /// Tells sizes and expected PCRs.
    pub fn announce(&self) {
        let slb = measured_length(&self.hypervisor);
        let runtime = self.hypervisor.len() - SLB_SIZE as usize;
        say(format_args!("SLB {slb} bytes of {SLB_MAX_LENGTH}, runtime {runtime} bytes"));
        for (register, pcr) in [(17, self.pcrs.pcr17), (18, self.pcrs.pcr18)] {
            say(format_args!("expected PCR {register} sha1 {} sha256 {}", pcr.sha1(), pcr.sha256()));
        }
    }

    fn write_boot_folder(&self, folder: &Path) -> Result<()> {
        files::write(&folder.join("loader"), &self.loader)?;
        files::write(&folder.join("hypervisor"), &self.hypervisor)?;
        files::write(&folder.join("trustvisor.cfg"), include_bytes!("trustvisor.cfg"))?;
        let mut expected = serde_json::to_vec_pretty(&self.pcrs)?;
        expected.push(b'\n');
        files::write(&folder.join("expected-pcrs.json"), &expected)
    }
}

/// A copy of the sources, and where it is built.
pub(crate) struct Sources {
    root: PathBuf,
    target: PathBuf,
}

impl Sources {
    fn here() -> Self {
        Self { root: root().into(), target: target_dir() }
    }

    fn loader(&self) -> Result<Vec<u8>> {
        let arguments = ["-p", "loader", "--bin", "loader", "--features", "bare", "--release"];
        self.bare("loader", &arguments, &[])?;
        files::read(&self.binary("release", "loader"))
    }

    fn hypervisor(&self) -> Result<Vec<u8>> {
        let flags = |name| ["-p", "hypervisor", "--bin", name, "--features", "bare"];
        self.bare("SLB", &[&flags("slb")[..], &["--profile", "slb"]].concat(), &[])?;
        let quoting = [("QUOTING_PAL", self.quoting_pal()?)];
        self.bare("runtime", &[&flags("runtime")[..], &["--release"]].concat(), &quoting)?;
        let slb = flatten(&files::read(&self.binary("slb", "slb"))?, RESERVE_VA, SLB_SIZE).context("SLB")?;
        let room = RUNTIME_END - RUNTIME_OFFSET;
        let runtime = files::read(&self.binary("release", "runtime"))?;
        let runtime = flatten(&runtime, RESERVE_VA + RUNTIME_OFFSET, room).context("runtime")?;
        hypervisor_module(slb, runtime)
    }

    fn runtime_static(&self, name: &str) -> Result<Range<u64>> {
        let there = static_(&files::read(&self.binary("release", "runtime"))?, name)?;
        Ok(there.start - RESERVE_VA..there.end - RESERVE_VA)
    }

    /// A PAL's ELF, for the guest.
    pub(crate) fn pal(package: &str) -> Result<PathBuf> {
        let sources = Self::here();
        sources.bare(package, &["-p", package, "--release"], &[])?;
        Ok(sources.binary("release", package))
    }

    /// The image of the quoting PAL, which becomes part of the runtime.
    fn quoting_pal(&self) -> Result<PathBuf> {
        self.bare("quoting PAL", &["-p", "quoting-pal", "--release"], &[])?;
        let elf = files::read(&self.binary("release", "quoting-pal"))?;
        let image = self.binary("release", "quoting-pal.image");
        files::write(&image, &trustvisor::image::from_elf(&elf, 0).context("image of the quoting PAL")?)?;
        Ok(image)
    }

    fn binary(&self, profile: &str, name: &str) -> PathBuf {
        self.target.join(BARE_TARGET).join(profile).join(name)
    }

    /// PCR 17 must not depend on where the sources lie, so no path of the building machine gets into the binary.
    fn bare(&self, what: &str, arguments: &[&str], environment: &[(&str, PathBuf)]) -> Result<()> {
        let mut command = cargo(&self.root, &self.target);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.arg("bare").args(arguments).env("RUSTFLAGS", self.remapped_paths()?);
        process::run(&format!("building {what}"), command, CARGO_LIMIT)
    }

    fn remapped_paths(&self) -> Result<String> {
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        rustc.args(["--print", "sysroot"]);
        let sysroot = process::output("rustc --print sysroot", rustc, Duration::from_secs(30))?;
        let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo"));
        let cargo_home =
            std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home).context("no home folder")?;
        let remap = |from: &Path, to| format!("--remap-path-prefix={}={to}", from.display());
        Ok([
            remap(&self.root, "/trustvisor"),
            remap(&cargo_home, "/cargo"),
            remap(Path::new(sysroot.trim()), "/sysroot"),
        ]
        .join(" "))
    }
}

/// Builds the hypervisor from a copy of the sources in another folder, from nothing.
pub fn hypervisor_elsewhere(folder: &Path) -> Result<Vec<u8>> {
    let sources = Sources { root: folder.join("sources"), target: folder.join("target") };
    mutation::mirror(&sources.root, &[])?;
    sources.hypervisor()
}

/// The workspace's own files, relative to [`root`].
pub fn source_files() -> Result<Vec<PathBuf>> {
    files_below(root())
}

/// The same of a copy of the workspace.
pub(crate) fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let skipped = [".git", ".ci", "target", "build"].iter().any(|s| path == Path::new(s));
            match entry.file_type()? {
                _ if skipped || root.join(&path) == target_dir() => {}
                kind if kind.is_dir() => folders.push(path),
                kind if kind.is_file() => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

pub(crate) fn cargo(root: &Path, target: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root).env("CARGO_TARGET_DIR", target);
    command
}

/// A Linux program for the full guest that loads modules: this machine's C library is to be no newer than the guest's.
pub(crate) fn dynamic_program(package: &str) -> Result<PathBuf> {
    dynamic(package, &["--bin", package], &[])?;
    Ok(target_dir().join("release").join(package))
}

/// A shared library for the same, and the program beside it; `images` as of [`linux_program`].
pub(crate) fn library_and_program(
    package: &str,
    program: &str,
    images: &[(&str, PathBuf)],
) -> Result<(PathBuf, PathBuf)> {
    dynamic(package, &["--lib", "--bin", program], images)?;
    let folder = target_dir().join("release");
    Ok((folder.join(format!("lib{}.so", package.replace('-', "_"))), folder.join(program)))
}

fn dynamic(package: &str, what: &[&str], images: &[(&str, PathBuf)]) -> Result<()> {
    let mut command = cargo(root(), &target_dir());
    command.args(["build", "--release", "-p", package]).args(what);
    command.envs([("CARGO_PROFILE_RELEASE_DEBUG", "0"), ("CARGO_PROFILE_RELEASE_STRIP", "symbols")]);
    command.envs(images.iter().map(|(variable, image)| (variable, image)));
    process::run(&format!("building {package}"), command, CARGO_LIMIT)
}

/// A static Linux program for the guest; `images` are the PAL images its sources include, by variable.
pub(crate) fn linux_program(package: &str, images: &[(&str, PathBuf)]) -> Result<PathBuf> {
    let target = target_dir();
    let mut command = cargo(root(), &target);
    command.args(["build", "--release", "-p", package, "--bin", package, "--target", GUEST_TARGET]);
    command
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
        .envs(images.iter().map(|(variable, image)| (variable, image)));
    process::run(&format!("building {package}"), command, CARGO_LIMIT)?;
    Ok(target.join(GUEST_TARGET).join("release").join(package))
}

/// The SDK's static library for C, for the guest.
pub(crate) fn c_library() -> Result<PathBuf> {
    let target = target_dir();
    let mut command = cargo(root(), &target);
    command.args(["build", "--release", "-p", "trustvisor-c", "--target", GUEST_TARGET]);
    // As the programs, so that what they have in common is compiled once.
    command.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    process::run("building trustvisor-c", command, CARGO_LIMIT)?;
    Ok(target.join(GUEST_TARGET).join("release/libtrustvisor_c.a"))
}

fn hypervisor_module(mut slb: Vec<u8>, mut runtime: Vec<u8>) -> Result<Vec<u8>> {
    ensure!(slb.len() > SLB_MAGIC_OFFSET + SLB_MAGIC.len(), "the SLB has no header");
    ensure!(
        slb[SLB_MAGIC_OFFSET..].starts_with(&SLB_MAGIC),
        "the SLB's magic is not at offset {SLB_MAGIC_OFFSET}"
    );
    let (entry, length) = (usize::from(u16::from_le_bytes([slb[0], slb[1]])), measured_length(&slb));
    ensure!(
        length as u64 <= SLB_MAX_LENGTH,
        "the SLB is too large: {length} bytes are measured, {SLB_MAX_LENGTH} fit"
    );
    ensure!(entry < length, "the SLB's entry {entry:#x} lies outside its {length} measured bytes");
    ensure!(slb.len() <= length, "the SLB has {} bytes of contents, but {length} are measured", slb.len());
    ensure!(runtime.starts_with(&RUNTIME_MAGIC), "the runtime does not start with its magic");
    let field = |offset: usize| runtime[offset..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let (image, memory) = (field(8), field(16));
    // The linker leaves out zeroes at the end.
    let left_out = image.checked_sub(runtime.len() as u64).filter(|left_out| *left_out < PAGE_SIZE);
    ensure!(left_out.is_some(), "the runtime's header says {image} bytes, there are {}", runtime.len());
    let room = RUNTIME_END - RUNTIME_OFFSET;
    ensure!(memory >= image && memory <= room, "the runtime is too large: {memory} bytes, {room} fit");
    runtime.resize(image as usize, 0);
    slb.resize(SLB_SIZE as usize, 0);
    slb.append(&mut runtime);
    Ok(slb)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slb(length: u16) -> Vec<u8> {
        let mut slb = vec![0x20, 0, 0, 0, 0, 0, 0, 0];
        slb[2..4].copy_from_slice(&length.to_le_bytes());
        slb.extend(SLB_MAGIC);
        slb.resize(length.into(), 0x90);
        slb
    }

    fn runtime(memory: u64) -> Vec<u8> {
        [&RUNTIME_MAGIC[..], &32u64.to_le_bytes(), &memory.to_le_bytes(), &RESERVE_VA.to_le_bytes()].concat()
    }

    #[test]
    fn the_module_is_the_padded_slb_and_the_runtime() {
        let module = hypervisor_module(slb(0x100), runtime(4096)).unwrap();
        assert_eq!(module.len(), 0x1_0000 + 32);
        assert!(module[0x100..0x1_0000].iter().all(|b| *b == 0));
        assert!(module[0x1_0000..].starts_with(&RUNTIME_MAGIC));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let reason = |slb, runtime| hypervisor_module(slb, runtime).unwrap_err().to_string();
        assert!(reason(slb(0x9001), runtime(4096)).starts_with("the SLB is too large: 36865 bytes"));
        assert!(reason(slb(0x18), runtime(4096)).contains("entry 0x20 lies outside"));
        assert!(reason(slb(0x100), runtime(RUNTIME_END)).starts_with("the runtime is too large"));
        assert!(reason(slb(0x100), runtime(4096)[1..].to_vec()).contains("magic"));
        assert!(reason([slb(0x100), vec![1]].concat(), runtime(4096)).contains("257 bytes of contents"));
    }
}
