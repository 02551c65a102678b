//! How the list of S's entries is read, by both of its readers: [`entries!`](crate::entries) and `trustvisor::stubs!`.
//!
//! [`__list!`](crate::__list) takes it apart into entries; [`__form!`](crate::__form) tells of one entry whether its types are all the
//! registers' own (*raw*: integers, `bool`, buffers) or some are encoded ([`crate::encoded`]). Each hands what it has found to the macro
//! that asked.

/// `[MACRO] {EXTRA} LIST` becomes `MACRO! { {EXTRA} [ {[ATTRIBUTES] NAME (ARGUMENTS) [VALUE] [SIZE]} ... ] }`.
#[doc(hidden)]
#[macro_export]
macro_rules! __list {
    (@ [$($then:tt)*] $extra:tt [$($done:tt)+]) => { $($then)* ! { $extra [$($done)+] } };
    (@ $then:tt $extra:tt [$($done:tt)*] $(#[$meta:meta])* fn $name:ident $args:tt; $($rest:tt)*) => {
        $crate::__list! { @ $then $extra [$($done)* {[$(#[$meta])*] $name $args [()] []}] $($rest)* }
    };
    (@ $then:tt $extra:tt [$($done:tt)*] $(#[$meta:meta])* fn $name:ident $args:tt -> () $(where size <= $max:expr)?; $($rest:tt)*) => {
        $crate::__list! { @ $then $extra [$($done)* {[$(#[$meta])*] $name $args [()] [$($max)?]}] $($rest)* }
    };
    (@ $then:tt $extra:tt [$($done:tt)*] $(#[$meta:meta])* fn $name:ident $args:tt -> $value:ident $(where size <= $max:expr)?; $($rest:tt)*) => {
        $crate::__list! { @ $then $extra [$($done)* {[$(#[$meta])*] $name $args [$value] [$($max)?]}] $($rest)* }
    };
    (@ $then:tt $extra:tt [$($done:tt)*] $(#[$meta:meta])* fn $name:ident $args:tt -> $value:ty where size <= $max:expr; $($rest:tt)*) => {
        $crate::__list! { @ $then $extra [$($done)* {[$(#[$meta])*] $name $args [$value] [$max]}] $($rest)* }
    };
    (@ $then:tt $extra:tt [$($done:tt)*] $(#[$meta:meta])* fn $name:ident $args:tt -> $value:ty; $($rest:tt)*) => {
        $crate::__list! { @ $then $extra [$($done)* {[$(#[$meta])*] $name $args [$value] []}] $($rest)* }
    };
    (@ $($wrong:tt)*) => {
        ::core::compile_error!("an entry is `fn name(argument: Type, ...) -> Type;` or `... -> Type where size <= BYTES;`");
    };
    ([$($then:tt)*] $extra:tt $($list:tt)*) => { $crate::__list! { @ [$($then)*] $extra [] $($list)* } };
}

/// `[MACRO] {EXTRA} (ARGUMENTS) [VALUE]` becomes
/// `MACRO! { raw {EXTRA} [VALUE] [NAME: TYPE, ...] }` or
/// `MACRO! { encoded {EXTRA} [VALUE] [NAME: TYPE, ...] [ENCODED: TYPE, ...] [BUFFER: TYPE, ...] [EXPRESSION, ...] }`.
#[doc(hidden)]
#[macro_export]
macro_rules! __form {
    // What the registers carry themselves.
    (@ident u8 $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident u16 $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident u32 $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident u64 $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident usize $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident i8 $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident i16 $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident i32 $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident i64 $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident isize $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident bool $($state:tt)*) => { $crate::__form! { @integer $($state)* } };
    (@ident $other:ident $($state:tt)*) => { $crate::__form! { @encoded $($state)* } };

    (@integer {$name:ident $type:ty} $ask:tt $form:ident [$($all:tt)*] [$($encoded:tt)*] $buffers:tt [$($pass:tt)*] $($rest:tt)*) => {
        $crate::__form! { @ $ask $form [$($all)* {$name $type}] [$($encoded)* {$name $type}] $buffers [$($pass)* {$name}] $($rest)* }
    };
    (@encoded {$name:ident $type:ty} $ask:tt $form:ident [$($all:tt)*] [$($encoded:tt)*] $buffers:tt [$($pass:tt)*] $($rest:tt)*) => {
        $crate::__form! { @ $ask encoded [$($all)* {$name $type}] [$($encoded)* {$name $type}] $buffers [$($pass)* {$name}] $($rest)* }
    };
    (@lent {$name:ident $type:ty} $ask:tt $form:ident [$($all:tt)*] [$($encoded:tt)*] $buffers:tt [$($pass:tt)*] $($rest:tt)*) => {
        $crate::__form! { @ $ask encoded [$($all)* {$name &$type}] [$($encoded)* {$name $type}] $buffers [$($pass)* {&$name}] $($rest)* }
    };
    (@buffer {$name:ident $type:ty} $ask:tt $form:ident [$($all:tt)*] $encoded:tt [$($buffers:tt)*] [$($pass:tt)*] $($rest:tt)*) => {
        $crate::__form! { @ $ask $form [$($all)* {$name $type}] $encoded [$($buffers)* {$name $type}] [$($pass)* {$name}] $($rest)* }
    };

    // An argument, and what follows it.
    (@ $ask:tt $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt $name:ident: &[u8] $(, $($rest:tt)*)?) => {
        $crate::__form! { @buffer {$name &[u8]} $ask $form $all $encoded $buffers $pass $($($rest)*)? }
    };
    (@ $ask:tt $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt $name:ident: &mut [u8] $(, $($rest:tt)*)?) => {
        $crate::__form! { @buffer {$name &mut [u8]} $ask $form $all $encoded $buffers $pass $($($rest)*)? }
    };
    (@ $ask:tt $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt $name:ident: Out<$life:lifetime> $(, $($rest:tt)*)?) => {
        $crate::__form! { @buffer {$name Out<$life>} $ask $form $all $encoded $buffers $pass $($($rest)*)? }
    };
    (@ $ask:tt $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt $name:ident: $krate:ident::Out<$life:lifetime> $(, $($rest:tt)*)?) => {
        $crate::__form! { @buffer {$name $krate::Out<$life>} $ask $form $all $encoded $buffers $pass $($($rest)*)? }
    };
    (@ $ask:tt $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt $name:ident: &str $(, $($rest:tt)*)?) => {
        $crate::__form! { @encoded {$name &str} $ask $form $all $encoded $buffers $pass $($($rest)*)? }
    };
    (@ $ask:tt $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt $name:ident: $type:ident $(, $($rest:tt)*)?) => {
        $crate::__form! { @ident $type {$name $type} $ask $form $all $encoded $buffers $pass $($($rest)*)? }
    };
    (@ $ask:tt $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt $name:ident: &mut $($wrong:tt)*) => {
        ::core::compile_error!("S cannot change a value of its caller's but for `&mut [u8]`: return the new one")
    };
    (@ $ask:tt $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt $name:ident: &$type:ty $(, $($rest:tt)*)?) => {
        $crate::__form! { @lent {$name $type} $ask $form $all $encoded $buffers $pass $($($rest)*)? }
    };
    (@ $ask:tt $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt $name:ident: $type:ty $(, $($rest:tt)*)?) => {
        $crate::__form! { @encoded {$name $type} $ask $form $all $encoded $buffers $pass $($($rest)*)? }
    };
    (@ {$then:tt $extra:tt $value:tt} $form:ident $all:tt $encoded:tt $buffers:tt $pass:tt) => {
        $crate::__form! { @value $form $value $then $extra $value $all $encoded $buffers $pass }
    };

    // No arguments are left.
    (@value raw [u8] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [u16] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [u32] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [u64] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [usize] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [i8] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [i16] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [i32] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [i64] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [isize] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [bool] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value raw [()] $($found:tt)*) => { $crate::__form! { @raw $($found)* } };
    (@value $form:ident [$($value:tt)*] [$($then:tt)*] $($found:tt)*) => { $($then)* ! { encoded $($found)* } };
    (@raw [$($then:tt)*] $extra:tt $value:tt $all:tt $($rest:tt)*) => { $($then)* ! { raw $extra $value $all } };

    ([$($then:tt)*] $extra:tt ($($args:tt)*) $value:tt) => {
        $crate::__form! { @ {[$($then)*] $extra $value} raw [] [] [] [] $($args)* }
    };
}
