//! Every reason not to launch, each one line for a person who has never seen the source.

use thiserror::Error;

use crate::bzimage::KernelError;
use crate::image::ImageError;
use crate::map::TooManyRegions;
use crate::multiboot::BootInfoError;
use crate::options::OptionsError;
use crate::plan::NoRoom;

/// Why there is no launch.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum Refusal<'a> {
    /// What the boot loader says cannot be used.
    #[error("{0}")]
    BootInfo(BootInfoError),
    /// Not even text.
    #[error("the command line is not UTF-8")]
    NotText,
    /// An option that is not understood.
    #[error("{0}")]
    Options(OptionsError<'a>),
    /// The firmware's list of IOMMUs.
    #[error("the firmware's list of IOMMUs (ACPI's IVRS) is broken or too long")]
    Iommus,
    /// See [`Lack`].
    #[error("{0}")]
    Machine(Lack),
    /// A module that must be there.
    #[error("module {0} is missing: {1}")]
    NoModule(usize, &'static str),
    /// The hypervisor module.
    #[error("{0}")]
    Image(ImageError),
    /// The kernel module.
    #[error("{0}")]
    Kernel(KernelError),
    /// Its command line, for this kernel.
    #[error("the kernel takes a command line of {max} bytes, not {len}")]
    KernelLine {
        /// What it takes.
        max: usize,
        /// What it was given.
        len: usize,
    },
    /// No place for the reserve.
    #[error("no room for a reserve of {} MiB below 4 GiB (reserve= sets its size)", .0 >> 20)]
    NoReserve(u64),
    /// No place for something of the guest's.
    #[error("no room for {0} beside the reserve")]
    NoRoom(&'static str),
}

/// What a machine lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Lack {
    /// CPUID 8000_0001 ECX[SVM].
    #[error("this processor has no SVM")]
    Svm,
    /// VM_CR.SVMDIS.
    #[error("SVM is switched off by the firmware (look for SVM or AMD-V in its setup)")]
    SvmLocked,
    /// CPUID 8000_000A EDX[NP].
    #[error("this processor has no nested paging (NPT)")]
    NestedPaging,
    /// CPUID 8000_0001 EDX[Page1GB].
    #[error("this processor has no 1 GiB pages")]
    HugePages,
    /// Nobody answers at the TIS address.
    #[error("no TPM found (tpm=none goes without one: no attestation)")]
    Tpm,
    /// A TPM answers, but not as a FIFO.
    #[error(
        "the TPM has the CRB interface only, TIS is needed (with it off in the firmware, tpm=none goes without one: no attestation)"
    )]
    TpmInterface,
}

impl From<BootInfoError> for Refusal<'_> {
    fn from(error: BootInfoError) -> Self {
        Self::BootInfo(error)
    }
}

impl From<Lack> for Refusal<'_> {
    fn from(lack: Lack) -> Self {
        Self::Machine(lack)
    }
}

impl From<ImageError> for Refusal<'_> {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<KernelError> for Refusal<'_> {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

impl From<TooManyRegions> for Refusal<'_> {
    fn from(error: TooManyRegions) -> Self {
        Self::BootInfo(error.into())
    }
}

impl Refusal<'_> {
    /// For what the planner found no place.
    pub fn no_room(what: NoRoom, reserve: u64) -> Self {
        match what {
            NoRoom::Reserve => Self::NoReserve(reserve),
            NoRoom::Kernel => Self::NoRoom("the kernel"),
            NoRoom::Initrd => Self::NoRoom("the initrd"),
            NoRoom::BootArea => Self::NoRoom("the kernel's page tables"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line = |refusal: Refusal<'_>| refusal.to_string();
        assert_eq!(line(Refusal::Options(OptionsError::Unknown("foo"))), "unknown option foo");
        assert_eq!(
            line(Refusal::no_room(NoRoom::Reserve, 64 << 20)),
            "no room for a reserve of 64 MiB below 4 GiB (reserve= sets its size)"
        );
        assert_eq!(line(Refusal::NoModule(2, "the kernel")), "module 2 is missing: the kernel");
        assert_eq!(line(Lack::Svm.into()), "this processor has no SVM");
    }
}
