//! Who makes a hypercall: its address space, and its memory as it is now.

use crate::guest_memory::{GuestMemory, Space};
use crate::memory::{DirectMap, RamMap};

/// The caller of a hypercall. Made at the exit, gone before the next VMRUN.
pub struct Caller<'a> {
    pub memory: GuestMemory<'a>,
}

impl<'a> Caller<'a> {
    /// The program that runs in this address space.
    pub fn new(mem: DirectMap, ram: &'a RamMap, space: Space) -> Self {
        Self { memory: GuestMemory::new(mem, ram, space) }
    }
}
