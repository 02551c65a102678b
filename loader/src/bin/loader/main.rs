//! The bare-metal loader: from GRUB's 32-bit entry into long mode (`boot.s`), through the checks and copies that follow, down
//! again to 32 bits and SKINIT (`skinit.s`).
//!
//! Relies on a multiboot boot loader, and on nobody else running: the other processors still wait for their start, and
//! interrupts stay off. Guarantees that it ends in SKINIT, or in a line that says why not and a processor that halts.

#![no_std]
#![no_main]

mod exceptions;
mod machine;
mod physical;
mod processors;
mod skinit;
mod tpm;

use core::convert::Infallible;

use hypervisor::launch::{
    GuestStart, INFO_MAGIC, INFO_OFFSET, Iommu, KEY_BLOB_ROOM, LaunchInfo, MAX_IOMMUS, MAX_ROOT_BLOB,
    MAX_RUNS, RUNTIME_END, RUNTIME_OFFSET,
};
use hypervisor::memory::Run;
use hypervisor::options::{COM1, Options};
use hypervisor::serial;
use loader::acpi::find_rsdp;
use loader::guest::{BootArea, Contents};
use loader::ivrs;
use loader::layout::{self, Layout};
use loader::multiboot::BootInfo;
use loader::options::CommandLine;
use loader::range::Range;
use loader::refusal::Refusal;
use log::{LevelFilter, info, warn};

use crate::physical::Identity;

core::arch::global_asm!(include_str!("boot.s"));

/// Who speaks on the console.
const WHO: &str = "loader";

#[unsafe(no_mangle)]
extern "C" fn loader_main(magic: u32, info: u32) -> ! {
    exceptions::install();
    let info = match BootInfo::read(&Identity, magic, info) {
        Ok(info) => info,
        Err(error) => {
            serial::init(COM1, WHO, LevelFilter::Info);
            serial::refuse(error)
        }
    };
    serial::init(layout::console(&info.cmdline), WHO, LevelFilter::Info);
    let Err(refusal) = launch(&info);
    serial::refuse(refusal)
}

fn launch(info: &BootInfo) -> Result<Infallible, Refusal<'_>> {
    let CommandLine { reserve, options } = layout::options(&info.cmdline)?;
    serial::init(options.console, WHO, options.level());
    machine::check()?;
    if options.tpm_none == 0 {
        tpm::check()?;
    }
    let layout = layout::lay_out(&Identity, info, physical::loader(), reserve)?;
    let plan = &layout.plan;
    if plan.initrd.is_empty() {
        info!("kernel at {}, no initrd", plan.kernel);
    } else {
        info!("kernel at {}, initrd at {}", plan.kernel, plan.initrd);
    }

    let rsdp = find_rsdp(&Identity, info.efi_system_table);
    if rsdp == 0 {
        warn!("no ACPI root pointer found (under UEFI only multiboot2 tells where it is)");
    }
    let iommus = ivrs::iommus(&Identity, ivrs::find(&Identity, rsdp)).ok_or(Refusal::Iommus)?;
    let start = prepare_guest(info, &layout, rsdp);
    fill_reserve(&layout, options, iommus, start);
    if options.dma_unprotected == 0 {
        ivrs::find(&Identity, rsdp).for_each(hide);
    }
    quiesce(&options);
    info!(
        "reserve {} ({} MiB), SLB of {} bytes at {:#x}: SKINIT follows",
        plan.reserve,
        plan.reserve.len() >> 20,
        layout.image.length,
        plan.reserve.start
    );
    skinit::execute(plan.reserve.start as u32, layout.image.entry, options.console)
}

/// The kernel, its initrd and the boot area.
fn prepare_guest(info: &BootInfo, layout: &Layout<'_>, rsdp: u64) -> GuestStart {
    let Layout { plan, kernel, .. } = layout;
    copy(plan.kernel, 0, kernel.payload);
    copy(plan.initrd, 0, layout.initrd);
    let contents = Contents {
        kernel,
        plan,
        cmdline: layout.cmdline,
        map: &layout.guest_map,
        rsdp,
        vga_text: info.efi_system_table == 0,
    };
    // SAFETY: page aligned and as large as a boot area, which any bytes are; the planner keeps it apart from everything
    // that is read here.
    let area = unsafe { &mut *(plan.boot_area.start as *mut BootArea) };
    area.build(plan.boot_area.start, &contents)
}

/// SLB, launch record and runtime, where `launch.rs` says.
fn fill_reserve(
    layout: &Layout<'_>,
    options: Options,
    (iommus, iommu_count): ([Iommu; MAX_IOMMUS], u32),
    guest: GuestStart,
) {
    let reserve = layout.plan.reserve;
    let front = Range { start: reserve.start, end: reserve.start + RUNTIME_END };
    // SAFETY: the planner keeps the reserve apart from everything that is read here; the slice ends with the statement.
    unsafe { physical::area(front) }.fill(0);
    copy(reserve, 0, layout.image.slb);
    copy(reserve, RUNTIME_OFFSET, layout.image.runtime);

    let mut record = LaunchInfo {
        magic: INFO_MAGIC,
        reserve_base: reserve.start,
        reserve_size: reserve.len(),
        skinit_missing: 0,
        ram_count: 0,
        iommu_count,
        reserved: 0,
        guest,
        options,
        iommus,
        root_len: layout.root.len() as u64,
        root: [0; MAX_ROOT_BLOB],
        key_blob_len: layout.key_blob.len() as u64,
        key_blob: [0; KEY_BLOB_ROOM],
        ram: [Run::default(); MAX_RUNS],
    };
    // What is too long is for the runtime to say.
    if let Some(room) = record.root.get_mut(..layout.root.len()) {
        room.copy_from_slice(layout.root);
    }
    record.key_blob[..layout.key_blob.len()].copy_from_slice(layout.key_blob);
    for (room, run) in record.ram.iter_mut().zip(layout.guest_map.whole_pages()) {
        *room = run;
        record.ram_count += 1;
    }
    // SAFETY: inside the reserve, aligned (2 MiB plus 64 KiB), and no slice of it is alive.
    unsafe { ((reserve.start + INFO_OFFSET) as *mut LaunchInfo).write(record) };
}

/// The guest does not find the table at this address: it is under another name.
fn hide(table: u64) {
    // SAFETY: the firmware's memory, mapped by identity (the table was read there); nothing refers to it.
    unsafe { (table as *mut [u8; 4]).write(ivrs::HIDDEN) }
}

/// SKINIT wants the other processors in INIT and the TPM with no active locality.
fn quiesce(options: &Options) {
    processors::init_others();
    if options.tpm_none == 0 {
        tpm::relinquish();
    }
}

fn copy(to: Range, offset: u64, bytes: &[u8]) {
    let to = Range { start: to.start + offset, end: to.start + offset + bytes.len() as u64 };
    if !to.is_empty() {
        // SAFETY: a part of what the planner keeps apart from all sources; the slice ends with the statement.
        unsafe { physical::area(to) }.copy_from_slice(bytes);
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    serial::refuse(format_args!("internal error: {}", info.message()))
}
