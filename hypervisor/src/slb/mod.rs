//! What the secure loader block consists of, apart from its order of events, which is the binary `slb`, and of [`crate::check`]: how
//! the launch is measured, and the little hardware it needs.

mod measure;

pub mod pit;

pub use measure::{Launch, PCR_CODE, PCR_CONFIGURATION, measure};
