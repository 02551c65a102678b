//! Exits as a hostile guest makes them, on a host.

use super::*;
use crate::addr::Hpa;
use crate::asid::Incarnation;
use crate::dma::Faults;
use crate::gprs::Gprs;
use crate::memory::TestMemory;
use crate::pal::space::PalFrames;
use crate::pal::tests::{CONFIG_SPACE, END, FEATURES, OS_RAM, POOL, facts, pals};
use crate::tpm::clock::TscClock;
use crate::tpm::root::Blob;
use crate::tpm::tis::{self, Tis};
use crate::vmcb::{self, ATTR_LONG, CR0_PG, EVENT_VALID, exception};
use abi::{Status, TOKEN_BIT, number};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::vec::Vec;

/// Records what reaches the hardware.
#[derive(Default)]
struct Recorder {
    lapic: RefCell<Vec<(u32, u32)>>,
    io_apic: RefCell<Vec<(u32, u32)>>,
    selected: u32,
    ports: RefCell<Vec<(u16, u8, u32)>>,
    address: Cell<u32>,
    written_back: RefCell<u32>,
    msrs: RefCell<Vec<(u32, u64)>>,
    profiles: bool,
}

impl Hardware for Recorder {
    fn run_pal(&mut self, _: &PalFrames, _: Incarnation, _: &mut Gprs) {
        panic!("no PAL is registered");
    }
    fn now_ms(&self) -> u64 {
        0
    }
    fn pkru(&self) -> u32 {
        0
    }
    fn tpm(&mut self) -> Tis<impl tis::Registers, TscClock> {
        crate::pal::tests::no_tpm()
    }
}

/// Function 0 of device 0 is a host bridge, function 0 of device 1 is not.
impl Ports for Recorder {
    fn read(&self, port: u16, size: u8) -> u32 {
        match (port, self.address.get()) {
            (0xcf8, address) => address,
            (0xcfc, 0x8000_0008) => 0x0600_0000,
            (0xcfc, 0x8000_0808) => 0x0100_0000,
            _ => 0x4433_2200 + u32::from(port as u8) + u32::from(size),
        }
    }
    fn write(&self, port: u16, size: u8, value: u32) {
        match port {
            0xcf8 => self.address.set(value),
            _ => self.ports.borrow_mut().push((port, size, value)),
        }
    }
}

impl Processor for Recorder {
    fn ports(&self) -> &impl Ports {
        self
    }
    fn cpuid(&self, _: u32, _: u32) -> Registers {
        Registers { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX }
    }
    fn tsc(&self) -> u64 {
        1000
    }
    fn apic_read(&self, at: Hpa) -> u32 {
        match at {
            _ if at.page() == npt::LAPIC => 0x77,
            npt::IO_APIC => self.selected,
            _ => 0x99,
        }
    }
    fn apic_write(&self, at: Hpa, value: u32) {
        let log = if at.page() == npt::LAPIC { &self.lapic } else { &self.io_apic };
        log.borrow_mut().push((at.page_offset() as u32, value));
    }
    fn write_back_caches(&self) {
        *self.written_back.borrow_mut() += 1;
    }
    fn write_msr(&self, msr: u32, value: u64) -> bool {
        self.msrs.borrow_mut().push((msr, value));
        msr != 0x1d9
    }
    fn start_profiling(&mut self) {
        self.profiles = true;
    }
}

/// Where the guest's code is, mapped by identity.
const CODE: u64 = 0x18_0000;

struct Guest {
    memory: TestMemory,
    hv: Hypervisor,
    cpu: Box<Cpu>,
    processor: Recorder,
}

impl Guest {
    /// A kernel in 64-bit mode whose tables map the first 2 MiB by identity.
    fn new() -> Self {
        let memory = TestMemory::new(END / crate::addr::PAGE_SIZE);
        let mem = memory.map();
        mem.write_u64(Hpa(OS_RAM), 0x10_1067);
        mem.write_u64(Hpa(0x10_1000), 0x10_2067);
        mem.write_u64(Hpa(0x10_2000), 0xe7);
        let hv = Hypervisor::new(
            pals(&memory),
            facts(),
            [CONFIG_SPACE, 0..0, 0..0],
            Faults::default(),
            Blob::new(),
            Blob::new(),
        );
        let mut cpu = Box::new(Cpu::new(FEATURES, 1));
        let maps = vmcb::Maps { nested_cr3: Hpa(0), msrpm: Hpa(0), iopm: Hpa(0) };
        let start = crate::launch::GuestStart { rip: CODE, cr3: OS_RAM, ..Default::default() };
        cpu.os.init_os(maps, &start);
        Self { memory, hv, cpu, processor: Recorder::default() }
    }

    fn user(mut self) -> Self {
        self.cpu.os.save.cpl = 3;
        self.cpu.os.save.rflags |= vmcb::RFLAGS_IF;
        self
    }

    fn exit(&mut self, code: u32, info_1: u64, info_2: u64) -> Next {
        let control = &mut self.cpu.os.control;
        control.exit_code = code.into();
        (control.exit_info_1, control.exit_info_2) = (info_1, info_2);
        handle(&self.hv, &mut self.cpu, &mut self.processor)
    }

    fn injected(&self) -> u64 {
        self.cpu.os.control.event_inject
    }

    fn status(&self) -> Option<Status> {
        trustvisor_pal::status(self.cpu.regs.rdx)
    }
}

#[test]
fn svm_instructions_do_not_exist() {
    let codes = (exit_code::VMRUN..=exit_code::SKINIT).filter(|code| *code != exit_code::VMMCALL);
    for code in codes.chain([exit_code::INVLPGA, exit_code::INVLPGB, exit_code::TLBSYNC]) {
        let mut guest = Guest::new();
        assert_eq!(guest.exit(code, 0, 0), Ok(()));
        assert_eq!(guest.injected(), exception(Vector::InvalidOpcode, None), "{code:#x}");
        assert_eq!(guest.cpu.os.save.rip, CODE, "a fault does not skip the instruction");
    }
}

#[test]
fn invd_writes_caches_back() {
    let mut guest = Guest::new();
    assert_eq!(guest.exit(exit_code::INVD, 0, 0), Ok(()));
    assert_eq!((*guest.processor.written_back.borrow(), guest.cpu.os.save.rip), (1, CODE + 2));
}

#[test]
fn guarded_registers() {
    let mut guest = Guest::new();
    let mut access = |number: u32, write: bool, value: u64| {
        guest.cpu.regs.rcx = 0xffff_ffff_0000_0000 | u64::from(number);
        guest.cpu.os.save.rax = value & 0xffff_ffff;
        guest.cpu.regs.rdx = value >> 32;
        guest.cpu.os.save.rip = CODE;
        guest.exit(exit_code::MSR, write.into(), 0).unwrap();
        (guest.injected(), guest.cpu.regs.rdx << 32 | guest.cpu.os.save.rax, guest.cpu.os.save.efer)
    };
    let gp = exception(Vector::GeneralProtection, Some(0));
    assert_eq!(access(msr::EFER, false, 0).1, 0x500, "SVME does not show");
    assert_eq!(access(msr::EFER, true, 0xd01).2, 0x1d01);
    assert_eq!(access(msr::EFER, true, 0x1d01).0, gp);
    for number in [0xc001_0114, 0xc001_0117, 0x4000_0000, 0x4b56_4d00] {
        assert_eq!(access(number, true, 5).0, gp, "{number:#x}");
        assert_eq!(access(number, false, 0).0, gp, "{number:#x}");
    }
    access(msr::TSC, true, 400);
    assert_eq!(guest.cpu.os.control.tsc_offset, 400u64.wrapping_sub(1000));
}

/// A write of the local APIC by `mov [rdi], eax`.
#[test]
fn a_profilers_writes_exit_until_something_is_profiled() {
    let mut guest = Guest::new();
    guest.cpu.profiling_msrpm = Hpa(0x7000);
    let mut write = |msr: u32, value: u64| {
        guest.cpu.regs.rcx = msr.into();
        (guest.cpu.os.save.rip, guest.cpu.os.save.rax) = (CODE, value);
        assert_eq!(guest.exit(exit_code::MSR, 1, 0), Ok(()));
        let written = core::mem::take(&mut *guest.processor.msrs.borrow_mut());
        (guest.cpu.os.save.rip - CODE, guest.injected(), written, guest.cpu.os.control.msrpm)
    };
    assert_eq!(write(0xc001_0200, 0x76), (2, 0, std::vec![(0xc001_0200, 0x76)], 0));
    assert_eq!(
        write(0x1d9, 0x40),
        (0, exception(Vector::GeneralProtection, Some(0)), std::vec![(0x1d9, 0x40)], 0)
    );
    assert_eq!(write(0xc001_0200, 1 << 22), (0, 0, std::vec![], 0x7000));
    assert!(guest.processor.profiles);
}

fn lapic_write(guest: &mut Guest, offset: u64, value: u64) -> Next {
    guest.memory.map().copy_to(Hpa(CODE), &[0x89, 0x07]);
    guest.cpu.os.save.rax = value;
    guest.cpu.os.save.rip = CODE;
    guest.exit(exit_code::NPF, 1 << 32 | 7, npt::LAPIC.0 + offset)
}

#[test]
fn interrupts_between_processors() {
    let mut guest = Guest::new();
    for refused in [0x4500, 0x0c_4500, 0x4608, 0x4200, 0x8500] {
        assert_eq!(lapic_write(&mut guest, 0x300, refused), Ok(()));
        assert_eq!(guest.cpu.os.save.rip, CODE + 2);
    }
    assert!(guest.processor.lapic.borrow().is_empty());
    assert_eq!(guest.hv.ipis_refused.load(Ordering::Relaxed), 5);
    lapic_write(&mut guest, 0x300, 0x40fd).unwrap();
    lapic_write(&mut guest, 0xb0, 0).unwrap();
    assert_eq!(*guest.processor.lapic.borrow(), [(0x300, 0x40fd), (0xb0, 0)]);
    assert_eq!(guest.hv.exits[exit::LAPIC].load(Ordering::Relaxed), 7);
}

#[test]
fn the_io_apic_sends_no_init() {
    let mut guest = Guest::new();
    guest.memory.map().copy_to(Hpa(CODE), &[0x89, 0x07]);
    let mut write = |selected, offset, value: u64| {
        guest.processor.selected = selected;
        (guest.cpu.os.save.rax, guest.cpu.os.save.rip) = (value, CODE);
        assert_eq!(guest.exit(exit_code::NPF, 1 << 32 | 7, npt::IO_APIC.0 + offset), Ok(()));
        guest.processor.io_apic.take()
    };
    assert_eq!(write(0, 0, 0x12), [(0, 0x12)]);
    assert_eq!(write(0x12, 0x10, 0x31), [(0x10, 0x31)]);
    assert_eq!(write(0x12, 0x10, 0x500), []);
    assert_eq!(guest.hv.ipis_refused.load(Ordering::Relaxed), 1);
}

#[test]
fn guarded_ports() {
    let mut guest = Guest::new();
    let mut access = |port: u64, info: u64, rax: u64| {
        guest.cpu.os.save.rax = rax;
        let next = guest.exit(exit_code::IOIO, port << 16 | info, CODE + 5);
        (next, guest.cpu.os.save.rax, guest.processor.ports.take(), guest.injected())
    };
    let gp = exception(Vector::GeneralProtection, Some(0));
    assert_eq!(access(0x60, 0x11, 0xff00), (Ok(()), 0xff61, std::vec![], 0));
    assert_eq!(access(0x92, 0x10, 0), (Ok(()), 0, std::vec![(0x92, 1, 2)], 0));
    assert_eq!(access(0x64, 0x20, 0).3, gp, "16 bits");
    assert!(access(0x64, 0x10, 0xfe).0.is_err());
}

#[test]
fn configuration_of_bridges_is_read_and_not_written() {
    let mut guest = Guest::new();
    let mut access = |address: u32, port: u64, info: u64, rax: u64| {
        guest.processor.address.set(address);
        guest.cpu.os.save.rax = rax;
        guest.exit(exit_code::IOIO, port << 16 | info, CODE + 5).unwrap();
        assert_eq!(guest.processor.address.get(), address);
        (guest.cpu.os.save.rax, guest.processor.ports.take(), guest.injected())
    };
    let gp = exception(Vector::GeneralProtection, Some(0));
    let rax = 0x8877_6655_9988_7766;
    for address in [0x8000_0060, 0x8000_0860] {
        assert_eq!(access(address, 0xcfc, 0x41, rax), (0x4433_2300, std::vec![], 0));
        assert_eq!(access(address, 0xcfd, 0x21, rax), (0x8877_6655_9988_22ff, std::vec![], 0));
        assert_eq!(access(address, 0xcff, 0x11, rax), (0x8877_6655_9988_7700, std::vec![], 0));
        assert_eq!(access(address, 0xcfc, 0x44, rax), (rax, std::vec![], gp), "OUTS");
        assert_eq!(access(address, 0xcfe, 0x40, rax), (rax, std::vec![], gp), "beyond the port");
    }
    for (port, info, size) in [(0xcfc, 0x40, 4), (0xcfe, 0x20, 2), (0xcff, 0x10, 1)] {
        assert_eq!(access(0x8000_0060, port, info, rax), (rax, std::vec![], 0));
        let written = std::vec![(port as u16, size, 0x9988_7766)];
        assert_eq!(access(0x8000_0860, port, info, rax), (rax, written, 0));
    }

    // In memory: MOV [RDI], EAX is dropped, what cannot be decoded is refused.
    guest.cpu.os.save.rip = CODE;
    guest.memory.map().copy_to(Hpa(CODE), &[0x89, 0x07]);
    guest.exit(exit_code::NPF, 1 << 32 | 7, 0xb000_0010).unwrap();
    assert_eq!((guest.injected(), guest.cpu.os.save.rip), (0, CODE + 2));
    guest.cpu.os.save.rip = CODE;
    guest.memory.map().copy_to(Hpa(CODE), &[0x88, 0x07]);
    guest.exit(exit_code::NPF, 1 << 32 | 7, 0xb000_0011).unwrap();
    assert_eq!((guest.injected(), guest.cpu.os.save.rip), (0, CODE + 2));
    guest.cpu.os.save.rip = CODE;
    guest.exit(exit_code::NPF, 1 << 32 | 7, npt::IO_APIC.0).unwrap();
    assert_eq!((guest.injected(), guest.cpu.os.save.rip), (gp, CODE), "8 bits to an APIC");
    guest.memory.map().copy_to(Hpa(CODE), &[0x01, 0x07]);
    guest.exit(exit_code::NPF, 1 << 32 | 7, 0xb000_0010).unwrap();
    assert_eq!((guest.injected(), guest.cpu.os.save.rip), (gp, CODE), "ADD");
    guest.memory.map().copy_to(Hpa(CODE), &[0x89, 0x07]);
    guest.cpu.os.save.cs.attributes = 0xc9b;
    guest.exit(exit_code::NPF, 1 << 32 | 7, 0xb000_0010).unwrap();
    assert_eq!((guest.injected(), guest.cpu.os.save.rip), (gp, CODE), "32-bit code");
    assert!(guest.processor.lapic.borrow().is_empty() && guest.processor.io_apic.borrow().is_empty());
}

#[test]
fn hidden_pages_refuse_writes() {
    let mut guest = Guest::new();
    // An instruction that would be done if the page were an APIC's.
    guest.memory.map().copy_to(Hpa(CODE), &[0x89, 0x07]);
    for gpa in [POOL, END - 1, npt::TPM.0 + 0x1000, npt::LAPIC.0 + 0x1000, npt::IO_APIC.0 + 0x1000, 1 << 41] {
        assert_eq!(guest.exit(exit_code::NPF, 1 << 32 | 7, gpa), Ok(()));
        assert_eq!(guest.injected(), exception(Vector::GeneralProtection, Some(0)));
    }
    // Page tables in the local APIC's page: not decoded as an instruction.
    assert_eq!(guest.exit(exit_code::NPF, 1 << 33 | 7, npt::LAPIC.0), Ok(()));
    assert_eq!(guest.injected(), exception(Vector::GeneralProtection, Some(0)));
    assert!(guest.processor.lapic.borrow().is_empty() && guest.processor.io_apic.borrow().is_empty());
}

#[test]
fn an_interrupted_delivery_is_made_up_for() {
    let mut guest = Guest::new();
    let pending = EVENT_VALID | 0x20;
    guest.cpu.os.control.exit_int_info = pending;
    assert_eq!(guest.exit(exit_code::CPUID, 0, 0), Ok(()));
    assert_eq!(guest.injected(), pending);
    // An INT instruction is executed anew instead.
    guest.cpu.os.control.exit_int_info = EVENT_VALID | vmcb::EVENT_SOFTWARE | 0x80;
    assert_eq!(guest.exit(exit_code::CPUID, 0, 0), Ok(()));
    assert_eq!(guest.injected(), 0);
    // A fault while a double fault is delivered is the end.
    guest.cpu.os.control.exit_int_info = exception(Vector::Double, Some(0));
    assert!(guest.exit(exit_code::NPF, 1 << 32 | 7, POOL).is_err());
}

#[test]
fn who_may_call() {
    let call = |change: &dyn Fn(&mut Cpu)| {
        let mut guest = Guest::new().user();
        guest.cpu.os.save.rax = number::COLLECT.into();
        change(&mut guest.cpu);
        assert_eq!(guest.exit(exit_code::VMMCALL, 0, 0), Ok(()));
        assert_eq!(guest.cpu.os.save.rip, CODE + 3);
        guest.status()
    };
    assert_eq!(call(&|cpu| cpu.os.save.rax = 99), Some(Status::UnknownCall));
    assert_eq!(call(&|cpu| cpu.os.save.rax = 1 << 32 | 1), Some(Status::UnknownCall));
    assert_eq!(call(&|cpu| cpu.os.save.rax = 1 << 16 | 1), Some(Status::UnknownCall));
    assert_eq!(call(&|cpu| cpu.os.save.rax = 1 << 32 | u64::from(number::CALL)), Some(Status::UnknownCall));
    assert_eq!(call(&|cpu| cpu.os.save.rax = TOKEN_BIT | 77), Some(Status::Lost));
    assert_eq!(call(&|cpu| cpu.os.save.rax = u64::MAX), Some(Status::Lost));
    assert_eq!(call(&|cpu| cpu.os.save.cpl = 0), Some(Status::BadCaller));
    assert_eq!(call(&|cpu| cpu.os.save.rflags &= !vmcb::RFLAGS_IF), Some(Status::BadCaller));
    assert_eq!(call(&|cpu| cpu.os.save.cs.attributes &= !ATTR_LONG), Some(Status::BadCaller));
    assert_eq!(call(&|cpu| cpu.os.save.cr0 &= !CR0_PG), Some(Status::BadCaller));
}

#[test]
fn the_end_of_the_guest() {
    for code in [exit_code::SHUTDOWN, exit_code::INVALID, 0x12345] {
        assert!(Guest::new().exit(code, 0, 0).is_err());
    }
}

proptest! {
    /// Whatever an exit says, it is answered without a panic, and nothing but what the filter passes reaches the hardware.
    #[test]
    fn any_exit_is_answered(
        code in prop_oneof![0x40u32..0xa8, Just(0x400), any::<u32>()],
        info_1: u64, gpa in prop_oneof![npt::LAPIC.0..npt::LAPIC.0 + 4096, any::<u64>()],
        bytes in proptest::array::uniform16(any::<u8>()),
        rax: u64, rcx: u64, rip in prop_oneof![Just(CODE), any::<u64>()], cr3: u64, pending: u64, user: bool,
    ) {
        let mut guest = if user { Guest::new().user() } else { Guest::new() };
        guest.memory.map().copy_to(Hpa(CODE), &bytes);
        let save = &mut guest.cpu.os.save;
        (save.rax, save.rip) = (rax, rip);
        if pending & 2 != 0 {
            save.cr3 = cr3;
        }
        guest.cpu.regs.rcx = rcx;
        guest.cpu.os.control.exit_int_info = pending;
        let _ = guest.exit(code, info_1, gpa);
        for (offset, value) in guest.processor.lapic.borrow().iter() {
            prop_assert!(lapic::passes(*offset, *value));
        }
        prop_assert!(guest.cpu.os.save.efer & vmcb::EFER_SVME != 0);
    }
}

#[test]
fn a_change_of_efer_flushes_the_translations() {
    for (flush_by_asid, expected) in [(true, vmcb::tlb::FLUSH_ASID), (false, vmcb::tlb::FLUSH_ALL)] {
        let mut guest = Guest::new();
        guest.cpu.features.flush_by_asid = flush_by_asid;
        guest.cpu.os.control.tlb_control = vmcb::tlb::KEEP;
        guest.cpu.regs.rcx = msr::EFER.into();
        guest.cpu.os.save.rax = 0xd01;
        assert_eq!(guest.exit(exit_code::MSR, 1, 0), Ok(()));
        assert_eq!(guest.cpu.os.control.tlb_control, expected);
    }
}

#[test]
fn an_unfinished_hypercall_lets_interrupts_in() {
    let mut guest = Guest::new().user();
    guest.cpu.os.save.rax = number::COLLECT.into();
    guest.cpu.os.control.interrupt_shadow = 1;
    assert_eq!(guest.exit(exit_code::VMMCALL, 0, 0), Ok(()));
    let (rip, rax) = (guest.cpu.os.save.rip, guest.cpu.os.save.rax);
    assert_eq!((rip, rax, guest.cpu.os.control.interrupt_shadow), (CODE, number::COLLECT.into(), 0));
}

#[test]
fn info_fills_the_room_there_is_or_asks_for_it_three_times() {
    let mut guest = Guest::new().user();
    let mem = guest.memory.map();
    let buffer = CODE + 0x1000;
    mem.write_u64(Hpa(buffer + 8), u64::MAX);
    let mut info = |at: u64, room: u64| {
        (guest.cpu.os.save.rip, guest.cpu.os.save.rax) = (CODE, number::INFO.into());
        (guest.cpu.regs.rdi, guest.cpu.regs.rsi, guest.cpu.regs.rdx) = (at, room, u64::MAX);
        assert_eq!(guest.exit(exit_code::VMMCALL, 0, 0), Ok(()));
        (guest.injected(), guest.cpu.os.save.rax, guest.status())
    };
    assert_eq!(info(buffer, 8), (0, 8, Some(Status::Ok)));
    assert_eq!((mem.read_u64(Hpa(buffer)), mem.read_u64(Hpa(buffer + 8))), (1, u64::MAX));
    let absent = 1 << 30;
    for _ in 0..3 {
        assert_eq!(info(absent, 8), (exception(Vector::Page, Some(6)), number::INFO.into(), None));
    }
    assert_eq!(info(absent, 8), (0, absent, Some(Status::NoProgress)));
}
