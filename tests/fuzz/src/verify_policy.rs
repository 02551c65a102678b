//! Policies.
//!
//! Demanded: a text that is a policy stays one with a comment and blanks at its end, and is none with a key that there is not.

use trustvisor_verify::Policy;

/// The bytes are the text.
pub fn check(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    match Policy::parse(text) {
        Ok(_) => {
            assert!(Policy::parse(&format!("{text}\n# comment \n\n")).is_ok());
            assert!(Policy::parse(&format!("believe_all = true\n{text}")).is_err());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
