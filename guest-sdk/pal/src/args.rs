//! How the arguments and the value of a call travel in registers: both halves, the application's (`put`, `from_raw`) and
//! S's (`take`, `into_raw`), side by side, so that what one packs the other unpacks. What else serde knows is encoded into buffers
//! ([`crate::encoded`]).
//!
//! The types decide the signature that TrustVisor enforces ([`abi::image::arg`]): integers go by value; `&[u8]` is
//! copied in, [`Out`] is copied out, `&mut [u8]` both, each taking two registers, address and length.

use abi::image::{MAX_ARGS, arg};
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};

/// The six argument registers of a call (RDI, RSI, RDX, RCX, R8, R9), filled or emptied in order.
///
/// On the application's side a value also proves something: only [`Argument::put`] makes one that has kinds, and it
/// borrows each buffer, so the addresses in it are those of live memory that the kinds allow TrustVisor to use.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Registers<'a> {
    values: [u64; MAX_ARGS],
    kinds: [u8; MAX_ARGS],
    next: usize,
    buffers: PhantomData<&'a mut [u8]>,
}

impl Registers<'_> {
    /// Registers as S finds them.
    pub fn new(values: [u64; MAX_ARGS]) -> Self {
        Self { values, ..Self::default() }
    }

    /// What the registers hold.
    pub fn values(&self) -> [u64; MAX_ARGS] {
        self.values
    }

    /// The signature of the call that these registers are for.
    pub fn kinds(&self) -> [u8; MAX_ARGS] {
        self.kinds
    }

    fn push(&mut self, kind: u8, value: u64) {
        assert!(self.next < MAX_ARGS, "a call takes at most six registers, and a buffer takes two");
        self.values[self.next] = value;
        self.kinds[self.next] = kind;
        self.next += 1;
    }

    fn pop(&mut self) -> u64 {
        self.next += 1;
        self.values[self.next - 1]
    }
}

/// A type that an entry of S may take. Types that wrap one of these implement it by delegation.
pub trait Argument<'a>: Sized {
    /// The [`arg`] kinds of its registers.
    const KINDS: &'static [u8];

    /// The application's half.
    ///
    /// # Panics
    /// If the registers do not suffice. Stubs never do: [`signature`] does not compile then.
    fn put(self, registers: &mut Registers<'a>);

    /// S's half.
    ///
    /// # Safety
    /// The registers are as TrustVisor set them for an entry with this argument at this place, and the value does not
    /// outlive the call.
    unsafe fn take(registers: &mut Registers<'_>) -> Self;
}

/// A type that an entry of S may return.
pub trait Value {
    /// S's half.
    fn into_raw(self) -> u64;
    /// The application's half.
    fn from_raw(raw: u64) -> Self;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl<'a> Argument<'a> for $type {
            const KINDS: &'static [u8] = &[arg::INT];
            fn put(self, registers: &mut Registers<'a>) {
                registers.push(arg::INT, self.into_raw());
            }
            unsafe fn take(registers: &mut Registers<'_>) -> Self {
                Self::from_raw(registers.pop())
            }
        }

        impl Value for $type {
            fn into_raw(self) -> u64 {
                self as u64
            }
            fn from_raw(raw: u64) -> Self {
                raw as Self
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

/// What an entry with encoded arguments or value ([`crate::encoded`]) begins with: the arguments, and the value's room.
pub const ENCODED: &[u8] = &[arg::IN, arg::LEN, arg::OUT, arg::LEN];

impl<'a> Argument<'a> for bool {
    const KINDS: &'static [u8] = &[arg::INT];
    fn put(self, registers: &mut Registers<'a>) {
        registers.push(arg::INT, self.into_raw());
    }
    unsafe fn take(registers: &mut Registers<'_>) -> Self {
        Self::from_raw(registers.pop())
    }
}

impl Value for bool {
    fn into_raw(self) -> u64 {
        self.into()
    }
    fn from_raw(raw: u64) -> Self {
        raw != 0
    }
}

impl Value for () {
    fn into_raw(self) -> u64 {
        0
    }
    fn from_raw(_: u64) {}
}

/// A buffer that S only writes: S finds it zeroed, the application's bytes are not shown to S.
#[derive(Debug, PartialEq, Eq)]
pub struct Out<'a>(pub &'a mut [u8]);

impl Deref for Out<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl DerefMut for Out<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

impl<'a> Argument<'a> for &'a [u8] {
    const KINDS: &'static [u8] = &[arg::IN, arg::LEN];

    fn put(self, registers: &mut Registers<'a>) {
        registers.push(arg::IN, self.as_ptr() as u64);
        registers.push(arg::LEN, self.len() as u64);
    }

    unsafe fn take(registers: &mut Registers<'_>) -> &'a [u8] {
        let (address, length) = (registers.pop(), registers.pop());
        if length == 0 {
            return &[];
        }
        // SAFETY: by the contract, `length` bytes of the parameter section at `address`, which no other argument of
        // this call overlaps and nobody else reaches while the call lasts.
        unsafe { core::slice::from_raw_parts(address as *const u8, length as usize) }
    }
}

impl<'a> Argument<'a> for &'a mut [u8] {
    const KINDS: &'static [u8] = &[arg::IN_OUT, arg::LEN];

    fn put(self, registers: &mut Registers<'a>) {
        registers.push(arg::IN_OUT, self.as_mut_ptr() as u64);
        registers.push(arg::LEN, self.len() as u64);
    }

    unsafe fn take(registers: &mut Registers<'_>) -> &'a mut [u8] {
        let (address, length) = (registers.pop(), registers.pop());
        if length == 0 {
            return &mut [];
        }
        // SAFETY: as for `&[u8]`; that no other argument overlaps makes it the only reference.
        unsafe { core::slice::from_raw_parts_mut(address as *mut u8, length as usize) }
    }
}

impl<'a> Argument<'a> for Out<'a> {
    const KINDS: &'static [u8] = &[arg::OUT, arg::LEN];

    fn put(self, registers: &mut Registers<'a>) {
        registers.push(arg::OUT, self.0.as_mut_ptr() as u64);
        registers.push(arg::LEN, self.0.len() as u64);
    }

    unsafe fn take(registers: &mut Registers<'_>) -> Out<'a> {
        // SAFETY: the same contract.
        Out(unsafe { Argument::take(registers) })
    }
}

/// The signature of an entry whose arguments have these [`Argument::KINDS`]. More than six registers do not compile.
pub const fn signature(arguments: &[&[u8]]) -> [u8; MAX_ARGS] {
    let mut kinds = [arg::NONE; MAX_ARGS];
    let (mut argument, mut next) = (0, 0);
    while argument < arguments.len() {
        let mut part = 0;
        while part < arguments[argument].len() {
            assert!(next < MAX_ARGS, "an entry of S takes at most six registers, and a buffer takes two");
            kinds[next] = arguments[argument][part];
            next += 1;
            part += 1;
        }
        argument += 1;
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn signatures_are_in_register_order() {
        let kinds = signature(&[<&[u8]>::KINDS, u32::KINDS, Out::KINDS]);
        assert_eq!(kinds, [arg::IN, arg::LEN, arg::INT, arg::OUT, arg::LEN, arg::NONE]);
        assert_eq!(signature(&[<&mut [u8]>::KINDS])[0], arg::IN_OUT);
        assert_eq!(signature(&[]), [arg::NONE; MAX_ARGS]);
    }

    #[test]
    #[should_panic(expected = "at most six registers")]
    fn seven_registers_are_too_many() {
        signature(&[<&[u8]>::KINDS, <&[u8]>::KINDS, <&[u8]>::KINDS, u8::KINDS]);
    }

    #[test]
    fn empty_buffers_have_no_address() {
        let mut registers = Registers::new([0; MAX_ARGS]);
        // SAFETY: length 0, so the null address is not used.
        assert_eq!(unsafe { <&[u8]>::take(&mut registers) }, &[] as &[u8]);
        // SAFETY: the same.
        assert_eq!(unsafe { <&mut [u8]>::take(&mut registers) }, &mut [] as &mut [u8]);
    }

    proptest! {
        #[test]
        fn taking_gives_what_was_put(a: u64, b: i16, data: Vec<u8>, mut out: Vec<u8>) {
            let expected = out.clone();
            let mut registers = Registers::default();
            a.put(&mut registers);
            data.as_slice().put(&mut registers);
            b.put(&mut registers);
            Out(&mut out).put(&mut registers);

            prop_assert_eq!(registers.kinds(), signature(&[u64::KINDS, <&[u8]>::KINDS, i16::KINDS, Out::KINDS]));
            let mut registers = Registers::new(registers.values());
            // SAFETY: put above by the same types in the same order; the buffers are alive and borrowed by nobody else.
            unsafe {
                prop_assert_eq!(u64::take(&mut registers), a);
                prop_assert_eq!(<&[u8]>::take(&mut registers), &data[..]);
                prop_assert_eq!(i16::take(&mut registers), b);
                prop_assert_eq!(&*Out::take(&mut registers), &expected[..]);
            }
        }

        #[test]
        fn values_come_back(a: i32, b: bool, c: usize) {
            prop_assert_eq!(i32::from_raw(a.into_raw()), a);
            prop_assert_eq!(bool::from_raw(b.into_raw()), b);
            prop_assert_eq!(usize::from_raw(c.into_raw()), c);
        }
    }
}
