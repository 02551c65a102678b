//! What the secure loader block consists of, apart from its order of events, which is the binary `slb`: whether the loader's
//! record and the runtime's header can be true, how the launch is measured, and the little hardware it needs.

mod check;
mod measure;

pub mod idt;
pub mod pit;

pub use check::{Refusal, check_info, check_runtime, options};
pub use measure::{Failure, Launch, PCR_CODE, PCR_CONFIGURATION, measure};
