//! VMMCALL with arbitrary registers, by a processor in an arbitrary state, over arbitrary page tables.
//!
//! Demanded besides what [`Machine::vmmcall`] sees in the registers of every answer: only a 64-bit program at CPL 3 with
//! interrupts enabled is anything but a bad caller; the OS's memory changes only where the hypercall's result goes, and only if
//! the caller could write there itself, which [`crate::reference`] says (of calls into S: only where the caller could write at
//! all); the reserve stays as it is while there is no PAL; the device is never touched. When all is over, `ABORT` with the
//! handles that were given out, and the collector, leave no PAL, and every frame of the pool zero.

use std::cell::RefCell;

use abi::{Handle, Info, PalInfo, Status, number};
use hypervisor::addr::Hpa;

use crate::input::Input;
use crate::machine::{Answer, Machine, with_machine};
use crate::pal::{self, IMAGE, OWNER};
use crate::reference::{Registers, WRITE};
use crate::software::Software;
use crate::world::{self, PAGE, PAGES, RESERVE, ROOT_4, ROOT_5};

const MOST_CALLS: usize = 32;

thread_local! {
    static BEFORE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A row of hypercalls, each after some changes to tables and registers.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    with_machine(|machine| {
        pal::place(machine);
        let mut run = Run { machine, handles: Vec::new(), serial: 0, last_token: 0, touched: 0 };
        if input.bool() {
            run.handles.push((pal::register(run.machine), ROOT_4));
        }
        for _ in 0..MOST_CALLS {
            if input.is_empty() {
                break;
            }
            run.prepare(&mut input);
            BEFORE.with_borrow_mut(|before| run.patiently(before, &mut input));
        }
        run.end();
    });
}

struct Run<'a, 'm> {
    machine: &'a mut Machine<'m>,
    /// Every handle that may still name a PAL, with the CR3 it was given to.
    handles: Vec<(Handle, u64)>,
    serial: u64,
    last_token: u64,
    /// A page whose entry was changed.
    touched: u64,
}

impl Run<'_, '_> {
    fn prepare(&mut self, input: &mut Input) {
        for _ in 0..input.u8() % 4 {
            self.touched = world::change_table(&self.machine.mem(), input).unwrap_or(self.touched);
        }
        if input.u8().is_multiple_of(4) {
            self.processor(input);
        }
        self.machine.now += u64::from(input.u8()) * 100;
        self.registers(input);
    }

    fn processor(&mut self, input: &mut Input) {
        let save = &mut self.machine.cpu.os.save;
        match input.u8() % 12 {
            0 => save.cpl = input.u8() % 4,
            1 => save.cs.attributes = input.u16(),
            2 => save.efer = 1 << 12 | input.pick(&[0xd01, 0x501, 0, 0x901]),
            3 => save.cr0 = input.pick(&[0x8001_0031, 0x8000_0031, 0x31]),
            4 => (save.cr4, save.cr3) = (1 << 12 | 0x20, ROOT_5),
            5 => (save.cr4, save.cr3) = (1 << 22 | 0x20, ROOT_4 | u64::from(input.u16() & 0xfff)),
            6 => save.cr3 = input.u64(),
            7 => save.rflags = 2 | u64::from(input.u32()),
            8 => self.machine.cpu.os.control.interrupt_shadow = 1,
            9 => save.rip = input.u64(),
            _ => {
                (save.cpl, save.cs.attributes, save.efer) = (3, 0x2fb, 0x1d01);
                (save.cr0, save.cr4, save.cr3) = (0x8001_0031, 0x20, ROOT_4);
                save.rflags |= 1 << 9;
            }
        }
    }

    fn registers(&mut self, input: &mut Input) {
        const NUMBERS: [u16; 7] = [
            number::INFO,
            number::REGISTER,
            number::CALL,
            number::UNREGISTER,
            number::ABORT,
            number::COLLECT,
            number::PAL_INFO,
        ];
        let rax = match input.u8() % 16 {
            0 => input.u64(),
            1 => self.last_token ^ 1 << (input.u8() % 64),
            2..6 => self.last_token,
            6..9 => u64::from(number::CALL) | u64::from(input.u8() % 8) << 16,
            _ => input.pick(&NUMBERS).into(),
        };
        self.machine.cpu.os.save.rax = rax;
        let [rdi, rsi, rdx, rcx, r8, r9] = core::array::from_fn(|_| self.argument(input));
        let regs = &mut self.machine.cpu.regs;
        (regs.rdi, regs.rsi, regs.rdx, regs.rcx, regs.r8, regs.r9) = (rdi, rsi, rdx, rcx, r8, r9);
        if rax == number::REGISTER.into() && !input.u8().is_multiple_of(4) {
            (regs.rdi, regs.rsi, regs.rdx) = (IMAGE, pal::image().len() as u64, OWNER);
        }
        match (input.u8() % 8, self.handles.last()) {
            (0, _) => (regs.r10, regs.r11) = (input.u64(), input.u64()),
            (1, _) => regs.r10 ^= 1 << (input.u8() % 64),
            (_, Some((handle, _))) => (regs.r10, regs.r11) = (handle.low, handle.high),
            _ => {}
        }
    }

    /// Goes on with the call as long as the fuzzer has patience.
    fn patiently(&mut self, before: &mut Vec<u8>, input: &mut Input) {
        for _ in 0..1 + input.u8() % 40 {
            if !matches!(self.call(before, input), Answer::Again(_) | Answer::Restart) {
                break;
            }
        }
    }

    /// A pointer or a length.
    fn argument(&self, input: &mut Input) -> u64 {
        match input.u8() % 8 {
            0 | 1 => u64::from(input.u16()),
            2 => u64::from(input.u8()) * PAGE,
            3 | 4 => self.touched + u64::from(input.u8()) * 16,
            _ => world::address(input),
        }
    }

    fn call(&mut self, before: &mut Vec<u8>, input: &mut Input) -> Answer {
        let machine = &mut *self.machine;
        let save = &machine.cpu.os.save;
        let long = save.efer >> 10 & 1 != 0 && save.cs.attributes >> 9 & 1 != 0;
        let may_call = save.cpl == 3 && long && save.rflags >> 9 & 1 != 0 && save.cr0 >> 31 & 1 != 0;
        let pkru = input.u32() & if save.cr4 >> 22 & 1 != 0 { u32::MAX } else { 0 };
        let registers = machine.registers(pkru);
        let regs = &machine.cpu.regs;
        let named = named(save.rax, regs.rdi, regs.rsi, regs.rdx);
        let (rax, empty) = (save.rax, machine.hv.pals.count() == 0);
        if empty {
            machine.memory.copy(before);
        } else {
            machine.memory.copy_outside(before);
        }

        let mut software = Software::new(input, &mut self.serial, machine.mem(), machine.now);
        software.pkru = pkru;
        let answer = machine.vmmcall(&mut software);
        let ran = !software.stays.is_empty();

        assert!(may_call || answer == Answer::Done(0, Status::BadCaller), "{answer:?} to a bad caller");
        if let Answer::Again(token) | Answer::Fault { token: Some(token), .. } = answer {
            self.last_token = token;
        }
        assert!(!ran || rax as u16 == number::CALL || rax >> 63 != 0, "S ran for hypercall {rax:#x}");
        if empty && machine.hv.pals.count() == 0 {
            assert_eq!(machine.memory.changed(before).find(|at| RESERVE.contains(at)), None, "without a PAL");
        }
        let changed: Vec<u64> = machine.memory.changed_outside(before).collect();
        only_what_the_caller_could_write(&changed, before, &registers, named);
        self.note_handles(&changed, registers.cr3);
        answer
    }

    /// What was written may have been a handle.
    fn note_handles(&mut self, changed: &[u64], cr3: u64) {
        let mem = self.machine.mem();
        let handle = |at: &u64| Handle { low: mem.read_u64(Hpa(*at)), high: mem.read_u64(Hpa(at + 8)) };
        self.handles.extend(changed.iter().map(|at| (handle(at), cr3)));
    }

    /// Everything that was registered goes, by the handles or, where a program lost them, by the collector.
    fn end(&mut self) {
        for (handle, cr3) in core::mem::take(&mut self.handles) {
            self.good_program(cr3);
            self.machine.set_handle(handle);
            self.machine.cpu.os.save.rax = number::ABORT.into();
            pal::settle(self.machine);
        }
        for page in (0..PAGES).filter(|page| world::is_ram(page * PAGE)) {
            self.machine.mem().zero(Hpa(page * PAGE), PAGE);
        }
        for _ in 0..2 {
            self.good_program(ROOT_4);
            self.machine.now += 11_000;
            self.machine.cpu.os.save.rax = number::COLLECT.into();
            pal::settle(self.machine);
        }
        assert!(self.machine.is_empty(), "something is left of a PAL");
    }

    fn good_program(&mut self, cr3: u64) {
        let save = &mut self.machine.cpu.os.save;
        (save.cpl, save.cs.attributes, save.efer) = (3, 0x2fb, 0x1d01);
        (save.cr0, save.cr4, save.cr3) = (0x8001_0031, 0x20, cr3);
        save.rflags = 0x202;
    }
}

/// What a hypercall names, as the caller could write to it; of a call, all that the caller could write to: it may be of an earlier
/// stay, and target `marshalling` knows it better.
fn only_what_the_caller_could_write(
    changed: &[u64],
    before: &mut [u8],
    registers: &Registers,
    named: Option<(u64, usize)>,
) {
    assert!(changed.iter().all(|at| world::is_ram(*at)), "wrote to the device");
    // A result over the caller's own tables makes other pages writable half-way, to the caller as well.
    if changed.is_empty() || changed.iter().any(|at| world::TABLES.contains(&(at / PAGE))) {
        return;
    }
    let mut writable = vec![false; PAGES as usize];
    match named {
        Some((gva, len)) => {
            let mut note = |at: usize| writable[at / PAGE as usize] = true;
            let _ = registers.each_piece(before, gva, len, WRITE, |_, _, at| note(at.start));
        }
        None => writable = registers.writable_pages(before),
    }
    assert!(changed.iter().all(|at| writable[(at / PAGE) as usize]), "wrote to {changed:x?}");
}

/// Where the results of a hypercall go.
fn named(rax: u64, rdi: u64, rsi: u64, rdx: u64) -> Option<(u64, usize)> {
    let room = |size: usize| (rdi, size.min(usize::try_from(rsi).unwrap_or(usize::MAX)));
    match u16::try_from(rax).ok()? {
        number::INFO => Some(room(size_of::<Info>())),
        number::PAL_INFO => Some(room(size_of::<PalInfo>())),
        number::REGISTER => Some((rdx, size_of::<Handle>())),
        number::CALL => None,
        _ => Some((0, 0)),
    }
}
