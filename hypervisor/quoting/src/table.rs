//! The entries of the quoting PAL, as its image lists them, and what S needs to run: a heap, and an end for panics.

use abi::image::{MAX_ARGS, arg};
use linked_list_allocator::LockedHeap;

type Entry = extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64;

/// As `trustvisor image` reads it.
#[repr(C)]
struct Record {
    entry: Entry,
    args: [u8; MAX_ARGS],
    reserved: u16,
    name: [u8; 48],
}

const fn record(entry: Entry, args: [u8; MAX_ARGS]) -> Record {
    Record { entry, args, reserved: 0, name: [0; 48] }
}

/// In the order of [`abi::quote::entry`].
#[used]
#[unsafe(link_section = ".tv_entries")]
static ENTRIES: [Record; 3] = [
    record(crate::generate_entry, [arg::OUT, arg::LEN, 0, 0, 0, 0]),
    record(crate::public_entry, [arg::IN, arg::LEN, arg::OUT, arg::LEN, 0, 0]),
    record(crate::sign_entry, [arg::IN, arg::LEN, arg::IN, arg::LEN, arg::OUT, arg::LEN]),
];

/// A buffer that TrustVisor copied into the parameter section for this call.
pub fn input<'a>(at: u64, length: u64) -> &'a [u8] {
    // SAFETY: the signature above makes TrustVisor pass the address and the length of a buffer of its own in the parameter section,
    // which nobody else reaches while the call lasts; callers keep nothing of it.
    unsafe { core::slice::from_raw_parts(at as *const u8, length as usize) }
}

/// A buffer that TrustVisor will copy out.
pub fn output<'a>(at: u64, length: u64) -> &'a mut [u8] {
    // SAFETY: as in `input`; no two buffers of a call overlap.
    unsafe { core::slice::from_raw_parts_mut(at as *mut u8, length as usize) }
}

const HEAP_SIZE: usize = 128 << 10;

#[repr(align(16))]
struct Memory(core::cell::UnsafeCell<[u8; HEAP_SIZE]>);

// SAFETY: only the allocator touches it, and a PAL runs on one processor at a time.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(core::cell::UnsafeCell::new([0; HEAP_SIZE]));

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Gives the heap its memory, once.
pub fn heap() {
    let mut heap = HEAP.lock();
    if heap.size() == 0 {
        // SAFETY: `MEMORY` is the allocator's alone, for ever, and this is done once.
        unsafe { heap.init(MEMORY.0.get().cast(), HEAP_SIZE) };
    }
}

#[panic_handler]
fn die(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: UD2 raises #UD and nothing else: TrustVisor wipes this PAL.
    unsafe { core::arch::asm!("ud2", options(noreturn, nomem, nostack)) }
}
