//! A machine in software that tells the truth, everything that can be changed about what it says, and real TPMs.

mod cavp;
mod certificates;
mod changes;
mod credential;
mod forgeries;

pub(crate) mod keys;
mod parsing;
mod runtime;
mod swtpm;
mod token_key;
mod truth;
pub(crate) mod world;
