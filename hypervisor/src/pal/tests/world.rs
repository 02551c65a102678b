//! The world in which the model drives the production code: memory with the tables of several address spaces, applications
//! with an owner page each, processors with ASIDs and TLBs, and a ledger of what is true.
//!
//! The ledger ([`Ledger`]) is what an observer who sees everything writes down: which PALs live, whose frames are whose, what
//! S left in its registers. It is made from what S and the OS *did*, never copied from the production code's own state.

use super::super::*;
use super::machine::{empty_header, section};
use crate::addr::{Hpa, PAGE_SIZE};
use crate::asid::Asids;
use crate::memory::TestMemory;
use abi::image::{self, Entry, HEADER_SIZE, Header, arg, kind};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// How large the world is.
#[derive(Clone, Copy)]
pub struct Shape {
    pub apps: usize,
    pub spaces: usize,
    /// Pages of the pool, its bookkeeping included.
    pub pool_pages: u64,
    /// Pages of a PAL's parameter section: with more than ten, a wipe takes more than one stay.
    pub param_pages: u64,
    /// For each processor: how many ASIDs it has, and whether it can flush one alone.
    pub processors: &'static [(u32, bool)],
}

/// Where things lie in the OS's memory.
const IMAGES: u64 = super::OS_RAM;
const SPACES: u64 = super::OS_RAM + 0x4000;
const SPACE_SIZE: u64 = 0x6000;
const OWNERS: u64 = super::OS_RAM + 0x3_8000;
/// Where things lie in every address space: two images, the result buffer's two pages, owner pages.
const GVA_IMAGE: u64 = 0x40_0000;
const GVA_OUT: u64 = GVA_IMAGE + 16 * PAGE_SIZE;
const GVA_OWNER: u64 = GVA_IMAGE + 64 * PAGE_SIZE;
/// Flags of an ordinary page: present, writable, user, accessed, dirty.
const ORDINARY: u64 = 0x67;
/// What a page of the swap's looks like to Linux: not present, not zero.
const SWAPPED: u64 = 0x1234_5000 | 2;

/// Bytes that the OS passes in: the start of the image, which does not change.
pub const IN_LENGTH: u64 = 32;
/// The result buffer: its first word lies in one page, the others in the next.
pub const OUT_LENGTH: u64 = 24;
pub const OUT_AT: u64 = GVA_OUT + PAGE_SIZE - 8;
/// What the OS fills result buffers with.
pub const FILL: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// A word that only one incarnation of S may see: bits 31:8 say whose, bits 7:0 where it was put.
pub const SECRET: u64 = 0x5ec2_e700_0000_0000;
/// A word that S gives to its caller; the low half is the number of the call.
pub const RESULT: u64 = 0x0a75_e700_0000_0000;
pub const MARK: u64 = 0xffff_ffff_0000_0000;

pub fn secret(serial: u64, place: u64) -> u64 {
    SECRET | serial << 8 | place
}

/// How the OS maps a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Page {
    Present,
    /// Present and writable, not dirty.
    Clean,
    /// The entry is zero.
    Empty,
    Swapped,
}

/// One PAL, from its first frame to its last.
#[derive(Clone)]
pub struct Life {
    /// Names its secrets; never repeated.
    pub serial: u64,
    pub slot: usize,
    pub app: usize,
    pub handle: Handle,
    /// 0 until S ran for the first time.
    pub incarnation: Incarnation,
    pub phase: Phase,
    /// The newest token, and the one before.
    pub token: u64,
    pub old_token: u64,
    /// Frames that S, its tables and its VMCB were seen in.
    pub frames: BTreeSet<Hpa>,
    /// S ran: its secrets are in its memory.
    pub ran: bool,
    /// Since when no look has found its owner alive, and no call has come, though once the owner was dead.
    pub dead_since: Option<u64>,
    pub last_used: u64,
    /// Page faults of its registration.
    pub faults: u32,
    /// `ABORT` came while it ran.
    pub aborted: bool,
}

/// What the ledger knows of a PAL's state.
#[derive(Clone, PartialEq, Eq)]
pub enum Phase {
    Registering,
    Idle,
    InCall(Open),
    /// Its wipe was given a token; this is what the token is to answer.
    Wiping(Outcome),
}

/// A call that is open.
#[derive(Clone, PartialEq, Eq)]
pub struct Open {
    pub entry: u16,
    /// The number of the call, in S's results.
    pub number: u64,
    /// How often S was entered for it, and whether it came back.
    pub entered: bool,
    pub returned: bool,
    /// What S left in its registers: general ones, RAX, RIP, RSP.
    pub left: [u64; 17],
    pub faults: u32,
}

/// A processor: its ASIDs are the production code's, its TLB is the model's.
#[derive(Clone)]
pub struct Processor {
    pub asids: Asids,
    /// For each ASID: who filled it, and which frame each page was found in.
    pub tlb: BTreeMap<u32, (u64, BTreeMap<u64, Hpa>)>,
}

/// What an observer who sees everything has written down.
#[derive(Clone)]
pub struct Ledger {
    pub processors: Vec<Processor>,
    pub now: u64,
    pub lives: Vec<Life>,
    /// How many there have been, how many calls, how many stays of S.
    pub born: u64,
    pub calls: u64,
    pub stays: u64,
    pub machine_checks: u64,
    pub handles: Vec<Handle>,
    pub incarnations: Vec<Incarnation>,
    /// How each application's owner page is mapped.
    pub owner_pages: Vec<Page>,
    /// The last PAL that died: application and handle.
    pub last_dead: Option<(usize, Handle)>,
    /// The first thing that was not as it must be.
    pub wrong: Option<String>,
}

pub struct World {
    pub memory: TestMemory,
    pub pals: &'static Pals,
    pub shape: Shape,
    pub ledger: RefCell<Ledger>,
}

/// The two images: 0 without FPU, 1 with.
pub fn header(image: usize, param_pages: u64) -> Header {
    let mut header = empty_header(if image == 1 { image::FLAG_FPU } else { 0 }, 4);
    header.sections[0] = section(kind::CODE, 0, 3000, 1);
    header.sections[1] = section(kind::DATA, 1, 100, 1);
    header.sections[2] = section(kind::PARAM, 2, 0, param_pages);
    header.sections[3] = section(kind::STACK, 32, 0, 1);
    let entry = |addr, args| Entry { addr: image::WINDOW_BASE + addr, args, reserved: 0 };
    header.entries[0] = entry(16, [arg::INT, 0, 0, 0, 0, 0]);
    header.entries[1] = entry(32, [arg::IN, arg::LEN, arg::OUT, arg::LEN, 0, 0]);
    header.entries[3] = entry(64, [0; 6]);
    header.entries[2] = entry(48, [arg::OUT, arg::LEN, 0, 0, 0, 0]);
    header
}

/// The registers with which an entry of [`header`] is called: arguments, and what the OS has in the others.
pub fn arguments(app: usize, entry: u16) -> Gprs {
    let rest = Gprs { rbx: 1, rcx: 2, rdx: 3, rsi: 4, rdi: 5, rbp: 6, r8: 8, r9: 9, ..Gprs::default() };
    let rest = Gprs { r10: 10, r11: 11, r12: 12, r13: 13, r14: 14, r15: 15, ..rest };
    match entry {
        0 => Gprs { rdi: 7, ..rest },
        3 => rest,
        1 => Gprs { rdi: image_of(app), rsi: IN_LENGTH, rdx: OUT_AT, rcx: OUT_LENGTH, ..rest },
        _ => Gprs { rdi: OUT_AT, rsi: OUT_LENGTH, ..rest },
    }
}

/// Whether an entry has buffers.
pub fn has_buffers(entry: u16) -> bool {
    matches!(entry, 1 | 2)
}

fn image_of(app: usize) -> u64 {
    GVA_IMAGE + (app as u64 % 2) * 4 * PAGE_SIZE
}

pub fn image_length() -> u64 {
    HEADER_SIZE as u64 + header(0, 1).sections.iter().map(|s| s.file_size).sum::<u64>()
}

/// Byte `at` of the images' contents.
pub fn content(at: u64) -> u8 {
    at as u8 ^ (at >> 8) as u8
}

impl World {
    pub fn new(shape: Shape) -> Self {
        let end = super::POOL + shape.pool_pages * PAGE_SIZE;
        let memory = TestMemory::new(end / PAGE_SIZE);
        let pals = Box::leak(Box::new(super::pals_until(&memory, end)));
        let processors = shape
            .processors
            .iter()
            .map(|(asids, by_asid)| Processor { asids: Asids::new(*asids, *by_asid), tlb: BTreeMap::new() })
            .collect();
        let ledger = Ledger {
            processors,
            now: 5_000,
            lives: Vec::new(),
            born: 0,
            calls: 0,
            stays: 0,
            machine_checks: 0,
            handles: Vec::new(),
            incarnations: Vec::new(),
            owner_pages: vec![Page::Empty; shape.apps],
            last_dead: None,
            wrong: None,
        };
        let world = Self { memory, pals, shape, ledger: RefCell::new(ledger) };
        world.build_os_memory();
        world
    }

    fn build_os_memory(&self) {
        let mem = self.mem();
        for image in 0..2 {
            // SAFETY: `Header` has no padding.
            let bytes: [u8; HEADER_SIZE] = unsafe { core::mem::transmute(self.header(image)) };
            let contents = (0..image_length() - HEADER_SIZE as u64).map(content);
            let bytes: Vec<u8> = bytes.into_iter().chain(contents).collect();
            mem.copy_to(Hpa(IMAGES + image as u64 * 2 * PAGE_SIZE), &bytes);
        }
        for space in 0..self.shape.spaces {
            let root = root(space);
            for (level, index) in [(0, 0), (1, 0), (2, GVA_IMAGE >> 21)] {
                mem.write_u64(
                    Hpa(root + level * PAGE_SIZE + index * 8),
                    (root + (level + 1) * PAGE_SIZE) | ORDINARY,
                );
            }
            for image in 0..2 {
                for page in 0..2 {
                    let at = Hpa(IMAGES + (image * 2 + page) * PAGE_SIZE);
                    self.map(space, GVA_IMAGE + (image * 4 + page) * PAGE_SIZE, at.0 | ORDINARY);
                }
            }
            self.map_out(space, Page::Present);
            self.map(space, GVA_OUT, out(space).0 | ORDINARY);
            self.refill(space);
        }
    }

    pub fn header(&self, app: usize) -> Header {
        header(app % 2, self.shape.param_pages)
    }

    /// Frames of an application's PAL.
    pub fn needed(&self, app: usize) -> u32 {
        space::PalFrames::needed(&self.header(app)) as u32
    }

    pub fn mem(&self) -> DirectMap {
        self.memory.map()
    }

    fn map(&self, space: usize, gva: u64, entry: u64) {
        self.mem().write_u64(Hpa(root(space) + 3 * PAGE_SIZE + (gva >> 12 & 0x1ff) * 8), entry);
    }

    /// Maps the second page of an address space's result buffer.
    pub fn map_out(&self, space: usize, page: Page) {
        self.map(space, GVA_OUT + PAGE_SIZE, entry(out(space).0 + PAGE_SIZE, page));
    }

    /// Maps the second page of an application's image.
    pub fn map_image(&self, app: usize, page: Page) {
        let frame = IMAGES + ((app as u64 % 2) * 2 + 1) * PAGE_SIZE;
        self.map(self.space_of(app), image_of(app) + PAGE_SIZE, entry(frame, page));
    }

    pub fn map_owner(&self, app: usize, page: Page) {
        self.map(self.space_of(app), owner_gva(app), entry(owner(app).0, page));
    }

    /// Fills an address space's result buffer.
    pub fn refill(&self, space: usize) {
        for word in 0..OUT_LENGTH / 8 {
            self.mem().write_u64(out(space) + (OUT_AT - GVA_OUT) + word * 8, FILL);
        }
    }

    pub fn results(&self, space: usize) -> [u64; 3] {
        [0, 8, 16].map(|at| self.mem().read_u64(out(space) + (OUT_AT - GVA_OUT) + at))
    }

    pub fn space_of(&self, app: usize) -> usize {
        app % self.shape.spaces
    }

    /// A program that executes a VMMCALL with this handle and no arguments.
    pub fn program(&self, space: usize, handle: Handle) -> Cpu {
        super::program(root(space), handle, &Gprs::default())
    }

    /// An application that calls this entry.
    pub fn application(&self, app: usize, handle: Handle, entry: u16) -> Cpu {
        super::program(root(self.space_of(app)), handle, &arguments(app, entry))
    }

    /// What the owner page holds.
    pub fn owner_holds(&self, app: usize) -> Handle {
        let mem = self.mem();
        Handle { low: mem.read_u64(owner(app)), high: mem.read_u64(owner(app) + 8) }
    }

    /// The pages of the OS that anybody writes to while the model runs.
    pub fn os_pages(&self) -> Vec<Hpa> {
        let spaces = (0..self.shape.spaces)
            .flat_map(|space| [Hpa(root(space) + 3 * PAGE_SIZE), out(space), out(space) + PAGE_SIZE]);
        spaces.chain((0..self.shape.apps).map(owner)).collect()
    }

    /// Notes that something is not as it must be. The first word counts.
    pub fn wrong(&self, what: impl FnOnce() -> String) {
        let mut ledger = self.ledger.borrow_mut();
        if ledger.wrong.is_none() {
            ledger.wrong = Some(what());
        }
    }

    pub fn ensure(&self, is: bool, what: impl FnOnce() -> String) {
        if !is {
            self.wrong(what);
        }
    }
}

fn root(space: usize) -> u64 {
    SPACES + space as u64 * SPACE_SIZE
}

fn out(space: usize) -> Hpa {
    Hpa(root(space) + 4 * PAGE_SIZE)
}

fn owner(app: usize) -> Hpa {
    Hpa(OWNERS + app as u64 * PAGE_SIZE)
}

pub fn owner_gva(app: usize) -> u64 {
    GVA_OWNER + app as u64 * PAGE_SIZE
}

pub fn image_gva(app: usize) -> u64 {
    image_of(app)
}

pub fn is_out_page(gva: Gva) -> bool {
    gva.0 == GVA_OUT + PAGE_SIZE
}

fn entry(frame: u64, page: Page) -> u64 {
    match page {
        Page::Present => frame | ORDINARY,
        Page::Clean => frame | ORDINARY & !0x40,
        Page::Empty => 0,
        Page::Swapped => SWAPPED,
    }
}
