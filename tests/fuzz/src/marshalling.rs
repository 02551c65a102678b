//! A registered PAL under a hostile OS: calls with arbitrary buffers, the tables and the memory changed at every stay, S
//! interrupted, faulting, asking and returning at will, tokens and handles mistaken, aborts and collections in between.
//!
//! Demanded:
//! - S is entered once a call, at its entry with the arguments of the call, its buffers as the caller had them and zero where it is
//!   to write; thawed it finds the registers it was left with. It never runs without a call that was opened.
//! - The OS's memory changes by a call's results only, only where the caller can write, and only after S has returned. A call
//!   that is done in one stay has delivered all of them, and S's value with it.
//! - Whatever S does wrong, its caller gets the cause of; a fault that is not mended is reported after a few.
//! - In the end every hypercall comes to its end, and an abort leaves no PAL and no byte in the pool.

use std::cell::RefCell;
use std::ops::Range;

use abi::image::{SENTINEL, arg};
use abi::{Handle, Status, TOKEN_BIT, number};
use hypervisor::addr::Hpa;

use crate::input::Input;
use crate::machine::{Answer, Machine, with_machine};
use crate::pal::{self, ENTRIES, PARAM, PARAM_PAGES, STACK_TOP};
use crate::reference::{READ, Registers, WRITE};
use crate::software::{End, Software, State, Stay};
use crate::world::{self, PAGE, ROOT_4};

const MOST_STEPS: usize = 48;
/// #PF for one spot, none of them mended, before the caller is told: the call's own count, then the processor's.
const MOST_FAULTS: usize = 8;
const PARAM_SIZE: u64 = PARAM_PAGES * PAGE;

thread_local! {
    static BEFORE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A row of steps, each an attack or a stay in the hypervisor.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    with_machine(|machine| {
        pal::place(machine);
        let handle = pal::register(machine);
        let mut run = Run { machine, handle, call: None, token: TOKEN_BIT, serial: 0, faults: (0, 0) };
        BEFORE.with_borrow_mut(|before| {
            for _ in 0..MOST_STEPS {
                if input.is_empty() {
                    break;
                }
                run.step(before, &mut input);
            }
        });
        run.end();
    });
}

/// A buffer of a call.
#[derive(Clone)]
struct Buffer {
    kind: u8,
    gva: u64,
    len: u64,
    /// Where in the parameter section.
    param: u64,
}

impl Buffer {
    fn in_params(&self) -> Range<usize> {
        self.param as usize..(self.param + self.len) as usize
    }
}

/// A call that is open.
struct Call {
    entry: usize,
    args: [u64; 6],
    buffers: Vec<Buffer>,
    /// How S was left, if it was entered.
    left: Option<(State, End)>,
    /// The parameter section as S left it.
    results: Vec<u8>,
    /// How many stays it has had.
    stays: usize,
    /// S did something forbidden: the caller will be told this.
    cause: Option<u64>,
}

impl Call {
    fn new(entry: usize, args: [u64; 6]) -> Self {
        let mut buffers = Vec::new();
        let mut at = 0u64;
        for (n, kind) in ENTRIES[entry].into_iter().enumerate() {
            if let arg::IN | arg::OUT | arg::IN_OUT = kind {
                buffers.push(Buffer { kind, gva: args[n], len: args[n + 1], param: at });
                at = at.saturating_add(args[n + 1]).saturating_add(15) & !15;
            }
        }
        Self { entry, args, buffers, left: None, results: Vec::new(), stays: 0, cause: None }
    }

    /// Whether the buffers fit into the parameter section. (The last one may end between two multiples of 16.)
    fn fits(&self) -> bool {
        self.buffers.iter().all(|b| b.param <= PARAM_SIZE && b.len <= PARAM_SIZE - b.param)
    }

    fn results(&self) -> impl Iterator<Item = &Buffer> {
        self.buffers.iter().filter(|b| b.kind != arg::IN)
    }

    fn returned(&self) -> Option<u64> {
        match self.left {
            Some((_, End::Returned(value))) => Some(value),
            _ => None,
        }
    }

    /// RDI, RSI, RDX, RCX, R8, R9 as S finds them, in the order of [`State::others`].
    fn registers(&self) -> [u64; 14] {
        let mut buffers = self.buffers.iter();
        let mut registers = [0; 6];
        for (n, kind) in ENTRIES[self.entry].into_iter().enumerate() {
            registers[n] = match kind {
                arg::NONE => 0,
                arg::IN | arg::OUT | arg::IN_OUT => PARAM + buffers.next().map_or(0, |b| b.param),
                _ => self.args[n],
            };
        }
        let [rdi, rsi, rdx, rcx, r8, r9] = registers;
        [0, rcx, rdx, rsi, rdi, 0, r8, r9, 0, 0, 0, 0, 0, 0]
    }
}

struct Run<'a, 'm> {
    machine: &'a mut Machine<'m>,
    handle: Handle,
    call: Option<Call>,
    token: u64,
    serial: u64,
    /// The address of the last #PF, and how many it was raised in a row.
    faults: (u64, usize),
}

impl Run<'_, '_> {
    fn step(&mut self, before: &mut Vec<u8>, input: &mut Input) {
        self.good_program();
        let mem = self.machine.mem();
        match input.u8() % 16 {
            0..5 if self.call.is_some() => self.go_on(before, input),
            0..5 => self.begin(before, input),
            5 | 6 => {
                self.faults = (0, 0);
                world::change_table(&mem, input);
            }
            7 | 8 => {
                self.faults = (0, 0);
                let page = u64::from(input.u8()) % 160;
                mem.write_u64(Hpa(world::PAGE_TABLE + page * 8), self.likely_entry(input, page));
            }
            9 => self.fill(input),
            10 => self.begin(before, input),
            11 => self.astray(before, input),
            12 => self.machine.now += u64::from(input.u8()) * 100,
            13 => self.leave(before, input),
            _ => self.other(before, input),
        }
    }

    fn good_program(&mut self) {
        let save = &mut self.machine.cpu.os.save;
        (save.cpl, save.cr3, save.rflags) = (3, ROOT_4, 0x202);
    }

    /// The page itself or another, present or not, writable or not, dirty or not.
    fn likely_entry(&self, input: &mut Input, page: u64) -> u64 {
        let flags = input.pick(&[0x67, 0, 0x65, 0x27, 0x63, 0x62, 0x25]);
        let page = if input.u8().is_multiple_of(4) { u64::from(input.u8()) % 160 } else { page };
        (page * PAGE) | flags
    }

    fn fill(&self, input: &mut Input) {
        let page = u64::from(input.u8()) % 64;
        if page < world::TABLES.end {
            return;
        }
        let at = Hpa(page * PAGE + u64::from(input.u8()) * 16);
        self.machine.mem().write_u64(at, input.u64());
    }

    fn begin(&mut self, before: &mut Vec<u8>, input: &mut Input) {
        let entry = usize::from(input.u8()) % ENTRIES.len();
        let mut args = [0; 6];
        for (arg, kind) in args.iter_mut().zip(ENTRIES[entry]) {
            *arg = match kind {
                arg::LEN => length(input),
                arg::INT => input.u64(),
                _ => world::address(input),
            };
        }
        let call = Call::new(entry, args);
        let regs = &mut self.machine.cpu.regs;
        [regs.rdi, regs.rsi, regs.rdx, regs.rcx, regs.r8, regs.r9] = args;
        self.machine.set_handle(self.handle);
        self.machine.cpu.os.save.rax = u64::from(number::CALL) | (entry as u64) << 16;
        match &self.call {
            Some(open) => {
                let dying = open.cause.is_some();
                self.refused(if dying { Status::NoSuchPal } else { Status::Busy }, before, input);
            }
            None if self.machine.hv.pals.count() == 0 => self.refused(Status::NoSuchPal, before, input),
            None => {
                let fits = call.fits();
                self.call = Some(call);
                let answer = self.stay(before, input);
                assert_eq!(answer == Answer::Done(0, Status::TooLarge), !fits, "{answer:?}");
            }
        }
    }

    /// A hypercall that changes nothing.
    fn refused(&mut self, status: Status, before: &mut Vec<u8>, input: &mut Input) {
        self.machine.memory.copy(before);
        let (answer, stays, _) = self.vmmcall(input);
        assert_eq!(answer, Answer::Done(0, status));
        assert!(
            stays.is_empty() && self.machine.memory.changed(before).next().is_none(),
            "{status:?}, but done"
        );
    }

    fn go_on(&mut self, before: &mut Vec<u8>, input: &mut Input) {
        if let Some(call) = &self.call {
            let regs = &mut self.machine.cpu.regs;
            [regs.rdi, regs.rsi, regs.rdx, regs.rcx, regs.r8, regs.r9] = call.args;
        }
        if input.u8().is_multiple_of(8) {
            // The arguments were captured; what the registers hold now is nobody's business.
            let regs = &mut self.machine.cpu.regs;
            (regs.rdi, regs.rsi, regs.rdx) = (input.u64(), input.u64(), input.u64());
        }
        self.machine.set_handle(self.handle);
        self.machine.cpu.os.save.rax = self.token;
        self.stay(before, input);
    }

    /// One stay in the hypervisor for the open call, or one that it refuses.
    fn stay(&mut self, before: &mut Vec<u8>, input: &mut Input) -> Answer {
        self.machine.memory.copy_outside(before);
        let registers = self.machine.registers(0);
        let (answer, stays, checked) = self.vmmcall(input);
        let Some(mut call) = self.call.take() else { panic!("no call is open") };
        call.stays += 1;
        let whole = call.stays == 1;
        for stay in &stays {
            self.one_of_s(&mut call, stay, whole.then_some((&mut *before, &registers)));
        }
        let machine_check = call.cause == Some(18) && !stays.is_empty();
        assert_eq!(checked, machine_check, "machine checks handed on");
        let done = self.judge(&call, answer);
        let returned_now = whole || stays.iter().any(|stay| matches!(stay.end, End::Returned(_)));
        let exact = done && returned_now && matches!(answer, Answer::Done(_, Status::Ok));
        self.only_results(&call, before, &registers, exact);
        if !done {
            self.call = Some(call);
        }
        answer
    }

    fn vmmcall(&mut self, input: &mut Input) -> (Answer, Vec<Stay>, bool) {
        let mut software = Software::new(input, &mut self.serial, self.machine.mem(), self.machine.now);
        software.watch = (PARAM, PARAM_SIZE);
        if let Some(call) = self.call.as_ref().filter(|call| call.fits()) {
            software.results = call.results().map(Buffer::in_params).collect();
        }
        let answer = self.machine.vmmcall(&mut software);
        (answer, software.stays, self.machine.cpu.machine_check.take())
    }

    /// What S finds when it runs.
    fn one_of_s(&self, call: &mut Call, stay: &Stay, caller: Option<(&mut Vec<u8>, &Registers)>) {
        assert!(call.cause.is_none(), "S runs after its death");
        match call.left {
            None => {
                let expected = State {
                    rip: pal::entry_address(call.entry),
                    rsp: STACK_TOP - 8,
                    rax: 0,
                    others: call.registers(),
                };
                assert_eq!(stay.entered, expected, "S begins");
                assert_eq!(stay.top, Some(SENTINEL), "the return address");
                self.has_arguments(call, &stay.seen, caller);
            }
            Some((left, End::Frozen)) => assert_eq!(stay.entered, left, "S goes on"),
            Some((left, End::Asked)) => self.was_answered(left, stay.entered),
            Some((_, end)) => panic!("S runs again after it {end:?}"),
        }
        call.left = Some((stay.left, stay.end));
        call.results = stay.written.clone();
        if let End::Died(cause) = stay.end {
            call.cause = Some(cause);
        }
    }

    /// Everything up to the last buffer's end is the caller's bytes or zero.
    fn has_arguments(&self, call: &Call, seen: &[u8], mut caller: Option<(&mut Vec<u8>, &Registers)>) {
        let mut expected = vec![0; call.buffers.last().map_or(0, |b| b.in_params().end)];
        for buffer in call.buffers.iter().filter(|b| b.kind != arg::OUT) {
            // What the OS has changed since the call began is not known here.
            let Some((memory, registers)) = &mut caller else { return };
            let room = &mut expected[buffer.in_params()];
            let read = registers.each_piece(memory, buffer.gva, room.len(), READ, |memory, done, at| {
                room[done..done + at.len()].copy_from_slice(&memory[at]);
            });
            assert_eq!(read, Ok(()), "S runs without its arguments");
        }
        assert!(seen.starts_with(&expected), "S finds other arguments");
    }

    /// S's own hypercall: a status in RDX, 0 in RAX, the next instruction.
    fn was_answered(&self, left: State, now: State) {
        let mut expected = State { rip: left.rip.wrapping_add(3), rax: 0, ..left };
        expected.others[2] = now.others[2];
        assert_eq!(now, expected, "S asked");
        let allowed = [Status::Ok, Status::BadArgument, Status::BadAddress, Status::UnknownCall];
        assert!(trustvisor::status(now.others[2]).is_some_and(|status| allowed.contains(&status)));
    }

    /// Whether the call is over.
    fn judge(&mut self, call: &Call, answer: Answer) -> bool {
        match answer {
            Answer::Again(token) => {
                self.token = token;
                self.faults = (0, 0);
                false
            }
            Answer::Restart => panic!("a call does not start anew"),
            Answer::Fault { gva, token } => {
                self.faults = (gva, if self.faults.0 == gva { self.faults.1 + 1 } else { 1 });
                assert!(self.faults.1 <= MOST_FAULTS, "#PF for {gva:#x} without an end");
                let named = |b: &Buffer| gva.wrapping_sub(b.gva) < b.len;
                assert!(call.buffers.iter().any(named), "#PF for {gva:#x}, which is in no buffer");
                assert!(token.is_some() || call.left.is_none(), "a call after S is forgotten");
                self.token = token.unwrap_or(self.token);
                token.is_none()
            }
            Answer::Done(value, status) => {
                self.faults = (0, 0);
                self.done(call, value, status);
                true
            }
        }
    }

    fn done(&mut self, call: &Call, value: u64, status: Status) {
        match status {
            Status::Ok => assert_eq!(Some(value), call.returned(), "another value than S's"),
            Status::Faulted => assert_eq!(Some(value), call.cause, "another cause"),
            Status::TooLarge | Status::BadAddress | Status::NoProgress => {}
            Status::NoSuchPal | Status::Lost => {
                assert!(
                    call.left.is_none_or(|(_, end)| end == End::Frozen) || self.machine.hv.pals.count() == 0
                );
            }
            other => panic!("a call ends with {other:?}"),
        }
        if status == Status::Faulted {
            assert_eq!(self.machine.hv.pals.count(), 0, "a PAL lives on after a fault");
        }
    }

    fn changed(&self, before: &[u8]) -> Vec<u64> {
        self.machine.memory.changed_outside(before).collect()
    }

    /// What the OS sees of the call: the results, after S has returned, where the caller can write.
    fn only_results(&self, call: &Call, before: &mut [u8], registers: &Registers, exact: bool) {
        let changed = self.changed(before);
        if changed.is_empty() && !exact {
            return;
        }
        assert!(call.returned().is_some() || changed.is_empty(), "results before S has returned");
        if changed.iter().any(|at| world::TABLES.contains(&(at / PAGE))) {
            assert!(changed.iter().all(|at| world::is_ram(*at)));
            return;
        }
        if exact {
            self.has_all_results(call, before, registers);
        } else {
            self.has_nothing_else(call, before, registers, &changed);
        }
    }

    /// The OS's memory is as if all results had been delivered to it now, one after the other.
    fn has_all_results(&self, call: &Call, before: &mut [u8], registers: &Registers) {
        for buffer in call.results() {
            let result = &call.results[buffer.in_params()];
            let written =
                registers.each_piece(before, buffer.gva, result.len(), WRITE, |before, done, at| {
                    let len = at.len();
                    before[at].copy_from_slice(&result[done..done + len]);
                });
            assert_eq!(written, Ok(()), "done, but a result could not be written");
        }
        assert_eq!(self.changed(before), [], "other results than S's");
    }

    /// Whatever has changed lies in a result's buffer. (A part that was delivered before may be away by now.)
    fn has_nothing_else(&self, call: &Call, before: &mut [u8], registers: &Registers, changed: &[u64]) {
        let mut named = vec![false; before.len()];
        for buffer in call.results() {
            let mut done = 0;
            while done < buffer.len {
                let here = buffer.gva.wrapping_add(done);
                let piece = (PAGE - here % PAGE).min(buffer.len - done);
                let _ = registers
                    .each_piece(before, here, piece as usize, WRITE, |_, _, at| named[at].fill(true));
                done += piece;
            }
        }
        for page in changed {
            for (at, byte) in (*page as usize..).zip(self.machine.memory.page(*page)) {
                assert!(byte == before[at] || named[at], "{at:#x} is in no result");
            }
        }
    }

    /// Tokens, handles and address spaces that are not the call's.
    fn astray(&mut self, before: &mut Vec<u8>, input: &mut Input) {
        let mut handle = self.handle;
        let mut token = self.token;
        match input.u8() % 4 {
            0 => token ^= 1 << (input.u8() % 63),
            1 => handle.high ^= 1 << (input.u8() % 64),
            2 => self.machine.cpu.os.save.cr3 = world::ROOT_5,
            _ => token = input.u64() | TOKEN_BIT,
        }
        // Whoever has the token of a wipe may go on with it: the handle is no more.
        let dying = self.call.as_ref().is_some_and(|call| call.cause.is_some());
        let handle_counts = handle != self.handle && !dying;
        if token == self.token && !handle_counts && self.machine.cpu.os.save.cr3 == ROOT_4 {
            return;
        }
        self.machine.set_handle(handle);
        self.machine.cpu.os.save.rax = token;
        self.machine.memory.copy_outside(before);
        let (answer, stays, _) = self.vmmcall(input);
        assert!(stays.is_empty() && self.changed(before).is_empty(), "a stranger's token");
        assert_eq!(answer, Answer::Done(0, Status::Lost));
    }

    /// The application unregisters or aborts.
    fn leave(&mut self, before: &mut Vec<u8>, input: &mut Input) {
        let abort = input.bool();
        let there = self.machine.hv.pals.count() != 0;
        let dying = self.call.as_ref().is_some_and(|call| call.cause.is_some());
        self.machine.set_handle(self.handle);
        self.machine.cpu.os.save.rax = if abort { number::ABORT } else { number::UNREGISTER }.into();
        self.machine.memory.copy_outside(before);
        let answer = pal::settle(self.machine);
        assert!(self.changed(before).is_empty(), "an end that writes to the OS");
        let expected = match (there && !dying, self.call.is_some() && !abort) {
            (true, true) => Status::Busy,
            (true, false) => Status::Ok,
            _ => Status::NoSuchPal,
        };
        assert_eq!(answer, Answer::Done(0, expected));
        if expected == Status::Ok {
            assert!(self.machine.is_empty(), "something is left of the PAL");
            self.call = None;
        }
    }

    /// A pass of the collector, a question about the PAL, a new registration.
    fn other(&mut self, before: &mut Vec<u8>, input: &mut Input) {
        self.machine.memory.copy_outside(before);
        match input.u8() % 3 {
            0 => {
                self.machine.cpu.os.save.rax = number::COLLECT.into();
                let answer = pal::settle(self.machine);
                assert!(matches!(answer, Answer::Done(0 | 1, Status::Ok)), "{answer:?}");
                assert!(self.changed(before).is_empty());
                if self.machine.hv.pals.count() == 0 {
                    assert!(self.machine.is_empty());
                    self.call = None;
                }
            }
            1 if self.machine.hv.pals.count() == 0 => {
                self.restore_tables();
                pal::place(self.machine);
                self.handle = pal::register(self.machine);
                self.call = None;
            }
            _ => {
                self.machine.set_handle(self.handle);
                (self.machine.cpu.regs.rdi, self.machine.cpu.regs.rsi) = (0, 0);
                self.machine.cpu.os.save.rax = number::PAL_INFO.into();
                let answer = pal::settle(self.machine);
                let dead = self.machine.hv.pals.count() == 0;
                let gone = answer == Answer::Done(0, Status::NoSuchPal);
                assert!(gone || (answer == Answer::Done(0, Status::Ok) && !dead), "{answer:?}");
            }
        }
    }

    fn restore_tables(&self) {
        self.machine.memory.build_tables();
    }

    /// The OS behaves: what is open comes to its end, and nothing is left.
    fn end(&mut self) {
        self.good_program();
        self.machine.set_handle(self.handle);
        if self.call.is_some() {
            self.machine.cpu.os.save.rax = self.token;
            self.finish();
        }
        self.machine.cpu.os.save.rax = number::ABORT.into();
        let answer = pal::settle(self.machine);
        assert!(matches!(answer, Answer::Done(0, Status::Ok | Status::NoSuchPal)), "{answer:?}");
        assert!(self.machine.is_empty(), "something is left of the PAL");
    }
}

impl Run<'_, '_> {
    /// Mends the tables as often as results are written over them.
    fn finish(&mut self) {
        for _ in 0..PARAM_PAGES + 3 {
            self.restore_tables();
            match pal::settle(self.machine) {
                Answer::Done(..) => return,
                answer => assert!(matches!(answer, Answer::Fault { .. }), "{answer:?}"),
            }
        }
        panic!("a call does not end");
    }
}

/// Short, a page or so, as much as fits, or anything.
fn length(input: &mut Input) -> u64 {
    match input.u8() % 8 {
        0..4 => u64::from(input.u8()),
        4 | 5 => PAGE + u64::from(input.u8()),
        6 => u64::from(input.u16()) + u64::from(input.u8()) * 32,
        _ => input.u64(),
    }
}
