//! What holds between any two steps, whatever happened before.

use super::super::*;
use super::world::{Life, MARK, Phase, SECRET, World};
use crate::addr::{Hpa, PAGE_SIZE};
use std::collections::{BTreeMap, BTreeSet};

/// What a page holds, as far as the invariants ask.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Contents {
    pub zero: bool,
    /// Whose secrets are in it.
    pub secrets: BTreeSet<u64>,
    /// A digest that is the same for every incarnation and every call.
    pub digest: u64,
}

impl Contents {
    pub fn of(bytes: &[u8; PAGE_SIZE as usize]) -> Self {
        if *bytes == [0; PAGE_SIZE as usize] {
            return Self { zero: true, ..Self::default() };
        }
        let mut contents = Self { digest: 0xcbf2_9ce4_8422_2325, ..Self::default() };
        for word in bytes.as_chunks::<8>().0 {
            let mut word = u64::from_le_bytes(*word);
            if word & MARK == SECRET {
                contents.secrets.insert(word >> 8 & 0xff_ffff);
                word &= MARK | 0xff;
            } else if word & MARK == super::world::RESULT {
                word &= MARK;
            }
            contents.digest = (contents.digest ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        contents
    }
}

/// Checks them all; `contents` answers for any page.
pub fn check(world: &World, contents: &dyn Fn(Hpa) -> Contents) -> Result<(), String> {
    let ledger = world.ledger.borrow();
    if let Some(wrong) = &ledger.wrong {
        return Err(wrong.clone());
    }
    let pals = world.pals;
    let pool = pals.pool.lock();
    let mut owned = BTreeMap::<usize, BTreeSet<Hpa>>::new();
    let mut free = 0;
    for frame in (0..pool.total()).map(|index| pool.base() + u64::from(index) * PAGE_SIZE) {
        match pool.owner_of(frame) {
            None => {
                free += 1;
                ensure(contents(frame).zero, "a free frame is not zero")?;
            }
            Some(owner) => drop(owned.entry(owner.into()).or_default().insert(frame)),
        }
    }
    ensure(free == pool.free_count(), "the free frames are miscounted")?;
    let listed: BTreeSet<_> = pool.free_frames().into_iter().collect();
    ensure(listed.len() == free as usize, "the list of free frames is too long or too short")?;
    ensure(listed.iter().all(|frame| pool.owner_of(*frame).is_none()), "an owned frame is listed as free")?;
    drop(pool);

    ensure(pals.count() == ledger.lives.len() as u64, "PALs are miscounted")?;
    for life in &ledger.lives {
        let mine = owned.remove(&life.slot).unwrap_or_default();
        check_slot(world, life, &mine)?;
        for frame in mine {
            let secrets = contents(frame).secrets;
            ensure(secrets.iter().all(|serial| *serial == life.serial), "a secret in another PAL's frame")?;
        }
    }
    ensure(owned.is_empty(), "a frame of a PAL that is gone")?;
    for page in world.os_pages() {
        ensure(contents(page).secrets.is_empty(), "a secret in the OS's memory")?;
    }
    Ok(())
}

fn check_slot(world: &World, life: &Life, owned: &BTreeSet<Hpa>) -> Result<(), String> {
    let slot = &world.pals.slots[life.slot];
    let Some(pal) = slot.pal.try_lock() else { return Err("a slot is locked after a step".into()) };
    let handle = [&slot.handle[0], &slot.handle[1]].map(|word| word.load(Ordering::Relaxed));
    let (named, state) = match &life.phase {
        Phase::Registering => (false, matches!(pal.state, State::Registering(_))),
        Phase::Idle => (true, matches!(pal.state, State::Idle)),
        Phase::InCall(_) => (true, matches!(pal.state, State::InCall(_))),
        Phase::Wiping(_) => (false, matches!(pal.state, State::Wiping(_))),
    };
    ensure(state, "a PAL is in another state than what was done to it says")?;
    let expected = if named { [life.handle.low, life.handle.high] } else { [0, 0] };
    ensure(handle == expected, "a handle names a PAL that cannot be called, or the other way round")?;
    if matches!(life.phase, Phase::Wiping(_)) {
        return Ok(());
    }
    let reached: BTreeSet<_> = frames(world, &pal).into_iter().collect();
    ensure(reached == *owned, "a PAL's tables lead elsewhere than to its frames")?;
    let whole = life.phase == Phase::Registering || owned.len() == world.needed(life.app) as usize;
    ensure(whole, "a PAL has too many frames or too few")?;
    ensure(life.frames.is_subset(owned), "S was in a frame that is not its own")
}

/// All frames that a PAL's page tables and control fields name.
fn frames(world: &World, pal: &Pal) -> Vec<Hpa> {
    let mem = world.mem();
    let f = &pal.frames;
    let mut all = vec![f.vmcb, f.header, f.fpu, f.root];
    let mut tables = vec![f.root];
    for _ in 0..4 {
        // The model's PALs are small: their tables' first entries are all there are.
        let entries = tables.iter().flat_map(|table| (0..64).map(|i| mem.read_u64(*table + i * 8)));
        tables = entries.filter(|entry| entry & 1 != 0).map(|e| Hpa(e & 0x000f_ffff_ffff_f000)).collect();
        all.extend(&tables);
    }
    all.retain(|frame| *frame != Hpa(0));
    all
}

/// A free slot tells nothing of whoever was there.
pub fn check_free_slots(world: &World) -> Result<(), String> {
    let ledger = world.ledger.borrow();
    for (index, slot) in world.pals.slots.iter().enumerate() {
        if ledger.lives.iter().any(|life| life.slot == index) {
            continue;
        }
        let Some(pal) = slot.pal.try_lock() else { return Err("a slot is locked after a step".into()) };
        let words = [&slot.handle[0], &slot.handle[1], &slot.owner_cr3, &slot.incarnation];
        let blank = words.iter().all(|word| word.load(Ordering::Relaxed) == 0)
            && matches!(pal.state, State::Free)
            && super::s::words(&pal.regs) == [0; 14]
            && (pal.frames.root, pal.frames.rsp) == (Hpa(0), 0)
            && (pal.frames.vmcb, pal.frames.fpu) == (Hpa(0), Hpa(0))
            && pal.space == Space::default()
            && (&pal.pcrs, pal.calls, pal.param_used) == (&Pcrs::default(), 0, 0)
            && pal.call.incarnation == 0
            && (pal.last_used_ms, pal.suspect_since_ms) == (0, None);
        ensure(blank, "a free slot tells of the PAL that was there")?;
    }
    Ok(())
}

fn ensure(is: bool, otherwise: &str) -> Result<(), String> {
    if is { Ok(()) } else { Err(otherwise.into()) }
}
