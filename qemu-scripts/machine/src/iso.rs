//! The boot medium: an ISO with GRUB (`grub-mkrescue`) whose configuration starts one thing without asking.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::boot::{Module, Multiboot};
use crate::process::run;

/// What GRUB starts.
pub(crate) enum Start<'a> {
    /// A multiboot kernel with its command line and modules.
    Kernel { version: Multiboot, loader: &'a [u8], options: &'a str, modules: &'a [Module] },
    /// Linux, with its command line.
    Linux { kernel: &'a [u8], initrd: &'a [u8], options: &'a str },
}

/// Makes the ISO below `folder`.
pub(crate) fn make(folder: &Path, start: &Start) -> Result<PathBuf> {
    let tree = folder.join("iso");
    let boot = tree.join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    let mut script = String::from("serial --unit=0 --speed=115200\nterminal_output serial\n");
    match start {
        Start::Kernel { version, loader, options, modules } => {
            let (kernel, module) = match version {
                Multiboot::One => ("multiboot", "module"),
                Multiboot::Two => ("multiboot2", "module2"),
            };
            fs::write(boot.join("loader"), loader)?;
            script += &format!("{kernel} /boot/loader{}\n", words(options));
            for (number, Module { bytes, options }) in modules.iter().enumerate() {
                fs::write(boot.join(format!("module{number}")), bytes)?;
                script += &format!("{module} /boot/module{number}{}\n", words(options));
            }
        }
        Start::Linux { kernel, initrd, options } => {
            fs::write(boot.join("vmlinuz"), kernel)?;
            fs::write(boot.join("initrd"), initrd)?;
            script += &format!("linux /boot/vmlinuz{}\ninitrd /boot/initrd\n", words(options));
        }
    }
    script += "boot\n";
    fs::write(boot.join("grub/grub.cfg"), script)?;
    let iso = folder.join("boot.iso");
    let mut mkrescue = Command::new("grub-mkrescue");
    mkrescue.args([
        "--directory=/usr/lib/grub/i386-pc",
        "--locales=",
        "--fonts=",
        "--themes=",
        "--compress=no",
    ]);
    mkrescue.arg("--install-modules=normal multiboot multiboot2 linux serial iso9660 biosdisk");
    mkrescue.arg("-o").arg(&iso).arg(&tree).env("TMPDIR", folder);
    run("making the boot medium", mkrescue, Duration::from_secs(60))?;
    fs::remove_dir_all(tree)?;
    Ok(iso)
}

/// The words of a command line, each quoted for GRUB's shell.
fn words(line: &str) -> String {
    line.split_whitespace().map(|word| format!(" '{}'", word.replace('\'', "'\\''"))).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_quoted() {
        assert_eq!(super::words("a=b  {c}'d"), " 'a=b' '{c}'\\''d'");
        assert_eq!(super::words(""), "");
    }
}
