//! The S of the SDK's tests: ordinary Rust types in and out, a heap that can be filled, state that is kept.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use trustvisor_pal::{Out, State};
use types::{Part, Refusal, Request, Summary};

mod types;

static CALLS: State<u64> = State::new(0);
static ITEMS: State<Vec<String>> = State::new(Vec::new());

fn count() -> u64 {
    CALLS.with(|calls| {
        *calls += 1;
        *calls
    })
}

fn summarize(request: &Request, base: i64) -> Result<Summary, Refusal> {
    count();
    if request.name.is_empty() {
        return Err(Refusal::Nameless);
    }
    let found = request.parts.len() as u64;
    if let Some(limit) = request.limit.filter(|limit| *limit < found) {
        return Err(Refusal::TooMuch { limit, found });
    }
    let mut summary = Summary { name: request.name.to_uppercase(), sum: base, bytes: 0 };
    for part in &request.parts {
        match part {
            Part::Nothing => {}
            Part::Number(number) => summary.sum = summary.sum.wrapping_add(*number),
            Part::Bytes { bytes, .. } => summary.bytes += bytes.len(),
        }
    }
    Ok(summary)
}

fn remember(item: &str) -> usize {
    ITEMS.with(|items| {
        items.push(item.to_string());
        items.len()
    })
}

fn recall() -> Vec<String> {
    count();
    ITEMS.with(|items| items.clone())
}

/// Writes `pattern` again and again.
fn fill(pattern: Vec<u8>, mut out: Out<'_>) -> bool {
    out.iter_mut().zip(pattern.iter().cycle()).for_each(|(to, from)| *to = *from);
    !pattern.is_empty()
}

/// Takes so many bytes of the heap for a moment.
fn take(bytes: usize) -> u64 {
    let mut memory = Vec::with_capacity(bytes);
    memory.resize(bytes, 1u8);
    core::hint::black_box(&memory).iter().map(|byte| u64::from(*byte)).sum()
}

/// Whether there are so many.
fn has(bytes: usize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes).is_ok()
}

/// Takes and gives back memory at random; how often what it held was not what was put there.
fn churn(rounds: u64) -> u64 {
    let mut held: Vec<Vec<u8>> = Vec::new();
    let (mut state, mut wrong) = (1u64, 0);
    for _ in 0..rounds {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = (state >> 33) as usize;
        if held.len() == 64 || pick.is_multiple_of(3) && !held.is_empty() {
            let block = held.swap_remove(pick % held.len());
            wrong += u64::from(block.iter().any(|byte| *byte != block.len() as u8));
        } else {
            let length = pick % 2500;
            held.push(alloc::vec![length as u8; length]);
        }
    }
    wrong
}

fn fail(how: u32) -> u64 {
    match how {
        0 => panic!("S may panic"),
        1 => CALLS.with(|_| CALLS.get()),
        2 => take(usize::MAX >> 1),
        3 => take(1 << 20),
        _ => 0,
    }
}

trustvisor_pal::entries! {
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
