//! What the SDK adds to TrustVisor: types, heap, and sessions.

pub mod heap;
pub mod session;
pub mod types;

#[path = "../../sdk-pal/src/types.rs"]
mod carried;

use carried::{Refusal, Request, Summary};
use trustvisor::Out;

/// S as a file.
static IMAGE: &[u8] = include_bytes!(env!("SDK_PAL"));

trustvisor::stubs! {
    /// The S of these tests.
    struct Sdk {
        fn count() -> u64;
        fn summarize(request: &Request, base: i64) -> Result<Summary, Refusal>;
        fn remember(item: &str) -> usize;
        fn recall() -> Vec<String> where size <= 256;
        fn fill(pattern: Vec<u8>, out: Out<'_>) -> bool;
        fn take(bytes: usize) -> u64;
        fn has(bytes: usize) -> bool;
        fn churn(rounds: u64) -> u64;
        fn fail(how: u32) -> u64;
    }
}
