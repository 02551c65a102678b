//! Exits of the OS with whatever the VMCB may say.
//!
//! Demanded: the OS goes on only with an event that a processor could deliver; its intercepts, its ASID, its nested tables
//! and EFER.SVME stay; only the instruction's registers change, and RIP by an instruction's length; what reaches the
//! hardware is harmless: no INIT, start-up or SMI from an APIC, address line 20 stays on, no reset but by a shutdown, and of
//! MSRs those that profile. The guest's memory is not touched but by a VMMCALL, which is target `hypercall`'s affair.

use hypervisor::addr::Hpa;
use hypervisor::asid::Incarnation;
use hypervisor::cpu::Cpu;
use hypervisor::cpuid::Registers;
use hypervisor::exit::{self, Next, Processor};
use hypervisor::gprs::Gprs;
use hypervisor::ioports::Ports;
use hypervisor::pal::Hardware;
use hypervisor::pal::space::PalFrames;
use hypervisor::tpm::clock::TscClock;
use hypervisor::tpm::tis::{self, Tis};
use hypervisor::vmcb::exit_code;

use crate::input::Input;
use crate::machine::{Machine, gprs, no_tpm, with_machine, words};
use crate::world::{self, ROOT_4, ROOT_5};

const LAPIC: u64 = 0xfee0_0000;
const IO_APIC: u64 = 0xfec0_0000;
/// The MSR map of a guest that profiles.
const PROFILING: u64 = 0x7777_0000;
const CODES: [u32; 20] = [
    exit_code::CPUID,
    exit_code::MSR,
    exit_code::MSR,
    exit_code::NPF,
    exit_code::NPF,
    exit_code::NPF,
    exit_code::NPF,
    exit_code::IOIO,
    exit_code::IOIO,
    exit_code::INVD,
    exit_code::WBINVD,
    exit_code::VMRUN,
    exit_code::SKINIT,
    exit_code::INVLPGA,
    exit_code::INVLPGB,
    exit_code::TLBSYNC,
    exit_code::SHUTDOWN,
    exit_code::INVALID,
    exit_code::VMMCALL,
    exit_code::INTR,
];
const MOST_EXITS: usize = 16;

/// A row of exits: the keyboard controller and the profiling switch remember what came before.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    with_machine(|machine| {
        machine.cpu.profiling_msrpm = Hpa(PROFILING);
        machine.cpu.os.save.cpl = 0;
        for _ in 0..MOST_EXITS {
            if input.is_empty() {
                break;
            }
            leave(machine, &mut input);
            if one(machine, input.u64()) != Ok(()) {
                break;
            }
        }
    });
}

/// The processor has left the guest.
fn leave(machine: &mut Machine, input: &mut Input) {
    let mem = machine.mem();
    let cpu = &mut machine.cpu;
    let code = input.pick(&CODES);
    cpu.features.nrip = input.bool();
    let control = &mut cpu.os.control;
    control.exit_code = if input.u8() == 255 { input.u64() } else { u64::from(code) };
    control.exit_info_1 = match code {
        exit_code::NPF => input.pick(&[7, 6, 4, 0x15, 1 << 33 | 7, 1 << 32 | 7]),
        exit_code::IOIO => io_access(input),
        _ => input.u64() & 1,
    };
    control.exit_info_2 = match (code, input.u8() % 8) {
        (exit_code::NPF, 0..4) => LAPIC | u64::from(input.u16() & 0xfff),
        (exit_code::NPF, 4..7) => IO_APIC | input.pick(&[0, 0x10, 0x40, 4, 0xff8]),
        _ => input.u64(),
    };
    control.exit_int_info = event(input);
    control.event_inject = 0;
    control.interrupt_shadow = u64::from(input.bool());
    let save = &mut cpu.os.save;
    if input.u8().is_multiple_of(4) {
        (save.cr0, save.efer) = (input.pick(&[0x8001_0031, 0x31]), input.pick(&[0x1d01, 0x1100, 0x1500]));
        (save.cr3, save.cr4) = input.pick(&[(ROOT_4, 0x20), (ROOT_5, 0x1020), (0, 0)]);
        save.cs.attributes = input.pick(&[0x29b, 0xc9b]);
        save.cpl = input.pick(&[0, 3]);
        world::change_table(&mem, input);
    }
    save.rflags = 2 | u64::from(input.u32()) & 0x3f_7fd7;
    save.rip = world::address(input);
    cpu.os.control.next_rip =
        if input.bool() { save.rip.wrapping_add(1 + u64::from(input.u8() % 15)) } else { 0 };
    save.cs.base = if input.u8() == 255 { input.u64() } else { 0 };
    save.rax = u64::from(input.u32());
    let mut registers: [u64; 14] = core::array::from_fn(|_| u64::from(input.u16()));
    registers[1] = msr(input);
    cpu.regs = gprs(registers);
    // Where the instruction is, if its page is there by the tables as they were.
    let at = save.rip & 0x1f_ffff;
    if world::is_ram(at) && at >= world::TABLES.end * world::PAGE {
        let bytes = instruction(input);
        let room = ((world::PAGE - at % world::PAGE) as usize).min(bytes.len());
        mem.copy_to(Hpa(at), &bytes[..room]);
    }
}

/// Mostly a store of the kind that writes to an APIC.
fn instruction(input: &mut Input) -> [u8; 15] {
    let mut bytes = input.bytes::<15>();
    bytes[0] = input.pick(&[0x89, 0xc7, 0x87, 0xa3, 0x44, 0x67, bytes[0]]);
    bytes
}

/// A byte from or to a guarded port, or anything else of a size that there is.
fn io_access(input: &mut Input) -> u64 {
    let port = input.pick(&[0x60, 0x64, 0x92, 0x93, 0xcf8, 0xcf9, 0xcfc, 0xcffu64]) << 16;
    port | if input.u8().is_multiple_of(4) {
        u64::from(input.u16()) & !(7 << 4) | input.pick(&[1, 2, 4]) << 4
    } else {
        1 << 4 | u64::from(input.u8() & 1)
    }
}

/// An event whose delivery was interrupted, as a processor would report one.
fn event(input: &mut Input) -> u64 {
    if !input.u8().is_multiple_of(4) {
        return 0;
    }
    let vector = u64::from(input.u8());
    let (kind, vector) = input.pick(&[(0, vector | 32), (2, 2), (3, vector & 31), (4, vector)]);
    let has_code = kind == 3 && matches!(vector, 8 | 10..=14 | 17);
    let code = if has_code { 1 << 11 | u64::from(input.u16()) << 32 } else { 0 };
    1 << 31 | kind << 8 | vector | code
}

fn msr(input: &mut Input) -> u64 {
    const KNOWN: [u32; 12] = [
        0xc000_0080,
        0x10,
        0x1b,
        0x1d9,
        0xc001_0010,
        0xc001_0117,
        0xc001_0114,
        0x277,
        0xc001_1030,
        0xc001_0201,
        0xc001_0000,
        0x4b56_4d00,
    ];
    let near = u32::from(input.u8());
    let known = input.pick(&KNOWN);
    u64::from(if near < 128 { known } else { input.pick(&[0, 0xc000_0000, 0xc001_0000, 0xc001_1000]) | near })
}

fn one(machine: &mut Machine, seed: u64) -> Next {
    let mut processor = Model { seed, profiles: false };
    let mut before = Vec::new();
    machine.memory.copy(&mut before);
    let (fixed, msrpm) = (Fixed::of(&machine.cpu), machine.cpu.os.control.msrpm);
    let (rip, registers) = (machine.cpu.os.save.rip, words(&machine.cpu.regs));
    let next = exit::handle(&machine.hv, &mut machine.cpu, &mut processor);

    let cpu = &machine.cpu;
    let hypercall = cpu.os.exit_code() == exit_code::VMMCALL;
    assert!(hypercall || machine.memory.changed(&before).next().is_none(), "memory changed");
    assert_eq!(Fixed::of(cpu), fixed);
    assert_eq!(cpu.os.control.msrpm, if processor.profiles { PROFILING } else { msrpm }, "MSR map");
    assert!(cpu.os.save.efer >> 12 & 1 == 1, "EFER.SVME");
    if next == Ok(()) {
        goes_on(cpu, rip);
    }
    let code = cpu.os.exit_code();
    let changed = words(&cpu.regs).iter().zip(registers).filter(|(now, before)| *now != before).count();
    let most = match code {
        exit_code::CPUID => 3,
        exit_code::MSR | exit_code::NPF | exit_code::VMMCALL => 1,
        _ => 0,
    };
    assert!(changed <= most, "{changed} registers changed by exit {code:#x}");
    next
}

/// RIP and the event with which the OS goes on.
fn goes_on(cpu: &Cpu, before: u64) {
    let control = &cpu.os.control;
    let event = control.event_inject;
    let passed = cpu.os.save.rip.wrapping_sub(before);
    let named = cpu.os.exit_code() == exit_code::IOIO && cpu.os.save.rip == control.exit_info_2;
    assert!(passed <= 15 || named, "RIP went from {before:#x} to {:#x}", cpu.os.save.rip);
    if event >> 31 & 1 == 0 {
        assert_eq!(event, 0);
        return;
    }
    let (kind, vector) = (event >> 8 & 7, event & 0xff);
    assert_eq!(event & 0x7fff_f000, 0, "reserved bits of an event");
    let fault = passed == 0;
    match kind {
        // Delivered again; a software interrupt is executed again instead.
        0 | 2 => assert_eq!(event, control.exit_int_info),
        3 => {
            let again = event == control.exit_int_info && !matches!(vector, 3 | 4);
            let ours = matches!(vector, 6 | 8 | 13 | 14) && fault;
            let trap = vector == 1 && (!fault || named) && cpu.os.save.rflags >> 8 & 1 == 1;
            assert!(again || ours || trap, "event {event:#x}");
            let needs_code = matches!(vector, 8 | 10..=14 | 17);
            assert_eq!(event >> 11 & 1 == 1, needs_code, "error code of {event:#x}");
        }
        _ => panic!("event {event:#x}"),
    }
}

/// What no exit changes. (The MSR map is changed once, when the guest begins to profile.)
#[derive(Debug, PartialEq, Eq)]
struct Fixed {
    intercepts: [u32; 6],
    control: [u64; 5],
    save: [u64; 7],
}

impl Fixed {
    fn of(cpu: &Cpu) -> Self {
        let (control, save) = (&cpu.os.control, &cpu.os.save);
        Self {
            intercepts: control.intercepts,
            control: [control.iopm, control.asid.into(), control.v_intr, control.nested, control.nested_cr3],
            save: [save.cr0, save.cr3, save.cr4, save.cpl.into(), save.cs.base, save.dr7, save.g_pat],
        }
    }
}

/// The processor and the chipset: they answer anything, and what must not be written to them is caught here.
struct Model {
    seed: u64,
    profiles: bool,
}

impl Model {
    fn anything(&self, of: u32) -> u32 {
        (self.seed.rotate_left(of % 64) ^ u64::from(of).wrapping_mul(0x9e37_79b9_7f4a_7c15)) as u32
    }
}

impl Hardware for Model {
    fn run_pal(&mut self, _: &PalFrames, _: Incarnation, _: &mut Gprs) {
        panic!("no PAL is registered");
    }
    fn now_ms(&self) -> u64 {
        self.seed
    }
    fn pkru(&self) -> u32 {
        self.seed as u32
    }
    fn tpm(&mut self) -> Tis<impl tis::Registers, TscClock> {
        no_tpm()
    }
}

impl Ports for Model {
    fn read(&self, port: u16, size: u8) -> u32 {
        self.anything(port.into()) & (u32::MAX >> (32 - 8 * u32::from(size)))
    }
    fn write(&self, port: u16, size: u8, value: u32) {
        if (port, size) == (0xcf8, 4) {
            return;
        }
        for (port, value) in (port..).zip(&value.to_le_bytes()[..size.into()]) {
            assert!(
                size == 1 || !matches!(port, 0x60 | 0x64 | 0x92),
                "the keyboard controller by wide writes"
            );
            match port {
                0x64 => {
                    assert!(!matches!(value, 0xd1 | 0xdd), "the output port");
                    assert!(*value < 0xf0 || value & 1 == 1, "a pulse that resets");
                }
                0x92 => assert_eq!(value & 3, 2, "A20 and reset"),
                0xcf9 => assert_eq!(value & 4, 0, "a reset by the chipset"),
                // What `read` says the class is.
                0xcfc..0xd00 => {
                    assert!(
                        !matches!(self.anything(0xcfc) >> 16, 0x600 | 0x601 | 0x806),
                        "a bridge is written"
                    )
                }
                // Not guarded: it does not exit, and if it did, it would be the guest's own.
                _ => {}
            }
        }
    }
}

impl Processor for Model {
    fn ports(&self) -> &impl Ports {
        self
    }
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers {
        let [eax, ebx, ecx, edx] = [0, 1, 2, 3].map(|n| self.anything(leaf ^ subleaf ^ n));
        Registers { eax, ebx, ecx, edx }
    }
    fn tsc(&self) -> u64 {
        self.seed
    }
    fn apic_read(&self, at: Hpa) -> u32 {
        let page = if at.page().0 == LAPIC { 0 } else { 0x1_0000 };
        assert!(page == 0 || at.page().0 == IO_APIC, "{:#x}", at.0);
        assert!(at.0.is_multiple_of(16), "{:#x}", at.0);
        self.anything(at.page_offset() as u32 | page)
    }
    fn apic_write(&self, at: Hpa, value: u32) {
        let offset = at.page_offset() as u32;
        match at.page().0 {
            LAPIC => lapic_write(offset, value),
            IO_APIC => io_apic_write(offset, value, self.apic_read(Hpa(IO_APIC))),
            _ => panic!("{:#x}", at.0),
        }
    }
    fn write_back_caches(&self) {}
    /// The registers of performance counters, branch records and instruction based sampling.
    fn write_msr(&self, msr: u32, _: u64) -> bool {
        let profiles = matches!(
            msr,
            0x1d9 | 0xc000_010e | 0xc000_010f | 0xc000_0300..=0xc000_0303 | 0xc001_0000..=0xc001_0003
                | 0xc001_0200..=0xc001_020b | 0xc001_1030..=0xc001_103d
        );
        assert!(profiles, "MSR {msr:#x}");
        self.seed & 1 == 0
    }
    fn start_profiling(&mut self) {
        self.profiles = true;
    }
}

/// APM vol. 2, 16.5: message types 2 (SMI), 3 (remote read), 5 (INIT), 6 (start-up); a masked local vector sends nothing.
fn lapic_write(offset: u32, value: u32) {
    assert!(offset.is_multiple_of(16), "{offset:#x}");
    let command = offset == 0x300;
    let local = matches!(offset, 0x320..=0x370 | 0x500..=0x530);
    let dangerous = matches!(value >> 8 & 7, 2 | 3 | 5 | 6);
    assert!(!(command && dangerous), "IPI {value:#x}");
    assert!(!(local && dangerous && value >> 16 & 1 == 0), "local vector {value:#x}");
    assert!(!matches!(offset, 0x20 | 0x30), "the APIC's identity");
}

/// 82093AA: the low halves of the redirection entries; message types 2 (SMI), 5 (INIT).
fn io_apic_write(offset: u32, value: u32, selected: u32) {
    assert!(matches!(offset, 0 | 0x10 | 0x40), "{offset:#x}");
    let selected = selected & 0xff;
    let entry = offset == 0x10 && selected >= 0x10 && selected.is_multiple_of(2);
    assert!(!entry || value >> 16 & 1 == 1 || !matches!(value >> 8 & 7, 2 | 3 | 5 | 6), "{value:#x}");
}
