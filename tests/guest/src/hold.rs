//! Holds a PAL for somebody who looks at the machine's memory from outside: says what to look for (masked), waits for
//! the file `/tmp/release`, unregisters, says so, and waits for it once more.

use crate::secrecy::Needles;
use crate::support::{random, register};
use anyhow::ensure;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

const RELEASE: &str = "/tmp/release";

pub fn run() -> anyhow::Result<()> {
    let s = register()?;
    s.set_secret(random()?)?;
    let needles = Needles::of(&s)?;
    pool()?;
    let words: String = needles.words.iter().map(|word| format!(" {word:#x}")).collect();
    println!("tvtest: holds {:#x}{words}", needles.mask);
    wait()?;
    s.unregister()?;
    println!("tvtest: released");
    wait()
}

/// Says where the pool is.
pub fn pool() -> anyhow::Result<()> {
    let info = trustvisor::info()?;
    println!("tvtest: pool {:#x} {:#x}", info.pool_base, info.frames_total * 4096);
    Ok(())
}

pub fn wait() -> anyhow::Result<()> {
    for _ in 0..1_200 {
        if std::fs::remove_file(Path::new(RELEASE)).is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    ensure!(false, "nobody releases the PAL");
    Ok(())
}
