//! Ordinary types go to S and come back, and what does not fit or decode is an error on both sides.

use super::carried::{Part, Refusal, Request, Summary};
use super::{IMAGE, Sdk};
use crate::support::leaving_nothing;
use anyhow::{bail, ensure};
use trustvisor::{Error, Out};

fn request(parts: Vec<Part>, limit: Option<u64>) -> Request {
    Request { name: "tvtest".into(), parts, limit }
}

pub fn run() -> anyhow::Result<()> {
    leaving_nothing(|_| {
        let s = Sdk::register(IMAGE)?;
        let parts = vec![
            Part::Number(-5),
            Part::Nothing,
            Part::Bytes { at: 7, bytes: vec![9; 3000] },
            Part::Number(i64::MAX),
        ];
        let summary = s.summarize(&request(parts.clone(), None), 10)?;
        let wanted = Summary { name: "TVTEST".into(), sum: i64::MIN + 4, bytes: 3000 };
        ensure!(summary == Ok(wanted), "{summary:?}");
        let refused = s.summarize(&request(parts.clone(), Some(3)), 0)?;
        ensure!(refused == Err(Refusal::TooMuch { limit: 3, found: 4 }), "{refused:?}");
        let nameless = s.summarize(&Request { name: String::new(), parts: vec![], limit: None }, 0)?;
        ensure!(nameless == Err(Refusal::Nameless), "{nameless:?}");

        let mut out = vec![0xee; 5001];
        ensure!(s.fill(vec![1, 2, 3], Out(&mut out))?, "S says false");
        ensure!(
            out.iter().enumerate().all(|(i, byte)| usize::from(*byte) == i % 3 + 1),
            "a buffer beside types"
        );

        let items = ["a", "", "drei"];
        for (i, item) in items.iter().enumerate() {
            ensure!(s.remember(item)? == i + 1, "S forgets");
        }
        ensure!(s.recall()? == items, "{:?}", s.recall()?);

        let (sum, call) = s.attested(&[7; 32]).summarize(&request(parts, None), 0)?;
        ensure!(sum.is_ok(), "{sum:?}");
        drop(call);
        s.unregister()?;
        Ok(())
    })
}

/// Another opinion of what S's entries carry, in registers of the same kinds.
mod wrong {
    trustvisor::stubs! {
        pub struct Wrong {
            fn count() -> u64;
            fn summarize(request: u8) -> String;
            fn remember(item: &str) -> Vec<u64>;
            fn recall() -> (u8, u8, u8) where size <= 256;
            fn fill(pattern: Vec<u64>, out: trustvisor::Out<'_>) -> u8;
            fn take(bytes: usize) -> u64;
            fn has(bytes: usize) -> bool;
            fn churn(rounds: u64) -> u64;
            fn fail(how: u32) -> u64;
        }
    }
}

pub fn apart() -> anyhow::Result<()> {
    let s = Sdk::register(IMAGE)?;
    match s.summarize(&request(vec![Part::Bytes { at: 0, bytes: vec![0; 64 << 10] }], None), 0) {
        Err(Error::TooLarge { needed, room: 65_536 }) if needed > 65_536 => {}
        other => bail!("arguments larger than the parameter section: {other:?}"),
    }
    ensure!(s.count()? == 1, "S saw what did not fit");
    let long = "x".repeat(300);
    s.remember(&long)?;
    match s.recall() {
        Err(Error::ValueTooLarge { needed: 303, room: 256 }) => {}
        other => bail!("a value larger than its room: {other:?}"),
    }
    s.unregister()?;

    let s = wrong::Wrong::register(IMAGE)?;
    match s.summarize(200) {
        Err(Error::Malformed) => {}
        other => bail!("what S does not decode: {other:?}"),
    }
    match s.fill(vec![1 << 63], Out(&mut [0; 4])) {
        Ok(1) | Err(Error::Malformed) => {}
        other => bail!("another type of the same bytes: {other:?}"),
    }
    match s.recall() {
        Err(Error::BadValue) => {}
        other => bail!("what the application does not decode: {other:?}"),
    }
    ensure!(s.count()? == 2, "S died, or a call that was refused has run");
    Ok(())
}
