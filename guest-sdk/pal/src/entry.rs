//! The table of S's entry points, as the linker collects it and `trustvisor image` reads it.
//!
//! [`entries!`](crate::entries) makes one [`Record`] for each function in the section [`SECTION`], in the order written,
//! which is the index an application calls by. The table is read from the ELF file and is no part of the image.

use abi::image::MAX_ARGS;

/// The ELF section of the records.
pub const SECTION: &str = ".tv_entries";
/// Bytes of a name, zero-padded.
pub const NAME_SIZE: usize = 48;

/// A function that TrustVisor can start: arguments in RDI, RSI, RDX, RCX, R8, R9, value in RAX.
pub type Shim = extern "C" fn(u64, u64, u64, u64, u64, u64) -> u64;

/// An entry of S.
#[repr(C)]
pub struct Record {
    /// What TrustVisor jumps to.
    pub shim: Shim,
    /// What each register holds.
    pub args: [u8; MAX_ARGS],
    /// 0.
    pub reserved: u16,
    /// The function's name.
    pub name: [u8; NAME_SIZE],
}

const _: () = {
    assert!(core::mem::offset_of!(Record, args) == 8);
    assert!(core::mem::offset_of!(Record, name) == 16);
    assert!(size_of::<Record>() == 64);
};

impl Record {
    /// A record. Names longer than [`NAME_SIZE`] do not compile.
    pub const fn new(name: &str, args: [u8; MAX_ARGS], shim: Shim) -> Self {
        let from = name.as_bytes();
        assert!(from.len() <= NAME_SIZE, "the name of an entry has at most 48 bytes");
        let mut bytes = [0; NAME_SIZE];
        let mut i = 0;
        while i < from.len() {
            bytes[i] = from[i];
            i += 1;
        }
        Self { shim, args, reserved: 0, name: bytes }
    }
}

/// Lists the functions of S that an application may call. Once in a PAL; the functions are defined beside it, and what stands in the list
/// is their signatures.
///
/// An argument may be
/// - an integer or `bool`;
/// - a buffer: `&[u8]` is copied in, [`Out`](crate::Out) is copied out and found zeroed, `&mut [u8]` goes both ways. All buffers of a call
///   together have the room of the parameter section (`Layout::param`);
/// - any other type of serde's, which travels encoded: `Request` by value or `&Request`, and `&str`. S needs no heap for it if the type
///   does not.
///
/// A value is an integer, `bool`, nothing, or another type of serde's, encoded in [1 KiB](crate::encoded::DEFAULT_SIZE) unless the list
/// says otherwise.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use trustvisor_pal::Out;
///
/// #[derive(Serialize, Deserialize)]
/// pub struct Request<'a> {
///     user: &'a str,
///     tries: u32,
/// }
///
/// fn add(a: u64, b: u64) -> u64 {
///     a.wrapping_add(b)
/// }
///
/// fn copy(from: &[u8], mut to: Out<'_>) -> usize {
///     let length = from.len().min(to.len());
///     to[..length].copy_from_slice(&from[..length]);
///     length
/// }
///
/// fn allowed(request: &Request<'_>) -> Result<bool, [u8; 4]> {
///     Ok(request.user == "root" && request.tries < 3)
/// }
///
/// trustvisor_pal::entries! {
///     fn add(a: u64, b: u64) -> u64;
///     fn copy(from: &[u8], to: Out<'_>) -> usize;
///     fn allowed(request: &Request<'_>) -> Result<bool, [u8; 4]> where size <= 16;
/// }
/// ```
///
/// An entry has six registers: an integer takes one, a buffer two. In an entry with something encoded all arguments but buffers, and the
/// value, take four together; one buffer may stand beside them.
#[macro_export]
macro_rules! entries {
    ($($list:tt)+) => { $crate::__list! { [$crate::__entries] {} $($list)+ } };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __entries {
    ({} [$({$meta:tt $name:ident $args:tt $value:tt $max:tt})+]) => {
        const _: () = {
            const COUNT: usize = [$(stringify!($name)),+].len();
            const _: () = assert!(COUNT <= $crate::entry::MAX_ENTRIES, "too many entries");

            #[used]
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".tv_entries")]
            static TRUSTVISOR_ENTRIES: [$crate::entry::Record; COUNT] =
                [$($crate::__form! { [$crate::__record] {$name} $args $value }),+];
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __record {
    (raw {$name:ident} [$($value:tt)*] [$({$arg:ident $type:ty})*]) => {{
        extern "C" fn shim(rdi: u64, rsi: u64, rdx: u64, rcx: u64, r8: u64, r9: u64) -> u64 {
            let function: fn($($type),*) -> $($value)* = $name;
            #[allow(unused_mut, unused_variables)]
            let mut registers = $crate::args::Registers::new([rdi, rsi, rdx, rcx, r8, r9]);
            $(
                // SAFETY: TrustVisor calls this shim with the signature recorded below, made from the same
                // types in the same order; the function cannot keep what it borrows for one call.
                let $arg = unsafe { <$type as $crate::args::Argument<'_>>::take(&mut registers) };
            )*
            $crate::args::Value::into_raw(function($($arg),*))
        }
        const ARGS: [u8; 6] =
            $crate::args::signature(&[$(<$type as $crate::args::Argument<'_>>::KINDS),*]);
        $crate::entry::Record::new(stringify!($name), ARGS, shim)
    }};
    (
        encoded {$name:ident} [$($value:tt)*] [$({$arg:ident $type:ty})*] [$({$part:ident $coded:ty})*]
        [$({$buffer:ident $kind:ty})*] [$({$($pass:tt)+})*]
    ) => {{
        extern "C" fn shim(rdi: u64, rsi: u64, rdx: u64, rcx: u64, r8: u64, r9: u64) -> u64 {
            let function: fn($($type),*) -> $($value)* = $name;
            let mut registers = $crate::args::Registers::new([rdi, rsi, rdx, rcx, r8, r9]);
            // SAFETY: TrustVisor calls this shim with the signature recorded below, of the same kinds in the same order; neither
            // decoded values nor the function can keep what they borrow for one call.
            let bytes = unsafe { <&[u8] as $crate::args::Argument<'_>>::take(&mut registers) };
            // SAFETY: the same.
            let mut room = unsafe { <$crate::Out<'_> as $crate::args::Argument<'_>>::take(&mut registers) };
            $(
                // SAFETY: the same.
                let $buffer = unsafe { <$kind as $crate::args::Argument<'_>>::take(&mut registers) };
            )*
            let Some(($($part,)*)) = $crate::encoded::decode::<($($coded,)*)>(bytes) else {
                return $crate::encoded::MALFORMED;
            };
            $crate::encoded::answer(&function($($($pass)+),*), &mut room)
        }
        const ARGS: [u8; 6] = $crate::args::signature(&[
            $crate::args::ENCODED,
            $(<$kind as $crate::args::Argument<'_>>::KINDS),*
        ]);
        $crate::entry::Record::new(stringify!($name), ARGS, shim)
    }};
}

pub use abi::image::MAX_ENTRIES;

#[cfg(test)]
mod tests;
