//! The whole world as a value: what the checker keeps of a state, and comes back to.
//!
//! Pages are shared between states that do not differ in them. A state's *fingerprint* leaves out what cannot matter: which
//! frame is which, how handles and tokens are numbered, how much time passed beyond what anybody looks at, and whose secret it
//! is that lies in a PAL's own page (its own, by the invariants).

use super::super::*;
use super::invariants::Contents;
use super::world::{Ledger, Phase, World};
use crate::addr::{Hpa, PAGE_SIZE};
use abi::image::WINDOW_BASE;
use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Slots that the model's PALs can come to lie in: no more are ever taken (see [`super::model`]).
pub const SLOTS: usize = 4;

/// Ages beyond these are all the same.
const OLD_MS: u64 = collect::CONFIRM_MS;

pub struct PageCopy {
    bytes: Box<[u8; PAGE_SIZE as usize]>,
    pub contents: Contents,
}

struct SlotCopy {
    words: [u64; 5],
    pal: Pal,
}

#[derive(Clone)]
pub struct Snapshot {
    pages: Vec<Arc<PageCopy>>,
    slots: Arc<[SlotCopy; SLOTS]>,
    pool: Arc<Frames>,
    registered: u64,
    pub ledger: Arc<Ledger>,
    pub fingerprint: u64,
}

// SAFETY: nothing in a snapshot is tied to a thread: a PAL's records are plain values, the pool's direct map is but an address,
// and each thread uses it with a world of its own (`restore` puts that world's in place).
unsafe impl Send for Snapshot {}
// SAFETY: as above.
unsafe impl Sync for Snapshot {}

/// A world that snapshots are taken of and put back into.
pub struct Stage {
    pub world: World,
    /// The OS's pages that change, then the pool from its first page.
    frames: Vec<Hpa>,
    os_pages: usize,
    now: RefCell<Vec<Arc<PageCopy>>>,
}

impl Stage {
    /// The only stage of this thread. States go from one to another, so each has handles and incarnations of its own.
    pub fn new(world: World) -> Self {
        static STAGES: AtomicU64 = AtomicU64::new(1);
        static WORDS: AtomicU64 = AtomicU64::new(1);
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        *world.pals.tpm.random.lock() =
            Random::seeded(|| Some(WORDS.fetch_add(1, Ordering::Relaxed)), &number.to_le_bytes()).unwrap();
        world.pals.incarnations.store(number << 32, Ordering::Relaxed);
        let pool = world.pals.pool.lock();
        let mut frames = world.os_pages();
        let os_pages = frames.len();
        frames.extend((super::POOL..pool.base().0).step_by(PAGE_SIZE as usize).map(Hpa));
        frames.extend((0..pool.total()).map(|index| pool.base() + u64::from(index) * PAGE_SIZE));
        drop(pool);
        let now = frames.iter().map(|frame| Arc::new(copy_of(&world, *frame))).collect();
        Self { world, frames, os_pages, now: RefCell::new(now) }
    }

    /// The world as it is.
    pub fn take(&self) -> Snapshot {
        let world = &self.world;
        self.world.memory.take_reads();
        let mut now = self.now.borrow_mut();
        for (page, frame) in now.iter_mut().zip(&self.frames) {
            if !same(world, *frame, &page.bytes) {
                *page = Arc::new(copy_of(world, *frame));
            }
        }
        let pages = now.clone();
        drop(now);
        let slots = core::array::from_fn(|index| {
            let slot = &world.pals.slots[index];
            let words = slot_words(slot).map(|word| word.load(Ordering::Relaxed));
            SlotCopy { words, pal: duplicate(&slot.pal.lock()) }
        });
        let mut snapshot = Snapshot {
            pages,
            slots: Arc::new(slots),
            pool: Arc::new(world.pals.pool.lock().clone()),
            registered: world.pals.registered.load(Ordering::Relaxed),
            ledger: Arc::new(world.ledger.borrow().clone()),
            fingerprint: 0,
        };
        snapshot.fingerprint = self.fingerprint(&snapshot);
        snapshot
    }

    /// Makes the world what it was.
    pub fn restore(&self, snapshot: &Snapshot) {
        let world = &self.world;
        let mut now = self.now.borrow_mut();
        for ((page, frame), then) in now.iter_mut().zip(&self.frames).zip(&snapshot.pages) {
            if !Arc::ptr_eq(page, then) || !same(world, *frame, &then.bytes) {
                world.mem().copy_to(*frame, &then.bytes[..]);
                *page = then.clone();
            }
        }
        for (slot, then) in world.pals.slots.iter().zip(&*snapshot.slots) {
            for (word, value) in slot_words(slot).into_iter().zip(then.words) {
                word.store(value, Ordering::Relaxed);
            }
            *slot.pal.lock() = duplicate(&then.pal);
        }
        *world.pals.pool.lock() = (*snapshot.pool).clone().over(world.mem());
        world.pals.registered.store(snapshot.registered, Ordering::Relaxed);
        *world.ledger.borrow_mut() = (*snapshot.ledger).clone();
    }

    /// What a page held when the last snapshot was taken.
    pub fn contents(&self, frame: Hpa) -> Contents {
        let in_pool =
            frame.0.checked_sub(super::POOL).map(|offset| self.os_pages + (offset / PAGE_SIZE) as usize);
        let index = in_pool.or_else(|| self.frames.iter().position(|f| *f == frame));
        index.map_or_else(Contents::default, |index| self.now.borrow()[index].contents.clone())
    }

    fn fingerprint(&self, snapshot: &Snapshot) -> u64 {
        let mut hash = DefaultHasher::new();
        let ledger = &snapshot.ledger;
        let mem = self.world.mem();
        let age = |since: u64| (ledger.now - since).min(OLD_MS);
        for (index, SlotCopy { words, pal }) in snapshot.slots.iter().enumerate() {
            match &pal.state {
                State::Free => 0u8.hash(&mut hash),
                State::Registering(_) => 1u8.hash(&mut hash),
                State::Idle => 2u8.hash(&mut hash),
                State::InCall(p) => (3u8, p.step as u8, p.buffer, p.offset, pal.faults).hash(&mut hash),
                State::Wiping(_) => 4u8.hash(&mut hash),
            }
            let Some(life) = ledger.lives.iter().find(|life| life.slot == index) else { continue };
            (life.app, life.ran, life.faults, life.aborted, words[4] == words[3]).hash(&mut hash);
            (age(pal.last_used_ms), pal.suspect_since_ms.map(age), pal.param_used).hash(&mut hash);
            life.dead_since.map(age).hash(&mut hash);
            if let Phase::InCall(open) = &life.phase {
                (open.entry, open.entered, open.returned, open.faults).hash(&mut hash);
            }
            // The tables hold nothing but places.
            for page in 0..if pal.frames.vmcb == Hpa(0) { 0 } else { 64 } {
                let place = pal.frames.resolve(mem, Gva(WINDOW_BASE + page * PAGE_SIZE));
                place.map(|(frame, _)| self.contents(frame).digest).hash(&mut hash);
            }
            self.contents(pal.frames.fpu).digest.hash(&mut hash);
            for processor in &ledger.processors {
                let holds =
                    |asid: &u32| processor.tlb.get(asid).is_some_and(|(serial, _)| *serial == life.serial);
                processor.tlb.keys().filter(|asid| holds(asid)).for_each(|asid| asid.hash(&mut hash));
                let mut asids = processor.asids.clone();
                asids.assign(life.incarnation).hash(&mut hash);
            }
        }
        for (app, page) in ledger.owner_pages.iter().enumerate() {
            let handle = self.world.owner_holds(app);
            (*page, ledger.lives.iter().position(|life| life.handle == handle)).hash(&mut hash);
        }
        ledger.wrong.hash(&mut hash);
        hash.finish()
    }
}

fn slot_words(slot: &Slot) -> [&AtomicU64; 5] {
    [&slot.handle[0], &slot.handle[1], &slot.owner_cr3, &slot.incarnation, &slot.dying]
}

/// A second copy of a PAL's records.
fn duplicate(pal: &Pal) -> Pal {
    // SAFETY: a valid `Pal`, which owns nothing outside itself (a hash under way wipes itself when dropped, no more), so
    // two of it are two values.
    unsafe { core::ptr::read(pal) }
}

fn same(world: &World, frame: Hpa, bytes: &[u8; PAGE_SIZE as usize]) -> bool {
    let page = world.mem().pointer(frame, PAGE_SIZE);
    // SAFETY: a page of the world's memory, which nothing writes during the comparison.
    unsafe { core::slice::from_raw_parts(page, bytes.len()) == bytes }
}

fn copy_of(world: &World, frame: Hpa) -> PageCopy {
    let mut bytes = Box::new([0; PAGE_SIZE as usize]);
    world.mem().copy_from(frame, &mut bytes[..]);
    let contents = Contents::of(&bytes);
    PageCopy { bytes, contents }
}
