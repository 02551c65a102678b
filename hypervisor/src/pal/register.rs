//! Registering: S's image is read from the caller's memory once, into frames of the pool, and measured *there*.
//!
//! All or nothing: the slot becomes `Idle`, and the handle is written to the owner page, in the last step; every
//! earlier failure wipes what was taken. Long images are read in slices, each continued by the token.

use super::call::vmcb;
use super::space::PalFrames;
use super::{Caller, HASH_SLICE, Hardware, Outcome, Pal, Pals, State, Stop};
use crate::addr::{Gva, Hpa, PAGE_SIZE};
use crate::frames::Owner;
use crate::guest_memory::{Fault, GuestMemory};
use abi::image::{FLAG_FPU, HEADER_SIZE, Header};
use abi::{Handle, Status};
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering;
use utpm::{Hasher, Pcrs};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A registration under way.
pub struct Registration {
    /// None: the quoting PAL's.
    image: Option<Gva>,
    /// The next page to fill is here, or begins the section after.
    next: u64,
    /// How many bytes of the image are in the pool.
    read: u64,
    /// Its wiping is left out: it knows what the OS knows, and each change of a PAL's state would have to ask whether it is there.
    measurement: ManuallyDrop<Hasher>,
}

impl Pals {
    /// `REGISTER`, or (without an image) `REGISTER_QUOTING`.
    pub fn register(
        &self,
        caller: &mut Caller<impl Hardware>,
        image: Option<(Gva, u64)>,
        owner_page: Gva,
    ) -> Outcome {
        let memory = caller.memory(self);
        if owner_page.page_offset() != 0 {
            return Err(Status::BadArgument.into());
        }
        let quoting = Header::read_from_prefix(self.tpm.quoting);
        let mut header = quoting.map_or_else(|_| Header::new_zeroed(), |(header, _)| header);
        if let Some((image, _)) = image {
            memory.read(image, header.as_mut_bytes())?;
        }
        let length = image.map_or(self.tpm.quoting.len() as u64, |(_, length)| length);
        header.check(length).map_err(|_| Status::BadImage)?;
        if header.flags & FLAG_FPU != 0 && !self.fpu {
            return Err(Status::Unsupported.into());
        }
        memory.check_writable(owner_page, 16)?;
        if u64::from(self.pool.lock().free_count()) < PalFrames::needed(&header) {
            return self.make_room(caller.hardware, Status::NoMemory);
        }
        let free = |index: usize| {
            let unused = self.slots[index].incarnation.load(Ordering::Acquire) == 0;
            let pal = unused.then(|| self.lock(index).ok())??;
            matches!(pal.state, State::Free).then_some((index, pal))
        };
        let Some((index, mut pal)) = (0..self.slots.len()).find_map(free) else {
            return self.make_room(caller.hardware, Status::TooMany);
        };
        pal.index = index;
        self.registered.fetch_add(1, Ordering::Relaxed);
        (pal.space, pal.owner_page) = (memory.space, owner_page);
        pal.last_used_ms = caller.hardware.now_ms();
        let mut measurement = Hasher::measurement();
        measurement.update(header.as_bytes());
        pal.state = State::Registering(Registration {
            image: image.map(|(start, _)| start),
            next: 0,
            read: HEADER_SIZE as u64,
            measurement: ManuallyDrop::new(measurement),
        });
        let began = pal.frames.begin(self.mem, &mut self.pool.lock(), index as Owner, &header);
        if began.is_none() {
            return self.start_wipe(&mut pal, Err(Status::NoMemory.into()));
        }
        self.mem.copy_to(pal.frames.header, header.as_bytes());
        // The header alone was enough to hash for one stay.
        Err(Stop::Again(pal.next_token()))
    }

    /// One page of a registration, or its end.
    pub(super) fn continue_registration(&self, caller: &mut Caller<impl Hardware>, pal: &mut Pal) -> Outcome {
        let memory = caller.memory(self);
        let header = self.header(pal);
        pal.last_used_ms = caller.hardware.now_ms();
        pal.suspect_since_ms = None;
        let State::Registering(registration) = &mut pal.state else { return Err(Status::Lost.into()) };
        let next = registration.next;
        let Some(section) = header.sections.iter().find(|s| next < s.addr + s.mem_size) else {
            return self.finish_registration(&memory, pal);
        };
        let (owner, addr) = (pal.index as Owner, next.max(section.addr));
        let frame = pal.frames.add_page(self.mem, &mut self.pool.lock(), owner, section, addr);
        let Some(frame) = frame else {
            return self.start_wipe(pal, Err(Status::NoMemory.into()));
        };
        const { assert!(HASH_SLICE == PAGE_SIZE) };
        let length = section.file_size.saturating_sub(addr - section.addr).min(PAGE_SIZE);
        if let Err(fault) = self.fill_page(&memory, frame, length, registration) {
            return self.registration_fault(pal, fault);
        }
        registration.next = addr + PAGE_SIZE;
        pal.faults = 0;
        Err(Stop::Again(pal.next_token()))
    }

    /// Copies the next part of the image and measures the copy, which the OS cannot change any more.
    fn fill_page(
        &self,
        caller: &GuestMemory,
        frame: Hpa,
        length: u64,
        registration: &mut Registration,
    ) -> Result<(), Fault> {
        match registration.image {
            Some(image) => caller.copy_in(image + registration.read, frame, length)?,
            None => {
                let rest = self.tpm.quoting.get(registration.read as usize..).unwrap_or_default();
                self.mem.copy_to(frame, rest.get(..length as usize).unwrap_or(rest));
            }
        }
        self.mem.each_block(frame, length, |part| registration.measurement.update(part));
        registration.read += length;
        Ok(())
    }

    fn registration_fault(&self, pal: &mut Pal, fault: Fault) -> Outcome {
        match pal.fault(fault, true) {
            again @ Stop::Fault { .. } => Err(again),
            failed => self.start_wipe(pal, Err(failed)),
        }
    }

    /// Everything is in place: the identity, the VMCB, the handle.
    fn finish_registration(&self, caller: &GuestMemory, pal: &mut Pal) -> Outcome {
        let Some((stack_top, _)) = pal.frames.resolve(self.mem, Gva(pal.frames.rsp)) else {
            return self.start_wipe(pal, Err(Status::BadImage.into()));
        };
        pal.frames.stack_top = stack_top;
        let State::Registering(registration) = core::mem::replace(&mut pal.state, State::Idle) else {
            return Err(Status::Lost.into());
        };
        let handle = self.new_handle(pal.index);
        if let Err(fault) = caller.write(pal.owner_page, handle.as_bytes()) {
            pal.state = State::Registering(registration);
            return self.registration_fault(pal, fault);
        }
        pal.quoting = registration.image.is_none();
        pal.pcrs = Pcrs::new(ManuallyDrop::into_inner(registration.measurement).finish());
        pal.call.incarnation = self.incarnations.fetch_add(1, Ordering::Relaxed);
        let (root, fpu) = (pal.frames.root, pal.frames.fpu != Hpa(0));
        vmcb(self.mem, &mut pal.frames).init_pal(self.maps, root, fpu);
        let slot = &self.slots[pal.index];
        slot.incarnation.store(pal.call.incarnation, Ordering::Release);
        slot.owner_cr3.store(caller.space.root.0, Ordering::Release);
        slot.handle[0].store(handle.low, Ordering::Release);
        slot.handle[1].store(handle.high, Ordering::Release);
        pal.tokens += 1;
        pal.faults = 0;
        log::debug!("PAL {}: registered, {} pages", pal.index, self.header(pal).pages());
        Ok(0)
    }

    fn new_handle(&self, index: usize) -> Handle {
        let mut random = self.tpm.random.lock();
        let slot_mask = super::MAX_PALS as u64 - 1;
        loop {
            let mut bytes = [0; 16];
            random.fill(&mut bytes);
            let [low, high]: [u64; 2] = zerocopy::transmute!(bytes);
            if high != 0 {
                return Handle { low: low & !slot_mask | index as u64, high };
            }
        }
    }

    /// The PAL's header, as it was checked and measured.
    pub(super) fn header(&self, pal: &Pal) -> Header {
        let mut header = Header::new_zeroed();
        self.mem.copy_from(pal.frames.header, header.as_mut_bytes());
        header
    }
}
