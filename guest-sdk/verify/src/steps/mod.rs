//! The steps after the file was read, in the order of their modules' functions in [`crate::verify()`]. Each gets what the steps
//! before it have made sure of.

pub(crate) mod binding;
pub(crate) mod hardware;
pub(crate) mod launch;
pub(crate) mod micro;
