//! A registered PAL.

use crate::hypercall::{NO_HANDLE, hypercall, hypercall_with_nonce, presence};
use crate::owner_page::OwnerPage;
use crate::{Error, image};
use abi::image::{MAX_ARGS, arg, kind};
use abi::quote::{AttestedCall, MAX_REPORT};
use abi::{Handle, PalInfo, Status, number};
use std::mem::MaybeUninit;
use trustvisor_pal::args::Registers;

/// A registered PAL. Dropping it wipes S.
///
/// It may be shared between threads; while one calls, the others get [`Status::Busy`] ([`crate::Session`] waits). It belongs to this
/// process: a forked child's copy answers [`Status::NoSuchPal`], and after `execve` there is none; TrustVisor wipes S when it finds that
/// nobody owns it any more ([`crate::collect`]). A signal handler may interrupt a call and make calls to other PALs; to this one, it gets
/// [`Status::Busy`]. A handler that leaves the call for good (`longjmp`) leaves S in the middle of it: [`Pal::abort`].
pub struct Pal {
    owner: OwnerPage,
    signatures: Vec<[u8; MAX_ARGS]>,
    /// Bytes of the parameter section.
    room: u64,
}

impl Pal {
    /// Registers an image ([`image`]).
    pub fn register(image: &[u8]) -> Result<Self, Error> {
        presence()?;
        let header = image::header(image).map_err(Error::Image)?;
        let signatures = header.entries[..header.entry_count.into()].iter().map(|entry| entry.args).collect();
        let room = header.section(kind::PARAM).map_or(0, |section| section.mem_size);
        Self::register_by(number::REGISTER, image, signatures, room)
    }

    /// Registers the quoting PAL, whose image TrustVisor has.
    pub(crate) fn register_quoting(signatures: &[[u8; MAX_ARGS]]) -> Result<Self, Error> {
        presence()?;
        Self::register_by(number::REGISTER_QUOTING, &[], signatures.into(), u64::MAX)
    }

    fn register_by(
        number: u16,
        image: &[u8],
        signatures: Vec<[u8; MAX_ARGS]>,
        room: u64,
    ) -> Result<Self, Error> {
        let pal = Self { owner: OwnerPage::new()?, signatures, room };
        let arguments = [image.as_ptr() as u64, image.len() as u64, pal.owner.address(), 0, 0, 0];
        // SAFETY: TrustVisor is there; it reads the image and writes the owner page, which is ours.
        Error::check(unsafe { hypercall(number.into(), NO_HANDLE, arguments) })?;
        Ok(pal)
    }

    /// Calls the entry of this index. The arguments must be what the image declares.
    pub fn call(&self, entry: u16, arguments: Registers<'_>) -> Result<u64, Error> {
        // SAFETY: every address in the registers is that of a live buffer that `arguments` borrows, for writing where it is written.
        unsafe { self.call_raw(entry, arguments.kinds(), arguments.values(), None) }
    }

    /// Calls the entry of this index and has TrustVisor hash what S is given and what it answers: [`Pal::call_report`] then says so to a
    /// verifier, whose `nonce` it is. The verifier needs the arguments and the results to compute the same hashes.
    pub fn call_attested(
        &self,
        entry: u16,
        arguments: Registers<'_>,
        nonce: &[u8; 32],
    ) -> Result<u64, Error> {
        // SAFETY: as in `call`.
        unsafe { self.call_raw(entry, arguments.kinds(), arguments.values(), Some(nonce)) }
    }

    /// A call, attested if there is a nonce, with registers of these [`abi::image::arg`] kinds and values.
    ///
    /// # Safety
    /// What the kinds call a buffer is memory of the caller's, as long as its length says, that TrustVisor may read and write as the kind
    /// says.
    pub unsafe fn call_raw(
        &self,
        entry: u16,
        kinds: [u8; MAX_ARGS],
        values: [u64; MAX_ARGS],
        nonce: Option<&[u8; 32]>,
    ) -> Result<u64, Error> {
        if self.signatures.get(usize::from(entry)) != Some(&kinds) {
            return Err(Error::Signature(entry));
        }
        let lengths = kinds.iter().zip(values).filter(|(kind, _)| **kind == arg::LEN);
        // As TrustVisor lays them out.
        let needed = lengths.fold(0u64, |needed, (_, length)| {
            needed.checked_next_multiple_of(16).and_then(|at| at.checked_add(length)).unwrap_or(u64::MAX)
        });
        if needed > self.room {
            return Err(Error::TooLarge { needed, room: self.room });
        }
        let number = if nonce.is_some() { number::CALL_ATTESTED } else { number::CALL };
        let call = u64::from(number) | u64::from(entry) << 16;
        let (words, _) = nonce.unwrap_or(&[0; 32]).as_chunks::<8>();
        let nonce = [0, 1, 2, 3].map(|i: usize| u64::from_le_bytes(words[i]));
        // SAFETY: registered, so TrustVisor is there. It treats the registers as the image's signature says, which is `kinds`, and
        // the caller promises the rest.
        Error::check(unsafe { hypercall_with_nonce(call, self.handle(), values, nonce) })
    }

    /// The last attested call, and a report on it for [`crate::Quoting::sign`]: on the PCRs whose bits are set in `pcrs` (bit 0 must be), for
    /// the [`abi::quote::key`] that is to sign.
    pub fn call_report(&self, pcrs: u8, key: u8) -> Result<(AttestedCall, Vec<u8>), Error> {
        let mut bytes = vec![0; size_of::<AttestedCall>() + MAX_REPORT];
        let what = u64::from(pcrs) | u64::from(key) << 8;
        let arguments = [what, bytes.as_mut_ptr() as u64, bytes.len() as u64, 0, 0, 0];
        // SAFETY: registered, so TrustVisor is there; the buffer is ours and as long as said.
        let length =
            Error::check(unsafe { hypercall(number::CALL_REPORT.into(), self.handle(), arguments) })?;
        bytes.truncate(length as usize);
        let (call, report) = bytes.split_first_chunk().ok_or(Error::Quoting)?;
        Ok((attested_call(call), report.to_vec()))
    }

    /// The signature of an entry, an [`abi::image::arg`] for each register.
    pub fn signature(&self, entry: u16) -> Result<[u8; MAX_ARGS], Error> {
        self.signatures.get(usize::from(entry)).copied().ok_or(Error::Signature(entry))
    }

    /// Whether the image's entries are these.
    pub fn has_signatures(&self, signatures: &[[u8; MAX_ARGS]]) -> Result<(), Error> {
        let differs = |i: &usize| self.signatures.get(*i) != signatures.get(*i);
        match (0..self.signatures.len().max(signatures.len())).find(differs) {
            Some(entry) => Err(Error::Signature(entry as u16)),
            None => Ok(()),
        }
    }

    /// What TrustVisor says about this PAL.
    pub fn info(&self) -> Result<PalInfo, Error> {
        let mut info = MaybeUninit::<PalInfo>::zeroed();
        let arguments = [info.as_mut_ptr() as u64, size_of::<PalInfo>() as u64, 0, 0, 0, 0];
        // SAFETY: registered, so TrustVisor is there; the buffer is ours and as long as said.
        Error::check(unsafe { hypercall(number::PAL_INFO.into(), self.handle(), arguments) })?;
        // SAFETY: a `PalInfo` is made of integers, so every bit pattern is valid.
        Ok(unsafe { info.assume_init() })
    }

    /// Wipes S in the middle of a call that will never be finished: a signal handler that does not return
    /// into it, another thread that gives up waiting.
    pub fn abort(&self) -> Result<(), Error> {
        self.end(number::ABORT)
    }

    /// Wipes S and says how that went; dropping the PAL does the same silently.
    pub fn unregister(self) -> Result<(), Error> {
        self.end(number::UNREGISTER)
    }

    /// The capability to call S, from this process.
    pub fn handle(&self) -> Handle {
        self.owner.handle()
    }

    /// Where the owner page lies.
    pub fn owner_page(&self) -> u64 {
        self.owner.address()
    }

    fn end(&self, number: u16) -> Result<(), Error> {
        // SAFETY: TrustVisor was there when this PAL was registered; the call takes no address.
        Error::check(unsafe { hypercall(number.into(), self.handle(), [0; 6]) }).map(|_| ())
    }
}

/// The reverse of [`AttestedCall::to_bytes`].
fn attested_call(bytes: &[u8; size_of::<AttestedCall>()]) -> AttestedCall {
    let hash = |at: usize| bytes[at..].first_chunk().map_or([0; 32], |hash| *hash);
    let number = bytes[64..].first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    AttestedCall { input_hash: hash(0), output_hash: hash(32), number, chain: hash(72) }
}

impl Drop for Pal {
    fn drop(&mut self) {
        if self.handle() == NO_HANDLE {
            return;
        }
        let left_in_a_call = |error: Error| error.status() == Some(Status::Busy);
        if self.end(number::UNREGISTER).is_err_and(left_in_a_call) {
            let _ = self.end(number::ABORT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trustvisor_pal::args::Argument;

    /// Not registered, so whatever reaches TrustVisor is an invalid opcode here.
    fn pal(signatures: &[[u8; MAX_ARGS]]) -> Pal {
        Pal { owner: OwnerPage::new().unwrap(), signatures: signatures.into(), room: 4096 }
    }

    #[test]
    fn only_the_image_s_signature_is_called() {
        let pal = pal(&[[arg::IN, arg::LEN, 0, 0, 0, 0]]);
        let mut integers = Registers::default();
        4096u64.put(&mut integers);
        8u64.put(&mut integers);
        assert!(matches!(pal.call(0, integers), Err(Error::Signature(0))));
        let mut buffer = Registers::default();
        b"data".as_slice().put(&mut buffer);
        assert!(matches!(pal.call(1, buffer), Err(Error::Signature(1))));
        assert!(matches!(pal.call(0, Registers::new([4096, 8, 0, 0, 0, 0])), Err(Error::Signature(0))));
    }

    #[test]
    fn stubs_and_image_must_agree_in_all_entries() {
        let (one, other) = ([arg::INT; 6], [0; 6]);
        assert!(pal(&[one, other]).has_signatures(&[one, other]).is_ok());
        assert!(matches!(pal(&[one, other]).has_signatures(&[one]), Err(Error::Signature(1))));
        assert!(matches!(pal(&[one]).has_signatures(&[one, other]), Err(Error::Signature(1))));
        assert!(matches!(pal(&[one]).has_signatures(&[other]), Err(Error::Signature(0))));
    }

    #[test]
    fn what_does_not_fit_is_not_called() {
        let pal = pal(&[[arg::IN, arg::LEN, arg::OUT, arg::LEN, 0, 0]]);
        let refused = |first: usize, second: usize| {
            let (data, mut out) = (vec![0; first], vec![0; second]);
            let mut registers = Registers::default();
            data.as_slice().put(&mut registers);
            trustvisor_pal::Out(&mut out).put(&mut registers);
            pal.call(0, registers).unwrap_err().to_string()
        };
        assert_eq!(
            refused(2049, 2048),
            "the call's buffers need 4112 bytes of the parameter section, which has 4096"
        );
        assert!(refused(4096, 1).contains("4097 bytes"));
        // SAFETY: nothing is called.
        let huge = unsafe { pal.call_raw(0, pal.signatures[0], [0, u64::MAX, 0, u64::MAX, 0, 0], None) };
        assert!(matches!(huge, Err(Error::TooLarge { needed: u64::MAX, room: 4096 })));
    }

    #[test]
    fn nothing_is_called_without_trustvisor() {
        assert!(matches!(Pal::register(&[]), Err(Error::NotPresent)));
        assert!(matches!(crate::info(), Err(Error::NotPresent)));
        assert!(matches!(crate::collect(), Err(Error::NotPresent)));
    }
}
