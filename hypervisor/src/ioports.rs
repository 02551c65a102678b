//! The guarded I/O ports: what could turn address line 20 off under the hypervisor (where the processor does not ignore that line,
//! every odd MiB would become an alias of the even one below it), change the chipset, or end the hypervisor's control.
//!
//! | port | guarded for | what happens |
//! |---|---|---|
//! | 64h | the keyboard controller's commands D1h (output port: A20, reset), DDh (A20 off), Fxh (pulse: reset) | dropped; before a reset everything is wiped |
//! | 60h | the byte for D1h | dropped, or the reset that it asks for |
//! | 92h | system control port A: A20, fast reset | A20 stays on; before a reset everything is wiped |
//! | CF9h | reset control, which is ACPI's reset register as well | before a reset everything is wiped |
//! | CFCh-CFFh | configuration of the bridges that route (see [`crate::pci`]) | writes to them are dropped |
//! | PM1 control | sleep ([`Chipset::sleep`]) | before the machine goes off everything is wiped; instead of a sleep that keeps memory it is reset |
//! | [`Chipset::dropped`] | power management (CD7h); or the watchdog, and transfers by QEMU's fw_cfg | writes are dropped |
//!
//! Accesses are done for the guest; string accesses, writes to the first three other than by bytes, and those that reach over the end of
//! configuration data are refused.

use crate::chipset::Chipset;
use crate::pci;
use core::ops::{Range, RangeInclusive};
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

/// Reset control (ICH9 data sheet, 13.7.5; FCH the same), between the bytes of a PCI address, which is written in one.
const RESET_CONTROL: u16 = 0xcf9;
const RESET_CPU: u8 = 1 << 2;

/// In the high byte of PM1 control: SLP_EN, and SLP_TYP above its shift. The types that keep memory: FCH and ICH9 number as ACPI's
/// states are, S4 and S5 being off; QEMU has 0 for S5, 1 for S3.
const SLEEP: u8 = 1 << 5;
const SLEEP_TYPE: u32 = 2;
const KEEPS_MEMORY: RangeInclusive<u8> = 1..=3;

/// The permission map.
pub fn permission_map(chipset: &Chipset) -> [u8; MAP_SIZE] {
    let mut map = [0; MAP_SIZE];
    let sleep = chipset.sleep..chipset.sleep + 2;
    let reset = RESET_CONTROL..RESET_CONTROL + 1;
    let dropped = chipset.dropped.clone().into_iter().flatten();
    for port in [pci::DATA, reset, sleep].into_iter().flatten().chain(dropped).chain(GUARDED) {
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
    pub string: bool,
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
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// This is written.
    Value(u32),
    /// Nothing is.
    Drop,
    /// #GP.
    Fault,
    /// The machine resets.
    Reset,
    /// It sleeps, and keeps its memory.
    Sleep,
    /// It goes off.
    Off,
}

/// Judges the guest's writes.
#[derive(Default)]
pub struct Guard {
    keyboard: Keyboard,
    pub chipset: Chipset,
}

impl Guard {
    /// A write that is no string.
    pub fn write(&mut self, ports: &impl Ports, Access { port, size, .. }: Access, value: u32) -> Write {
        // The byte that a port gets, if it gets any.
        let byte =
            |at: u16| value.to_le_bytes().into_iter().take(size.into()).nth(at.checked_sub(port)?.into());
        let reaches = |range: &Range<u16>| range.clone().any(|port| byte(port).is_some());
        let sleep = byte(self.chipset.sleep + 1).filter(|high| high & SLEEP != 0);
        if (port, size) == (pci::ADDRESS, 4) {
            Write::Value(value)
        } else if byte(RESET_CONTROL).is_some_and(|control| control & RESET_CPU != 0) {
            Write::Reset
        } else if let Some(high) = sleep {
            if KEEPS_MEMORY.contains(&(high >> SLEEP_TYPE & 7)) { Write::Sleep } else { Write::Off }
        } else if self.chipset.dropped.iter().any(reaches) {
            Write::Drop
        } else if reaches(&pci::DATA) {
            let fits = pci::DATA.contains(&port) && port + u16::from(size) <= pci::DATA.end;
            match fits {
                false => Write::Fault,
                true if pci::drops_write(ports) => Write::Drop,
                true => Write::Value(value),
            }
        } else if !GUARDED.into_iter().any(|guarded| byte(guarded).is_some()) {
            Write::Value(value)
        } else if size == 1 {
            self.keyboard.write(port, value as u8)
        } else {
            Write::Fault
        }
    }
}

/// What the keyboard controller expects next.
#[derive(Default)]
struct Keyboard {
    output_port_follows: bool,
}

impl Keyboard {
    /// Judges a byte for a guarded port. The controller never gets the command that writes its output port: what it waits for
    /// when other commands come in between differs from one to the next.
    fn write(&mut self, port: u16, value: u8) -> Write {
        match port {
            COMMAND => {
                self.output_port_follows = value == WRITE_OUTPUT_PORT;
                match value {
                    WRITE_OUTPUT_PORT | A20_OFF => Write::Drop,
                    _ if value & PULSE == PULSE && value & NO_RESET == 0 => Write::Reset,
                    _ => Write::Value(value.into()),
                }
            }
            DATA if core::mem::take(&mut self.output_port_follows) => {
                if value & NO_RESET == 0 {
                    Write::Reset
                } else {
                    Write::Drop
                }
            }
            DATA => Write::Value(value.into()),
            SYSTEM_CONTROL if value & FAST_RESET != 0 => Write::Reset,
            SYSTEM_CONTROL => Write::Value((value | A20).into()),
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
                Write::Value(value) => machine.take(port, value as u8),
                Write::Drop => {}
                _ => break,
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

    fn guard() -> Guard {
        let chipset = Chipset { sleep: 0x604, dropped: [0x660..0x680, 0x514..0x51c], ..Chipset::default() };
        Guard { chipset, ..Guard::default() }
    }

    fn write(port: u16, size: u8, value: u32) -> Write {
        let machine = pci::tests::machine();
        // The host bridge's.
        machine.address.set(0x8000_0064);
        guard().write(&machine, Access { port, input: false, size, string: false }, value)
    }

    #[test]
    fn the_map_and_the_exit() {
        let map = permission_map(&guard().chipset);
        let guarded: Vec<_> =
            (0..=0xffff).filter(|port: &usize| map[port / 8] >> (port % 8) & 1 == 1).collect();
        let expected =
            [0x60, 0x64, 0x92].into_iter().chain(0x514..0x51c).chain([0x604, 0x605]).chain(0x660..0x680);
        assert_eq!(guarded, expected.chain([0xcf9, 0xcfc, 0xcfd, 0xcfe, 0xcff]).collect::<Vec<_>>());
        let access = Access { port: 0x64, input: false, size: 1, string: false };
        assert_eq!(Access::new(0x0064_0010), access);
        assert_eq!(Access::new(0x0060_0011), Access { port: 0x60, input: true, ..access });
        assert_eq!(Access::new(0x0060_0025), Access { port: 0x60, input: true, size: 2, string: true });
    }

    #[test]
    fn wide_writes() {
        for (port, size) in [(0x60, 2), (0x63, 2), (0x61, 4), (0x91, 2), (0x92, 4)] {
            assert_eq!(write(port, size, 0), Write::Fault, "{port:#x} {size}");
        }
        for (port, size) in [(0xcfc, 4), (0xcfe, 2), (0xcff, 1)] {
            assert_eq!(write(port, size, 0), Write::Drop, "{port:#x} {size}");
        }
        for (port, size) in [(0xcfd, 4), (0xcff, 2), (0xcfa, 4), (0xcfb, 2)] {
            assert_eq!(write(port, size, 0), Write::Fault, "{port:#x} {size}");
        }
        for (port, size) in [(0x660, 1), (0x67f, 2), (0x65e, 4), (0x65f, 2), (0x668, 4), (0x518, 4)] {
            assert_eq!(write(port, size, 0), Write::Drop, "{port:#x} {size}");
        }
        for (port, size) in [(0x65c, 4), (0x680, 1)] {
            assert_eq!(write(port, size, 7), Write::Value(7), "{port:#x} {size}");
        }
    }

    #[test]
    fn resets_by_the_chipset() {
        assert_eq!(write(0xcf8, 4, 0x8000_0664), Write::Value(0x8000_0664), "an address");
        for value in 0..=0xffu32 {
            let expected = |written| if value & 4 != 0 { Write::Reset } else { Write::Value(written) };
            assert_eq!(write(0xcf9, 1, value), expected(value));
            for (port, size, shift) in [(0xcf8, 2, 8), (0xcf9, 2, 0), (0xcf7, 4, 16), (0xcf6, 4, 24)] {
                assert_eq!(write(port, size, value << shift), expected(value << shift), "{port:#x} {size}");
            }
        }
    }

    #[test]
    fn sleep_and_off() {
        for kind in 0..8 {
            let asleep = 1 << 13 | kind << 10 | 1;
            let expected = if (1..=3).contains(&kind) { Write::Sleep } else { Write::Off };
            for (port, size, value) in [
                (0x604, 2, asleep),
                (0x604, 4, asleep),
                (0x605, 1, asleep >> 8),
                (0x603, 4, asleep << 8),
                (0x602, 4, asleep << 16),
            ] {
                assert_eq!(write(port, size, value), expected, "{port:#x} {size} {kind}");
            }
            assert_eq!(write(0x604, 2, kind << 10 | 1), Write::Value(kind << 10 | 1), "not yet");
            assert_eq!(write(0x604, 1, 0xff), Write::Value(0xff), "the low byte");
        }
    }

    #[test]
    fn ordinary_bytes_pass() {
        let mut keyboard = Keyboard::default();
        assert_eq!(keyboard.write(0x64, 0xaa), Write::Value(0xaa));
        assert_eq!(keyboard.write(0x60, 0xed), Write::Value(0xed));
        assert_eq!(keyboard.write(0x64, 0xfe), Write::Reset);
        assert_eq!(keyboard.write(0x64, 0xd1), Write::Drop);
        assert_eq!(keyboard.write(0x60, 0xdd), Write::Drop);
        assert_eq!(keyboard.write(0x60, 0x00), Write::Value(0), "an ordinary byte again");
        assert_eq!(keyboard.write(0x64, 0xd1), Write::Drop);
        assert_eq!(keyboard.write(0x60, 0xfe), Write::Reset);
        assert_eq!(keyboard.write(0x92, 0x00), Write::Value(2));
    }
}
