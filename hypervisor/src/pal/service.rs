//! The hypercalls of S: its micro-TPM.

use super::call::vmcb;
use super::{Pal, Pals};
use crate::addr::PAGE_SIZE;
use crate::hypercall::VMMCALL_LENGTH;
use abi::{Digests, Status, number};
use core::mem::size_of;

impl Pals {
    /// A hypercall of S: its micro-TPM.
    #[cold]
    pub(super) fn serve(&self, pal: &mut Pal) {
        let rax = vmcb(self.mem, &mut pal.frames).save.rax;
        let index = pal.regs.rdi;
        let pointer = pal.regs.rsi;
        let status = match u16::try_from(rax) {
            Ok(number::PCR_READ) => match pal.pcrs.as_ref().and_then(|pcrs| pcrs.read(index).ok()) {
                Some(digests) => self.write_digests(pal, pointer, digests),
                None => Status::BadArgument,
            },
            Ok(number::PCR_EXTEND) => match self.read_digests(pal, pointer) {
                Some(digests) => match pal.pcrs.as_mut().and_then(|pcrs| pcrs.extend(index, &digests).ok()) {
                    Some(()) => Status::Ok,
                    None => Status::BadArgument,
                },
                None => Status::BadAddress,
            },
            _ => Status::UnknownCall,
        };
        let vmcb = vmcb(self.mem, &mut pal.frames);
        vmcb.save.rax = 0;
        vmcb.save.rip = vmcb.save.rip.wrapping_add(VMMCALL_LENGTH);
        pal.regs.rdx = status as u64;
    }

    fn read_digests(&self, pal: &Pal, pointer: u64) -> Option<Digests> {
        let mut bytes = [0; size_of::<Digests>()];
        let header = self.header(pal);
        for (i, byte) in bytes.iter_mut().enumerate() {
            let addr = pointer.checked_add(i as u64)?;
            let (frame, _) = pal.frames.resolve(self.mem, &header, addr)?;
            self.mem.copy_from(frame + addr % PAGE_SIZE, core::slice::from_mut(byte));
        }
        let mut digests = Digests { sha1: [0; 20], sha256: [0; 32] };
        digests.sha1.copy_from_slice(&bytes[..20]);
        digests.sha256.copy_from_slice(&bytes[20..]);
        Some(digests)
    }

    fn write_digests(&self, pal: &Pal, pointer: u64, digests: &Digests) -> Status {
        let header = self.header(pal);
        for (i, byte) in digests.sha1.iter().chain(&digests.sha256).enumerate() {
            let addr = pointer.wrapping_add(i as u64);
            let Some((frame, true)) = pal.frames.resolve(self.mem, &header, addr) else {
                return Status::BadAddress;
            };
            self.mem.copy_to(frame + addr % PAGE_SIZE, core::slice::from_ref(byte));
        }
        Status::Ok
    }
}
