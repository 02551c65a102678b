//! The walker against the processor's rules: single entries, all levels, random tables beside a reference.

use super::*;
use crate::memory::{Run, TestMemory};
use crate::vmcb::{CR0_PG, EFER_LMA};
use proptest::prelude::*;

const RESERVE: (u64, u64) = (0x20_0000, 0x30_0000);
/// RAM is `0..A_0000` and `10_0000..40_0000` without the reserve; test memory goes on to 50_0000 ("a device").
const DEVICE: u64 = 0x40_0000;
const TEST_END: u64 = 0x50_0000;
const ROOT: u64 = 0x10_0000;
const P: u64 = entry::PRESENT;
const PW: u64 = P | entry::WRITABLE;
const PU: u64 = P | entry::USER;
const PWU: u64 = P | entry::WRITABLE | entry::USER;
const PWUD: u64 = PWU | entry::DIRTY;
const GVA: Gva = Gva(0x7654_3210_9000);

fn in_ram(at: u64) -> bool {
    at < 0xa_0000 || (0x10_0000..RESERVE.0).contains(&at) || (RESERVE.1..DEVICE).contains(&at)
}

/// Guest memory with page tables made on demand: tables grow from [`ROOT`] upwards.
struct Guest {
    memory: TestMemory,
    ram: RamMap<'static>,
    cr0: u64,
    cr4: u64,
    efer: u64,
    pkru: u32,
    next_table: u64,
}

impl Guest {
    fn new() -> Self {
        let run = |start, end| Run { start: Hpa(start), end: Hpa(end) };
        let runs = [run(0, 0xa_0000), run(0x10_0000, RESERVE.0), run(RESERVE.1, DEVICE)];
        Self {
            memory: TestMemory::new(TEST_END / PAGE_SIZE),
            ram: RamMap::new(runs.to_vec().leak()).unwrap(),
            cr0: CR0_PG | CR0_WP,
            cr4: 0,
            efer: EFER_LMA | EFER_NXE,
            pkru: 0,
            next_table: ROOT + PAGE_SIZE,
        }
    }

    fn space(&self) -> Space {
        Space::new(self.cr0, ROOT | 0xfff, self.cr4, self.efer, self.pkru, 40)
    }

    fn view(&self) -> GuestMemory<'_> {
        GuestMemory::new(self.memory.map(), self.ram, self.space())
    }

    fn levels(&self) -> u32 {
        if self.cr4 & CR4_LA57 != 0 { 5 } else { 4 }
    }

    /// Where the entry of this level for `gva` is; tables above it are made, with all rights.
    fn slot(&mut self, gva: Gva, level: u32) -> Hpa {
        let map = self.memory.map();
        let mut table = ROOT;
        for above in (level..=self.levels()).rev() {
            let slot = Hpa(table + ((gva.0 >> (12 + 9 * (above - 1))) & 0x1ff) * 8);
            if above == level {
                return slot;
            }
            if map.read_u64(slot) & P == 0 {
                map.write_u64(slot, self.next_table | PWU);
                self.next_table += PAGE_SIZE;
            }
            table = map.read_u64(slot) & entry::ADDRESS;
        }
        unreachable!()
    }

    fn set(&mut self, gva: Gva, level: u32, entry: u64) -> &mut Self {
        let slot = self.slot(gva, level);
        self.memory.map().write_u64(slot, entry);
        self
    }

    fn translate(&self, gva: Gva, access: Access, user: bool) -> Result<u64, Fault> {
        self.view().translate(gva, access, user).map(|at| at.0)
    }

    fn user(&self, access: Access) -> Result<u64, Fault> {
        self.translate(GVA + 0x123, access, true)
    }
}

fn page(error_code: u32) -> Result<u64, Fault> {
    Err(Fault { gva: GVA + 0x123, error_code: Some(error_code) })
}

const BAD: Result<u64, Fault> = Err(Fault { gva: Gva(GVA.0 + 0x123), error_code: None });

#[test]
fn four_kib_pages() {
    let mut guest = Guest::new();
    assert_eq!(guest.user(Access::Read), page(0b00100));
    assert_eq!(guest.user(Access::Write), page(0b00110));
    assert_eq!(guest.user(Access::Fetch), page(0b10100));
    guest.set(GVA, 1, 0x5000 | PU);
    assert_eq!(guest.user(Access::Read), Ok(0x5123));
    assert_eq!(guest.user(Access::Write), page(0b00111));
    assert_eq!(guest.user(Access::Fetch), Ok(0x5123));
    guest.set(GVA, 1, 0x5000 | PWU);
    assert_eq!(guest.user(Access::Write), page(0b00111), "clean pages are for the OS to make dirty");
    guest.set(GVA, 1, 0x5000 | PU | entry::DIRTY);
    assert_eq!(guest.user(Access::Write), page(0b00111));
    guest.set(GVA, 1, 0x5000 | PWUD);
    assert_eq!(guest.user(Access::Write), Ok(0x5123));
    guest.set(GVA, 1, 0x5000 | PWUD | entry::NO_EXECUTE);
    assert_eq!(guest.user(Access::Fetch), page(0b10101));
    assert_eq!(guest.user(Access::Read), Ok(0x5123));
    guest.efer = EFER_LMA;
    assert_eq!(guest.user(Access::Fetch), page(0b01101), "NX is reserved without EFER.NXE");
    assert_eq!(guest.user(Access::Read), page(0b01101));
    assert_eq!(guest.user(Access::Write), page(0b01111));
    guest.set(GVA, 1, 0);
    assert_eq!(guest.user(Access::Fetch), page(0b00100), "without NXE no fetch bit");
}

#[test]
fn every_level_counts() {
    for (levels, cr4) in [(4, 0), (5, CR4_LA57)] {
        for level in 2..=levels {
            let with = |flags: u64| {
                let mut guest = Guest::new();
                guest.cr4 = cr4;
                guest.set(GVA, 1, 0x5000 | PWUD);
                let slot = guest.slot(GVA, level);
                let map = guest.memory.map();
                map.write_u64(slot, (map.read_u64(slot) & entry::ADDRESS) | flags);
                guest
            };
            assert_eq!(with(PWU).user(Access::Write), Ok(0x5123));
            assert_eq!(with(PU).user(Access::Write), page(0b00111));
            assert_eq!(with(PU).user(Access::Read), Ok(0x5123));
            assert_eq!(with(PW).user(Access::Read), BAD);
            assert_eq!(with(PW).translate(GVA, Access::Write, false), Ok(0x5000));
            assert_eq!(with(PWU | entry::NO_EXECUTE).user(Access::Fetch), page(0b10101));
            assert_eq!(with(entry::WRITABLE | entry::USER).user(Access::Read), page(0b00100));
            assert_eq!(with(PWU | 1 << 40).user(Access::Read), page(0b01101), "beyond the physical bits");
            assert_eq!(with(PWU | 1 << 51).user(Access::Write), page(0b01111));
            let global = if level >= 3 { page(0b01101) } else { Ok(0x5123) };
            assert_eq!(with(PWU | entry::GLOBAL).user(Access::Read), global);
            if level >= 4 {
                assert_eq!(with(PWU | entry::PAGE).user(Access::Read), page(0b01101));
            }
            for elsewhere in [RESERVE.0, RESERVE.1 - PAGE_SIZE, DEVICE, 0xa_0000, 0xfee0_0000, 0xff_ffff_f000]
            {
                let mut guest = Guest::new();
                guest.cr4 = cr4;
                guest.set(GVA, 1, 0x5000 | PWUD).set(GVA, level, elsewhere | PWU);
                assert_eq!(guest.user(Access::Read), BAD, "{elsewhere:#x} at level {level}");
            }
        }
    }
}

#[test]
fn large_pages() {
    for (level, size, base) in [(2, LARGE_PAGE, 0x20_0000u64), (3, HUGE_PAGE, 0)] {
        let gva = Gva(GVA.0 & !(size - 1) | 0x15_0123);
        let map = |bits: u64| {
            let mut guest = Guest::new();
            guest.set(gva, level, base | entry::PAGE | bits);
            guest
        };
        let expect = if base == 0 { Ok(0x15_0123) } else { Ok(0x35_0123) };
        assert_eq!(map(PWUD).translate(gva, Access::Write, true), expect);
        assert_eq!(map(PWU).translate(gva, Access::Read, true), expect);
        assert_eq!(
            map(PWUD | 1 << 12 | entry::GLOBAL).translate(gva, Access::Read, true),
            expect,
            "PAT and G"
        );
        let fault = |error_code| Err(Fault { gva, error_code: Some(error_code) });
        assert_eq!(map(PWU).translate(gva, Access::Write, true), fault(0b00111));
        assert_eq!(map(PWU | 1 << 13).translate(gva, Access::Read, true), fault(0b01101));
        assert_eq!(map(PWU | size >> 1).translate(gva, Access::Read, true), fault(0b01101));
        let inside_reserve = Gva((gva.0 & !(size - 1)) + RESERVE.0 - base);
        assert_eq!(
            map(PWUD).translate(inside_reserve, Access::Read, true),
            Err(Fault { gva: inside_reserve, error_code: None }),
            "a page that is RAM in part only"
        );
    }
}

#[test]
fn leaves_that_are_not_ram() {
    for elsewhere in [RESERVE.0, RESERVE.1 - PAGE_SIZE, DEVICE, 0xa_0000, 0xfee0_0000, 0xff_ffff_f000] {
        let mut guest = Guest::new();
        guest.set(GVA, 1, elsewhere | PWUD);
        for access in [Access::Read, Access::Write, Access::Fetch] {
            assert_eq!(guest.user(access), BAD, "{elsewhere:#x}");
        }
    }
}

#[test]
fn canonical_and_user_addresses() {
    let mut guest = Guest::new();
    let bad = |gva| Err(Fault { gva: Gva(gva), error_code: None });
    let last = Gva(0x7fff_ffff_f000);
    guest.set(last, 1, 0x5000 | PWUD).set(Gva(!0xfff), 1, 0x6000 | PWUD);
    assert_eq!(guest.translate(last + 0xfff, Access::Read, true), Ok(0x5fff));
    for outside in [1u64 << 47, 1 << 56, 1 << 63, u64::MAX, 0xffff_8000_0000_0000] {
        assert_eq!(guest.translate(Gva(outside), Access::Read, true), bad(outside));
    }
    assert_eq!(guest.translate(Gva(u64::MAX), Access::Fetch, false), Ok(0x6fff));
    assert_eq!(guest.translate(Gva(0xffff_7fff_ffff_ffff), Access::Fetch, false), bad(0xffff_7fff_ffff_ffff));
    assert_eq!(guest.translate(Gva(1 << 47), Access::Fetch, false), bad(1 << 47));

    let mut guest = Guest::new();
    guest.cr4 = CR4_LA57;
    let last = Gva(0xff_ffff_ffff_f000);
    guest.set(last, 1, 0x5000 | PWUD);
    assert_eq!(guest.translate(last, Access::Read, true), Ok(0x5000));
    assert_eq!(guest.translate(Gva(1 << 56), Access::Read, true), bad(1 << 56));
}

#[test]
fn supervisor_pages_and_accesses() {
    let mut guest = Guest::new();
    guest.set(GVA, 1, 0x5000 | P);
    assert_eq!(guest.user(Access::Read), BAD);
    assert_eq!(guest.user(Access::Write), BAD);
    let at = GVA + 0x123;
    assert_eq!(guest.translate(at, Access::Fetch, false), Ok(0x5123));
    assert_eq!(guest.translate(at, Access::Write, false), page(0b00011));
    guest.set(GVA, 1, 0x5000 | P | entry::DIRTY);
    guest.cr0 = CR0_PG;
    assert_eq!(guest.translate(at, Access::Write, false), Ok(0x5123), "CR0.WP = 0");
}

#[test]
fn protection_keys() {
    let mut guest = Guest::new();
    guest.set(GVA, 1, 0x5000 | PWUD | 5 << entry::KEY_SHIFT);
    guest.pkru = 0b01 << 10;
    assert_eq!(guest.user(Access::Read), Ok(0x5123), "CR4.PKE = 0");
    guest.cr4 = CR4_PKE;
    assert_eq!(guest.user(Access::Read), page(0b10_0101));
    assert_eq!(guest.user(Access::Write), page(0b10_0111));
    assert_eq!(guest.user(Access::Fetch), Ok(0x5123));
    guest.pkru = 0b10 << 10;
    assert_eq!(guest.user(Access::Read), Ok(0x5123));
    assert_eq!(guest.user(Access::Write), page(0b10_0111));
    guest.pkru = !(0b11 << 10);
    assert_eq!(guest.user(Access::Write), Ok(0x5123));
    guest.pkru = u32::MAX;
    guest.set(GVA, 1, 0x5000 | P | 5 << entry::KEY_SHIFT);
    assert_eq!(guest.translate(GVA, Access::Read, false), Ok(0x5000), "a supervisor page has no key");
}

#[test]
fn each_entry_is_read_once() {
    let mut guest = Guest::new();
    guest.set(GVA, 1, 0x5000 | PWUD).set(GVA + PAGE_SIZE, 1, 0x6000 | PWUD);
    let slots: Vec<Hpa> = (1..=4).rev().map(|level| guest.slot(GVA, level)).collect();
    guest.memory.take_reads();
    guest.view().write(GVA, &[1; 64]).unwrap();
    assert_eq!(guest.memory.take_reads(), slots);
    guest.view().check_writable(GVA + 0xfff, 2).unwrap();
    assert_eq!(guest.memory.take_reads().len(), 8);
}

#[test]
fn a_table_that_points_to_itself() {
    let mut guest = Guest::new();
    guest.memory.map().write_u64(Hpa(ROOT + 8 * 7), ROOT | PWUD);
    let itself = [3, 2, 1, 0].iter().fold(0, |gva, level| gva | 7u64 << (12 + 9 * level));
    assert_eq!(guest.translate(Gva(itself + 8 * 7), Access::Write, true), Ok(ROOT + 8 * 7));
    let mut bytes = [0; 8];
    guest.view().read(Gva(itself + 8 * 7), &mut bytes).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), ROOT | PWUD);
    guest.cr4 = CR4_LA57;
    assert_eq!(
        guest.translate(Gva(itself), Access::Read, true),
        Err(Fault { gva: Gva(itself), error_code: Some(4) })
    );
}

#[test]
fn bytes_across_pages() {
    let mut guest = Guest::new();
    guest.set(GVA, 1, 0x7000 | PWUD).set(GVA + PAGE_SIZE, 1, 0x3000 | PWUD).set(
        GVA + 2 * PAGE_SIZE,
        1,
        0x5000 | PU,
    );
    let text: Vec<u8> = (0..5000u32).map(|n| (n * 7 + n / 256) as u8).collect();
    guest.view().write(GVA + 0xf00, &text[..0x1100]).unwrap();
    let mut back = vec![0; 0x1100];
    guest.view().read(GVA + 0xf00, &mut back).unwrap();
    assert_eq!(back, text[..0x1100]);
    let mut second = [0; 16];
    guest.memory.map().copy_from(Hpa(0x3000), &mut second);
    assert_eq!(second, text[0x100..0x110]);

    let at_third = |error_code| Err(Fault { gva: GVA + 0x2000, error_code: Some(error_code) });
    assert_eq!(guest.view().check_writable(GVA + 0xf00, 0x1101), at_third(0b111));
    assert_eq!(guest.view().check_writable(GVA + 0xf00, 0x1100), Ok(()));
    assert_eq!(guest.view().read(GVA + 0xf00, &mut [0; 0x2100]), Ok(()));
    assert_eq!(
        guest.view().read(GVA + 0xf00, &mut [0; 0x2101]),
        Err(Fault { gva: GVA + 0x3000, error_code: Some(0b100) })
    );
}

#[test]
fn into_the_reserve() {
    let mut guest = Guest::new();
    guest.set(GVA, 1, 0x7000 | PWUD).set(GVA + PAGE_SIZE, 1, 0x3000 | PWUD);
    let text: Vec<u8> = (0..6000u32).map(|n| (n * 7 + n / 256) as u8).collect();
    guest.view().write(GVA + 0x800, &text).unwrap();
    guest.view().copy_in(GVA + 0x800, Hpa(RESERVE.0 + 0xf80), 6000).unwrap();
    let mut all = vec![0; 3 * 4096];
    guest.memory.map().copy_from(Hpa(RESERVE.0), &mut all);
    assert_eq!(all[0xf80..0xf80 + 6000], text);
    assert!(all[..0xf80].iter().chain(&all[0xf80 + 6000..]).all(|byte| *byte == 0));
}

#[test]
fn ranges_that_leave_the_user_half_or_wrap() {
    let mut guest = Guest::new();
    let last = Gva(0x7fff_ffff_f000);
    guest.set(last, 1, 0x5000 | PWUD);
    assert_eq!(guest.view().check_writable(last, PAGE_SIZE), Ok(()));
    let end = Err(Fault { gva: Gva(1 << 47), error_code: None });
    assert_eq!(guest.view().check_writable(last, PAGE_SIZE + 1), end);
    assert_eq!(guest.view().check_writable(last, u64::MAX), end);
    assert_eq!(guest.view().read(last, &mut [0; PAGE_SIZE as usize + 1]), end);
    assert_eq!(guest.view().copy_in(last, Hpa(0x6000), u64::MAX), end);
    let top = Gva(u64::MAX);
    assert_eq!(guest.view().read(top, &mut [0; 2]), Err(Fault { gva: top, error_code: None }));
    assert_eq!(guest.view().read(top, &mut []), Ok(()), "nothing is asked for");
}

#[test]
fn fetching() {
    let mut guest = Guest::new();
    let kernel = Gva(0xffff_ffff_8100_0000);
    guest.set(kernel, 1, 0x5000 | P).set(kernel + PAGE_SIZE, 1, 0x8000 | P);
    guest.memory.map().copy_to(Hpa(0x5ffc), &[1, 2, 3, 4]);
    guest.memory.map().copy_to(Hpa(0x8000), &[5, 6, 7]);
    let mut bytes = [0; 15];
    assert_eq!(guest.view().fetch(kernel + 0xffc, false, &mut bytes), Ok(15));
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.view().fetch(kernel + 0xff1, false, &mut bytes), Ok(15));
    guest.set(kernel + PAGE_SIZE, 1, 0);
    assert_eq!(guest.view().fetch(kernel + 0xffc, false, &mut bytes), Ok(4));
    let absent = Err(Fault { gva: kernel + PAGE_SIZE, error_code: Some(0b10000) });
    assert_eq!(guest.view().fetch(kernel + PAGE_SIZE, false, &mut bytes), absent);
    guest.set(GVA, 1, 0x5000 | P);
    assert_eq!(guest.view().fetch(GVA, true, &mut bytes), Err(Fault { gva: GVA, error_code: None }));
}

#[test]
fn peeking_at_an_owner_page() {
    let mut handle = [0; 16];
    let mut peek = |guest: &Guest| guest.view().peek(GVA + 0x10, &mut handle);
    let mut guest = Guest::new();
    assert_eq!(peek(&guest), Peek::Nothing);
    guest.set(GVA, 1, 0x5000 | PU);
    assert_eq!(peek(&guest), Peek::Read);
    for (level, entry, expected) in [
        (1, 0, Peek::Nothing),
        (1, 0xdead_0000, Peek::Away),
        (2, 0xdead_0000, Peek::Away),
        (2, 0, Peek::Nothing),
        (3, 0xdead_0000, Peek::Nothing),
        (4, 0xdead_0000, Peek::Nothing),
        (1, 0x5000 | P, Peek::Nothing),
        (1, RESERVE.0 | PU, Peek::Nothing),
        (2, DEVICE | PU, Peek::Nothing),
        (2, 1 << 50 | PU, Peek::Nothing),
    ] {
        let mut guest = Guest::new();
        guest.set(GVA, 1, 0x5000 | PU).set(GVA, level, entry);
        assert_eq!(peek(&guest), expected, "{entry:#x} at level {level}");
    }
    assert_eq!(guest.view().peek(GVA + 0xff1, &mut [0; 16]), Peek::Nothing, "across a page");
    assert_eq!(guest.view().peek(Gva(1 << 47), &mut [0; 16]), Peek::Nothing);
    guest.memory.map().copy_to(Hpa(0x5010), b"0123456789abcdef");
    guest.view().peek(GVA + 0x10, &mut handle);
    assert_eq!(&handle, b"0123456789abcdef");
}

#[test]
fn tables_that_are_not_ram_are_not_followed() {
    assert_eq!(Space::new(CR0_PG, 1 << 63 | ROOT | 0xfff, 0, EFER_LMA, 0, 40).root, Hpa(ROOT));
    for root in [RESERVE.0, DEVICE, 0xfee0_0000] {
        let guest = Guest::new();
        let space = Space::new(CR0_PG, root, 0, EFER_LMA, 0, 40);
        let view = GuestMemory::new(guest.memory.map(), guest.ram, space);
        assert_eq!(view.read(GVA, &mut [0]), Err(Fault { gva: GVA, error_code: None }));
    }
}

/// The manual once more, as plainly as possible: one line a rule, in the order in which hardware applies them.
fn reference(guest: &Guest, gva: u64, access: Access, user: bool) -> Result<u64, Fault> {
    let bad = Err(Fault { gva: Gva(gva), error_code: None });
    let nxe = guest.efer & (1 << 11) != 0;
    let wp = guest.cr0 & (1 << 16) != 0;
    let pke = guest.cr4 & (1 << 22) != 0;
    let mut code = 0;
    code += if access == Access::Write { 2 } else { 0 };
    code += if user { 4 } else { 0 };
    code += if access == Access::Fetch && nxe { 16 } else { 0 };
    let page_fault = |more: u32| Err(Fault { gva: Gva(gva), error_code: Some(code + more) });

    let address_bits = if guest.levels() == 5 { 57 } else { 48 };
    let extended = ((gva << (64 - address_bits)) as i64 >> (64 - address_bits)) as u64;
    if extended != gva || (user && gva >> 63 != 0) {
        return bad;
    }
    let (mut all_writable, mut all_user, mut any_nx) = (true, true, false);
    let mut table = ROOT;
    for (level, low_bit) in [(5, 48), (4, 39), (3, 30), (2, 21), (1, 12)] {
        if level > guest.levels() {
            continue;
        }
        if !in_ram(table) {
            return bad;
        }
        let e = guest.memory.map().read_u64(Hpa(table + gva / (1 << low_bit) % 512 * 8));
        let bit = |n: u32| e >> n & 1 == 1;
        if !bit(0) {
            return page_fault(0);
        }
        let large = bit(7) && (level == 2 || level == 3);
        let bad_bit = (40..52).any(bit)
            || (bit(63) && !nxe)
            || (bit(7) && level >= 4)
            || (bit(8) && (level >= 4 || (level == 3 && !large)))
            || (large && (13..low_bit).any(bit));
        if bad_bit {
            return page_fault(1 + 8);
        }
        all_writable &= bit(1);
        all_user &= bit(2);
        any_nx |= bit(63);
        let next = e % (1 << 52) / 4096 * 4096;
        if level > 1 && !large {
            table = next;
            continue;
        }
        let start = next / (1 << low_bit) * (1 << low_bit);
        let at = start + gva % (1 << low_bit);
        let key = e >> 59 & 15;
        let (ad, wd) = (guest.pkru >> (2 * key) & 1 == 1, guest.pkru >> (2 * key + 1) & 1 == 1);
        if user && !all_user {
            return bad;
        }
        let key_fault = pke
            && all_user
            && match access {
                Access::Read => ad,
                Access::Write => ad || (wd && (user || wp)),
                Access::Fetch => false,
            };
        let right_fault = match access {
            Access::Read => false,
            Access::Write => (!all_writable && (user || wp)) || !bit(6),
            Access::Fetch => any_nx,
        };
        return match (key_fault, right_fault) {
            (true, _) => page_fault(1 + 32),
            (false, true) => page_fault(1),
            (false, false) if in_ram(at) => Ok(at),
            (false, false) => bad,
        };
    }
    unreachable!()
}

/// An entry that is mostly well-formed, so that walks get far.
fn entries() -> impl Strategy<Value = (u64, Option<u64>)> {
    let flags = prop_oneof![8 => Just(PWUD), 2 => Just(PU), 1 => Just(PW), 2 => 0u64..512];
    let high = prop_oneof![
        8 => Just(0u64),
        2 => Just(entry::NO_EXECUTE),
        2 => (0u64..16).prop_map(|key| key << entry::KEY_SHIFT),
        1 => (0u64..64).prop_map(|bit| 1 << bit),
    ];
    let elsewhere = prop_oneof![
        12 => Just(None),
        1 => (0..TEST_END / PAGE_SIZE).prop_map(|n| Some(n * PAGE_SIZE)),
        1 => Just(Some(0u64)),
        1 => Just(Some(0x20_0000u64)),
        1 => any::<u64>().prop_map(|at| Some(at & entry::ADDRESS)),
    ];
    (flags, high, elsewhere).prop_map(|(flags, high, elsewhere)| (flags | high, elsewhere))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn agrees_with_the_reference(
        path in [entries(), entries(), entries(), entries(), entries()],
        gva in prop_oneof![
            6 => any::<u64>().prop_map(|gva| gva >> 17), 1 => any::<u64>(), 2 => any::<u64>().prop_map(|gva| !(gva >> 17)),
            3 => (0u64..DEVICE).prop_map(|low| (0x7f << 39) + low),
        ],
        wp in any::<bool>(), nxe in any::<bool>(), la57 in any::<bool>(), pke in any::<bool>(),
        pkru in prop_oneof![Just(0), any::<u32>()], user in any::<bool>(),
        access in prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Fetch)],
    ) {
        let mut guest = Guest::new();
        guest.cr0 = CR0_PG | if wp { CR0_WP } else { 0 };
        guest.efer = EFER_LMA | if nxe { EFER_NXE } else { 0 };
        guest.cr4 = if la57 { CR4_LA57 } else { 0 } | if pke { CR4_PKE } else { 0 };
        guest.pkru = pkru;
        let map = guest.memory.map();
        let slots: Vec<Hpa> = (1..=guest.levels()).map(|level| guest.slot(Gva(gva), level)).collect();
        for (slot, (flags, elsewhere)) in slots.iter().zip(path) {
            let next = elsewhere.unwrap_or(map.read_u64(*slot) & entry::ADDRESS);
            map.write_u64(*slot, next | flags);
        }
        let expected = reference(&guest, gva, access, user);
        guest.memory.take_reads();
        prop_assert_eq!(guest.translate(Gva(gva), access, user), expected);
        let reads = guest.memory.take_reads();
        prop_assert!(reads.len() <= guest.levels() as usize);
        prop_assert!(reads.iter().all(|at| in_ram(at.0)));
    }
}
