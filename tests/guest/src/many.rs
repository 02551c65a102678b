//! Many PALs, and large ones.

use crate::asm_pal::{self, AsmPal};
use crate::support::{Child, Pipe, Rng, expect, leaving_nothing};
use anyhow::{Context, ensure};
use std::time::Duration;
use trustvisor::abi::Status;
use trustvisor::abi::image::MAX_PAGES;

const PROCESSES: usize = 8;
const IN_EACH: usize = 40;
const LIMIT: Duration = Duration::from_secs(120);

/// 320 PALs of one image in 8 processes, called in random order, several interrupted at a time: more than there are ASIDs. Each counts its own
/// calls.
pub fn processes() -> anyhow::Result<()> {
    leaving_nothing(|before| {
        let (registered, go) = (Pipe::new()?, Pipe::new()?);
        let children = (0..PROCESSES as u64).map(|seed| {
            Child::fork(|| {
                let pals = (0..IN_EACH).map(|_| AsmPal::register()).collect::<anyhow::Result<Vec<_>>>()?;
                registered.signal()?;
                go.wait()?;
                let mut rng = Rng::new(seed);
                let mut calls = [0; IN_EACH];
                for _ in 0..10 * IN_EACH {
                    let which = rng.within(0..IN_EACH as u64) as usize;
                    let rounds = rng.within(0..200_000);
                    calls[which] += 1;
                    ensure!(pals[which].spin(rounds)? == calls[which], "S number {which} has lost count");
                }
                pals.into_iter().try_for_each(AsmPal::unregister)
            })
        });
        let children = children.collect::<anyhow::Result<Vec<_>>>()?;
        (0..PROCESSES).try_for_each(|_| registered.wait())?;
        let pals = trustvisor::info()?.pals - before.pals;
        ensure!(pals == (PROCESSES * IN_EACH) as u64, "TrustVisor counts {pals} PALs");
        (0..PROCESSES).try_for_each(|_| go.signal())?;
        children.into_iter().try_for_each(|child| child.join(LIMIT))
    })
}

/// The largest PAL there may be, and one page more.
pub fn largest() -> anyhow::Result<()> {
    leaving_nothing(|before| {
        let mut image = asm_pal::image(false, MAX_PAGES - asm_pal::pages(0));
        asm_pal::fill_data(&mut image);
        let s = AsmPal::of(&image)?;
        ensure!(s.pal().info()?.pages == MAX_PAGES, "{} pages", s.pal().info()?.pages);
        ensure!(
            s.pal().info()?.measurement == trustvisor::image::measure(&image),
            "the measurement is another"
        );
        ensure!(s.spin(1)? == 1 && s.spin(1)? == 2, "the largest S does not work");
        ensure!(before.frames_free - trustvisor::info()?.frames_free > MAX_PAGES, "it takes too little");
        s.unregister()
    })?;
    leaving_nothing(|_| {
        let image = asm_pal::image(false, MAX_PAGES - asm_pal::pages(0) + 1);
        let owner_page = crate::support::Mapping::anonymous(1)?;
        let arguments = [image.as_ptr() as u64, image.len() as u64, owner_page.address()];
        let register = trustvisor::abi::number::REGISTER.into();
        let (_, status) = crate::support::raw(register, crate::support::NO_HANDLE, &arguments);
        expect("a PAL of one page too many", status, Status::BadImage).context("too large")
    })
}
