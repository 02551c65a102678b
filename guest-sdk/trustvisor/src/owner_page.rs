//! The page by which TrustVisor knows that a PAL still has an owner: it holds the handle and nothing else.
//!
//! It is locked into memory, so that it does not reach a swap device, and zeroed in a forked child
//! (`MADV_WIPEONFORK`): a child that calls by mistake gets "no such PAL" and not a crash or the parent's PAL.

use crate::Error;
use abi::{Handle, image::PAGE_SIZE};
use std::{io, ptr};

pub struct OwnerPage(*mut Handle);

// SAFETY: the page is private to this value; it is written by TrustVisor at registration and only read afterwards.
unsafe impl Send for OwnerPage {}
// SAFETY: the same.
unsafe impl Sync for OwnerPage {}

impl OwnerPage {
    pub fn new() -> Result<Self, Error> {
        let size = PAGE_SIZE as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new private mapping of one page at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(ptr::null_mut(), size, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if page == libc::MAP_FAILED {
            return Err(Error::OwnerPage(io::Error::last_os_error()));
        }
        let page = Self(page.cast());
        // SAFETY: both calls concern the page just mapped, which `page` unmaps when they fail.
        let kept = unsafe {
            libc::madvise(page.0.cast(), size, libc::MADV_WIPEONFORK) == 0
                && libc::mlock(page.0.cast(), size) == 0
        };
        if kept { Ok(page) } else { Err(Error::OwnerPage(io::Error::last_os_error())) }
    }

    pub fn address(&self) -> u64 {
        self.0 as u64
    }

    pub fn handle(&self) -> Handle {
        // SAFETY: the page is mapped and readable as long as `self` lives. Volatile: TrustVisor writes it behind the compiler's back.
        unsafe { self.0.read_volatile() }
    }
}

impl Drop for OwnerPage {
    fn drop(&mut self) {
        // SAFETY: the page is ours alone and not used after this. The handle is a capability, so it goes first.
        unsafe {
            self.0.write_volatile(Handle { low: 0, high: 0 });
            libc::munmap(self.0.cast(), PAGE_SIZE as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_does_not_inherit_the_handle() {
        let page = OwnerPage::new().unwrap();
        // SAFETY: this test owns the page.
        unsafe { page.0.write_volatile(Handle { low: 1, high: 2 }) };
        // SAFETY: the child only reads the page and leaves by `_exit`.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let handle = page.handle();
            // SAFETY: leaves without running anything of the parent's.
            unsafe { libc::_exit(i32::from(handle.low != 0 || handle.high != 0)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child just made.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
        assert!(page.handle() == Handle { low: 1, high: 2 });
    }
}
