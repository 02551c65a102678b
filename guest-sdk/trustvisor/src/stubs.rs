//! Stubs: S's functions as the application's.

/// Makes a type with a method for each entry of S, in the image's order and with S's signatures: the list that S
/// gives to `trustvisor_pal::entries!`. `register` refuses an image with other signatures. A method returns what S returns, or why
/// there is nothing to return.
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
        };
    };
    (@value $value:ty) => { $value };
    (@value) => { () };
}
