//! The machine TrustVisor is tried on, as a library for the system tests and for the commands beside it.
//!
//! [`artifacts`] builds loader, hypervisor and guest; [`Boot`] describes a machine (QEMU, swtpm, a GRUB ISO) and starts it;
//! [`Machine`] is the running one. QEMU has no SKINIT: [`skinit`] plays the CPU's part, taking everything it needs from
//! the stopped machine, never from a build file.
//!
//! Guaranteed: every child process dies with this process at the latest, every wait has a limit, and a wait that fails
//! says in one line what was waited for and where the log is.

#![warn(missing_docs)]

pub mod apache;
mod boot;
mod build;
mod console;
mod cryptoki;
mod debian;
mod faulty_tpm;
mod files;
mod flatten;
mod forward;
mod gdb;
mod guest;
mod initrd;
mod iso;
pub mod load;
mod machine;
mod mutation;
mod paths;
mod pcr;
mod process;
mod qmp;
mod release;
pub mod skinit;
mod srk;
mod tpm;
mod tpm_tools;
mod turn;

pub use boot::{Accel, Boot, Module, Multiboot, VIRTIO_BY_IOMMU};
pub use build::{
    Artifacts, another_release, artifacts, hypervisor_elsewhere, mutated_hypervisor,
    mutated_hypervisor_and_static, runtime_static, source_files,
};
pub use console::Line;
pub use debian::{System, system};
pub use faulty_tpm::{Fault, Misbehaviour};
pub use guest::{Guest, generic_guest, pal_images};
pub use machine::{Machine, Output};
pub use mutation::{Mutation, Trial, Verdict, mutations};
pub use paths::{build_dir, root, target_dir};
pub use pcr::{BootPcrs, Pcr, predict};
pub use process::{Process, run_shown, say};
pub use release::manifest;
pub use tpm::{Family, manufacture};
pub use tpm_tools::tpm_tools;
pub use turn::is_turn;
