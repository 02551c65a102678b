//! Registering and unregistering leaves nothing behind, however often and however full.

use crate::support::{IMAGE, TestPal, header, leaving_nothing, register};
use anyhow::{bail, ensure};
use std::time::Instant;
use trustvisor::abi::Status;
use trustvisor::abi::image::{Header, PAGE_SIZE, kind};
use trustvisor::image::header_bytes;

const CYCLES: u32 = 1_000;

pub fn run() -> anyhow::Result<()> {
    let start = Instant::now();
    leaving_nothing(|_| {
        for cycle in 0..CYCLES {
            let s = register()?;
            ensure!(s.count()? == 1, "cycle {cycle}: S was called before");
            s.unregister()?;
        }
        Ok(())
    })?;
    println!(
        "tvtest: {CYCLES} registrations, calls and unregistrations in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

pub fn several() -> anyhow::Result<()> {
    leaving_nothing(|before| {
        let mut pals = (0..8).map(|_| register()).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(trustvisor::info()?.pals == before.pals + 8, "TrustVisor does not count 8 PALs");
        for round in 1..=3 {
            for (i, s) in pals.iter().enumerate() {
                s.set_secret(i as u64 * 1_000)?;
                ensure!(s.count()? == round, "the PALs share their data");
            }
        }
        let secrets: Vec<_> = pals.iter().map(secret).collect::<Result<_, _>>()?;
        pals.swap_remove(3).unregister()?;
        drop(pals.swap_remove(0));
        let survivors: Vec<_> = pals.iter().map(secret).collect::<Result<_, _>>()?;
        ensure!(survivors.iter().all(|s| secrets.contains(s)), "a PAL lost its secret when another went");
        ensure!((1..8).all(|i| secrets[i] != secrets[0]), "two PALs have the same secret");
        Ok(())
    })
}

fn secret(s: &TestPal) -> Result<Vec<u8>, trustvisor::Error> {
    let mut bytes = vec![0; 4096];
    s.masked_secret(trustvisor::Out(&mut bytes), 0)?;
    Ok(bytes)
}

/// Large PALs until the pool is full, then small ones until the table is: a status each, and all come back.
pub fn full_pool() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let registered = register_until_refused(&with_size(kind::DATA, 3_000), Status::NoMemory)?;
        println!("tvtest: the pool takes {registered} PALs of 12 MiB");
        Ok(())
    })?;
    leaving_nothing(|_| {
        let registered = register_until_refused(&with_size(kind::PARAM, 1), Status::TooMany)?;
        println!("tvtest: the table takes {registered} PALs");
        Ok(())
    })?;
    ensure!(register()?.count()? == 1, "S does not run after all this");
    Ok(())
}

fn register_until_refused(image: &[u8], wanted: Status) -> anyhow::Result<usize> {
    let mut pals = Vec::new();
    loop {
        match TestPal::register(image) {
            Ok(s) => pals.push(s),
            Err(error) if error.status() == Some(wanted) && !pals.is_empty() => break,
            Err(error) => bail!("PAL number {}: {error}", pals.len()),
        }
    }
    for s in &pals {
        ensure!(s.count()? == 1, "a PAL of a full TrustVisor does not run");
    }
    Ok(pals.len())
}

/// S's image with one section of another size, those above it moved.
fn with_size(kind: u32, pages: u64) -> Vec<u8> {
    let mut header: Header = header();
    let at = header.sections.iter().position(|s| s.kind == kind).expect("S has all kinds of sections");
    let larger = pages * PAGE_SIZE;
    let before = std::mem::replace(&mut header.sections[at].mem_size, larger);
    for section in header.sections[at + 1..].iter_mut().filter(|s| s.kind != 0) {
        section.addr = section.addr + larger - before;
    }
    [&header_bytes(&header), &IMAGE[size_of::<Header>()..]].concat()
}
