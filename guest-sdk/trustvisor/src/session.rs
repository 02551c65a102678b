//! Calls that survive S's death, a fork, and others who call at the same time.

use crate::Error;
use std::cell::UnsafeCell;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a call waits for S while others are in it, unless [`Session::patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often one call registers anew.
const LIVES: u32 = 3;
/// Between two attempts to get into S, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(2));

/// An S that is there whenever it is called: registered at the first call, and again in a forked child or when it is gone.
///
/// ```no_run
/// trustvisor::stubs! {
///     pub struct Hello {
///         fn add(a: u64, b: u64) -> u64;
///     }
/// }
///
/// # fn main() -> Result<(), trustvisor::Error> {
/// # let image: &'static [u8] = &[];
/// let hello = trustvisor::Session::new(move || Hello::register(image));
/// let five = hello.call(|s| s.add(2, 3))?;
/// # Ok(())
/// # }
/// ```
///
/// What S keeps in its memory goes with it. Where that matters the closure that registers brings S back to where it is to be (it
/// unseals a key, say), or there is no session: only who knows what S keeps knows whether a call may go to a new one.
///
/// | what happens | what the session does |
/// |---|---|
/// | another thread is in S (`Busy`) | waits and tries again, up to [`Session::patience`] |
/// | S is not there any more, or is the parent's (`NoSuchPal`): the call was not begun | registers anew and calls again |
/// | S was wiped in the middle of this call by somebody else (`Lost`): it may have been carried out in part | registers anew and calls again: what is called **must bear to be begun twice** |
/// | S died of what it did in this call (`Faulted`) | returns the error, for it would die again; the next call registers anew |
/// | anything else | returns the error |
///
/// Threads may share a session, and the process may fork whatever they are doing; the child registers at its first call. It is not for signal
/// handlers (they may interrupt the thread that they would wait for) nor for the closure that registers. After `execve` nothing is left
/// of it, and TrustVisor wipes S when it looks for the owner ([`crate::collect`]).
pub struct Session<S> {
    register: Box<dyn Fn() -> Result<S, Error> + Send + Sync>,
    patience: Duration,
    /// The process that has `current`, exclusively; 0: none.
    holder: AtomicU32,
    current: UnsafeCell<Current<S>>,
}

/// S, of the process that registered it.
struct Current<S> {
    process: u32,
    s: Option<Arc<S>>,
}

// SAFETY: `current` is used by the holder alone, and what it gives out is shared.
unsafe impl<S: Send + Sync> Sync for Session<S> {}
// SAFETY: `UnsafeCell` alone keeps it from being so by itself; it holds what may be sent.
unsafe impl<S: Send + Sync> Send for Session<S> {}

impl<S> Session<S> {
    /// With what registers S, and brings it where it is to be. Nothing is registered before the first call.
    pub fn new(register: impl Fn() -> Result<S, Error> + Send + Sync + 'static) -> Self {
        Self {
            register: Box::new(register),
            patience: PATIENCE,
            holder: AtomicU32::new(0),
            current: UnsafeCell::new(Current { process: 0, s: None }),
        }
    }

    /// How long a call waits while S is busy: 10 s, unless this says otherwise.
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Calls S. `f` is called again where the table above says so.
    pub fn call<T>(&self, f: impl Fn(&S) -> Result<T, Error>) -> Result<T, Error> {
        let mut lives = LIVES;
        loop {
            let s = self.current()?;
            match self.patiently(|| f(&s)) {
                Err(error) if error.is_gone() => {
                    self.forget(&s);
                    lives -= 1;
                    if error.status() == Some(abi::Status::Faulted) || lives == 0 {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }

    /// Wipes S, if there is one of this process, as soon as no call is in it. The next call registers anew.
    pub fn unregister(&self) {
        self.hold(|current| current.s = None);
    }

    fn patiently<T>(&self, f: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        let mut result = f();
        let (start, mut pause) = (Instant::now(), PAUSES.0);
        while result.as_ref().is_err_and(Error::is_busy) && start.elapsed() < self.patience {
            sleep(pause);
            pause = PAUSES.1.min(2 * pause);
            result = f();
        }
        result
    }

    fn current(&self) -> Result<Arc<S>, Error> {
        self.hold(|current| {
            if let Some(s) = &current.s {
                return Ok(s.clone());
            }
            let s = Arc::new((self.register)()?);
            current.s = Some(s.clone());
            Ok(s)
        })
    }

    /// This one is gone. Others may have registered another by now.
    fn forget(&self, gone: &Arc<S>) {
        self.hold(|current| drop(current.s.take_if(|s| Arc::ptr_eq(s, gone))));
    }

    /// Lends what there is of this process. A mutex would do but for `fork`: a child must neither wait for a thread that it does not have
    /// nor touch what that thread was changing.
    fn hold<T>(&self, f: impl FnOnce(&mut Current<S>) -> T) -> T {
        let me = process::id();
        let taken = |now: u32| if now == me { None } else { Some(me) };
        while self.holder.fetch_update(Ordering::Acquire, Ordering::Relaxed, taken).is_err() {
            sleep(PAUSES.0);
        }
        let _release = Release(&self.holder);
        // SAFETY: no other thread of this process holds it, and other processes have other memory.
        let current = unsafe { &mut *self.current.get() };
        if current.process != me {
            // The parent's, whose thread may have been writing it: not to be dropped. Its S cannot be reached from here.
            let new = Current { process: me, s: None };
            // SAFETY: borrowed exclusively; overwritten without being read.
            unsafe { std::ptr::write(current, new) };
        }
        f(current)
    }
}

struct Release<'a>(&'a AtomicU32);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
