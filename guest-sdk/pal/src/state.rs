//! What S keeps between calls, without `unsafe`.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

/// A value in a `static` of S, lent to one borrower at a time.
///
/// ```
/// use trustvisor_pal::State;
///
/// static TRIES: State<u32> = State::new(0);
///
/// fn count() -> u32 {
///     TRIES.with(|tries| {
///         *tries += 1;
///         *tries
///     })
/// }
/// assert_eq!((count(), count()), (1, 2));
/// ```
///
/// S runs one call at a time, so nobody ever waits. On a host, where tests run in threads, the second waits for the first.
pub struct State<T> {
    value: UnsafeCell<T>,
    borrower: AtomicUsize,
}

// SAFETY: `with` lends the value to one borrower at a time.
unsafe impl<T: Send> Sync for State<T> {}

const NOBODY: usize = 0;

impl<T> State<T> {
    /// With what S starts with, at each registration.
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), borrower: AtomicUsize::new(NOBODY) }
    }

    /// Lends the value.
    ///
    /// # Panics
    /// Within itself, on the same state.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        let _borrowed = self.borrow();
        // SAFETY: nobody else has it before `_borrowed` is dropped.
        f(unsafe { &mut *self.value.get() })
    }

    /// A copy of the value.
    pub fn get(&self) -> T
    where
        T: Copy,
    {
        self.with(|value| *value)
    }

    /// Puts another value in its place, and returns the one before.
    pub fn replace(&self, value: T) -> T {
        self.with(|old| core::mem::replace(old, value))
    }

    fn borrow(&self) -> Borrowed<'_> {
        let me = this_thread();
        while let Err(borrower) =
            self.borrower.compare_exchange_weak(NOBODY, me, Ordering::Acquire, Ordering::Relaxed)
        {
            assert!(borrower != me, "a state is lent within itself");
            core::hint::spin_loop();
        }
        Borrowed(&self.borrower)
    }
}

struct Borrowed<'a>(&'a AtomicUsize);

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.0.store(NOBODY, Ordering::Release);
    }
}

#[cfg(target_os = "none")]
fn this_thread() -> usize {
    1
}

#[cfg(not(target_os = "none"))]
fn this_thread() -> usize {
    std::thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| &raw const *here as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_is_put_there() {
        static STATE: State<Option<Vec<u8>>> = State::new(None);
        assert_eq!(STATE.replace(Some(vec![1])), None);
        STATE.with(|value| value.as_mut().unwrap().push(2));
        assert_eq!(STATE.replace(None), Some(vec![1, 2]));
        assert_eq!(State::new(7).get(), 7);
    }

    #[test]
    #[should_panic(expected = "within itself")]
    fn it_is_not_lent_twice() {
        static STATE: State<u8> = State::new(0);
        STATE.with(|_| STATE.get());
    }

    #[test]
    fn a_panic_gives_it_back() {
        static STATE: State<u8> = State::new(3);
        let _ = std::panic::catch_unwind(|| STATE.with(|_| panic!("on purpose")));
        assert_eq!(STATE.get(), 3);
    }

    #[test]
    fn threads_take_turns() {
        static STATE: State<u64> = State::new(0);
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..10_000).for_each(|_| STATE.with(|value| *value += 1))))
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(STATE.get(), 40_000);
    }
}
