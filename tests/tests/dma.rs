//! Devices against TrustVisor, commanded by a hostile root: transfers to and from its memory, to registers that guard it, and messages
//! that would reset or start a processor. And ordinary devices at work, which must not notice that they are kept from there.
//! And one that writes to it all the time while the machine is launched.
//!
//! Every attack by root is carried out twice, as in `attacks.rs`: against TrustVisor, and on the bare machine, to show that it is an attack.

#[path = "dma/attacks.rs"]
mod attacks;
#[path = "dma/card.rs"]
mod card;
#[path = "dma/order.rs"]
mod order;
#[path = "dma/ordinary.rs"]
mod ordinary;
#[path = "dma/places.rs"]
mod places;
#[path = "dma/trial.rs"]
mod trial;

use anyhow::{Result, bail, ensure};
use attacks::{disk_reads, disk_writes};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use trial::{BESIDE, Blocked, By, Done, Outcome, PAGE, SECTOR, Trial, judge_read, judge_write};
use trustvisor_tests::SOON;

const LEAST: usize = 10;

/// The attacks need two machines at a time, as many as there may be: held by each test.
static MACHINES: Mutex<()> = Mutex::new(());

fn machines() -> MutexGuard<'static, ()> {
    MACHINES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn every_attack_by_a_device_is_blocked_and_real() -> Result<()> {
    let _held = machines();
    let reserve = trial::reserve()?;
    let trial = Trial::start("dma", true, &reserve, false)?;
    let places = places::find(&trial)?;
    for place in &places {
        println!("dma: {}: {:#x}, {:#x}", place.name, place.read, place.write);
    }
    let bare_places = places.clone();
    let (against, without) = thread::scope(|scope| {
        let bare = scope.spawn(|| {
            let mut outcomes = carry_out(&Trial::start("dma-bare", false, &reserve, false)?, &bare_places)?;
            outcomes.extend(init("dma-init-bare", false, &reserve)?);
            anyhow::Ok(outcomes)
        });
        let against = carry_out(&trial, &places).and_then(|mut outcomes| {
            if outcomes.iter().all(|(_, outcome)| outcome.as_ref().is_ok_and(|o| *o == Blocked)) {
                unharmed(&trial)?;
            }
            drop(trial);
            outcomes.extend(init("dma-init", true, &reserve)?);
            Ok(outcomes)
        });
        (against, bare.join().expect("no panic"))
    });
    report(against?, without?)
}

type Outcomes = Vec<(String, Result<Outcome>)>;

fn carry_out(trial: &Trial, places: &[places::Place]) -> Result<Outcomes> {
    beside_the_reserve(trial)?;
    past_the_iommu(trial, places)?;
    for (name, how) in attacks::MESSAGES {
        println!("dma: not counted: edu sends NMI {name}: {:?}", attacks::nmi(trial, how)?);
    }
    let attacks = attacks::all(places);
    Ok(attacks.into_iter().map(|attack| (attack.name, (attack.carry_out)(trial))).collect())
}

/// What ends the machine where nothing prevents it, on a machine of its own, which then boots again.
fn init(name: &str, protected: bool, reserve: &std::ops::Range<u64>) -> Result<Outcomes> {
    let trial = Trial::start(name, protected, reserve, true)?;
    let outcome = |(name, how)| (format!("edu resets the processor {name}"), attacks::init(&trial, how));
    Ok(attacks::MESSAGES.into_iter().map(outcome).collect())
}

/// Nobody but the reserve loses anything: devices read and write the pages next to it.
fn beside_the_reserve(trial: &Trial) -> Result<()> {
    for address in [trial.reserve.start - PAGE, trial.reserve.end, trial.reserve.end + BESIDE - PAGE] {
        for text in ["beside the reser", "ve, both ways..."] {
            let before = trial.dump(address, 16)?;
            trial.edu_write(address, text.as_bytes())?;
            let written = judge_write(&before, text.as_bytes(), &trial.dump(address, 16)?)?;
            ensure!(written == Done, "edu cannot write at {address:#x}, outside the reserve");
            let read = judge_read(text.as_bytes(), &trial.edu_read(address, 16)?)?;
            ensure!(read == Done, "edu cannot read at {address:#x}, outside the reserve");
        }
    }
    Ok(())
}

/// What QEMU's virtio devices do without `iommu_platform=on`: no IOMMU stands between them and memory.
fn past_the_iommu(trial: &Trial, places: &[places::Place]) -> Result<()> {
    let s = places[0].write & !(SECTOR - 1);
    let read = disk_reads(trial, By::VirtioDirect, s)?;
    let written = disk_writes(trial, By::VirtioDirect, s)?;
    println!("dma: not counted: virtio without iommu_platform: read {read:?}, write {written:?}");
    ensure!(
        (read, written) == (Done, Done),
        "virtio without iommu_platform does not reach all memory any more"
    );
    Ok(())
}

/// S, and who keeps it.
fn unharmed(trial: &Trial) -> Result<()> {
    trial.machine.send("touch /tmp/release")?;
    trial.machine.wait_for("dma: released", SOON)?;
    trial.machine.succeed("tvtest calls pcrs", SOON).map(drop)
}

fn report(against: Outcomes, without: Outcomes) -> Result<()> {
    let (mut blocked, mut wrong, all) = (0, String::new(), against.len());
    for ((name, against), (same, without)) in against.into_iter().zip(without) {
        ensure!(name == same, "{name} is not {same}");
        let good = matches!(against, Ok(Blocked)) && matches!(without, Ok(Done));
        blocked += usize::from(good);
        println!("dma: {name}: {}", if good { "blocked, and real" } else { "WRONG" });
        if !good {
            let say =
                |outcome: Result<Outcome>| outcome.map_or_else(|e| format!("{e:#}"), |o| format!("{o:?}"));
            writeln!(
                wrong,
                "{name}: against TrustVisor: {}; on the bare machine: {}",
                say(against),
                say(without)
            )?;
        }
    }
    ensure!(all >= LEAST, "only {all} attacks");
    if blocked != all {
        bail!("{wrong}blocked {blocked} of {all}");
    }
    println!("blocked {blocked} of {all}");
    Ok(())
}
