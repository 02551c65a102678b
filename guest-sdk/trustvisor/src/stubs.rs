//! Stubs: S's functions as the application's.

/// Makes a type with a method for each entry of S, in the image's order: the list that S gives to
/// [`trustvisor_pal::entries!`], word for word. `register` refuses an image with other signatures.
///
/// A method returns what S returns, or why there is nothing to return. What serde knows goes there and back as it is:
///
/// ```no_run
/// use serde::{Deserialize, Serialize};
/// use trustvisor::{Error, Out};
///
/// #[derive(Serialize, Deserialize)]
/// struct Request {
///     user: String,
///     tries: u32,
/// }
///
/// trustvisor::stubs! {
///     struct Guard {
///         fn add(a: u64, b: u64) -> u64;
///         fn copy(from: &[u8], to: Out<'_>) -> usize;
///         fn allowed(request: &Request) -> Result<bool, [u8; 4]> where size <= 16;
///     }
/// }
///
/// # fn main() -> Result<(), Error> {
/// # let image: &[u8] = &[];
/// let guard = Guard::register(image)?;
/// let five = guard.add(2, 3)?;
/// let mut copy = [0; 4];
/// guard.copy(b"data", Out(&mut copy))?;
/// let allowed = guard.allowed(&Request { user: "root".into(), tries: 1 })?;
/// # Ok(())
/// # }
/// ```
///
/// All buffers of a call together, encoded arguments and the room for an encoded value among them, must fit into S's parameter section
/// ([`crate::Error::TooLarge`], before S sees anything). Types on both sides must be the same: S does not decode what is none of its types
/// ([`crate::Error::Malformed`]), but what happens to be one, it takes. Encoded arguments and values are wiped from the application's memory
/// after the call, as far as they were encoded copies.
///
/// `attested(&nonce)` has the same methods: each returns, beside that, the [`crate::Attested`] call.
#[macro_export]
macro_rules! stubs {
    (
        $(#[$meta:meta])*
        $visibility:vis struct $stubs:ident { $($list:tt)+ }
    ) => {
        $crate::__pal::__list! {
            [$crate::__stubs] {[$(#[$meta])*] [$visibility] $stubs} $($list)+
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stubs {
    (
        {[$(#[$meta:meta])*] [$visibility:vis] $stubs:ident}
        [$({[$($doc:tt)*] $name:ident $args:tt $value:tt $max:tt})+]
    ) => {
        $(#[$meta])*
        $visibility struct $stubs($crate::Pal);

        const _: () = {
            #[allow(non_camel_case_types)]
            enum Index { $($name),+ }

            #[allow(dead_code)]
            impl $stubs {
                const SIGNATURES: &[[u8; 6]] =
                    &[$($crate::__pal::__form! { [$crate::__signature] {} $args $value }),+];

                /// Registers S from its image.
                $visibility fn register(image: &[u8]) -> ::core::result::Result<Self, $crate::Error> {
                    let pal = $crate::Pal::register(image)?;
                    pal.has_signatures(Self::SIGNATURES)?;
                    Ok(Self(pal))
                }

                /// The PAL behind the stubs.
                $visibility fn pal(&self) -> &$crate::Pal {
                    &self.0
                }

                /// The same calls, for a verifier whose nonce this is.
                $visibility fn attested<'a>(&'a self, nonce: &'a [u8; 32]) -> Calls<'a> {
                    Calls { pal: &self.0, nonce }
                }

                /// Wipes S and says how that went.
                $visibility fn unregister(self) -> ::core::result::Result<(), $crate::Error> {
                    self.0.unregister()
                }

                $($crate::__pal::__form! {
                    [$crate::__method] {plain [$($doc)*] [$visibility] $name Index $max} $args $value
                })+
            }

            /// Calls that TrustVisor attests.
            #[derive(Clone, Copy)]
            $visibility struct Calls<'a> {
                pal: &'a $crate::Pal,
                nonce: &'a [u8; 32],
            }

            #[allow(dead_code)]
            impl<'a> Calls<'a> {
                $($crate::__pal::__form! {
                    [$crate::__method] {attested [$($doc)*] [$visibility] $name Index $max} $args $value
                })+
            }
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __signature {
    (raw {} $value:tt [$({$arg:ident $type:ty})*]) => {
        $crate::args::signature(&[$(<$type as $crate::args::Argument<'_>>::KINDS),*])
    };
    (encoded {} $value:tt $args:tt $parts:tt [$({$buffer:ident $kind:ty})*] $pass:tt) => {
        $crate::args::signature(&[
            $crate::args::ENCODED,
            $(<$kind as $crate::args::Argument<'_>>::KINDS),*
        ])
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __method {
    (
        raw {plain [$($doc:tt)*] [$visibility:vis] $name:ident $index:ident $max:tt} [$($value:tt)*]
        [$({$arg:ident $type:ty})*]
    ) => {
        $($doc)*
        $visibility fn $name(&self, $($arg: $type),*) -> ::core::result::Result<$($value)*, $crate::Error> {
            #[allow(unused_mut)]
            let mut registers = $crate::args::Registers::default();
            $( $crate::args::Argument::put($arg, &mut registers); )*
            let value = self.0.call($index::$name as u16, registers)?;
            Ok($crate::args::Value::from_raw(value))
        }
    };
    (
        raw {attested [$($doc:tt)*] [$visibility:vis] $name:ident $index:ident $max:tt} [$($value:tt)*]
        [$({$arg:ident $type:ty})*]
    ) => {
        $($doc)*
        $visibility fn $name(self, $($arg: $type),*)
            -> ::core::result::Result<($($value)*, $crate::Attested<'a>), $crate::Error>
        {
            #[allow(unused_mut)]
            let mut registers = $crate::args::Registers::default();
            $( $crate::args::Argument::put($arg, &mut registers); )*
            let entry = $index::$name as u16;
            let value = self.pal.call_attested(entry, registers, self.nonce)?;
            let call = $crate::Attested::last(self.pal, entry, self.nonce);
            Ok(($crate::args::Value::from_raw(value), call))
        }
    };
    (
        encoded {plain [$($doc:tt)*] [$visibility:vis] $name:ident $index:ident [$($max:expr)?]} [$($value:tt)*]
        [$({$arg:ident $type:ty})*] [$({$part:ident $coded:ty})*] [$({$buffer:ident $kind:ty})*] $pass:tt
    ) => {
        $($doc)*
        $visibility fn $name(&self, $($arg: $type),*) -> ::core::result::Result<$($value)*, $crate::Error> {
            let mut encoded = $crate::Encoded::new(&($(&$part,)*), $crate::__size!($($max)?))?;
            let value = {
                let mut registers = encoded.registers();
                $( $crate::args::Argument::put($buffer, &mut registers); )*
                self.0.call($index::$name as u16, registers)?
            };
            encoded.value(value)
        }
    };
    (
        encoded {attested [$($doc:tt)*] [$visibility:vis] $name:ident $index:ident [$($max:expr)?]} [$($value:tt)*]
        [$({$arg:ident $type:ty})*] [$({$part:ident $coded:ty})*] [$({$buffer:ident $kind:ty})*] $pass:tt
    ) => {
        $($doc)*
        $visibility fn $name(self, $($arg: $type),*)
            -> ::core::result::Result<($($value)*, $crate::Attested<'a>), $crate::Error>
        {
            let mut encoded = $crate::Encoded::new(&($(&$part,)*), $crate::__size!($($max)?))?;
            let entry = $index::$name as u16;
            let value = {
                let mut registers = encoded.registers();
                $( $crate::args::Argument::put($buffer, &mut registers); )*
                self.pal.call_attested(entry, registers, self.nonce)?
            };
            let call = $crate::Attested::last(self.pal, entry, self.nonce);
            Ok((encoded.value(value)?, call))
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __size {
    () => {
        $crate::__pal::encoded::DEFAULT_SIZE
    };
    ($max:expr) => {
        $max
    };
}
