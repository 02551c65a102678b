//! A PAL made of a few instructions that are assembled into this program: at its entries no compiler's code comes before, so what
//! it reports is what TrustVisor gave it, and it takes a handful of pages.

use crate::support::{call_entry, raw};
use anyhow::{Context, ensure};
use std::arch::global_asm;
use std::time::{Duration, Instant};
use trustvisor::abi::image::{
    Entry, FLAG_FPU, HEADER_SIZE, Header, MAGIC, MAX_ENTRIES, MAX_SECTIONS, PAGE_SIZE, Section, arg, kind,
};
use trustvisor::abi::{Handle, Status};
use trustvisor::image::header_bytes;

const CODE: u64 = 0x4000_0000;
pub const DATA: u64 = CODE + PAGE_SIZE;
pub const PARAM: u64 = DATA + PAGE_SIZE;
pub const STACK_TOP: u64 = 0x4020_0000;
const PARAM_PAGES: u64 = 4;

/// What S leaves in its registers when it returns and while it is frozen.
pub const SECRET: u64 = 0x5ec2_e7f0_0d15_ea5e;

/// Entries, in this order.
#[derive(Clone, Copy)]
pub enum Asm {
    /// `state(out)`: all registers as they were at the entry; [`State`] lays them out.
    State,
    /// `fpu_state(out)`: XCR0, then (at 64) the XSAVE area as it was; then all of them hold [`SECRET`].
    FpuState,
    /// `spin(rounds)`: takes its time with [`SECRET`] in its registers and all flags that it can set; returns its calls so far.
    Spin,
    /// `slow_fill(out, rounds)`: `spin`, then writes [`FILLED`] to all of `out`; returns its calls so far.
    SlowFill,
}

/// What `slow_fill` fills with.
pub const FILLED: u8 = 0xa5;

/// Words of what `state` reports: RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8-R15, RSP, the word at RSP, RFLAGS, CS, DS, ES, FS, GS, SS, TR,
/// LDTR, GDTR (two words), IDTR (two words).
pub type State = [u64; 30];

global_asm!(
    ".pushsection .rodata.tvtest_asm_pal, \"a\"",
    ".globl tvtest_asm_pal, tvtest_asm_pal_fpu, tvtest_asm_pal_spin, tvtest_asm_pal_fill, tvtest_asm_pal_end",
    "tvtest_asm_pal:",
    "mov [rdi], rax",
    "mov [rdi + 8], rbx",
    "mov [rdi + 16], rcx",
    "mov [rdi + 24], rdx",
    "mov [rdi + 32], rsi",
    "mov [rdi + 40], rdi",
    "mov [rdi + 48], rbp",
    ".irp n, 8, 9, 10, 11, 12, 13, 14, 15",
    "mov [rdi + 8 * (\\n - 1)], r\\n",
    ".endr",
    "mov [rdi + 120], rsp",
    "mov rax, [rsp]",
    "mov [rdi + 128], rax",
    "pushfq",
    "pop [rdi + 136]",
    "mov eax, cs",
    "mov [rdi + 144], rax",
    "mov eax, ds",
    "mov [rdi + 152], rax",
    "mov eax, es",
    "mov [rdi + 160], rax",
    "mov eax, fs",
    "mov [rdi + 168], rax",
    "mov eax, gs",
    "mov [rdi + 176], rax",
    "mov eax, ss",
    "mov [rdi + 184], rax",
    "xor eax, eax",
    "str ax",
    "mov [rdi + 192], rax",
    "sldt ax",
    "mov [rdi + 200], rax",
    "sgdt [rdi + 208]",
    "sidt [rdi + 224]",
    "ret",
    "tvtest_asm_pal_fpu:",
    "xor ecx, ecx",
    "xgetbv",
    "mov [rdi], eax",
    "mov [rdi + 4], edx",
    "mov r8, rax",
    "mov eax, -1",
    "mov edx, eax",
    "xsave64 [rdi + 64]",
    "movabs rax, {secret}",
    "push rax",
    "push rax",
    "push rax",
    "push rax",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "movups xmm\\n, [rsp]",
    ".endr",
    "test r8d, 4",
    "jz 2f",
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
    "vmovups ymm\\n, [rsp]",
    ".endr",
    "2:",
    ".rept 8",
    "fld qword ptr [rsp]",
    ".endr",
    "mov dword ptr [rsp], 0xffbf",
    "ldmxcsr [rsp]",
    "mov dword ptr [rsp], 0x7f",
    "fldcw [rsp]",
    "add rsp, 32",
    "xor eax, eax",
    "ret",
    "tvtest_asm_pal_spin:",
    "inc qword ptr [{calls}]",
    "call 3f",
    "mov rax, [{calls}]",
    "ret",
    "tvtest_asm_pal_fill:",
    "inc qword ptr [{calls}]",
    "mov [{calls} + 8], rdi",
    "mov [{calls} + 16], rsi",
    "mov rdi, rdx",
    "call 3f",
    "cld",
    "mov rdi, [{calls} + 8]",
    "mov rcx, [{calls} + 16]",
    "mov eax, {filled}",
    "rep stosb",
    "mov rax, [{calls}]",
    "ret",
    // Spins RDI times. OF, DF, SF, ZF, AF, PF, CF, NT, AC, ID are set meanwhile but for what DEC changes.
    "3:",
    "movabs rax, {secret}",
    ".irp r, rbx, rcx, rdx, rsi, rbp, r8, r9, r10, r11, r12, r13, r14, r15",
    "mov \\r, rax",
    ".endr",
    "push 0x244ed7",
    "popfq",
    "inc rdi",
    "4: dec rdi",
    "jnz 4b",
    "ret",
    "tvtest_asm_pal_end:",
    ".popsection",
    secret = const SECRET,
    calls = const DATA,
    filled = const FILLED,
);

// SAFETY: the labels of the assembly above; nothing but their addresses and the bytes between them is used.
unsafe extern "C" {
    static tvtest_asm_pal: u8;
    static tvtest_asm_pal_fpu: u8;
    static tvtest_asm_pal_spin: u8;
    static tvtest_asm_pal_fill: u8;
    static tvtest_asm_pal_end: u8;
}

/// The image, with another number of pages of data than the one it needs.
pub fn image(fpu: bool, data_pages: u64) -> Vec<u8> {
    let start = &raw const tvtest_asm_pal;
    let offset = |label: *const u8| label as u64 - start as u64;
    let length = offset(&raw const tvtest_asm_pal_end);
    // SAFETY: the bytes between the two labels, which nobody writes.
    let code = unsafe { std::slice::from_raw_parts(start, length as usize) };

    let section = |kind, addr, file_size, pages| Section {
        kind,
        reserved: 0,
        addr,
        file_size,
        mem_size: pages * PAGE_SIZE,
    };
    let mut sections = [Section::default(); MAX_SECTIONS];
    // More data lies above everything else.
    let parts = [
        section(kind::CODE, CODE, length, 1),
        section(kind::DATA, DATA, 0, 1),
        section(kind::PARAM, PARAM, 0, PARAM_PAGES),
        section(kind::STACK, STACK_TOP - PAGE_SIZE, 0, 1),
        section(kind::DATA, STACK_TOP, 0, data_pages - 1),
    ];
    let used = if data_pages == 1 { 4 } else { 5 };
    sections[..used].copy_from_slice(&parts[..used]);

    let entry = |label, args: &[u8]| {
        let mut entry = Entry { addr: CODE + offset(label), ..Entry::default() };
        entry.args[..args.len()].copy_from_slice(args);
        entry
    };
    let mut entries = [Entry::default(); MAX_ENTRIES];
    entries[Asm::State as usize] = entry(start, &[arg::OUT, arg::LEN]);
    entries[Asm::FpuState as usize] = entry(&raw const tvtest_asm_pal_fpu, &[arg::OUT, arg::LEN]);
    entries[Asm::Spin as usize] = entry(&raw const tvtest_asm_pal_spin, &[arg::INT]);
    entries[Asm::SlowFill as usize] = entry(&raw const tvtest_asm_pal_fill, &[arg::OUT, arg::LEN, arg::INT]);
    let header = Header {
        magic: MAGIC,
        flags: if fpu { FLAG_FPU } else { 0 },
        section_count: used as u16,
        entry_count: 4,
        sections,
        entries,
    };
    [&header_bytes(&header)[..], code].concat()
}

/// Pages of an image's sections.
pub const fn pages(data_pages: u64) -> u64 {
    1 + PARAM_PAGES + 1 + data_pages
}

const _: () = assert!(HEADER_SIZE < PAGE_SIZE as usize);

/// Calls that [`AsmPal::rounds_for`] makes.
pub const TRIALS: u64 = 3;

/// The registered PAL.
pub struct AsmPal(trustvisor::Pal);

impl AsmPal {
    pub fn register() -> anyhow::Result<Self> {
        Self::of(&image(false, 1))
    }

    pub fn with_fpu() -> anyhow::Result<Self> {
        Self::of(&image(true, 1))
    }

    pub fn of(image: &[u8]) -> anyhow::Result<Self> {
        Ok(Self(trustvisor::Pal::register(image).context("registering the PAL of instructions")?))
    }

    pub fn pal(&self) -> &trustvisor::Pal {
        &self.0
    }

    pub fn handle(&self) -> Handle {
        self.0.handle()
    }

    /// A call with any arguments: value and status.
    pub fn raw(&self, entry: Asm, arguments: &[u64]) -> (u64, Status) {
        raw(call_entry(entry as u64), self.handle(), arguments)
    }

    /// Calls `spin` and answers its calls so far.
    pub fn spin(&self, rounds: u64) -> anyhow::Result<u64> {
        let (value, status) = self.raw(Asm::Spin, &[rounds]);
        ensure!(status == Status::Ok, "spin: {status:?}");
        Ok(value)
    }

    /// How many rounds take S this long: at least that, should the machine have been busy during some of the [`TRIALS`].
    pub fn rounds_for(&self, duration: Duration) -> anyhow::Result<u64> {
        let rounds = 10_000_000;
        let mut least = Duration::MAX;
        for _ in 0..TRIALS {
            let start = Instant::now();
            self.spin(rounds)?;
            least = least.min(start.elapsed());
        }
        Ok((duration.as_secs_f64() / least.as_secs_f64() * rounds as f64) as u64)
    }

    /// What `state` reports when this function calls it with an 8-byte aligned buffer's address and length.
    pub fn state(&self, call: impl FnOnce(u64, u64) -> (u64, Status)) -> anyhow::Result<State> {
        let mut state: State = [0; 30];
        let (_, status) = call(state.as_mut_ptr() as u64, size_of::<State>() as u64);
        ensure!(status == Status::Ok, "state: {status:?}");
        Ok(state)
    }

    pub fn unregister(self) -> anyhow::Result<()> {
        Ok(self.0.unregister()?)
    }
}

/// Makes the last section of an image, all of it, part of the image, zero but for its first and last byte; the bytes it takes.
pub fn fill_data(image: &mut Vec<u8>) -> u64 {
    let mut header = trustvisor::image::header(image).expect("made above");
    let last = &mut header.sections[usize::from(header.section_count) - 1];
    let (file, size) = (image.len(), last.mem_size);
    last.file_size = size;
    image[..HEADER_SIZE].copy_from_slice(&header_bytes(&header));
    image.resize(file + size as usize, 0);
    image[file] = 1;
    *image.last_mut().expect("not empty") = 1;
    size
}
