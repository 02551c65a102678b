//! Page tables that no sane kernel makes: the caller's own entries point into the reserve, to devices and to nothing, as the page of
//! a buffer and as the page table above it. TrustVisor must not follow them.

use crate::attack::{Kernel, Table};
use crate::support::{
    IMAGE, Mapping, NO_HANDLE, PAGE, call_entry, entry, expect, leaving_nothing, raw, register,
};
use anyhow::ensure;
use trustvisor::abi::{Info, Status, number};

/// Present, writable, user, accessed, dirty.
const ENTRY: u64 = 0x67;
/// Level of a page's entry, and of the entry of the table that holds it.
const LEVELS: [u32; 2] = [1, 2];
const LARGE: u64 = 2 << 20;

pub fn run() -> anyhow::Result<()> {
    let kernel = Kernel::open()?;
    let s = register()?;
    let handle = s.pal().handle();
    // A page table of its own: 2 MiB, aligned, nothing else in it.
    let room = Mapping::anonymous(2 * (LARGE as usize) / PAGE)?;
    room.advise(libc::MADV_NOHUGEPAGE)?;
    let at = room.address().next_multiple_of(LARGE);
    room.write((at - room.address()) as usize, 1);

    leaving_nothing(|info| {
        let targets = [
            ("the SLB", info.reserve_base),
            ("the runtime", info.reserve_base + 0x2_0000),
            ("the pool", info.pool_base),
            ("the end of the reserve", info.reserve_base + info.reserve_size - PAGE as u64),
            ("the local APIC", 0xfee0_0000),
            ("the I/O APIC", 0xfec0_0000),
            ("the TPM", 0xfed4_0000),
            ("the BIOS", 0xf_0000),
            ("nothing", 0x3f_0000_0000),
        ];
        for (what, target) in targets {
            for level in LEVELS {
                let calls = [
                    ("INFO", number::INFO.into(), [at, size_of::<Info>() as u64, 0]),
                    ("REGISTER (image)", number::REGISTER.into(), [at, IMAGE.len() as u64, at]),
                    (
                        "REGISTER (owner page)",
                        number::REGISTER.into(),
                        [IMAGE.as_ptr() as u64, IMAGE.len() as u64, at],
                    ),
                    ("CALL (in)", call_entry(entry::SUM), [at, 64, 0]),
                    ("CALL (out)", call_entry(entry::FILL), [at, 64, 1]),
                ];
                let hostile = Table { address: at, entry: target | ENTRY, level, reserved: 0 };
                let true_entry = kernel.ask(hostile)?.entry;
                let answers = calls.map(|(_, call, arguments)| raw(call, handle, &arguments));
                kernel.ask(Table { entry: true_entry, ..hostile })?;
                for ((name, ..), (value, status)) in calls.iter().zip(answers) {
                    let what = format!("{name} with a level {level} entry to {what}");
                    expect(&what, status, Status::BadAddress)?;
                    ensure!(value == at, "{what}: blames {value:#x}");
                }
            }
        }
        expect("INFO after it", raw(number::INFO.into(), NO_HANDLE, &[at, 64]).1, Status::Ok)
    })?;
    ensure!(s.count()? == 1, "S has run, or is gone");
    Ok(())
}
