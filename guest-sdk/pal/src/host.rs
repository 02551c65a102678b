//! The micro-TPM's stand-in for tests of S's logic on a host: feature `host`. **It protects nothing**: it lives in the process, and what
//! it seals with is a constant of this file. On S's target none of it is compiled, whatever the features.
//!
//! Each thread is a PAL of its own, with PCRs and counters of its own, so that tests that run beside each other do not meet. What one
//! thread seals, another opens if it is the same PAL, also in another process.
//!
//! ```
//! # #[cfg(feature = "host")] {
//! use trustvisor_pal::seal::{OVERHEAD, Policy, seal, unseal};
//! use trustvisor_pal::{Status, host};
//!
//! let mut blob = [0; 3 + OVERHEAD];
//! seal(b"key", &Policy::this_pal()?, &mut blob)?;
//! let mut key = [0; 3];
//! assert_eq!(host::run_as(b"another image", || unseal(&blob, &mut key).map(drop)), Err(Status::DoesNotOpen));
//! assert_eq!(unseal(&blob, &mut key)?.0, 3);
//! # }
//! # Ok::<(), trustvisor_pal::Status>(())
//! ```

use abi::quote::{MAX_NONCE, TAG_QUOTE};
use abi::seal::{Creator, MAX_DATA, OVERHEAD, Policy};
use abi::{Digests, MAX_RANDOM, RELEASE, Status, number};
use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use utpm::{Counters, Hasher, Identity, Pcrs, Root};

/// Known to everybody.
const ROOT: [u8; Root::SIZE] = [0x55; Root::SIZE];
const REPORT_KEY: [u8; 32] = [0x55; 32];
/// The counters that S of one machine has in all.
const COUNTERS: usize = 15;

struct Tpm {
    pcrs: Pcrs,
    counters: Counters,
    places: usize,
    counters_fail: Option<Status>,
}

thread_local!(static TPM: RefCell<Tpm> = RefCell::new(Tpm {
    pcrs: Pcrs::new(measure(b"")),
    counters: Counters::new(&[0; Counters::SIZE]),
    places: 0,
    counters_fail: None,
}));

fn measure(image: &[u8]) -> Digests {
    let mut hasher = Hasher::measurement();
    hasher.update(image);
    hasher.finish()
}

/// Runs `f` as a PAL of this image that has just been registered: other identity, PCRs 1 to 7 zero. Afterwards this thread is the PAL that
/// it was before. Statics of S are the process's, and stay as they are.
pub fn run_as<T>(image: &[u8], f: impl FnOnce() -> T) -> T {
    struct Before(Pcrs);
    impl Drop for Before {
        fn drop(&mut self) {
            with(|tpm| core::mem::swap(&mut tpm.pcrs, &mut self.0));
        }
    }
    let now = Pcrs::new(measure(image));
    let _before = Before(with(|tpm| core::mem::replace(&mut tpm.pcrs, now)));
    f()
}

/// Registers this PAL anew: PCRs 1 to 7 are zero. Counters stay.
pub fn restart() {
    with(|tpm| tpm.pcrs = Pcrs::new(*tpm.pcrs.measurement()));
}

/// From now on the counters of this thread answer this, until it is `None`: [`Status::NotKept`] as a hardware TPM that is not to be had
/// (nothing is counted then), [`Status::Unsupported`] as a machine without counters.
pub fn counters_fail(status: Option<Status>) {
    with(|tpm| tpm.counters_fail = status);
}

fn with<T>(f: impl FnOnce(&mut Tpm) -> T) -> T {
    TPM.with_borrow_mut(f)
}

/// # Safety
/// As of the hypercall: the pointers are to memory that it may use as it does.
pub(crate) unsafe fn hypercall(number: u16, arguments: [u64; 5]) -> Result<u64, Status> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: in each arm, the caller's promise of this hypercall's pointers and lengths.
    with(|tpm| unsafe {
        match number {
            number::PCR_READ => {
                let value = tpm.pcrs.read(a).ok_or(Status::BadArgument)?;
                (b as *mut Digests).write_unaligned(*value);
                Ok(0)
            }
            number::PCR_EXTEND => {
                let digests = (b as *const Digests).read_unaligned();
                tpm.pcrs.extend(a, &digests).map(|()| 0).ok_or(Status::BadArgument)
            }
            number::SEAL => {
                let policy = (a as *const Policy).read_unaligned();
                tpm.seal(&policy, input(b, c), output(d, e))
            }
            number::UNSEAL => {
                let (creator, length) = tpm.unseal(input(a, b), output(c, d))?;
                (e as *mut Creator).write_unaligned(creator);
                Ok(length)
            }
            number::RANDOM => random(output(a, b)),
            number::QUOTE => tpm.quote(a, input(b, c), output(d, e)),
            number::COUNTER_READ => tpm.counter(a),
            number::COUNTER_INCREMENT => tpm.increment(a),
            _ => Err(Status::UnknownCall),
        }
    })
}

/// # Safety
/// `length` bytes there may be read as long as the result lives.
unsafe fn input<'a>(at: u64, length: u64) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(at as *const u8, length as usize) }
}

/// # Safety
/// `length` bytes there may be written as long as the result lives, and nobody else has them.
unsafe fn output<'a>(at: u64, length: u64) -> &'a mut [u8] {
    if length == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(at as *mut u8, length as usize) }
}

fn random(bytes: &mut [u8]) -> Result<u64, Status> {
    if bytes.len() > MAX_RANDOM {
        return Err(Status::BadArgument);
    }
    let filled = File::open("/dev/urandom").and_then(|mut source| source.read_exact(bytes));
    filled.map(|()| 0).map_err(|_| Status::Unsupported)
}

fn write(bytes: &[u8], room: &mut [u8]) -> Result<u64, Status> {
    room.get_mut(..bytes.len()).ok_or(Status::TooLarge)?.copy_from_slice(bytes);
    Ok(bytes.len() as u64)
}

impl Tpm {
    fn seal(&self, policy: &Policy, data: &[u8], room: &mut [u8]) -> Result<u64, Status> {
        let (mut iv, mut blob) = ([0; 16], [0; OVERHEAD + MAX_DATA]);
        random(&mut iv)?;
        let root = Root::new(&ROOT, [0; 32]);
        let length = utpm::seal::seal(&root, &self.pcrs, policy, iv, data, &mut blob);
        write(&blob[..length.ok_or(Status::BadArgument)?], room)
    }

    fn unseal(&self, blob: &[u8], room: &mut [u8]) -> Result<(Creator, u64), Status> {
        let (root, mut blob) = (Root::new(&ROOT, [0; 32]), blob.to_vec());
        let (creator, data) = utpm::seal::unseal(&root, &self.pcrs, &mut blob).ok_or(Status::DoesNotOpen)?;
        Ok((creator, write(data, room)?))
    }

    fn quote(&self, what: u64, nonce: &[u8], room: &mut [u8]) -> Result<u64, Status> {
        if nonce.len() > MAX_NONCE || what & 1 == 0 || what >> 16 != 0 {
            return Err(Status::BadArgument);
        }
        let (select, key) = (what as u8, (what >> 8) as u8);
        let identity = Identity::new(&Root::new(&ROOT, [0; 32]), &REPORT_KEY, Digests::default(), &[]);
        let subject = utpm::quote::Subject {
            pcrs: &self.pcrs,
            select,
            tag: TAG_QUOTE,
            data: nonce,
            clock: 0,
            boot: 1,
            release: RELEASE,
        };
        write(identity.report(key, &subject).ok_or(Status::Unsupported)?.bytes(), room)
    }

    fn counter(&self, number: u64) -> Result<u64, Status> {
        self.counters_fail.map_or_else(|| Ok(self.counters.read(&self.identity(), number)), Err)
    }

    fn increment(&mut self, number: u64) -> Result<u64, Status> {
        if self.counter(number)? == 0 {
            if self.places == COUNTERS {
                return Err(Status::TooMany);
            }
            self.places += 1;
        }
        let increment = self.counters.increment(&self.identity(), number).ok_or(Status::TooMany)?;
        self.counters.apply(&increment);
        Ok(increment.value())
    }

    fn identity(&self) -> [u8; 32] {
        self.pcrs.measurement().sha256
    }
}

#[cfg(test)]
mod tests;
