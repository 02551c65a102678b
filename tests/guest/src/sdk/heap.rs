//! S's heap has the size that was said, serves again what was given back, and S dies when it is full: in a way of its own.

use super::{IMAGE, Sdk};
use crate::support::leaving_nothing;
use anyhow::ensure;
use trustvisor::Error;
use trustvisor::abi::Status;
use trustvisor::abi::image::{HEADER_SIZE, kind};

const HEAP: usize = 256 << 10;

pub fn run() -> anyhow::Result<()> {
    let header = trustvisor::image::header(IMAGE).map_err(anyhow::Error::msg)?;
    let data = header.section(kind::DATA).map_or((0, 0), |section| (section.mem_size, section.file_size));
    ensure!(data.0 >= HEAP as u64 && data.1 < 4096, "the data section has {data:?} bytes");
    ensure!(
        IMAGE.len() < HEADER_SIZE + (64 << 10),
        "the image has {} bytes: the heap is part of it",
        IMAGE.len()
    );

    let s = Sdk::register(IMAGE)?;
    ensure!(!s.has(HEAP)?, "the heap is larger than was said");
    for bytes in [1, 4096, HEAP - 16_384, HEAP - 16_384] {
        ensure!(s.take(bytes)? == bytes as u64, "{bytes} bytes of heap are not what was put there");
    }
    ensure!(s.churn(20_000)? == 0, "blocks of the heap overlap");
    ensure!(s.has(HEAP - 16_384)?, "the heap does not serve again what was given back");
    s.unregister()?;

    let deaths = [
        ("a panic", 0, 1, "it panicked"),
        ("a state lent twice", 1, 1, "it panicked"),
        ("a heap that is full", 3, 0, "its heap is full"),
    ];
    for (what, how, detail, said) in deaths {
        leaving_nothing(|_| {
            let s = Sdk::register(IMAGE)?;
            let error = s.fail(how).err().ok_or_else(|| anyhow::anyhow!("{what}: S lives"))?;
            let as_said =
                matches!(error, Error::Refused { status: Status::Faulted, detail: found } if found == detail);
            ensure!(as_said && error.to_string().contains(said), "{what}: {error}");
            ensure!(s.count().is_err_and(|error| error.is_gone()), "{what}: S is still there");
            Ok(())
        })?;
    }
    Ok(())
}
