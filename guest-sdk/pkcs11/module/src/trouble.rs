//! What an administrator should know and a `CKR_…` cannot say: a line on stderr if `TRUSTVISOR_DEBUG` is set.

use std::fmt;

/// Says it.
pub fn say(what: fmt::Arguments<'_>) {
    if std::env::var_os("TRUSTVISOR_DEBUG").is_some() {
        loudly(what);
    }
}

/// Says it to everybody.
pub fn loudly(what: fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "trustvisor-pkcs11: {what}");
}
