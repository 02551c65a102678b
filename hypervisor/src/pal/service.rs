//! The hypercalls of S: its micro-TPM. Each takes what it needs from S's memory first and answers there last, within bounds that keep
//! the time without interrupts below that of hashing a page.

use super::call::vmcb;
use super::{Hardware, Pal, Pals};
use crate::addr::{Gva, pieces};
use crate::hypercall::VMMCALL_LENGTH;
use abi::quote::{MAX_NONCE, TAG_QUOTE};
use abi::seal::{MAX_DATA, OVERHEAD, Policy};
use abi::{Digests, MAX_RANDOM, RELEASE, Status, number};
use utpm::quote::{Report, Subject};
use utpm::seal::{Blob, seal, unseal};
use zerocopy::{FromZeros, IntoBytes};
use zeroize::Zeroizing;

type Answer = Result<u64, Status>;

impl Pals {
    /// A hypercall of S: its micro-TPM. False: S has to wait, and stays where it is.
    #[cold]
    pub(super) fn serve(&self, pal: &mut Pal, hardware: &mut impl Hardware) -> bool {
        let rax = vmcb(self.mem, &mut pal.frames).save.rax;
        let answer = match u16::try_from(rax) {
            Ok(number::PCR_READ) => self.pcr_read(pal),
            Ok(number::PCR_EXTEND) => self.pcr_extend(pal),
            Ok(number::SEAL) => self.seal(pal),
            Ok(number::UNSEAL) => self.unseal(pal),
            Ok(number::RANDOM) => self.random(pal),
            Ok(number::QUOTE) => self.quote(pal, hardware.now_ms()),
            Ok(number::QUOTING_KEYS) => self.quoting_keys(pal),
            Ok(number::COUNTER_READ) => self.counter_read(pal),
            Ok(number::COUNTER_INCREMENT) => match self.counter_increment(pal, hardware) {
                Some(answer) => answer,
                None => return false,
            },
            _ => Err(Status::UnknownCall),
        };
        let (value, status) = match answer {
            Ok(value) => (value, Status::Ok),
            Err(status) => (0, status),
        };
        let vmcb = vmcb(self.mem, &mut pal.frames);
        vmcb.save.rax = value;
        vmcb.save.rip = vmcb.save.rip.wrapping_add(VMMCALL_LENGTH);
        pal.regs.rdx = status as u64;
        true
    }

    fn pcr_read(&self, pal: &Pal) -> Answer {
        let digests = pal.pcrs.read(pal.regs.rdi).ok_or(Status::BadArgument)?;
        self.write(pal, pal.regs.rsi, digests.as_bytes())
    }

    fn pcr_extend(&self, pal: &mut Pal) -> Answer {
        let mut digests = Digests::default();
        self.read(pal, pal.regs.rsi, digests.as_mut_bytes())?;
        pal.pcrs.extend(pal.regs.rdi, &digests).map(|()| 0).ok_or(Status::BadArgument)
    }

    fn seal(&self, pal: &Pal) -> Answer {
        let [policy_at, data_at, length, blob_at, room, _] = pal.regs.arguments();
        let root = self.tpm.root.as_ref().ok_or(Status::Unsupported)?;
        let mut data = Zeroizing::new([0; MAX_DATA]);
        let data = data.get_mut(..length as usize).ok_or(Status::BadArgument)?;
        if room < (data.len() + OVERHEAD) as u64 {
            return Err(Status::BadArgument);
        }
        let mut policy = Policy::new_zeroed();
        self.read(pal, policy_at, policy.as_mut_bytes())?;
        self.read(pal, data_at, data)?;
        let mut iv = [0; 16];
        self.tpm.random.lock().fill(&mut iv);
        let mut blob: Blob = [0; OVERHEAD + MAX_DATA];
        let length = seal(root, &pal.pcrs, &policy, iv, data, &mut blob).ok_or(Status::BadArgument)?;
        self.write(pal, blob_at, &blob[..length])?;
        Ok(length as u64)
    }

    fn unseal(&self, pal: &Pal) -> Answer {
        let [blob_at, length, data_at, room, creator_at, _] = pal.regs.arguments();
        let root = self.tpm.root.as_ref().ok_or(Status::Unsupported)?;
        let mut blob: Zeroizing<Blob> = Zeroizing::new([0; OVERHEAD + MAX_DATA]);
        let blob = blob.get_mut(..length as usize).ok_or(Status::DoesNotOpen)?;
        self.read(pal, blob_at, blob)?;
        let (creator, data) = unseal(root, &pal.pcrs, blob).ok_or(Status::DoesNotOpen)?;
        if (data.len() as u64) > room {
            return Err(Status::TooLarge);
        }
        self.write(pal, creator_at, creator.pcrs.as_flattened())?;
        self.write(pal, data_at, data)?;
        Ok(data.len() as u64)
    }

    fn random(&self, pal: &Pal) -> Answer {
        let [at, length, ..] = pal.regs.arguments();
        let mut bytes = Zeroizing::new([0; MAX_RANDOM]);
        let bytes = bytes.get_mut(..length as usize).ok_or(Status::BadArgument)?;
        self.tpm.random.lock().fill(bytes);
        self.write(pal, at, bytes)
    }

    /// A report on the PCRs of bits 7:0 of `what`, for the key of bits 15:8.
    pub(super) fn report(
        &self,
        pal: &Pal,
        what: u64,
        (tag, data): (u8, &[u8]),
        now_ms: u64,
    ) -> Result<Report, Status> {
        let identity = self.tpm.identity.as_ref().ok_or(Status::Unsupported)?;
        let [select, kind, rest @ ..] = what.to_le_bytes();
        if rest != [0; 6] || select & 1 == 0 {
            return Err(Status::BadArgument);
        }
        let (clock, boot) = (now_ms, self.tpm.launches);
        let subject = Subject { pcrs: &pal.pcrs, select, tag, data, clock, boot, release: RELEASE };
        identity.report(kind, &subject).ok_or(Status::Unsupported)
    }

    /// A report on S for the quoting PAL.
    fn quote(&self, pal: &Pal, now_ms: u64) -> Answer {
        let [what, nonce_at, length, at, room, _] = pal.regs.arguments();
        let mut nonce = [0; MAX_NONCE];
        let nonce = nonce.get_mut(..length as usize).ok_or(Status::BadArgument)?;
        self.read(pal, nonce_at, nonce)?;
        let report = self.report(pal, what, (TAG_QUOTE, nonce), now_ms)?;
        let bytes = report.bytes();
        if (bytes.len() as u64) > room {
            return Err(Status::TooLarge);
        }
        self.write(pal, at, bytes)?;
        Ok(bytes.len() as u64)
    }

    /// For nobody but the quoting PAL.
    fn quoting_keys(&self, pal: &Pal) -> Answer {
        let identity = self.tpm.identity.as_ref().filter(|_| pal.quoting).ok_or(Status::Unsupported)?;
        self.write(pal, pal.regs.rdi, &identity.quoting_keys()[..])
    }

    /// Reads S's memory.
    fn read(&self, pal: &Pal, at: u64, bytes: &mut [u8]) -> Result<(), Status> {
        for (at, piece) in pieces(Gva(at), bytes.len()) {
            let (place, _) = pal.frames.resolve(self.mem, at).ok_or(Status::BadAddress)?;
            self.mem.copy_from(place, &mut bytes[piece]);
        }
        Ok(())
    }

    /// Writes S's memory, where S itself could.
    fn write(&self, pal: &Pal, at: u64, bytes: &[u8]) -> Answer {
        for (at, piece) in pieces(Gva(at), bytes.len()) {
            let Some((place, true)) = pal.frames.resolve(self.mem, at) else {
                return Err(Status::BadAddress);
            };
            self.mem.copy_to(place, &bytes[piece]);
        }
        Ok(0)
    }
}
