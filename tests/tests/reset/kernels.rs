//! Another kernel, started by the old one (kexec): it still runs under TrustVisor, with what is left of the old one's programs. A crash
//! kernel is `tests/attacks.rs`'s.

use crate::trial::{Build, MEMORY_MIB, Trial, boot};
use anyhow::{Result, ensure};
use std::io::Write as _;
use trustvisor_tests::{SOON, built};

/// How often the new kernel finds the secret of an S whose owner went with the old one.
fn hits_of_the_next_kernel(hypervisor: &Build) -> Result<u64> {
    let way = "kexec";
    let mut disk = tempfile::NamedTempFile::new()?;
    disk.write_all(&built()?.guest.disk())?;
    let trial = Trial::start(way, boot(way)?.disk(disk.path()), hypervisor, "")?;
    trial.go()?;
    trial.machine.wait_until_ready()?;
    trial.machine.succeed("trustvisor info", SOON)?;
    let hits = trial.secret_hits()?;
    println!("reset: {way}: the next kernel finds {hits} words of the secret in {MEMORY_MIB} MiB");
    Ok(hits)
}

#[test]
fn the_next_kernel_is_under_trustvisor_and_finds_nothing() -> Result<()> {
    let hits = hits_of_the_next_kernel(&Build::real()?)?;
    ensure!(hits == 0, "kexec: the next kernel finds {hits} words of the secret");
    Ok(())
}

#[test]
fn it_finds_all_where_nothing_hides_the_reserve() -> Result<()> {
    let hits = hits_of_the_next_kernel(crate::without_wipe()?)?;
    ensure!(hits >= crate::trial::WORDS as u64, "kexec: the next kernel finds {hits} words of the secret");
    Ok(())
}
