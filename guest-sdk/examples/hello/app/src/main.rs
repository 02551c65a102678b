//! The smallest application with a PAL: registers S, calls it as it would call any functions, and says what happens.

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};
use trustvisor::Out;

static IMAGE: &[u8] = include_bytes!(env!("HELLO_PAL"));

trustvisor::stubs! {
    /// The functions of `hello-pal`.
    struct Hello {
        fn add(a: u64, b: u64) -> u64;
        fn sum(data: &[u8]) -> u64;
        fn set_secret(seed: u64);
        fn digest(out: Out<'_>) -> usize;
    }
}

fn main() -> anyhow::Result<()> {
    let info = trustvisor::info()?;
    println!(
        "hello: TrustVisor version {}, reserve {} MiB at {:#x}, {} of {} frames free",
        info.version,
        info.reserve_size >> 20,
        info.reserve_base,
        info.frames_free,
        info.frames_total
    );

    let hello = Hello::register(IMAGE).context("registering S")?;
    let s = hello.pal().info()?;
    println!("hello: registered, {} pages, measurement sha256 {}", s.pages, hex(&s.measurement.sha256));
    ensure!(s.measurement == trustvisor::image::measure(IMAGE), "TrustVisor measured something else");

    let five = hello.add(2, 3)?;
    println!("hello: add(2, 3) = {five}");
    ensure!(five == 5, "S cannot add");

    let bytes: Vec<u8> = (0..8192u32).map(|i| i as u8).collect();
    let sum = hello.sum(&bytes)?;
    println!("hello: sum of {} bytes = {sum}", bytes.len());
    ensure!(sum == bytes.iter().map(|b| u64::from(*b)).sum(), "S cannot sum");

    hello.set_secret(42)?;
    let mut digest = [0; 32];
    let length = hello.digest(Out(&mut digest))?;
    println!("hello: S keeps a secret whose sha256 is {}", hex(&digest[..length]));
    ensure!(digest[..] != Sha256::digest([0; 4096])[..], "S forgot its secret");

    hello.unregister()?;
    println!("hello: unregistered, {} frames free", trustvisor::info()?.frames_free);
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
