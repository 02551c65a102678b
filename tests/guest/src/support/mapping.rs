//! Memory whose mapping is a test's subject.

use super::system;
use std::os::fd::AsRawFd;

pub const PAGE: usize = 4096;

/// A mapping of its own, unmapped when dropped. Its bytes are read and written by raw pointers: other processes, the kernel and
/// TrustVisor change them too.
pub struct Mapping {
    address: *mut u8,
    length: usize,
}

// SAFETY: threads share an address and a length; to the bytes they do what processes that share them do.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Anonymous private memory, not paged in.
    pub fn anonymous(pages: usize) -> anyhow::Result<Self> {
        Self::new(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// The same below 2 GiB.
    pub fn low(pages: usize) -> anyhow::Result<Self> {
        Self::new(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT, -1, 0)
    }

    /// Anonymous memory that forked children share.
    pub fn shared_anonymous(pages: usize) -> anyhow::Result<Self> {
        Self::new(pages, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// A shared mapping of a file.
    pub fn shared(file: &impl AsRawFd, offset: u64, pages: usize) -> anyhow::Result<Self> {
        Self::new(pages, libc::MAP_SHARED, file.as_raw_fd(), offset)
    }

    /// A private mapping of a file.
    pub fn private(file: &impl AsRawFd, offset: u64, pages: usize) -> anyhow::Result<Self> {
        Self::new(pages, libc::MAP_PRIVATE, file.as_raw_fd(), offset)
    }

    /// Anonymous private memory at this address, or where the kernel prefers.
    pub fn at(address: u64, pages: usize) -> anyhow::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        Self::map(address, pages, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// The start of a file, for reading.
    pub fn shared_read_only(file: &impl AsRawFd, pages: usize) -> anyhow::Result<Self> {
        Self::with(pages, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
    }

    fn new(pages: usize, flags: i32, file: i32, offset: u64) -> anyhow::Result<Self> {
        Self::with(pages, libc::PROT_READ | libc::PROT_WRITE, flags, file, offset)
    }

    fn with(pages: usize, protection: i32, flags: i32, file: i32, offset: u64) -> anyhow::Result<Self> {
        Self::map(0, pages, protection, flags, file, offset)
    }

    fn map(
        hint: u64,
        pages: usize,
        protection: i32,
        flags: i32,
        file: i32,
        offset: u64,
    ) -> anyhow::Result<Self> {
        let (hint, length) = (hint as *mut libc::c_void, pages * PAGE);
        // SAFETY: a new mapping at an address of the kernel's choice; the hint is no more than that.
        let address = unsafe { libc::mmap(hint, length, protection, flags, file, offset as i64) };
        system("mmap", if address == libc::MAP_FAILED { -1 } else { 0 })?;
        Ok(Self { address: address.cast(), length })
    }

    pub fn address(&self) -> u64 {
        self.address as u64
    }

    pub fn read(&self, offset: usize) -> u8 {
        assert!(offset < self.length);
        // SAFETY: inside the mapping.
        unsafe { self.address.add(offset).read_volatile() }
    }

    pub fn write(&self, offset: usize, value: u8) {
        assert!(offset < self.length);
        // SAFETY: inside the mapping; tests do not write where they took the right to.
        unsafe { self.address.add(offset).write_volatile(value) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        (0..self.length).map(|offset| self.read(offset)).collect()
    }

    /// The same, by words: for much of it.
    pub fn copy(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(self.length);
        for offset in (0..self.length).step_by(size_of::<u64>()) {
            // SAFETY: inside the mapping, which consists of whole pages.
            let word = unsafe { self.address.add(offset).cast::<u64>().read_volatile() };
            copy.extend_from_slice(&word.to_ne_bytes());
        }
        copy
    }

    pub fn fill(&self, bytes: &[u8]) {
        bytes.iter().enumerate().for_each(|(offset, byte)| self.write(offset, *byte));
    }

    /// The memory as a slice. The test does not touch it otherwise while it has the slice.
    #[allow(clippy::mut_from_ref)]
    pub fn slice(&self) -> &mut [u8] {
        // SAFETY: mapped as long as `self` lives; that it is the only access is the test's part.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.length) }
    }

    pub fn protect(&self, page: usize, pages: usize, protection: i32) -> anyhow::Result<()> {
        // SAFETY: pages of this mapping.
        let result = unsafe { libc::mprotect(self.page(page), pages * PAGE, protection) };
        system("mprotect", result).map(drop)
    }

    pub fn advise(&self, advice: i32) -> anyhow::Result<()> {
        // SAFETY: the whole of this mapping, with an advice that keeps or drops its contents as the test wants.
        system("madvise", unsafe { libc::madvise(self.page(0), self.length, advice) }).map(drop)
    }

    /// Takes pages out of the mapping.
    pub fn unmap(&self, page: usize, pages: usize) -> anyhow::Result<()> {
        // SAFETY: pages of this mapping; unmapping them again when dropped does nothing.
        system("munmap", unsafe { libc::munmap(self.page(page), pages * PAGE) }).map(drop)
    }

    /// Whether a page is in memory.
    pub fn resident(&self, page: usize) -> anyhow::Result<bool> {
        let mut state = 0u8;
        // SAFETY: one page of this mapping, one byte for the answer.
        system("mincore", unsafe { libc::mincore(self.page(page), PAGE, &mut state) })?;
        Ok(state & 1 != 0)
    }

    fn page(&self, page: usize) -> *mut libc::c_void {
        assert!(page * PAGE <= self.length);
        self.address.wrapping_add(page * PAGE).cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used after this. Nothing can be done if it fails.
        unsafe { libc::munmap(self.address.cast(), self.length) };
    }
}
