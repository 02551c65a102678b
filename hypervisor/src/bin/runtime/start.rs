//! The runtime from its first line of Rust to the OS's first instruction, and its end.
//!
//! Relies on the SLB for nothing but what [`Handover`] says of the TPM: the loader's record in it is checked again here.

use crate::entry::{CODE, parts};
use crate::fpu::Area;
use crate::processor::{self, PORTS, cpuid};
use crate::{platform, smp, svm, tpm};
use abi::{Info, info_flag};
use core::fmt;
use core::mem::MaybeUninit;
use hypervisor::addr::{HUGE_PAGE, Hpa, LARGE_PAGE, PAGE_SIZE};
use hypervisor::chipset::Chipset;
use hypervisor::cpu::{Cpu, Features};
use hypervisor::cpuid::NOTHING;
use hypervisor::dma::tables::Reach;
use hypervisor::exit::End;
use hypervisor::frames::Frames;
use hypervisor::gprs::Gprs;
use hypervisor::hypervisor::Hypervisor;
use hypervisor::ioports::Ports;
use hypervisor::launch::{
    Handover, LaunchInfo, MAX_IOMMUS, NO_TPM, RESERVE_VA, SLB_TABLES, TABLES_OFFSET, ensure,
};
use hypervisor::memory::{DirectMap, RamMap};
use hypervisor::npt::{self, Hidden};
use hypervisor::paging::{self, PHYS_VA, Reserve};
use hypervisor::pal::{Pals, Slots};
use hypervisor::pci::ConfigSpace;
use hypervisor::tables::TableArea;
use hypervisor::tpm::Family;
use hypervisor::tpm::clock::TscClock;
use hypervisor::vmcb::Maps;
use hypervisor::{check, dma, exceptions, ioports, msr, serial};
use log::LevelFilter;
use spin::{Mutex, MutexGuard, Once};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, instructions::port::Port};

const VM_HSAVE_PA: u32 = 0xc001_0117;
/// As [`check::TOP_MEM`], for memory above 4 GiB.
const TOP_MEM2: u32 = 0xc001_001d;

static OS_FPU: Mutex<Area> = Mutex::new(Area([0; PAGE_SIZE as usize]));
static CONFIG_SPACE: Mutex<ConfigSpace> = Mutex::new(ConfigSpace::none());
static CPU: Mutex<MaybeUninit<Cpu>> = Mutex::new(MaybeUninit::uninit());
static SLOTS: Mutex<Slots> = Mutex::new(Slots::new_const());
static HYPERVISOR: Once<Hypervisor> = Once::new();

/// Called once, by the boot processor, on the runtime's own stack.
pub extern "C" fn main(handover: &'static Handover) -> ! {
    exceptions::catch(CODE);
    let options = &handover.info.options;
    serial::init(options.console, "runtime", options.level());
    match start(handover) {
        Ok(machine) => {
            wipe_unused_stack();
            enable_svm(machine.host_save);
            // Known by their addresses, which makes the code of calls shorter.
            let hv = HYPERVISOR.get().expect("published by `start`");
            let end = processor::run(hv, machine.cpu, machine.os_state, MutexGuard::leak(OS_FPU.lock()));
            leave(hv.pals.mem, handover, end)
        }
        Err(reason) => refuse(reason),
    }
}

/// Says why the runtime does not start the OS, and stops.
pub fn refuse(reason: impl fmt::Display) -> ! {
    serial::say(format_args!("refused: {reason}"));
    serial::stopped();
    forget(halt, [0; 3])
}

/// What the OS runs on.
struct Machine {
    cpu: &'static mut Cpu,
    /// The host save area (APM vol. 2, 15.30.4): the processor's own.
    host_save: Hpa,
    /// See [`processor::run`].
    os_state: Hpa,
}

/// Sets everything up but for SVM itself. In a frame of its own, which is wiped.
#[inline(never)]
fn start(handover: &'static Handover) -> Result<Machine, &'static str> {
    let info = &handover.info;
    let features = features();
    let (reserve, ram) = check(info, features.phys_bits)?;
    let config = MutexGuard::leak(CONFIG_SPACE.lock());
    platform::check(reserve, &ram, &features, config)?;
    // SAFETY: the SLB's tables map the low 4 GiB by identity, and the reserve lies below; the runtime's own memory is at its
    // start, and only what lies above `RUNTIME_END`, and registers of IOMMUs and the chipset, are touched through this map.
    let early = unsafe { DirectMap::new(0, 4 << 30) };
    let chipset = Chipset::find(&PORTS, |at| early.read_u32(Hpa(at.into())))?;
    let mut area = TableArea::new(early, reserve.base + TABLES_OFFSET, reserve.pool);
    let top = Hpa(ram.end().0.max(4 << 30).next_multiple_of(HUGE_PAGE));
    let iommus = dma::registers(early, info)?;
    let never = [reserve.base.0..reserve.end.0, config.range.clone(), chipset.watchdog.clone()];
    let tops = [check::TOP_MEM, TOP_MEM2].map(platform::read);
    let reach = Reach::new(ram, never, &iommus, tops, features.phys_bits);
    let faults = dma::open(&PORTS, early, &mut area, handover, &reach)?;
    let hide = Hidden { reserve: (reserve.base, reserve.end), iommus: &iommus, chipset: &chipset, config };
    let nested_cr3 = npt::build(&mut area, hide, features.phys_bits);
    let [registers, spi] = chipset.registers.clone();
    let dropped = [config.range.clone(), registers, spi];
    let (cpu, pal_maps) = boot_cpu(&mut area, handover, features, nested_cr3, chipset);
    let (host_save, os_state) = (area.take(1), area.take(1));
    let root = paging::build(&mut area, reserve, top, &parts());
    enter_address_space(root, &features);
    // SAFETY: `paging::build` maps physical memory at PHYS_VA up to `top`, without the runtime's own.
    let mem = unsafe { DirectMap::new(PHYS_VA, top.0) };
    let Reserve { base, end, pool } = reserve;
    log::info!("reserve {:#x}-{:#x}, nested tables built, {} ASIDs", base.0, end.0, features.asids);

    mem.zero(pool, end.0 - pool.0);
    let frames = Frames::new(mem, pool, end);
    let clock = TscClock { tsc_per_ms: handover.tsc_per_ms };
    // PCR 17 tells; only without a TPM there is nothing but the loader's word.
    let in_init = match handover.tpm_family {
        NO_TPM => info.skinit_missing == 0,
        _ => handover.dynamic_launch != 0,
    };
    if !in_init {
        smp::hold_others(mem);
    }

    let facts = Info {
        version: abi::VERSION,
        flags: info_flags(handover),
        frames_total: frames.total().into(),
        reserve_base: base.0,
        reserve_size: end.0 - base.0,
        pool_base: frames.base().0,
        pcr17: handover.pcr17,
        pcr18: handover.pcr18,
        ..Info::default()
    };
    tpm::with_secrets(handover, mem, clock, |secrets, (root, counters), blobs, extends| {
        let slots = MutexGuard::leak(SLOTS.lock());
        let pals = Pals::new(mem, ram, frames, secrets, pal_maps, features.fpu, slots);
        let facts = Info { root: root as u32, counters: counters as u32, extends, ..facts };
        HYPERVISOR.call_once(|| Hypervisor::new(pals, facts, dropped, faults, blobs.root, blobs.key));
    })?;
    log::info!("{} free frames for PALs; starting the guest at {:#x}", facts.frames_total, info.guest.rip);
    if info.options.level() < LevelFilter::Debug {
        log::set_max_level(LevelFilter::Off);
    }
    Ok(Machine { cpu, host_save, os_state })
}

fn info_flags(handover: &Handover) -> u32 {
    let flags = [
        (handover.dynamic_launch != 0, info_flag::DYNAMIC_LAUNCH),
        (handover.info.options.dma_unprotected != 0, info_flag::DMA_UNPROTECTED),
        (handover.tpm_family == NO_TPM, info_flag::NO_TPM),
        (handover.tpm_family == Family::V12 as u32, info_flag::TPM_12),
    ];
    flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum()
}

/// The loader's record again, and the division of the reserve.
fn check(info: &LaunchInfo, phys_bits: u32) -> Result<(Reserve, RamMap<'_>), &'static str> {
    // The SLB's tables, through which this runs, lie in what the processor started: the record must agree with it.
    let own_base = Cr3::read().0.start_address().as_u64() - SLB_TABLES;
    let ram = check::record(info, own_base, platform::read(check::TOP_MEM))?;
    let (base, size) = (Hpa(info.reserve_base), info.reserve_size);
    // Tables: nested ones, permission maps and the runtime's image, its direct map.
    const OWN: u64 = 32;
    let direct = 2 * ram.end().0.div_ceil(512 * HUGE_PAGE) + 4;
    let dma = dma::tables::tables(phys_bits, ram.runs().len()) + 2 + MAX_IOMMUS as u64;
    let pages = npt::tables(phys_bits) + dma + OWN + direct;
    let pool = TABLES_OFFSET + (pages * PAGE_SIZE).next_multiple_of(LARGE_PAGE);
    ensure(size >= pool + LARGE_PAGE, "the table area is too small for this machine")?;
    Ok((Reserve { base, end: base + size, pool: base + pool }, ram))
}

fn features() -> Features {
    let leaf = |leaf: u32| {
        if leaf <= cpuid(leaf & 0x8000_0000, 0).eax { cpuid(leaf, 0) } else { NOTHING }
    };
    let svm = leaf(0x8000_000a);
    let sizes = leaf(0x8000_0008);
    Features {
        nrip: svm.edx & 1 << 3 != 0,
        flush_by_asid: svm.edx & 1 << 6 != 0,
        asids: svm.ebx,
        phys_bits: sizes.eax & 0xff,
        pku: leaf(7).ecx & 1 << 3 != 0,
        fpu: cpuid(1, 0).ecx & 1 << 26 != 0 && u64::from(leaf(0xd).ecx) <= PAGE_SIZE,
        writable_efer: msr::writable_efer(leaf(0x8000_0001), sizes, leaf(0x8000_0021)),
        // SAFETY: every processor with SVM has this MSR.
        apic_base: unsafe { Msr::new(msr::APIC_BASE).read() },
    }
}

/// EFER.AIBRSE (APM vol. 2, 3.1.7).
const AUTOMATIC_IBRS: u64 = 1 << 21;

/// Turns to the runtime's own tables.
fn enter_address_space(root: Hpa, features: &Features) {
    // SAFETY: the new tables map the code, stack and data in use at the same addresses, with the rights that they need; the
    // flags only restrict.
    unsafe {
        Efer::update(|efer| {
            efer.insert(EferFlags::NO_EXECUTE_ENABLE);
            // The OS's branches do not steer the hypervisor's.
            efer.insert(EferFlags::from_bits_retain(AUTOMATIC_IBRS & features.writable_efer));
        });
        Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT));
        Cr4::update(|cr4| {
            cr4.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION);
            // No page of the hypervisor is a user page: this is only to read the guest's PKRU.
            cr4.set(Cr4Flags::PROTECTION_KEY_USER, features.pku);
            cr4.set(Cr4Flags::OSXSAVE, features.fpu);
        });
        let (_, flags) = Cr3::read();
        Cr3::write(PhysFrame::containing_address(PhysAddr::new(root.0)), flags);
    }
}

/// The processor that the OS starts on, and the maps of PALs. MSR and I/O permission maps (APM vol. 2, 15.10 and 15.11): the OS's
/// from the tables of guarded registers and ports, the PALs' all ones.
#[inline(never)]
fn boot_cpu(
    area: &mut TableArea,
    handover: &Handover,
    features: Features,
    nested_cr3: Hpa,
    chipset: Chipset,
) -> (&'static mut Cpu, Maps) {
    let info = &handover.info;
    let cpu = MutexGuard::leak(CPU.lock()).write(Cpu::new(features, handover.tsc_per_ms));
    cpu.os_hpa = Hpa(info.reserve_base) + (&raw const cpu.os as u64 - RESERVE_VA);
    cpu.regs = Gprs { rsi: info.guest.rsi, ..Gprs::default() };
    let msrpm = area.hold(&msr::permission_map(false));
    cpu.profiling_msrpm = area.hold(&msr::permission_map(true));
    let iopm = area.hold(&ioports::permission_map(&chipset));
    cpu.ports.chipset = chipset;
    cpu.os.init_os(Maps { nested_cr3, msrpm, iopm }, &info.guest);
    let ones = area.hold(&[0xff; ioports::MAP_SIZE]);
    // A PAL's page tables are all there are.
    (cpu, Maps { nested_cr3: Hpa(0), msrpm: ones, iopm: ones })
}

/// Enables SVM on this processor.
fn enable_svm(host_save: Hpa) {
    // SAFETY: `platform::check` has seen that the processor has SVM and that firmware did not lock it; the host save area is
    // a page that nothing else uses.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::SECURE_VIRTUAL_MACHINE_ENABLE));
        svm::clgi();
        Msr::new(VM_HSAVE_PA).write(host_save.0);
    }
}

/// The OS came to its end.
fn leave(mem: DirectMap, handover: &Handover, end: End) -> ! {
    match end {
        End::Reset(reason) => log::error!("{reason}: wiping and resetting the machine"),
        End::Sleep => tpm::cap(mem, TscClock { tsc_per_ms: handover.tsc_per_ms }),
        End::Off(..) => {}
    }
    let off = if let End::Off(port, size, value) = end { [port.into(), size.into(), value] } else { [0; 3] };
    forget(switch_off, off)
}

/// Writes a value of so many bytes to a port, if there are any; resets the machine if it is not off then.
extern "C" fn switch_off(port: u32, size: u32, value: u32) -> ! {
    /// Writes to a port that does nothing, a microsecond each, until the machine should be off.
    const PATIENCE: u32 = 5_000_000;
    if size > 0 {
        PORTS.write(port as u16, size as u8, value);
        (0..PATIENCE).for_each(|_| PORTS.write(0x80, 1, 0));
    }
    // SAFETY: nothing of this machine's state is needed any more: by the reset control register (CF9), the keyboard controller, a
    // triple fault.
    unsafe {
        Port::<u8>::new(0xcf9).write(0x02);
        Port::<u8>::new(0xcf9).write(0x06);
        Port::<u8>::new(0x64).write(0xfe);
        core::arch::asm!("lidt [{}]", "ud2", in(reg) &[0u8; 10], options(noreturn))
    }
}

/// Zeroes what finished calls left on the stack: secrets went over it.
fn wipe_unused_stack() {
    let [.., stack] = parts();
    // SAFETY: the stack is in use from RSP up, and what the compiler keeps below it is 128 bytes at most.
    unsafe {
        core::arch::asm!(
            "lea rcx, [rsp - 128]",
            "sub rcx, rdi",
            "rep stosb",
            inout("rdi") stack.start => _,
            out("rcx") _,
            in("al") 0u8,
        );
    }
}

/// Before control is lost: zeroes the pool, then the runtime's own data (frozen registers, micro-PCRs, the random number
/// generator, the root) and all of the stack, and writes the caches back, for memory keeps what it last held. After this only code is
/// left, and goes on with an empty stack.
fn forget(last: extern "C" fn(u32, u32, u32) -> !, [first, second, third]: [u32; 3]) -> ! {
    if let Some(hv) = HYPERVISOR.get() {
        hv.wipe();
    }
    let [_, _, data, stack] = parts();
    // SAFETY: nobody uses the runtime's data after this, nor what is on the stack: what comes last takes three numbers, writes ports and stops.
    unsafe {
        (data.start as *mut u8).write_bytes(0, (data.end - data.start) as usize);
        core::arch::asm!(
            "rep stosb",
            "lea rsp, [rdi - 8]",
            "wbinvd",
            "mov edi, {first:e}",
            "jmp {last}",
            first = in(reg) first,
            last = in(reg) last,
            in("rdi") stack.start,
            in("rcx") stack.end - stack.start,
            in("al") 0u8,
            in("esi") second,
            in("edx") third,
            options(noreturn),
        );
    }
}

/// As [`switch_off`], for whoever must not go on.
extern "C" fn halt(_: u32, _: u32, _: u32) -> ! {
    serial::halt()
}

/// A bug of the hypervisor: nothing may be learned from it.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    serial::say(format_args!("bug: {info}"));
    serial::stopped();
    forget(halt, [0; 3])
}
