//! S may do anything: whatever it does, TrustVisor wipes it, the application hears why, and nothing else happens.

use crate::support::{expect_error, leaving_nothing, register};
use anyhow::{bail, ensure};
use trustvisor::Error;
use trustvisor::abi::Status;

#[path = "../pal/src/ways_to_die.rs"]
mod ways_to_die;

/// How many ways there are.
pub fn ways() -> usize {
    ways_to_die::WAYS.len()
}

pub fn run() -> anyhow::Result<()> {
    let bystander = register()?;
    for (number, (name, details)) in ways_to_die::WAYS.iter().enumerate() {
        leaving_nothing(|_| {
            let s = register()?;
            match s.die(number as u32) {
                Err(Error::Refused { status: Status::Faulted, detail }) => {
                    ensure!(details.contains(&detail), "{name}: S dies of {detail:#x}");
                }
                other => bail!("{name}: {other:?} instead of a fault"),
            }
            expect_error(name, s.count(), Status::NoSuchPal)
        })?;
        ensure!(bystander.count()? == number as u64 + 1, "{name} disturbs another PAL");
    }
    println!("tvtest: S died in {} ways", ways_to_die::WAYS.len());
    Ok(())
}
