//! Sealed storage as applications and their PALs use it: S1 seals for itself and for S2, and S2 learns who it was.

use crate::support::{IMAGE, TestPal, expect_error, hex, random, register};
use anyhow::ensure;
use trustvisor::abi::Status;
use trustvisor::abi::seal::{MAX_DATA, OVERHEAD};
use trustvisor::{Out, image};

/// What S answers where sealing or unsealing fails.
pub const FAILED: u64 = 0x100_0000;
/// Of `unseal_here`: bytes of the sealer's identity.
const IDENTITY: usize = 32;

pub fn seal(s: &TestPal, whom: &[u8], data: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut blob = vec![0; data.len() + OVERHEAD];
    let length = s.seal_for(whom, data, Out(&mut blob))?;
    ensure!(length == blob.len() as u64, "sealing answers {length:#x}");
    Ok(blob)
}

/// Who sealed it, and the data.
pub fn unseal(s: &TestPal, blob: &[u8]) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let mut out = vec![0; IDENTITY + MAX_DATA];
    let length = s.unseal_here(blob, Out(&mut out))?;
    ensure!(length < FAILED, "unsealing answers {length:#x}");
    out.truncate(IDENTITY + length as usize);
    let data = out.split_off(IDENTITY);
    Ok((out, data))
}

fn does_not_open(what: &str, s: &TestPal, blob: &[u8]) -> anyhow::Result<()> {
    let mut out = vec![0; IDENTITY + MAX_DATA];
    let answer = s.unseal_here(blob, Out(&mut out))?;
    ensure!(answer == FAILED + Status::DoesNotOpen as u64, "{what}: answer {answer:#x}");
    ensure!(out.iter().all(|byte| *byte == 0), "{what}: S was given something");
    Ok(())
}

/// S with one byte changed that nothing depends on.
pub fn another_image() -> Vec<u8> {
    const MARK: &[u8] = b"tvtest, any byte";
    let mut image = IMAGE.to_vec();
    let at = image.windows(MARK.len()).position(|window| window == MARK).expect("the mark of S");
    image[at] ^= 1;
    image
}

pub fn run() -> anyhow::Result<()> {
    let other_image = another_image();
    let (s1, s2) = (register()?, TestPal::register(&other_image)?);
    let (id1, id2) = (image::measure(IMAGE).sha256, image::measure(&other_image).sha256);
    ensure!(id1 != id2, "one byte changes nothing");

    for length in [0, 1, 32, MAX_DATA] {
        let data: Vec<u8> = (0..length).map(|i| i as u8 ^ random().unwrap_or(7) as u8).collect();
        let blob = seal(&s1, &[], &data)?;
        ensure!(
            length < 16 || blob.windows(16).all(|window| !data.windows(16).any(|d| d == window)),
            "data in clear"
        );
        ensure!(unseal(&s1, &blob)? == (id1.to_vec(), data.clone()), "{length} bytes do not come back");
        does_not_open("S with one byte changed", &s2, &blob)?;
        // A second instance of the same image is the same PAL.
        let again = register()?;
        ensure!(unseal(&again, &blob)?.1 == data, "another instance of S");
        again.unregister()?;
    }

    let for_s2 = seal(&s1, &id2, b"from S1 to S2")?;
    ensure!(
        unseal(&s2, &for_s2)? == (id1.to_vec(), b"from S1 to S2".to_vec()),
        "S2 does not learn that it was S1"
    );
    does_not_open("S1 on what it sealed for S2", &s1, &for_s2)?;
    // A hostile PAL can seal for S2 as well, and cannot hide who it is.
    let forged = seal(&s2, &id2, b"from S1 to S2")?;
    ensure!(unseal(&s2, &forged)?.0 == id2, "the forger is taken for S1");

    let blob = seal(&s1, &[1], b"for this state")?;
    ensure!(unseal(&s1, &blob)?.1 == b"for this state", "in the same state");
    ensure!(s1.pcr_extend(1, &[5; 52])? == 0, "PCR 1");
    does_not_open("after PCR 1 was extended", &s1, &blob)?;

    for changed in [0, 8, 12, 16, 48, 64, 319, 320, blob.len() - 33, blob.len() - 1] {
        let mut copy = for_s2.clone();
        copy[changed.min(for_s2.len() - 1)] ^= 0x80;
        does_not_open("a changed blob", &s2, &copy)?;
    }
    does_not_open("a cut blob", &s2, &for_s2[..for_s2.len() - 1])?;
    does_not_open("no blob", &s2, &[])?;
    let mut long = vec![0; MAX_DATA + 1 + OVERHEAD];
    let answer = s1.seal_for(&[], &[0; MAX_DATA + 1], Out(&mut long))?;
    ensure!(answer == FAILED + Status::BadArgument as u64, "too much to seal: answer {answer:#x}");
    let answer = s1.seal_for(&[], b"data", Out(&mut [0; OVERHEAD]))?;
    ensure!(answer == FAILED + Status::BadArgument as u64, "no room for the blob: answer {answer:#x}");

    let (mut one, mut two) = (vec![0; 5000], vec![0; 5000]);
    ensure!(s1.random_bytes(Out(&mut one))? == 0 && s2.random_bytes(Out(&mut two))? == 0, "random numbers");
    let equal = one.iter().zip(&two).filter(|(a, b)| a == b).count();
    ensure!(equal < 100, "{equal} of 5000 random bytes are equal");
    s1.unregister()?;
    s2.unregister()?;
    let gone = register()?;
    gone.pal().abort()?;
    expect_error("after the end", gone.random_bytes(Out(&mut one)), Status::NoSuchPal)
}

/// Where a blob is kept between two boots.
const BLOB: &str = "/tmp/blob";

/// Before a reboot: S1 makes a secret and seals it for S2, which opens it once, to compare.
pub fn for_later() -> anyhow::Result<()> {
    let (s1, s2) = (register()?, TestPal::register(&another_image())?);
    let mut secret = [0; 32];
    ensure!(s1.random_bytes(Out(&mut secret))? == 0, "random numbers");
    let blob = seal(&s1, &image::measure(&another_image()).sha256, &secret)?;
    ensure!(unseal(&s2, &blob)?.1 == secret, "S2 does not open it");
    println!("tvtest: sealed {}", hex(&secret));
    Ok(std::fs::write(BLOB, blob)?)
}

/// The root as `trustvisor root save` gets it, without the RSA key that it takes its time to make.
pub fn save_root() -> anyhow::Result<()> {
    Ok(std::fs::write("/tmp/root", trustvisor::saved_root()?)?)
}

/// After the reboot: S2 opens it, and learns that S1 made it; S1 does not.
pub fn later() -> anyhow::Result<()> {
    let (s1, s2) = (register()?, TestPal::register(&another_image())?);
    let blob = std::fs::read(BLOB)?;
    let (sealer, secret) = unseal(&s2, &blob)?;
    ensure!(sealer == image::measure(IMAGE).sha256, "S1 is not named as the sealer");
    does_not_open("S1 on what it sealed for S2", &s1, &blob)?;
    println!("tvtest: unsealed {}", hex(&secret));
    Ok(())
}

/// Under another root nobody opens it.
pub fn no_longer() -> anyhow::Result<()> {
    let (s1, s2) = (register()?, TestPal::register(&another_image())?);
    let blob = std::fs::read(BLOB)?;
    does_not_open("S1 under another root", &s1, &blob)?;
    does_not_open("S2 under another root", &s2, &blob)
}
