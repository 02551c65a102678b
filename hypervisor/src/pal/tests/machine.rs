//! What the tests of single properties share: a caller with page tables of its own, and an S that does what the test says.

use super::super::*;
use super::{END, OS_RAM, pals, program};
use crate::addr::{Hpa, PAGE_SIZE};
use crate::memory::TestMemory;
use crate::vmcb::{Vmcb, exit_code};
use abi::image::{self, Entry, HEADER_SIZE, Header, SENTINEL, Section, arg, kind};

/// User addresses of the test: an image, an owner page, buffers.
pub const IMAGE: u64 = 0x40_0000;
pub const OWNER: u64 = 0x50_0000;
pub const BUFFER: u64 = 0x60_0000;

/// What S does when it runs.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Return(u64),
    Interrupt,
    Fault,
}

pub struct Machine {
    pub memory: TestMemory,
    pub pals: &'static Pals,
    pub cr3: u64,
    pub next_table: u64,
    pub acts: Vec<Act>,
    pub runs: usize,
    pub now: u64,
    pub registers: Handle,
}

impl Hardware for (&mut Vec<Act>, &mut usize, u64, DirectMap, &Pals) {
    fn run_pal(&mut self, pal: &PalFrames, _: Incarnation, _: &mut Gprs) {
        *self.1 += 1;
        // SAFETY: the test's memory; the VMCB is the PAL's under test.
        let vmcb = unsafe { &mut *self.3.pointer(pal.vmcb, PAGE_SIZE).cast::<Vmcb>() };
        let act = if self.0.is_empty() { Act::Return(0) } else { self.0.remove(0) };
        let mut leave = |value| {
            vmcb.control.exit_code = exit_code::PAGE_FAULT.into();
            vmcb.control.exit_info_1 = 0x14;
            vmcb.control.exit_info_2 = SENTINEL;
            (vmcb.save.rip, vmcb.save.rax) = (SENTINEL, value);
            vmcb.save.rsp += 8;
        };
        match act {
            Act::Return(value) => leave(value),
            Act::Interrupt => vmcb.control.exit_code = exit_code::INTR.into(),
            Act::Fault => vmcb.control.exit_code = u64::from(exit_code::EXCEPTION_0) + 13,
        }
    }

    fn now_ms(&self) -> u64 {
        self.2
    }
    fn pkru(&self) -> u32 {
        0
    }
    fn tpm(&mut self) -> Tis<impl Registers, TscClock> {
        super::no_tpm()
    }
}

/// A header of four sections, to be filled in.
pub fn empty_header(flags: u32, entry_count: u16) -> Header {
    Header {
        magic: image::MAGIC,
        flags,
        section_count: 4,
        entry_count,
        sections: [Section::default(); image::MAX_SECTIONS],
        entries: [Entry::default(); image::MAX_ENTRIES],
    }
}

/// A section that begins at this page of the window.
pub fn section(kind: u32, page: u64, file_size: u64, pages: u64) -> Section {
    Section {
        kind,
        reserved: 0,
        addr: image::WINDOW_BASE + page * PAGE_SIZE,
        file_size,
        mem_size: pages * PAGE_SIZE,
    }
}

pub fn header() -> Header {
    let mut header = empty_header(0, 2);
    header.sections[0] = section(kind::CODE, 0, 5000, 2);
    header.sections[1] = section(kind::DATA, 2, 100, 1);
    header.sections[2] = section(kind::PARAM, 3, 0, 20);
    header.sections[3] = section(kind::STACK, 600, 0, 1);
    header.entries[0] = Entry { addr: image::WINDOW_BASE + 16, args: [arg::INT, 0, 0, 0, 0, 0], reserved: 0 };
    let args = [arg::IN, arg::LEN, arg::OUT, arg::LEN, 0, 0];
    header.entries[1] = Entry { addr: image::WINDOW_BASE + 4999, args, reserved: 0 };
    header
}

pub fn image_bytes(header: &Header) -> Vec<u8> {
    // SAFETY: `Header` has no padding.
    let bytes: [u8; HEADER_SIZE] = unsafe { core::mem::transmute_copy(header) };
    let contents: u64 = header.sections.iter().map(|s| s.file_size).sum();
    bytes.into_iter().chain((0..contents).map(|i| i as u8)).collect()
}

impl Machine {
    pub fn new() -> Self {
        let memory = TestMemory::new(END / PAGE_SIZE);
        let pals = pals(&memory);
        let mut machine = Self {
            memory,
            pals: Box::leak(Box::new(pals)),
            cr3: OS_RAM,
            next_table: OS_RAM + PAGE_SIZE,
            acts: Vec::new(),
            runs: 0,
            now: 5_000,
            registers: Handle { low: 0, high: 0 },
        };
        let bytes = image_bytes(&header());
        for page in 0..4 {
            machine.map(IMAGE + page * PAGE_SIZE, 0x18_0000 + page * PAGE_SIZE, 0x67);
            machine.map(BUFFER + page * PAGE_SIZE, 0x19_0000 + page * PAGE_SIZE, 0x67);
            machine.map(OWNER + page * PAGE_SIZE, 0x1a_0000 + page * PAGE_SIZE, 0x67);
        }
        machine.memory.map().copy_to(Hpa(0x18_0000), &bytes);
        machine
    }

    /// Maps a user page (flags 0: makes it absent again).
    pub fn map(&mut self, gva: u64, gpa: u64, flags: u64) {
        let mem = self.memory.map();
        let mut table = self.cr3;
        for shift in [39, 30, 21] {
            let entry = Hpa(table + (gva >> shift & 0x1ff) * 8);
            if mem.read_u64(entry) == 0 {
                mem.write_u64(entry, self.next_table | 0x67);
                self.next_table += PAGE_SIZE;
            }
            table = mem.read_u64(entry) & 0x000f_ffff_ffff_f000;
        }
        mem.write_u64(Hpa(table + (gva >> 12 & 0x1ff) * 8), gpa | flags);
    }

    pub fn with<T>(&mut self, f: impl FnOnce(&mut dyn FnMut(&mut Op) -> Outcome) -> T) -> T {
        let (memory, pals, cr3) = (self.memory.map(), self.pals, self.cr3);
        let registers = &mut self.registers;
        let mut hardware = (&mut self.acts, &mut self.runs, self.now, memory, pals);
        f(&mut |op| {
            // R10 and R11 stay as they are through a call's continuations.
            if let What::Call(handle, ..) | What::CallAttested(handle, ..) = op.call {
                *registers = handle;
            }
            let (handle, args) = match op.call {
                What::Unregister(handle, _) => (handle, Gprs::default()),
                What::Call(_, _, args) => (*registers, Gprs::with_arguments(args)),
                What::CallAttested(_, _, args) => (*registers, with_nonce(args, [4; 32])),
                _ => (*registers, Gprs::default()),
            };
            let cpu = program(cr3 + op.cr3_offset, handle, &args);
            let caller = &mut Caller { cpu: &cpu, hardware: &mut hardware };
            match op.call {
                What::Register(length) => pals.register(caller, Some((Gva(IMAGE), length)), Gva(op.owner)),
                What::RegisterQuoting => pals.register(caller, None, Gva(op.owner)),
                What::Call(_, entry, _) => pals.call(caller, entry),
                What::CallAttested(_, entry, _) => pals.call_attested(caller, entry),
                What::Resume(token) => pals.resume(caller, token),
                What::Unregister(_, abort) => pals.unregister(caller, abort),
                What::Collect => pals.collect(caller.hardware),
            }
        })
    }

    /// What `PAL_INFO` answers.
    pub fn info(&self, handle: Handle) -> abi::PalInfo {
        let cpu = program(self.cr3, handle, &Gprs::default());
        let mut hardware = (&mut Vec::new(), &mut 0, self.now, self.memory.map(), self.pals);
        self.pals.pal_info(&Caller { cpu: &cpu, hardware: &mut hardware }).unwrap()
    }

    pub fn one(&mut self, call: What) -> Outcome {
        self.with(|run| run(&mut Op { call, owner: OWNER, cr3_offset: 0 }))
    }

    /// An operation with all its continuations.
    pub fn all(&mut self, call: What, owner: u64) -> Outcome {
        let mut outcome = self.with(|run| run(&mut Op { call, owner, cr3_offset: 0 }));
        for _ in 0..1000 {
            outcome = match outcome {
                Err(Stop::Again(token)) => self.one(What::Resume(token)),
                Err(Stop::Restart) => self.with(|run| run(&mut Op { call, owner, cr3_offset: 0 })),
                done => return done,
            };
        }
        panic!("the operation never ends");
    }

    pub fn register(&mut self, owner: u64) -> Handle {
        let length = image_bytes(&header()).len() as u64;
        self.register_as(What::Register(length), owner)
    }

    pub fn register_quoting(&mut self, owner: u64) -> Handle {
        self.register_as(What::RegisterQuoting, owner)
    }

    fn register_as(&mut self, what: What, owner: u64) -> Handle {
        assert_eq!(self.all(what, owner), Ok(0));
        let page = Hpa(0x1a_0000 + owner - OWNER);
        let mem = self.memory.map();
        Handle { low: mem.read_u64(page), high: mem.read_u64(page + 8) }
    }

    pub fn free(&self) -> u32 {
        self.pals.pool.lock().free_count()
    }

    pub fn pool_is_zero(&self) -> bool {
        let pool = self.pals.pool.lock();
        let mut bytes = std::vec![0; pool.total() as usize * PAGE_SIZE as usize];
        self.memory.map().copy_from(pool.base(), &mut bytes);
        bytes.iter().all(|byte| *byte == 0)
    }
}

/// The registers of an attested call.
pub fn with_nonce(args: [u64; 6], nonce: [u8; 32]) -> Gprs {
    let word = |i: usize| u64::from_le_bytes(*nonce[8 * i..].first_chunk().unwrap());
    Gprs { r12: word(0), r13: word(1), r14: word(2), r15: word(3), ..Gprs::with_arguments(args) }
}

#[derive(Clone, Copy)]
pub enum What {
    Register(u64),
    RegisterQuoting,
    Call(Handle, u16, [u64; 6]),
    CallAttested(Handle, u16, [u64; 6]),
    Resume(u64),
    Unregister(Handle, bool),
    Collect,
}

pub struct Op {
    pub call: What,
    pub owner: u64,
    pub cr3_offset: u64,
}

pub const OK: Outcome = Ok(0);
