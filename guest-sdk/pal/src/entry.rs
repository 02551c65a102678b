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

/// Lists the functions of S that an application may call. Once in a PAL; the functions are defined beside it.
///
/// Arguments are integers, `&[u8]`, `&mut [u8]` and [`Out`](crate::Out); values are integers, `bool` and `()`
/// ([`args`](crate::args)).
#[macro_export]
macro_rules! entries {
    ($( $(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $value:ty)?; )+) => {
        const _: () = {
            const COUNT: usize = [$(stringify!($name)),+].len();
            const _: () = assert!(COUNT <= $crate::entry::MAX_ENTRIES, "too many entries");

            #[used]
            #[unsafe(no_mangle)]
            #[unsafe(link_section = ".tv_entries")]
            static TRUSTVISOR_ENTRIES: [$crate::entry::Record; COUNT] = [$({
                extern "C" fn shim(rdi: u64, rsi: u64, rdx: u64, rcx: u64, r8: u64, r9: u64) -> u64 {
                    let function: fn($($type),*) $(-> $value)? = $name;
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
            }),+];
        };
    };
}

pub use abi::image::MAX_ENTRIES;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Out;
    use abi::image::arg;

    fn scale(data: &mut [u8], by: u8) -> u64 {
        data.iter_mut().for_each(|b| *b *= by);
        data.len() as u64
    }

    fn fill(mut out: Out<'_>, with: u8) {
        out.fill(with);
    }

    entries! {
        fn scale(data: &mut [u8], by: u8) -> u64;
        fn fill(out: Out<'_>, with: u8);
    }

    // SAFETY: the table that the macro above puts there under this name.
    unsafe extern "C" {
        #[link_name = "TRUSTVISOR_ENTRIES"]
        static TABLE: [Record; 2];
    }

    #[test]
    fn the_table_holds_the_functions_in_order() {
        // SAFETY: defined by `entries!` above, with this type.
        let table = unsafe { &TABLE };
        assert_eq!(&table[0].name[..6], b"scale\0");
        assert_eq!(table[0].args, [arg::IN_OUT, arg::LEN, arg::INT, 0, 0, 0]);
        assert_eq!(table[1].args, [arg::OUT, arg::LEN, arg::INT, 0, 0, 0]);

        let mut data = [1u8, 2, 3];
        assert_eq!((table[0].shim)(data.as_mut_ptr() as u64, 3, 5, 0, 0, 0), 3);
        assert_eq!(data, [5, 10, 15]);
        assert_eq!((table[1].shim)(data.as_mut_ptr() as u64, 2, 9, 0, 0, 0), 0);
        assert_eq!(data, [9, 9, 15]);
    }
}
