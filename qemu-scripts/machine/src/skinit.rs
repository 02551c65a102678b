//! Plays the part of CPU and chipset in SKINIT, which QEMU does not have (AMD APM vol. 2, 15.27).
//!
//! The loader executes the real instruction; a hardware breakpoint stops the machine there. Base, length and bytes of the
//! SLB come from the stopped machine's EAX and memory, never from a build file. They are hashed into the TPM at
//! locality 4, the processor gets the state the manual gives it, and goes on at the SLB's entry.
//!
//! Stricter than hardware where that shows slips: DS, ES, FS and GS are neither flat nor null but point elsewhere. Not
//! played: SL_DEV (DMA protection of the 64 KiB), #SX and the other processors' part; GDTR and IDTR keep their values.

use std::ops::Range;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use hypervisor::launch::RESERVE_VA;

use crate::console::Console;
use crate::gdb::{Closer, Gdb, Register};
use crate::tpm::Locality4;

/// The loader's symbol of the instruction.
pub const SYMBOL: &str = "skinit_instruction";

/// `skinit`; and `clgi`, of the same length, which puts the only piece of its state in place that a debugger cannot write.
const SKINIT: [u8; 3] = [0x0f, 0x01, 0xde];
const CLGI: [u8; 3] = [0x0f, 0x01, 0xdd];

/// A step of QEMU's ends before its instruction if an interrupt controller's request came to be looked at: so often at most.
const STEPS: usize = 20;

/// How the stub speaks of a breakpoint: signal 5.
const TRAP: &str = "T05";
/// And of a watch for reads.
const READ: &str = "rwatch:";

const SLB_SIZE: u64 = 0x1_0000;
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const EFER_SVME: u64 = 1 << 12;
const EFLAGS_RESET: u64 = 2;
/// Family, model and stepping of QEMU's `EPYC`, as CPUID 1 gives them in EAX.
const EPYC: u64 = 0x0080_0f12;
/// A selector whose real-mode base is far from anything the SLB could mean.
const POISON: u64 = 0xdead;

/// Bytes that a hostile loader writes at an offset from the SLB's base, just before SKINIT.
pub(crate) type Tampering = (u64, Vec<u8>);

/// The CPU's part in SKINIT.
pub(crate) struct StandIn {
    gdb: Gdb,
    /// Address of the loader's instruction.
    instruction: u64,
    tpm: Option<Locality4>,
    pub(crate) tampering: Vec<Tampering>,
    /// Bytes from the SLB's base: the machine stops for somebody else at SKINIT, and when they are first read.
    pub(crate) watched: Option<Range<u64>>,
    /// Where they are watched for.
    watches: Vec<Range<u64>>,
}

impl StandIn {
    /// Attaches to a machine that waits for its start.
    pub(crate) fn attach(socket: &Path, instruction: u64, tpm: Option<Locality4>) -> Result<Self> {
        let mut gdb = Gdb::attach(socket)?;
        gdb.insert_breakpoint(instruction)?;
        Ok(Self { gdb, instruction, tpm, tampering: Vec::new(), watched: None, watches: Vec::new() })
    }

    /// Starts the machine and plays SKINIT whenever it comes to it, until the machine ends or the closer is dropped.
    pub(crate) fn attend(mut self, console: Console) -> Result<Closer> {
        let closer = self.gdb.closer()?;
        thread::spawn(move || {
            if let Err(error) = self.run(&console) {
                console.end(&format!("the SKINIT stand-in failed: {error:#}"));
            }
        });
        Ok(closer)
    }

    fn run(&mut self, console: &Console) -> Result<()> {
        let mut next = self.gdb.go_on()?;
        while let Some(stop) = next {
            // Stopped by the monitor, or at its end: whoever stopped it says when it goes on.
            if !stop.starts_with(TRAP) {
                next = self.gdb.next_stop()?;
                continue;
            }
            self.gdb.select(&stop)?;
            let mut goes_on = true;
            if stop.contains(READ) {
                self.unwatch(console)?;
                goes_on = false;
            } else if self.at_the_instruction()? {
                self.skinit(console)?;
                goes_on = self.watches.is_empty();
            } else {
                // Some other program's code at the same address.
                self.step_over()?;
            }
            next = if goes_on { self.gdb.go_on()? } else { self.gdb.next_stop()? };
        }
        Ok(())
    }

    /// By either address that the SLB has for its memory.
    fn watch(&mut self, base: u64) -> Result<()> {
        if let Some(bytes) = &self.watched {
            self.watches.extend([base, RESERVE_VA].map(|base| base + bytes.start..base + bytes.end));
        }
        self.watches.iter().try_for_each(|watch| self.gdb.insert_read_watch(watch))
    }

    fn unwatch(&mut self, console: &Console) -> Result<()> {
        for watch in self.watches.drain(..) {
            self.gdb.remove_read_watch(&watch)?;
        }
        let rip = self.gdb.read(Register::Rip)?;
        console.note(format!("machine: first read of what is watched, before {rip:#x}"));
        Ok(())
    }

    fn at_the_instruction(&mut self) -> Result<bool> {
        let rip = self.gdb.read(Register::Rip)?;
        ensure!(rip == self.instruction, "stopped at {rip:#x}, where no breakpoint is");
        let paging_off = self.gdb.read(Register::Cr0)? & (CR0_PE | CR0_PG) == CR0_PE;
        Ok(paging_off && self.gdb.read_memory(rip, 3)? == SKINIT)
    }

    fn step_over(&mut self) -> Result<()> {
        self.gdb.remove_breakpoint(self.instruction)?;
        self.gdb.step()?;
        self.gdb.insert_breakpoint(self.instruction)
    }

    fn skinit(&mut self, console: &Console) -> Result<()> {
        if self.gdb.read(Register::Efer)? & EFER_SVME == 0 {
            console.note("machine: SKINIT without EFER.SVME is #UD".into());
            return self.step_over();
        }
        let base = self.gdb.read(Register::Rax)? & 0xffff_ffff;
        ensure!(base % SLB_SIZE == 0, "SKINIT with EAX = {base:#x}, which is not 64 KiB aligned");
        for (offset, bytes) in &self.tampering {
            self.gdb.write_memory(base + offset, bytes).context("tampering")?;
        }
        let header = self.gdb.read_memory(base, 4)?;
        let (entry, length) = (word(&header[..2]), word(&header[2..]));
        ensure!(entry < length, "SKINIT of an SLB with entry {entry:#x} and length {length:#x}");
        let measured = self.gdb.read_memory(base, length.into())?;
        let how = match &mut self.tpm {
            Some(tpm) => {
                tpm.hash(&measured).context("hashing at locality 4")?;
                "measured into PCR 17 at locality 4"
            }
            None => "not measured (no TPM)",
        };
        self.clear_gif()?;
        self.set_state(base, base + u64::from(entry))?;
        self.watch(base)?;
        console.note(format!("machine: SKINIT: SLB at {base:#x}, {length} bytes {how}"));
        Ok(())
    }

    fn clear_gif(&mut self) -> Result<()> {
        self.gdb.write_memory(self.instruction, &CLGI)?;
        let mut rip = self.instruction;
        for _ in 0..STEPS {
            self.step_over()?;
            rip = self.gdb.read(Register::Rip)?;
            if rip != self.instruction {
                break;
            }
        }
        self.gdb.write_memory(self.instruction, &SKINIT)?;
        ensure!(rip == self.instruction + 3, "CLGI went to {rip:#x}");
        Ok(())
    }

    /// APM vol. 2, 15.27.4. CS and SS are flat already.
    fn set_state(&mut self, base: u64, entry: u64) -> Result<()> {
        use Register::*;
        // With CR0.PE = 0 a selector needs no descriptor.
        self.gdb.write(Cr0, CR0_ET)?;
        for segment in [Ds, Es, Fs, Gs] {
            self.gdb.write(segment, POISON)?;
        }
        self.gdb.write(Cr0, CR0_ET | CR0_PE)?;
        for register in [Rbx, Rcx, Rsi, Rdi, Rbp, Cr2, Cr3, Cr4, Efer] {
            self.gdb.write(register, 0)?;
        }
        self.gdb.write(Rax, base)?;
        self.gdb.write(Rdx, EPYC)?;
        self.gdb.write(Rsp, base + SLB_SIZE)?;
        self.gdb.write(Eflags, EFLAGS_RESET)?;
        self.gdb.write(Rip, entry)
    }
}

fn word(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}
