//! The hypervisor over the small machine of [`crate::world`]: one processor of the OS, the PALs, and a VMMCALL of which every
//! answer is looked at as the caller sees it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::{Handle, Info, Status, TOKEN_BIT};
use hypervisor::addr::Hpa;
use hypervisor::cpu::{Cpu, Features};
use hypervisor::dma::Faults;
use hypervisor::frames::Frames;
use hypervisor::gprs::Gprs;
use hypervisor::hypercall;
use hypervisor::hypervisor::Hypervisor;
use hypervisor::launch::GuestStart;
use hypervisor::memory::DirectMap;
use hypervisor::pal::{Hardware, MicroTpm, Pals, Random, Slots};
use hypervisor::tpm::clock::TscClock;
use hypervisor::tpm::mmio::Mmio;
use hypervisor::tpm::root::Blob;
use hypervisor::tpm::tis::{self, Tis};
use hypervisor::vmcb::{Maps, RFLAGS_IF};
use spin::Mutex;
use utpm::Root;

use crate::reference::Registers;
use crate::world::{Memory, PAGE, RESERVE, ROOT_4, ram_map, with_memory};

/// Address bits of the processor.
const PHYSICAL_BITS: u32 = 40;

pub struct Machine<'m> {
    pub memory: &'m Memory,
    pub hv: Hypervisor,
    pub cpu: Box<Cpu>,
    /// Milliseconds of the hypervisor's clock.
    pub now: u64,
    /// Behind `hv`, which borrows it, in the order of dropping.
    _slots: OwnSlots,
}

/// What a VMMCALL came to, by the caller's registers alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Value and status; the next instruction is next.
    Done(u64, Status),
    /// The VMMCALL again, with this token.
    Again(u64),
    /// The VMMCALL again, as it was.
    Restart,
    /// #PF at the VMMCALL.
    Fault { gva: u64, token: Option<u64> },
}

/// Gives a machine with a program in user mode, its tables those of [`crate::world`], and no PAL.
pub fn with_machine<T>(f: impl FnOnce(&mut Machine) -> T) -> T {
    with_memory(|memory| {
        let slots = OwnSlots::new();
        // SAFETY: the machine is gone before the slots are: it owns them, and drops them last.
        let forever = unsafe { &mut *slots.0 };
        f(&mut Machine {
            memory,
            hv: Hypervisor::new(
                pals(memory, forever),
                facts(),
                [0..0, 0..0, 0..0],
                Faults::default(),
                Blob::new(),
                Blob::new(),
            ),
            cpu: processor(),
            now: 5_000,
            _slots: slots,
        })
    })
}

fn pals(memory: &Memory, slots: &'static mut Slots) -> Pals {
    let frames = Frames::new(memory.map(), Hpa(RESERVE.start), Hpa(RESERVE.end));
    static WORD: AtomicU64 = AtomicU64::new(0);
    WORD.store(1, Ordering::Relaxed);
    let words: fn() -> Option<u64> = || Some(WORD.fetch_add(1, Ordering::Relaxed));
    let random = Random::seeded(words, &[]).expect("the words differ");
    let root = Some(Root::new(&[1; Root::SIZE], [0; 32]));
    let (random, counting) = (Mutex::new(random), Mutex::new(None));
    let secrets = MicroTpm { random, root, identity: None, quoting: &[], counting, launches: 0 };
    let maps = Maps { nested_cr3: Hpa(0), msrpm: Hpa(0), iopm: Hpa(0) };
    Pals::new(memory.map(), ram_map(), frames, secrets, maps, true, slots)
}

fn facts() -> Info {
    Info {
        version: abi::VERSION,
        reserve_base: RESERVE.start,
        reserve_size: RESERVE.end - RESERVE.start,
        ..Info::default()
    }
}

fn processor() -> Box<Cpu> {
    let features = Features {
        nrip: false,
        flush_by_asid: true,
        asids: 16,
        phys_bits: PHYSICAL_BITS,
        pku: true,
        fpu: true,
        writable_efer: 0xd01,
        apic_base: 0xfee0_0900,
    };
    let mut cpu = Box::new(Cpu::new(features, 1));
    let start = GuestStart { rip: 9 * PAGE, cr3: ROOT_4, ..GuestStart::default() };
    cpu.os.init_os(Maps { nested_cr3: Hpa(0), msrpm: Hpa(0), iopm: Hpa(0) }, &start);
    cpu.os.save.cpl = 3;
    cpu.os.save.rflags |= RFLAGS_IF;
    cpu
}

impl Machine<'_> {
    pub fn mem(&self) -> DirectMap {
        self.memory.map()
    }

    /// What the caller's tables are reached by.
    pub fn registers(&self, pkru: u32) -> Registers {
        let save = &self.cpu.os.save;
        Registers {
            cr0: save.cr0,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: save.efer,
            pkru,
            physical_bits: PHYSICAL_BITS,
        }
    }

    /// Executes a VMMCALL with the registers as they are. Whatever it comes to, registers that the interface does not name stay.
    pub fn vmmcall(&mut self, hardware: &mut impl Hardware) -> Answer {
        let before = Seen::of(&self.cpu);
        self.cpu.os.control.event_inject = 0;
        hypercall::vmmcall(&self.hv, &mut self.cpu, hardware);
        let after = Seen::of(&self.cpu);
        assert_eq!(after.others, before.others, "a register that is none of the hypercall's");
        assert_eq!(self.cpu.os.control.interrupt_shadow, 0);
        self.adds_up();
        let pool = self.hv.pals.pool.lock().base();
        assert!(pool.0 > RESERVE.start, "the pool moved");
        answer(&before, &after, self.cpu.os.control.event_inject)
    }

    /// Frames taken and frames left are all frames there are; where there is no PAL, all are left.
    fn adds_up(&self) {
        let pool = self.hv.pals.pool.lock();
        assert!(pool.free_count() <= pool.total());
        assert!(pool.free_count() == pool.total() || self.hv.pals.count() > 0, "frames without a PAL");
    }

    /// No PAL, and every frame of the pool is zero.
    pub fn is_empty(&self) -> bool {
        let base = self.hv.pals.pool.lock().base();
        let frames = (base.0..RESERVE.end).step_by(PAGE as usize);
        self.hv.pals.count() == 0
            && frames.into_iter().all(|frame| self.memory.page(frame) == [0; PAGE as usize])
    }

    pub fn set_handle(&mut self, handle: Handle) {
        (self.cpu.regs.r10, self.cpu.regs.r11) = (handle.low, handle.high);
    }
}

fn answer(before: &Seen, after: &Seen, event: u64) -> Answer {
    const VALID_PF: u64 = 0x8000_0b0e;
    const VALID_DB: u64 = 0x8000_0301;
    let trapped = before.rflags >> 8 & 1 != 0;
    if after.rip == before.rip.wrapping_add(3) {
        assert_eq!(event, if trapped { VALID_DB } else { 0 }, "an event after the VMMCALL");
        assert_eq!(after.rflags, before.rflags & !(1 << 16), "flags");
        let Some(status) = trustvisor::status(after.rdx) else { panic!("status {:#x}", after.rdx) };
        return Answer::Done(after.rax, status);
    }
    assert_eq!((after.rip, after.rflags, after.rdx), (before.rip, before.rflags, before.rdx));
    let token = (after.rax != before.rax).then_some(after.rax);
    assert!(token.is_none_or(|token| token & TOKEN_BIT != 0), "a number as a token");
    match (event, token) {
        (0, Some(token)) => Answer::Again(token),
        (0, None) => Answer::Restart,
        (event, token) => {
            assert_eq!(event & 0xffff_ffff, VALID_PF, "not a #PF");
            let code = (event >> 32) as u32;
            assert!(code & !0x2f == 0 && code & 4 != 0, "error code {code:#x} of no user's data access");
            Answer::Fault { gva: after.cr2, token }
        }
    }
}

/// The caller's registers.
struct Seen {
    rax: u64,
    rdx: u64,
    rip: u64,
    rflags: u64,
    cr2: u64,
    others: [u64; 20],
}

impl Seen {
    fn of(cpu: &Cpu) -> Self {
        let (save, regs) = (&cpu.os.save, &cpu.regs);
        let [rbx, rcx, _, rest @ ..] = words(regs);
        let mut others = [0; 20];
        others[..13].copy_from_slice(&[[rbx, rcx].as_slice(), &rest].concat());
        others[13..].copy_from_slice(&[
            save.rsp,
            save.cr0,
            save.cr3,
            save.cr4,
            save.efer,
            save.cpl.into(),
            save.dr7,
        ]);
        Self { rax: save.rax, rdx: regs.rdx, rip: save.rip, rflags: save.rflags, cr2: save.cr2, others }
    }
}

/// RBX, RCX, RDX, RSI, RDI, RBP, R8 to R15.
pub fn words(regs: &Gprs) -> [u64; 14] {
    [
        regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.r8, regs.r9, regs.r10, regs.r11,
        regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

/// The other way round.
pub fn gprs(words: [u64; 14]) -> Gprs {
    let [rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15] = words;
    Gprs { rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 }
}

/// The slots of one machine. A thread keeps their memory for the next.
struct OwnSlots(*mut Slots);

thread_local! {
    static KEPT: Cell<Option<Box<Slots>>> = const { Cell::new(None) };
}

impl OwnSlots {
    fn new() -> Self {
        // SAFETY: a list that is all zero is an empty one. As a value it would go over the stack, which is not large enough for it.
        let mut slots = KEPT.take().unwrap_or_else(|| unsafe { Box::<Slots>::new_zeroed().assume_init() });
        slots.clear();
        Self(Box::into_raw(slots))
    }
}

impl Drop for OwnSlots {
    fn drop(&mut self) {
        // SAFETY: from `Box::into_raw`, and nobody borrows them any more: the machine that did is gone.
        KEPT.set(Some(unsafe { Box::from_raw(self.0) }));
    }
}

/// Nobody asks for it: there are no counters.
pub fn no_tpm() -> Tis<impl tis::Registers, TscClock> {
    Option::<Tis<Mmio, TscClock>>::default().expect("a TPM")
}
