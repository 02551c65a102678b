//! The hostile kernel: requests to `/dev/tvattack`. Mirrors `modules/tvattack.h`.

use crate::support::system;
use anyhow::{Context, ensure};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

const DEVICE: &str = "/dev/tvattack";
const MODULE: &str = "/modules/tvattack.ko";

/// In `vector`: no exception.
pub const NO_FAULT: u32 = u32::MAX;
/// Exception vectors.
pub const UD: u32 = 6;
/// See [`UD`].
pub const GP: u32 = 13;

/// RFLAGS.IF.
pub const INTERRUPTS: u64 = 1 << 9;

/// Privileged instructions, in the module's order.
pub const INSTRUCTIONS: [&str; 7] = ["VMRUN", "VMLOAD", "VMSAVE", "STGI", "CLGI", "SKINIT", "INVLPGA"];

macro_rules! requests {
    ($($number:literal $name:ident { $($field:ident: $type:ty),* })*) => {$(
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name { $(pub $field: $type),* }

        impl Request for $name {
            const NUMBER: u64 = $number;
        }
    )*};
}

/// What [`Control`] does.
pub const CR2: u32 = 0;
/// See [`CR2`].
pub const CR3: u32 = 1;
/// See [`CR2`].
pub const CR4: u32 = 2;
/// See [`CR2`].
pub const WRITE_CR4: u32 = 3;
/// See [`CR2`].
pub const TRY_CR3: u32 = 4;
/// See [`CR2`].
pub const COPY_CR3: u32 = 5;
/// See [`CR2`].
pub const WRITE_XCR0: u32 = 6;

/// What [`Svm`] tries.
pub const VMSAVE: u32 = 0;
/// See [`VMSAVE`].
pub const VMLOAD: u32 = 1;
/// See [`VMSAVE`].
pub const CLGI: u32 = 2;

/// A request to the module.
pub trait Request: Copy {
    const NUMBER: u64;
}

pub const NEEDLES: usize = 16;

requests! {
    1 Execute { instruction: u32, vector: u32, rax: u64 }
    2 Vmmcall { rax: u64, rdi: u64, rsi: u64, rdx: u64, vector: u32, reserved: u32 }
    3 Msr { msr: u32, write: u32, value: u64, read_error: i32, write_error: i32 }
    4 Physical { address: u64, value: u64, write: u32, vector: u32 }
    5 Flags { set: u64, clear: u64 }
    6 Table { address: u64, entry: u64, level: u32, reserved: u32 }
    7 Icr { high: u32, low: u32, vector: u32, reserved: u32 }
    8 Scan { start: u64, length: u64, mask: u64, needles: [u64; NEEDLES], words: u64, hits: u64, first_hit: u64 }
    9 Mmio { address: u64, value: u32, write: u32, vector: u32, reserved: u32 }
    10 IoApic { index: u32, value: u32, write: u32, vector: u32 }
    11 Control { value: u64, what: u32, vector: u32 }
    12 Svm { what: u32, vector: u32, effect: u64 }
    13 Invd { done: u64 }
    14 TripleFault { unused: u64 }
}

/// The open device.
pub struct Kernel(File);

impl Kernel {
    /// Loads the module, if nobody has yet, and opens its device.
    pub fn open() -> anyhow::Result<Self> {
        if !Path::new(DEVICE).exists() {
            let module = File::open(MODULE).with_context(|| MODULE.to_owned())?;
            // SAFETY: loads a module from a file, without parameters.
            let result =
                unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), c"".as_ptr(), 0) };
            system("finit_module", result)?;
        }
        let device =
            OpenOptions::new().read(true).write(true).open(DEVICE).with_context(|| DEVICE.to_owned())?;
        Ok(Self(device))
    }

    /// The device, whose offsets are physical addresses.
    pub fn memory(&self) -> &File {
        &self.0
    }

    /// Has a request carried out.
    pub fn ask<R: Request>(&self, mut request: R) -> anyhow::Result<R> {
        // _IOWR('T', NUMBER, R): Linux, include/uapi/asm-generic/ioctl.h.
        let command = 3 << 30 | (size_of::<R>() as u64) << 16 | u64::from(b'T') << 8 | R::NUMBER;
        // SAFETY: the module reads and writes a structure of this size, which is `R` as the header has it.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), command, &raw mut request) };
        system("ioctl", result).with_context(|| format!("request {}", R::NUMBER))?;
        Ok(request)
    }

    /// Reads 8 bytes of physical memory.
    pub fn read(&self, address: u64) -> anyhow::Result<u64> {
        let answer = self.ask(Physical { address, ..Default::default() })?;
        ensure!(answer.vector == NO_FAULT, "reading {address:#x}: exception {}", answer.vector);
        Ok(answer.value)
    }

    /// Writes 8 bytes of physical memory; the exception that came of it, or [`NO_FAULT`].
    pub fn write(&self, address: u64, value: u64) -> anyhow::Result<u32> {
        Ok(self.ask(Physical { address, value, write: 1, vector: 0 })?.vector)
    }
}
