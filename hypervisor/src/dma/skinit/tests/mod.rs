//! The register of Family 17h in configuration space, and who else has something to release.

use super::*;
use crate::dma::dev::tests::{Machine, Node};
use crate::memory::TestMemory;

const CONFIG: Range<u64> = 0x10_0000..0x20_0000;

/// Family 17h: data fabrics without a DEV, function 0 of nodes 0 and 1.
fn fabrics() -> Machine {
    let fabric = || Node::plain([(0x00, 0x1460_1022), (0x08, 0x0600_0000)]);
    let machine = Machine::default();
    machine.functions.borrow_mut().extend([(0xc0, fabric()), (0xc3, fabric()), (0xc8, fabric())]);
    machine
}

/// Configuration space in memory, every node's protection on.
fn memory() -> TestMemory {
    let memory = TestMemory::new(CONFIG.end / 4096);
    for function in 0..256 {
        memory.map().write_u32(Hpa(CONFIG.start + (function << 12) + 0x384), 0x2540_0001);
    }
    memory
}

fn released(memory: &TestMemory) -> Vec<u64> {
    let read = |function: &u64| memory.map().read_u32(Hpa(CONFIG.start + (function << 12) + 0x384));
    let (on, off): (Vec<_>, Vec<_>) = (0..256).partition(|function| read(function) == 0x2540_0001);
    assert!(off.iter().all(|function| read(function) == 0x2540_0000) && on.len() + off.len() == 256);
    off
}

#[test]
fn every_node_of_family_17h() {
    let memory = memory();
    assert_eq!(release(&fabrics(), memory.map(), &[], CONFIG), Ok(()));
    assert_eq!(released(&memory), [0xc0, 0xc8]);
}

#[test]
fn where_there_is_a_dev_it_is_that_ones() {
    let (memory, machine) = (memory(), Machine::new([(0, Node::remnant()), (1, Node::hostile())]));
    machine.functions.borrow_mut().extend([(0xc0, Node::hostile())]);
    assert_eq!(release(&machine, memory.map(), &dev::find(&machine), CONFIG), Ok(()));
    assert!(released(&memory).is_empty());
    assert_eq!([0xc3, 0xcb].map(|function| machine.functions.borrow()[&function].cr() & 0x20), [0, 0]);
}

#[test]
fn without_configuration_space_in_memory_it_is_an_error_where_there_is_something_to_release() {
    let memory = memory();
    for config in [0..0, 0x10_0000..0x1f_0000, (4 << 30) - 0x10_0000..(4 << 30) + 0x10_0000] {
        assert!(release(&fabrics(), memory.map(), &[], config.clone()).is_err(), "{config:x?}");
        assert_eq!(release(&Machine::default(), memory.map(), &[], config), Ok(()));
    }
    assert!(released(&memory).is_empty());
}
