//! The image that the targets register when they are not about images, and where it lies in the machine of [`crate::world`].

use abi::image::{self, Entry, HEADER_SIZE, Header, Section, WINDOW_BASE, arg, kind};
use abi::{Handle, number};
use hypervisor::addr::Hpa;

use crate::input::Input;
use crate::machine::{Answer, Machine};
use crate::software::Software;
use crate::world::PAGE;

/// Where the OS has the image and the owner page, physical and virtual.
pub const IMAGE: u64 = 6 * PAGE;
pub const OWNER: u64 = 7 * PAGE;
/// More than one stay copies, so that calls stop in the middle.
pub const PARAM_PAGES: u64 = 17;
pub const PARAM: u64 = WINDOW_BASE + 2 * PAGE;
pub const STACK_TOP: u64 = WINDOW_BASE + 601 * PAGE;
/// The signatures of the entries, which lie 8 bytes apart.
pub const ENTRIES: [[u8; 6]; 5] = [
    [arg::INT; 6],
    [arg::IN, arg::LEN, arg::OUT, arg::LEN, arg::INT, 0],
    [arg::IN_OUT, arg::LEN, arg::INT, arg::OUT, arg::LEN, 0],
    [arg::IN, arg::LEN, arg::IN, arg::LEN, arg::IN_OUT, arg::LEN],
    [arg::OUT, arg::LEN, arg::OUT, arg::LEN, arg::OUT, arg::LEN],
];

pub fn entry_address(entry: usize) -> u64 {
    WINDOW_BASE + 8 * entry as u64
}

fn header() -> Header {
    let section = |kind, page: u64, pages: u64, file_size| Section {
        kind,
        reserved: 0,
        addr: WINDOW_BASE + page * PAGE,
        file_size,
        mem_size: pages * PAGE,
    };
    let mut header = Header {
        magic: image::MAGIC,
        flags: 0,
        section_count: 4,
        entry_count: ENTRIES.len() as u16,
        sections: [Section::default(); image::MAX_SECTIONS],
        entries: [Entry::default(); image::MAX_ENTRIES],
    };
    header.sections[..4].copy_from_slice(&[
        section(kind::CODE, 0, 1, 64),
        section(kind::DATA, 1, 1, 8),
        section(kind::PARAM, 2, PARAM_PAGES, 0),
        section(kind::STACK, 600, 1, 0),
    ]);
    for (n, args) in ENTRIES.into_iter().enumerate() {
        header.entries[n] = Entry { addr: entry_address(n), args, reserved: 0 };
    }
    header
}

/// The image's bytes.
pub fn image() -> Vec<u8> {
    // SAFETY: a header is made of integers without padding (abi asserts its size).
    let header: [u8; HEADER_SIZE] = unsafe { core::mem::transmute(header()) };
    let contents = 1..=64 + 8;
    header.into_iter().chain(contents).collect()
}

/// Puts the image into the OS's memory.
pub fn place(machine: &Machine) {
    machine.mem().copy_to(Hpa(IMAGE), &image());
}

/// Registers the image that is in place. The handle is what the owner page holds then.
pub fn register(machine: &mut Machine) -> Handle {
    machine.cpu.os.save.rax = number::REGISTER.into();
    (machine.cpu.regs.rdi, machine.cpu.regs.rsi) = (IMAGE, image().len() as u64);
    machine.cpu.regs.rdx = OWNER;
    let answer = settle(machine);
    assert_eq!(answer, Answer::Done(0, abi::Status::Ok), "a good image is refused");
    let mem = machine.mem();
    Handle { low: mem.read_u64(Hpa(OWNER)), high: mem.read_u64(Hpa(OWNER + 8)) }
}

/// Goes on with a hypercall until it is finished; S returns at once. Nothing takes longer than a wipe of the whole pool.
pub fn settle(machine: &mut Machine) -> Answer {
    const LONGEST: usize = 64;
    let mut serial = 0;
    for _ in 0..LONGEST {
        let mut nothing = Input::new(&[]);
        let mut software = Software::new(&mut nothing, &mut serial, machine.mem(), machine.now);
        match machine.vmmcall(&mut software) {
            Answer::Again(_) | Answer::Restart => {}
            answer => return answer,
        }
    }
    panic!("a hypercall does not end");
}
