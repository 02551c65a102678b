//! S may do anything: whatever it does, TrustVisor wipes it, the application hears why, and nothing else happens.

use crate::support::{expect_error, leaving_nothing, register};
use anyhow::ensure;
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
    let mut wrong = Vec::new();
    for (number, (name, details)) in ways_to_die::WAYS.iter().enumerate() {
        leaving_nothing(|_| {
            let s = register()?;
            match s.die(number as u32) {
                Err(Error::Refused { status: Status::Faulted, detail }) if details.contains(&detail) => {
                    expect_error(name, s.count(), Status::NoSuchPal)?;
                }
                other => wrong.push(format!("{name}: {other:x?}")),
            }
            Ok(())
        })?;
        ensure!(bystander.count()? == number as u64 + 1, "{name} disturbs another PAL");
    }
    ensure!(wrong.is_empty(), "S should have died otherwise: {}", wrong.join("; "));
    println!("tvtest: S died in {} ways", ways_to_die::WAYS.len());
    Ok(())
}
