//! Devices are kept out before the runtime is read, in order to be measured. A card writes into the runtime's image, from outside, while
//! the machine stands still at SKINIT, and again where the SLB first reads a byte of the image, and from there on all the time
//! until the guest is up. What it wrote at SKINIT is there, and measured; of the rest nothing is there.
//!
//! Where devices are kept out too late, or not at all, all is there that it wrote at that first read.

use crate::card::{self, Card, RESULT};
use crate::trial::PAGE;
use anyhow::{Context, Result, ensure};
use hypervisor::launch::{RUNTIME_OFFSET, SLB_SIZE};
use machine::{Boot, Machine, mutated_hypervisor, predict};
use std::time::Instant;
use tempfile::TempDir;
use trustvisor_tests::{SOON, built, pcr_in_guest};

const OPTIONS: &str = "console=com1";
const UNPROTECTED: &str = "dma=unprotected console=com1";

/// A machine that stands still.
struct Launch {
    machine: Machine,
    card: Card,
    /// Where the runtime's image is, and what is to be there.
    base: u64,
    image: Vec<u8>,
    _socket: TempDir,
}

impl Launch {
    /// Up to SKINIT.
    fn start(name: &str, hypervisor: &[u8], change: impl FnOnce(Boot) -> Boot) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("qtest");
        let image = hypervisor[SLB_SIZE as usize..].to_vec();
        let qtest = format!("unix:{},server=on,wait=off", socket.display());
        let boot = Boot::new(name, built()?.as_ref()).hypervisor(hypervisor.to_vec());
        let boot = boot.watched(RUNTIME_OFFSET..RUNTIME_OFFSET + image.len() as u64);
        let boot = boot.qemu(&["-device", card::DEVICE, "-qtest", &qtest, "-qtest-log", "none"]);
        let machine = change(boot).start()?;
        let said = machine.wait_for("machine: SKINIT: SLB at 0x", SOON)?.text;
        let base = said.split("0x").nth(1).and_then(|rest| rest.split(',').next()).context("no base")?;
        let base = u64::from_str_radix(base, 16)? + RUNTIME_OFFSET;
        let launch = Self { machine, card: Card::new(&socket)?, base, image, _socket: folder };
        ensure!(launch.memory()? == launch.image, "the loader has put something else there");
        Ok(launch)
    }

    fn go_on_to_the_first_read(&self) -> Result<()> {
        self.machine.go_on()?;
        let said = self.machine.wait_for("machine: first read of what is watched", SOON)?.text;
        println!("dma: {said}");
        Ok(())
    }

    fn memory(&self) -> Result<Vec<u8>> {
        self.machine.memory_dump(self.base, self.image.len() as u64)
    }

    /// The first bytes of each page that is the same as long as the machine is on: the last one has the data.
    fn places(&self) -> std::iter::StepBy<std::ops::Range<usize>> {
        (0..self.image.len() - PAGE as usize).step_by(PAGE as usize)
    }

    fn write_everywhere(&mut self) -> Result<()> {
        self.places().try_for_each(|at| self.card.write(self.base + at as u64))
    }

    /// In how many places there is what the card writes.
    fn landed(&self) -> Result<usize> {
        let memory = self.memory()?;
        Ok(self.places().filter(|at| memory[*at..].starts_with(&RESULT)).count())
    }
}

#[test]
fn devices_are_kept_out_before_the_runtime_is_read() -> Result<()> {
    let _held = crate::machines();
    let mut hypervisor = built()?.hypervisor.clone();
    let mut launch = Launch::start("dma-order", &hypervisor, |boot| boot)?;
    // Nobody uses what fills a page up.
    let gap = launch.places().skip(1).find(|at| launch.image[at - 16..*at] == [0; 16]);
    let gap = gap.context("no page has an end that is not used")? - 16;
    launch.card.write(launch.base + gap as u64)?;
    launch.image[gap..gap + RESULT.len()].copy_from_slice(&RESULT);
    ensure!(launch.memory()? == launch.image, "a device does not reach the runtime at SKINIT");

    launch.go_on_to_the_first_read()?;
    launch.write_everywhere()?;
    ensure!(launch.memory()? == launch.image, "a device changes the runtime where it is read");
    launch.machine.go_on()?;
    let mut rounds = [0; 2];
    let deadline = Instant::now() + 2 * SOON;
    loop {
        launch.write_everywhere()?;
        let lines = launch.machine.lines();
        let said = |what: &str| lines.iter().any(|line| line.contains(what));
        rounds[usize::from(said("slb: starting the runtime"))] += launch.places().len();
        if said("guest: ready") {
            break;
        }
        ensure!(Instant::now() < deadline, "no guest (log: {})", launch.machine.log().display());
    }
    println!("dma: {} writes while the SLB measures, {} until the guest is up", rounds[0], rounds[1]);
    ensure!(rounds[0] > 0, "no write while the SLB measures");

    launch.machine.wait_until_ready()?;
    let same = launch.image.len() - PAGE as usize;
    ensure!(launch.memory()?[..same] == launch.image[..same], "a device has changed the runtime");
    hypervisor[SLB_SIZE as usize..].copy_from_slice(&launch.image);
    let pcrs = predict(&hypervisor, OPTIONS)?;
    ensure!(pcrs.pcr17 != built()?.pcrs.pcr17);
    for (register, pcr) in [(17, pcrs.pcr17), (18, pcrs.pcr18)] {
        let found = pcr_in_guest(&launch.machine, "sha256", register)?;
        ensure!(found == pcr.sha256(), "PCR {register}: predicted {}, found {found}", pcr.sha256());
    }
    let info = launch.machine.succeed("trustvisor info", SOON)?;
    for line in ["dynamic launch: yes", "protected from devices: yes"] {
        ensure!(info.iter().any(|l| l == line), "{info:?}");
    }
    Ok(())
}

#[test]
fn where_devices_are_kept_out_too_late_they_change_it() -> Result<()> {
    let _held = crate::machines();
    let late = mutated_hypervisor("dma-late")?;
    let (hypervisor, same) = (&built()?.hypervisor, |boot: Boot| boot);
    all_lands(Launch::start("dma-late", &late, same)?)?;
    let unprotected = |boot: Boot| boot.iommu(false).options(UNPROTECTED);
    all_lands(Launch::start("dma-unprotected", hypervisor, unprotected)?)
}

fn all_lands(mut launch: Launch) -> Result<()> {
    launch.go_on_to_the_first_read()?;
    launch.write_everywhere()?;
    let (landed, all) = (launch.landed()?, launch.places().len());
    ensure!(landed == all, "{landed} of {all} writes change the runtime");
    Ok(())
}
