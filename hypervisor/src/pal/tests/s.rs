//! S as the model plays it: on a processor with a TLB, it looks at all it can reach, leaves secrets wherever it can write, and
//! then does what the script says.
//!
//! What it checks each time it runs: every address of its own leads, by the TLB as well as by the tables, to a frame that the
//! pool says is its slot's and that no other PAL was ever seen in; it finds its own words and nobody else's; its registers
//! are those of an entry, or exactly those that it left.

use super::super::*;
use super::invariants::Contents;
use super::world::{IN_LENGTH, Ledger, OUT_LENGTH, Open, Phase, RESULT, World, content, has_buffers, secret};
use crate::addr::{Hpa, PAGE_SIZE};
use crate::vmcb::{Vmcb, exit_code, tlb};
use abi::image::{SENTINEL, WINDOW_BASE};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};

pub const CODE: u64 = WINDOW_BASE;
pub const DATA: u64 = WINDOW_BASE + PAGE_SIZE;
pub const PARAM: u64 = WINDOW_BASE + 2 * PAGE_SIZE;
pub const STACK: u64 = WINDOW_BASE + 32 * PAGE_SIZE;

/// In the XSAVE area (APM vol. 2, 11.5.2): a register, and the components that are not initial.
const XMM0: u64 = 160;
const XSTATE_BV: u64 = 512;

/// Of table entries.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;

/// How one stay in S ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    Return,
    Interrupt,
    /// To the place where a return leads, but not by a return.
    BadReturn,
    Fault,
    MachineCheck,
    /// A hypercall of S, which does not end the stay.
    Serve,
}

/// A processor on its way into a hypercall: what S will do there, and what the other processors do meanwhile.
pub struct Stay<'a> {
    pub world: &'a World,
    pub cpu: usize,
    /// Whose S may run.
    pub serial: u64,
    pub script: VecDeque<Act>,
    /// The other processors' turn comes when S has run, or before anything happens.
    pub meanwhile: Cell<Option<&'a dyn Fn()>>,
    pub early: bool,
}

impl Hardware for Stay<'_> {
    fn run_pal(&mut self, pal: &PalFrames, incarnation: Incarnation, regs: &mut Gprs) {
        let act = self.script.pop_front().unwrap_or(Act::Return);
        self.world.ledger.borrow_mut().stays += 1;
        // SAFETY: a page of the test's memory, which the tests reach through the map alone; no other reference to it is alive
        // while S runs.
        let vmcb = unsafe { &mut *self.world.mem().pointer(pal.vmcb, PAGE_SIZE).cast::<Vmcb>() };
        let mut s = S {
            world: self.world,
            cpu: self.cpu,
            serial: self.serial,
            pal,
            incarnation,
            vmcb,
            regs,
            rights: Cell::new(true),
        };
        if s.enter().is_none() {
            s.world.wrong(|| "S of a PAL that does not live, or not in a call, ran".into());
        }
        s.act(act);
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile();
        }
    }

    fn now_ms(&self) -> u64 {
        if self.early
            && let Some(meanwhile) = self.meanwhile.take()
        {
            meanwhile();
        }
        self.world.ledger.borrow().now
    }
    fn pkru(&self) -> u32 {
        0
    }
    fn tpm(&mut self) -> Tis<impl Registers, TscClock> {
        super::no_tpm()
    }
}

struct S<'a> {
    world: &'a World,
    cpu: usize,
    serial: u64,
    pal: &'a PalFrames,
    incarnation: Incarnation,
    vmcb: &'a mut Vmcb,
    regs: &'a mut Gprs,
    /// Whether all translations so far gave the rights that the section is to have.
    rights: Cell<bool>,
}

/// The frames of S's sections.
struct Places {
    code: Hpa,
    data: Hpa,
    param: Hpa,
    stack: Hpa,
}

impl S<'_> {
    /// VMRUN: S looks around, then leaves secrets. None: it should not run at all.
    fn enter(&mut self) -> Option<()> {
        let mut ledger = self.world.ledger.borrow_mut();
        let ledger = &mut *ledger;
        let life = ledger.lives.iter_mut().find(|life| life.serial == self.serial)?;
        let Phase::InCall(open) = life.phase.clone() else { return None };
        let mut wrong = Vec::new();
        if open.returned {
            wrong.push("S ran again after it had returned");
        }
        if life.incarnation == 0 {
            if ledger.incarnations.contains(&self.incarnation) {
                wrong.push("an incarnation was used twice");
            }
            ledger.incarnations.push(self.incarnation);
            life.incarnation = self.incarnation;
        }
        if life.incarnation != self.incarnation {
            wrong.push("a PAL changed its incarnation");
        }
        let (app, ran) = (life.app, core::mem::replace(&mut life.ran, true));
        if let Some(places) = self.reach(ledger, &mut wrong) {
            self.look_around(&places, ran, &mut wrong);
            let regs = words(self.regs);
            if !open.entered {
                wrong.extend(self.at_entry(&open, app, &regs, &places));
            } else if state(&regs, self.vmcb) != open.left {
                wrong.push("S's registers are not what it left");
            }
            self.leave_secrets(&places, open.entry);
        }
        ledger.wrong = ledger.wrong.take().or_else(|| wrong.first().map(|what| (*what).into()));
        Some(())
    }

    /// Finds S's sections by the TLB, as TLB_CONTROL left it, and by the tables where the TLB has nothing.
    fn reach(&self, ledger: &mut Ledger, wrong: &mut Vec<&'static str>) -> Option<Places> {
        let processor = &mut ledger.processors[self.cpu];
        let (asid, control) = processor.asids.assign(self.incarnation);
        match control {
            tlb::FLUSH_ALL => processor.tlb.clear(),
            tlb::FLUSH_ASID => drop(processor.tlb.remove(&asid)),
            _ => {}
        }
        let (_, entries) = processor.tlb.entry(asid).or_insert((self.serial, BTreeMap::new()));
        let mut seen = vec![self.pal.vmcb];
        seen.extend(Some(self.pal.fpu).filter(|fpu| *fpu != Hpa(0)));
        let mut find = |page| {
            let frame = entries.get(&page).copied().or_else(|| self.translate(page, &mut seen));
            match frame {
                Some(frame) => drop(entries.insert(page, frame)),
                None => wrong.push("a page of S is not mapped"),
            }
            seen.extend(frame);
            frame
        };
        let places = [find(CODE), find(DATA), find(PARAM), find(STACK)];
        let beyond = [CODE - PAGE_SIZE, STACK - PAGE_SIZE, STACK + PAGE_SIZE, SENTINEL];
        if beyond.iter().any(|page| self.translate(*page, &mut Vec::new()).is_some()) {
            wrong.push("S reaches more than its sections");
        }
        if !self.rights.get() {
            wrong.push("S can write its code or execute its data");
        }
        let life = ledger.lives.iter_mut().find(|life| life.serial == self.serial)?;
        let pool = self.world.pals.pool.lock();
        if seen.iter().any(|frame| pool.owner_of(*frame) != Some(life.slot as u16)) {
            wrong.push("S reached a frame that is not its own");
        }
        life.frames.extend(&seen);
        let others = ledger.lives.iter().filter(|life| life.serial != self.serial);
        if others.flat_map(|life| &life.frames).any(|frame| seen.contains(frame)) {
            wrong.push("two PALs share a frame");
        }
        let [code, data, param, stack] = places;
        Some(Places { code: code?, data: data?, param: param?, stack: stack? })
    }

    /// S finds its image, or what it left when it ran before, and nothing of anybody else.
    fn look_around(&self, at: &Places, ran: bool, wrong: &mut Vec<&'static str>) {
        let mem = self.world.mem();
        let image = |at| u64::from_le_bytes(core::array::from_fn(|i| content(at + i as u64)));
        let mine = |place, at_first| if ran { secret(self.serial, place) } else { at_first };
        if mem.read_u64(at.code + 8) != image(8) {
            wrong.push("S's code is not its own");
        }
        if mem.read_u64(at.data + 8) != mine(1, image(3008)) || mem.read_u64(at.data + 2048) != mine(2, 0) {
            wrong.push("S's data are not what it left");
        }
        if mem.read_u64(at.stack) != mine(3, 0) {
            wrong.push("S's stack is not what it left");
        }
        for frame in [at.data, at.param, at.stack] {
            let mut bytes = [0; PAGE_SIZE as usize];
            mem.copy_from(frame, &mut bytes);
            if Contents::of(&bytes).secrets.iter().any(|serial| *serial != self.serial) {
                wrong.push("S finds another's secret in its memory");
            }
        }
    }

    fn leave_secrets(&mut self, at: &Places, entry: u16) {
        let mem = self.world.mem();
        let mine = |place| secret(self.serial, place);
        mem.write_u64(at.data + 8, mine(1));
        mem.write_u64(at.data + 2048, mine(2));
        mem.write_u64(at.stack, mine(3));
        if entry == 1 {
            // In the in-buffer, where the result buffer of another entry lies.
            mem.write_u64(at.param + 16, mine(4));
        }
        let fpu = self.pal.fpu;
        if fpu != Hpa(0) {
            mem.write_u64(fpu + XMM0, mine(5));
            mem.write_u64(fpu + XSTATE_BV, 3);
        }
        *self.regs = gprs(core::array::from_fn(|i| mine(16 + i as u64)));
        self.vmcb.save.rax = mine(15);
        self.vmcb.save.cr2 = mine(14);
    }

    /// What S must find at its entry, and nothing else.
    fn at_entry(&self, open: &Open, app: usize, regs: &[u64; 14], at: &Places) -> Option<&'static str> {
        let mem = self.world.mem();
        let rsp = STACK + PAGE_SIZE - 8;
        let args = match open.entry {
            0 => [7, 0, 0, 0],
            3 => [0; 4],
            1 => [PARAM, IN_LENGTH, PARAM + IN_LENGTH, OUT_LENGTH],
            _ => [PARAM, OUT_LENGTH, 0, 0],
        };
        // RBX, RCX, RDX, RDI, RBP, R8-R15, RSI.
        let expected = [0, args[3], args[2], args[0], 0, 0, 0, 0, 0, 0, 0, 0, 0, args[1]];
        if *regs != expected || self.vmcb.save.rax != 0 {
            return Some("S starts with other registers than its arguments");
        }
        let entry = self.world.header(app).entries[usize::from(open.entry)].addr;
        if (self.vmcb.save.rip, self.vmcb.save.rsp) != (entry, rsp) {
            return Some("S does not start at its entry");
        }
        if mem.read_u64(at.stack + rsp % PAGE_SIZE) != SENTINEL {
            return Some("S has no return address");
        }
        if self.pal.fpu != Hpa(0) && mem.read_u64(self.pal.fpu + XSTATE_BV) != 0 {
            return Some("S starts with an FPU that is not initial");
        }
        if open.entry == 1 && mem.read_u64(at.param).to_le_bytes() != abi::image::MAGIC {
            return Some("S did not get what the OS passed in");
        }
        let results = at.param + result_offset(open.entry);
        if has_buffers(open.entry) && (0..OUT_LENGTH).step_by(8).any(|word| mem.read_u64(results + word) != 0)
        {
            return Some("S finds a result buffer that is not zero");
        }
        None
    }

    /// Translates by S's tables, as the processor would; notes every table on the way.
    fn translate(&self, addr: u64, seen: &mut Vec<Hpa>) -> Option<Hpa> {
        let mem = self.world.mem();
        let (mut table, mut rights) = (Hpa(self.vmcb.save.cr3), WRITABLE | USER);
        for shift in [39, 30, 21, 12] {
            seen.push(table);
            let entry = mem.read_u64(table + (addr >> shift & 0x1ff) * 8);
            if entry & PRESENT == 0 {
                return None;
            }
            rights = rights & entry & (WRITABLE | USER) | (rights | entry) & NO_EXECUTE;
            table = Hpa(entry & 0x000f_ffff_ffff_f000);
        }
        let expected = if addr == CODE { USER } else { WRITABLE | USER | NO_EXECUTE };
        if rights != expected || self.vmcb.control.nested != 0 {
            self.rights.set(false);
        }
        Some(table)
    }

    /// What S does in the end.
    fn act(&mut self, act: Act) {
        let save = &mut self.vmcb.save;
        let control = &mut self.vmcb.control;
        let mut ledger = self.world.ledger.borrow_mut();
        let Some(life) = ledger.lives.iter_mut().find(|life| life.serial == self.serial) else { return };
        let Phase::InCall(open) = &mut life.phase else { return };
        control.exit_code = match act {
            Act::Return => {
                (control.exit_info_1, control.exit_info_2) = (0x14, SENTINEL);
                (save.rip, save.rsp, save.rax) = (SENTINEL, STACK + PAGE_SIZE, RESULT | open.number);
                exit_code::PAGE_FAULT.into()
            }
            Act::BadReturn => {
                (control.exit_info_1, control.exit_info_2) = (0x14, SENTINEL);
                (save.rip, save.rsp) = (SENTINEL, STACK + PAGE_SIZE - 64);
                exit_code::PAGE_FAULT.into()
            }
            Act::Interrupt => {
                (save.rip, save.rsp) = (CODE + 0x100 + open.number % 2, STACK + 64);
                exit_code::INTR.into()
            }
            Act::Fault => u64::from(exit_code::EXCEPTION_0) + 13,
            Act::MachineCheck => exit_code::MACHINE_CHECK.into(),
            Act::Serve => {
                save.rip = CODE + 0x80;
                save.rax = abi::number::PCR_READ.into();
                (self.regs.rdi, self.regs.rsi) = (0, DATA + 512);
                exit_code::VMMCALL.into()
            }
        };
        open.entered = true;
        open.returned = act == Act::Return;
        open.left = state(&words(self.regs), self.vmcb);
        if act == Act::Serve {
            // What the hypercall answers: RAX = 0, RDX = Ok, the next instruction.
            (open.left[2], open.left[14], open.left[15]) = (0, 0, CODE + 0x83);
        }
        if act == Act::Return && has_buffers(open.entry) {
            let (result, at) = (RESULT | open.number, result_offset(open.entry));
            if let Some(param) = self.translate(PARAM, &mut Vec::new()) {
                // Not all of the buffer: the rest is delivered as S found it.
                self.world.mem().write_u64(param + at, result);
                self.world.mem().write_u64(param + at + 8, result);
            }
        }
    }
}

/// Where an entry's result buffer lies in the parameter section.
fn result_offset(entry: u16) -> u64 {
    if entry == 1 { IN_LENGTH } else { 0 }
}

/// All that S has in registers: general ones, RAX, RIP, RSP.
fn state(regs: &[u64; 14], vmcb: &Vmcb) -> [u64; 17] {
    let mut all = [0; 17];
    all[..14].copy_from_slice(regs);
    (all[14], all[15], all[16]) = (vmcb.save.rax, vmcb.save.rip, vmcb.save.rsp);
    all
}

pub fn words(regs: &Gprs) -> [u64; 14] {
    // SAFETY: `Gprs` consists of 14 words in the layout of C.
    unsafe { core::mem::transmute(*regs) }
}

fn gprs(words: [u64; 14]) -> Gprs {
    // SAFETY: as above.
    unsafe { core::mem::transmute(words) }
}
