//! Stubs: S's functions as the application's.

/// Makes a type with a method for each entry of S, in the image's order and with S's signatures: the list that S
/// gives to `trustvisor_pal::entries!`. `register` refuses an image with other signatures. A method returns what S returns, or why
/// there is nothing to return. `attested(&nonce)` has the same methods: each returns, beside that, the [`crate::Attested`] call.
#[macro_export]
macro_rules! stubs {
    (
        $(#[$meta:meta])*
        $visibility:vis struct $stubs:ident {
            $( $(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $value:ty)?; )+
        }
    ) => {
        $(#[$meta])*
        $visibility struct $stubs($crate::Pal);

        const _: () = {
            #[allow(non_camel_case_types)]
            enum Index { $($name),+ }

            #[allow(dead_code)]
            impl $stubs {
                const SIGNATURES: &[[u8; 6]] =
                    &[$($crate::args::signature(&[$(<$type as $crate::args::Argument<'_>>::KINDS),*])),+];

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

                $(
                    $(#[$doc])*
                    $visibility fn $name(&self, $($arg: $type),*)
                        -> ::core::result::Result<$crate::stubs!(@value $($value)?), $crate::Error>
                    {
                        #[allow(unused_mut)]
                        let mut registers = $crate::args::Registers::default();
                        $( $crate::args::Argument::put($arg, &mut registers); )*
                        let value = self.0.call(Index::$name as u16, registers)?;
                        Ok($crate::args::Value::from_raw(value))
                    }
                )+
            }

            /// Calls that TrustVisor attests.
            #[derive(Clone, Copy)]
            $visibility struct Calls<'a> {
                pal: &'a $crate::Pal,
                nonce: &'a [u8; 32],
            }

            #[allow(dead_code)]
            impl<'a> Calls<'a> {
                $(
                    $(#[$doc])*
                    $visibility fn $name(self, $($arg: $type),*) -> ::core::result::Result<
                        ($crate::stubs!(@value $($value)?), $crate::Attested<'a>),
                        $crate::Error,
                    > {
                        #[allow(unused_mut)]
                        let mut registers = $crate::args::Registers::default();
                        $( $crate::args::Argument::put($arg, &mut registers); )*
                        let entry = Index::$name as u16;
                        let value = self.pal.call_attested(entry, registers, self.nonce)?;
                        let call = $crate::Attested::last(self.pal, entry, self.nonce);
                        Ok(($crate::args::Value::from_raw(value), call))
                    }
                )+
            }
        };
    };
    (@value $value:ty) => { $value };
    (@value) => { () };
}
