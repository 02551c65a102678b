//! S: what runs when the hypervisor runs a PAL. It finds its memory as the processor would, through its tables, and does what the fuzzer says. The fuzzer's zero is to return at once, so that every call ends when the input does.

use std::collections::BTreeMap;

use abi::image::SENTINEL;
use hypervisor::addr::Hpa;
use hypervisor::asid::Incarnation;
use hypervisor::gprs::Gprs;
use hypervisor::memory::DirectMap;
use hypervisor::pal::Hardware;
use hypervisor::pal::space::PalFrames;
use hypervisor::tpm::clock::TscClock;
use hypervisor::tpm::tis::{Registers, Tis};
use hypervisor::vmcb::{Vmcb, exit_code};

use crate::input::Input;
use crate::machine::{gprs, no_tpm, words};
use crate::world::{PAGE, RESERVE};

/// A page of S.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    pub frame: u64,
    pub writable: bool,
    pub executable: bool,
}

/// S's memory, page by page of its addresses.
pub type Pages = BTreeMap<u64, Mapped>;

/// Everything that S can reach, by its four levels of tables. Nothing of it may lie outside the pool, and no two addresses in one frame,
/// or in one with a table.
pub fn pages(mem: &DirectMap, cr3: u64) -> Pages {
    let mut found = Pages::new();
    let mut tables = vec![];
    let mut open = vec![(cr3, 4, 0, true, true)];
    while let Some((frame, level, address, writable, executable)) = open.pop() {
        assert!(RESERVE.contains(&frame), "S's tables lead out of the pool, to {frame:#x}");
        if level == 0 {
            found.insert(address, Mapped { frame, writable, executable });
            continue;
        }
        tables.push(frame);
        for (index, entry) in table(mem, frame) {
            assert!(entry >> 2 & 1 == 1, "a page of S that is the supervisor's");
            assert!(level == 1 || entry >> 7 & 1 == 0, "a large page");
            let address = address | index << (12 + 9 * (level - 1));
            let (writable, executable) = (writable && entry >> 1 & 1 == 1, executable && entry >> 63 == 0);
            open.push((entry & 0x000f_ffff_ffff_f000, level - 1, address, writable, executable));
        }
    }
    let mut frames: Vec<_> = found.values().map(|page| page.frame).chain(tables).collect();
    frames.sort_unstable();
    assert!(frames.windows(2).all(|pair| pair[0] != pair[1]), "two pages in one frame");
    found
}

fn table(mem: &DirectMap, frame: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut bytes = [0; PAGE as usize];
    mem.copy_from(Hpa(frame), &mut bytes);
    let entries = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>();
    (0..).zip(entries).filter(|(_, entry)| entry & 1 == 1)
}

/// S's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub rip: u64,
    pub rsp: u64,
    pub rax: u64,
    pub others: [u64; 14],
}

/// One stay in S.
pub struct Stay {
    pub entered: State,
    /// The word on the stack at the entry.
    pub top: Option<u64>,
    pub left: State,
    pub end: End,
    /// What the window that [`Software::watch`] names held at the entry and when it was left.
    pub seen: Vec<u8>,
    pub written: Vec<u8>,
}

/// How S was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Returned(u64),
    /// An external event.
    Frozen,
    /// A hypercall of S.
    Asked,
    /// Anything else, with what its caller is to be told.
    Died(u64),
}

/// The processor that runs it.
pub struct Software<'a, 'b> {
    pub input: &'a mut Input<'b>,
    mem: DirectMap,
    now: u64,
    /// Addresses of S whose contents are kept with each stay: first byte and length.
    pub watch: (u64, u64),
    /// Parts of them that S may write to, from the first byte of it.
    pub results: Vec<std::ops::Range<usize>>,
    pub stays: Vec<Stay>,
    /// The caller's.
    pub pkru: u32,
    /// Never repeated: put in a register at every stay.
    pub serial: &'a mut u64,
}

impl<'a, 'b> Software<'a, 'b> {
    pub fn new(input: &'a mut Input<'b>, serial: &'a mut u64, mem: DirectMap, now: u64) -> Self {
        Self { input, mem, now, watch: (0, 0), results: Vec::new(), stays: Vec::new(), pkru: 0, serial }
    }

    /// The bytes of the watched window that are there.
    fn window(&self, pages: &Pages) -> Vec<u8> {
        let (from, len) = self.watch;
        let mut bytes = vec![0; len as usize];
        for (page, part) in bytes.chunks_mut(PAGE as usize).enumerate() {
            if let Some(mapped) = pages.get(&(from + page as u64 * PAGE)) {
                self.mem.copy_from(Hpa(mapped.frame), part);
            }
        }
        bytes
    }

    /// S writes to its results.
    fn scribble(&mut self, pages: &Pages, window: &mut [u8]) {
        let seed = self.input.u8();
        for range in self.results.clone() {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min((at / PAGE as usize + 1) * PAGE as usize);
                let page = self.watch.0 + at as u64 / PAGE * PAGE;
                let Some(mapped) = pages.get(&page) else { panic!("a result outside S's memory") };
                assert!(mapped.writable, "S cannot write its result");
                window[at..end].fill(seed.wrapping_add(at as u8) | 1);
                self.mem.copy_to(Hpa(mapped.frame + at as u64 % PAGE), &window[at..end]);
                at = end;
            }
        }
    }
}

impl Hardware for Software<'_, '_> {
    fn run_pal(&mut self, pal: &PalFrames, incarnation: Incarnation, regs: &mut Gprs) {
        assert!(incarnation != 0 && RESERVE.contains(&pal.vmcb.0) && pal.vmcb.page_offset() == 0);
        // SAFETY: the frame of the PAL's VMCB; the hypervisor holds no reference to it while it lets S run.
        let vmcb = unsafe { &mut *self.mem.pointer(pal.vmcb, PAGE).cast::<Vmcb>() };
        assert_eq!(vmcb.save.cpl, 3);
        assert_eq!(vmcb.control.nested, 0);
        let pages = pages(&self.mem, vmcb.save.cr3);
        let entered = state(vmcb, regs);
        let stack = pages.get(&(entered.rsp & !(PAGE - 1)));
        let top = stack.map(|page| self.mem.read_u64(Hpa(page.frame + entered.rsp % PAGE)));
        let seen = self.window(&pages);
        let mut written = seen.clone();
        self.scribble(&pages, &mut written);
        let end = self.act(vmcb, regs);
        let left = state(vmcb, regs);
        self.stays.push(Stay { entered, top, left, end, seen, written });
    }

    fn now_ms(&self) -> u64 {
        self.now
    }

    fn pkru(&self) -> u32 {
        self.pkru
    }
    fn tpm(&mut self) -> Tis<impl Registers, TscClock> {
        no_tpm()
    }
}

impl Software<'_, '_> {
    fn act(&mut self, vmcb: &mut Vmcb, regs: &mut Gprs) -> End {
        *self.serial += 1;
        let input = &mut *self.input;
        let choice = input.u8() % 16;
        let mut registers = [*self.serial << 8; 14];
        let control = &mut vmcb.control;
        let save = &mut vmcb.save;
        (control.exit_info_1, control.exit_info_2) = (0, 0);
        let end = match choice {
            0..4 => {
                (control.exit_code, control.exit_info_1) = (exit_code::PAGE_FAULT.into(), 0x14);
                control.exit_info_2 = SENTINEL;
                (save.rip, save.rax) = (SENTINEL, input.u64());
                save.rsp = save.rsp.wrapping_add(8);
                End::Returned(save.rax)
            }
            4..8 => {
                let code = input.pick(&[exit_code::INTR, exit_code::NMI, exit_code::INIT]);
                control.exit_code = code.into();
                save.rax = input.u64();
                End::Frozen
            }
            8..11 => {
                control.exit_code = exit_code::VMMCALL.into();
                save.rax = if input.bool() { input.pick(&[0x81, 0x82]) } else { input.u64() };
                // RDI and RSI.
                registers[4] = u64::from(input.u8());
                registers[3] = pointer(input);
                End::Asked
            }
            11 => {
                let vector = input.u8() % 32;
                control.exit_code = (exit_code::EXCEPTION_0 + u32::from(vector)).into();
                // The sentinel by a page fault, but not as a return.
                (save.rip, control.exit_info_2) = (SENTINEL, SENTINEL);
                control.exit_info_1 = u64::from(input.u8() & !4);
                End::Died(vector.into())
            }
            12 => {
                (control.exit_code, control.exit_info_1) = (exit_code::PAGE_FAULT.into(), 0x14);
                (save.rip, control.exit_info_2) = (SENTINEL, SENTINEL);
                // A return with more or less on the stack than a call left there.
                save.rsp = save.rsp.wrapping_add(input.pick(&[0, 16, 0x1000, u64::MAX]));
                End::Died(14)
            }
            _ => {
                let code = input.pick(&[0x72, 0x78, 0x7b, 0x7c, 0x7f, 0x65, 0x400, u32::MAX, 0x1234]);
                control.exit_code = code.into();
                End::Died(0x100 + u64::from(code))
            }
        };
        *regs = gprs(registers);
        end
    }
}

/// Where S says that its digests are.
fn pointer(input: &mut Input) -> u64 {
    let page = abi::image::WINDOW_BASE + u64::from(input.u8() % 32) * PAGE;
    match input.u8() {
        255 => input.u64(),
        254 => 0u64.wrapping_sub(u64::from(input.u8())),
        n => page + u64::from(n) * 16,
    }
}

fn state(vmcb: &Vmcb, regs: &Gprs) -> State {
    State { rip: vmcb.save.rip, rsp: vmcb.save.rsp, rax: vmcb.save.rax, others: words(regs) }
}
