//! The guarded I/O ports: what could turn address line 20 off under the hypervisor (where the processor does not ignore that line,
//! every odd MiB would become an alias of the even one below it), and the resets that go the same way.
//!
//! | port | guarded for | what happens |
//! |---|---|---|
//! | 64h | the keyboard controller's commands D1h (output port: A20, reset), DDh (A20 off), Fxh (pulse: reset) | dropped; before a reset everything is wiped |
//! | 60h | the byte for D1h | dropped, or the reset that it asks for |
//! | 92h | system control port A: A20, fast reset | A20 stays on; before a reset everything is wiped |
//! | CFCh-CFFh | configuration of the bridges that route (see [`crate::pci`]) | writes to them are dropped |
//!
//! Accesses are done for the guest; string accesses, and to the first three other than by bytes, are refused.

use crate::pci;
use x86_64::instructions::port::Port;

/// The machine's ports. `size` is 1, 2 or 4 bytes.
pub trait Ports {
    fn read(&self, port: u16, size: u8) -> u32;
    fn write(&self, port: u16, size: u8, value: u32);
}

/// Those of this machine.
pub struct RealPorts(());

impl RealPorts {
    /// # Safety
    /// Nothing is written that lets anybody else into the hypervisor's memory, as address line 20 or a bridge's registers could, or
    /// takes the machine away from it.
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl Ports for RealPorts {
    fn read(&self, port: u16, size: u8) -> u32 {
        // SAFETY: a port that is read has no effect on memory.
        unsafe {
            match size {
                1 => Port::<u8>::new(port).read().into(),
                2 => Port::<u16>::new(port).read().into(),
                _ => Port::<u32>::new(port).read(),
            }
        }
    }

    fn write(&self, port: u16, size: u8, value: u32) {
        // SAFETY: the contract of `new`.
        unsafe {
            match size {
                1 => Port::new(port).write(value as u8),
                2 => Port::new(port).write(value as u16),
                _ => Port::new(port).write(value),
            }
        }
    }
}

/// Bytes of the I/O permission map (AMD APM vol. 2, 15.10.1).
pub const MAP_SIZE: usize = 0x3000;

/// Ports of the keyboard controller.
pub const DATA: u16 = 0x60;
pub const COMMAND: u16 = 0x64;
const SYSTEM_CONTROL: u16 = 0x92;
const GUARDED: [u16; 3] = [DATA, COMMAND, SYSTEM_CONTROL];

const A20: u8 = 1 << 1;
/// Output port of the keyboard controller: 0 resets the processor.
const NO_RESET: u8 = 1 << 0;
/// System control port A: 1 resets the processor.
const FAST_RESET: u8 = 1 << 0;
pub const WRITE_OUTPUT_PORT: u8 = 0xd1;
const A20_OFF: u8 = 0xdd;
const PULSE: u8 = 0xf0;

/// The permission map.
pub fn permission_map() -> [u8; MAP_SIZE] {
    let mut map = [0; MAP_SIZE];
    for port in GUARDED.into_iter().chain(pci::DATA) {
        map[usize::from(port / 8)] |= 1 << (port % 8);
    }
    map
}

/// An access, as the exit describes it (EXITINFO1; APM vol. 2, 15.10.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub port: u16,
    pub input: bool,
    /// Bytes: 1, 2 or 4.
    pub size: u8,
    string: bool,
}

impl Access {
    pub fn new(exit_info_1: u64) -> Self {
        const INPUT: u64 = 1 << 0;
        const STRING: u64 = 1 << 2;
        Self {
            port: (exit_info_1 >> 16) as u16,
            input: exit_info_1 & INPUT != 0,
            size: (exit_info_1 >> 4 & 7) as u8,
            string: exit_info_1 & STRING != 0,
        }
    }

    /// Whether it can be done for the guest.
    pub fn is_plain(&self) -> bool {
        !self.string && (self.size == 1 || self.is_config())
    }

    /// Whether it is one to PCI configuration data, and to nothing else.
    pub fn is_config(&self) -> bool {
        let fits = u32::from(self.port) + u32::from(self.size) <= pci::DATA.end.into();
        pci::DATA.contains(&self.port) && matches!(self.size, 1 | 2 | 4) && fits
    }
}

/// What becomes of a byte written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// This byte is written.
    Byte(u8),
    /// Nothing is.
    Drop,
    /// The machine resets.
    Reset,
}

/// What the keyboard controller expects next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keyboard {
    output_port_follows: bool,
}

impl Keyboard {
    /// Judges a byte for a guarded port. The controller never gets the command that writes its output port: what it waits for
    /// when other commands come in between differs from one to the next.
    pub fn write(&mut self, port: u16, value: u8) -> Write {
        match port {
            COMMAND => {
                self.output_port_follows = value == WRITE_OUTPUT_PORT;
                match value {
                    WRITE_OUTPUT_PORT | A20_OFF => Write::Drop,
                    _ if value & PULSE == PULSE && value & NO_RESET == 0 => Write::Reset,
                    _ => Write::Byte(value),
                }
            }
            DATA if core::mem::take(&mut self.output_port_follows) => {
                if value & NO_RESET == 0 {
                    Write::Reset
                } else {
                    Write::Drop
                }
            }
            DATA => Write::Byte(value),
            SYSTEM_CONTROL if value & FAST_RESET != 0 => Write::Reset,
            SYSTEM_CONTROL => Write::Byte(value | A20),
            _ => Write::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the machine does with the bytes: address line 20, and whether it was reset.
    #[derive(Default)]
    struct Machine {
        output_port_follows: bool,
        a20_off: bool,
        reset: bool,
    }

    impl Machine {
        fn take(&mut self, port: u16, value: u8) {
            match port {
                0x64 => {
                    // Commands that take a byte; the others leave a pending one pending.
                    if matches!(value, 0x60 | 0xd1..=0xd4) {
                        self.output_port_follows = value == 0xd1;
                    }
                    self.a20_off |= value == 0xdd;
                    self.reset |= value >= 0xf0 && value & 1 == 0;
                }
                0x60 if self.output_port_follows => {
                    self.output_port_follows = false;
                    self.a20_off |= value & 2 == 0;
                    self.reset |= value & 1 == 0;
                }
                0x92 => {
                    self.a20_off |= value & 2 == 0;
                    self.reset |= value & 1 != 0;
                }
                _ => {}
            }
        }
    }

    /// Whether address line 20 stays on, and no reset goes unnoticed.
    fn is_harmless(writes: impl IntoIterator<Item = (u16, u8)>) -> bool {
        let mut keyboard = Keyboard::default();
        let mut machine = Machine::default();
        for (port, value) in writes {
            match keyboard.write(port, value) {
                Write::Byte(value) => machine.take(port, value),
                Write::Drop => {}
                Write::Reset => break,
            }
        }
        !machine.a20_off && !machine.reset
    }

    #[test]
    fn any_two_bytes_are_harmless() {
        let all: Vec<_> = [0x60, 0x64, 0x92].iter().flat_map(|port| (0..=255).map(|v| (*port, v))).collect();
        for first in &all {
            for second in &all {
                assert!(is_harmless([*first, *second]), "{first:x?}, {second:x?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_harmless(
            writes in proptest::collection::vec(
                (prop_oneof![Just(0x60u16), Just(0x64), Just(0x92)], prop_oneof![Just(0xd1u8), any::<u8>()]), 1..60),
        ) {
            prop_assert!(is_harmless(writes));
        }
    }

    #[test]
    fn the_map_and_the_exit() {
        let map = permission_map();
        let guarded: Vec<_> =
            (0..=0xffff).filter(|port: &usize| map[port / 8] >> (port % 8) & 1 == 1).collect();
        assert_eq!(guarded, [0x60, 0x64, 0x92, 0xcfc, 0xcfd, 0xcfe, 0xcff]);
        let access = Access { port: 0x64, input: false, size: 1, string: false };
        assert_eq!(Access::new(0x0064_0010), access);
        assert_eq!(Access::new(0x0060_0011), Access { port: 0x60, input: true, ..access });
        assert!(!Access::new(0x0060_0015).is_plain(), "INS");
        assert!(!Access::new(0x0060_0020).is_plain(), "16 bits");
        for (info, plain) in [
            (0x0cfc_0040, true),
            (0x0cfe_0020, true),
            (0x0cff_0010, true),
            (0x0cfd_0040, false),
            (0x0cff_0020, false),
            (0x0cfa_0040, false),
            (0x0cfb_0020, false),
            (0x0cfc_0044, false),
        ] {
            assert_eq!(Access::new(info).is_plain(), plain, "{info:#x}");
        }
    }

    #[test]
    fn ordinary_bytes_pass() {
        let mut keyboard = Keyboard::default();
        assert_eq!(keyboard.write(0x64, 0xaa), Write::Byte(0xaa));
        assert_eq!(keyboard.write(0x60, 0xed), Write::Byte(0xed));
        assert_eq!(keyboard.write(0x64, 0xfe), Write::Reset);
        assert_eq!(keyboard.write(0x64, 0xd1), Write::Drop);
        assert_eq!(keyboard.write(0x60, 0xdd), Write::Drop);
        assert_eq!(keyboard.write(0x60, 0x00), Write::Byte(0x00), "an ordinary byte again");
        assert_eq!(keyboard.write(0x64, 0xd1), Write::Drop);
        assert_eq!(keyboard.write(0x60, 0xfe), Write::Reset);
        assert_eq!(keyboard.write(0x92, 0x00), Write::Byte(0x02));
    }
}
