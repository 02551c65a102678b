//! The command `trustvisor`: asks TrustVisor, and makes and measures PAL images (which needs no TrustVisor).

mod saved_root;

use anyhow::Context;
use clap::{Parser, Subcommand};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use trustvisor::Provision;
use trustvisor::abi::{CountersState, Digests, Info, RootState, image::FLAG_FPU, info_flag};

/// TrustVisor's command: in the guest, and wherever PALs are built.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says whether TrustVisor runs here, and in what state it is
    Info,
    /// Writes the TCG event log of the launch: what PCRs 17 to 19 were extended with, for a verifier to replay
    Eventlog {
        /// Where to (standard output if there is none)
        file: Option<PathBuf>,
    },
    /// Makes a PAL image from S's ELF file
    Image {
        /// What the linker made
        elf: PathBuf,
        /// Where to write the image
        #[arg(short)]
        output: PathBuf,
        /// S uses the FPU, SSE or AVX
        #[arg(long)]
        fpu: bool,
    },
    /// Prints the identity of a PAL image
    Measure {
        /// The image
        image: PathBuf,
    },
    /// The root, on which all that is sealed depends
    Root {
        #[command(subcommand)]
        command: Root,
    },
    /// The hardware TPM, in which the root is kept
    Tpm {
        #[command(subcommand)]
        command: Tpm,
    },
    /// Frees PALs whose process is gone (needs two calls, 10 s apart)
    Collect,
}

#[derive(Subcommand)]
enum Tpm {
    /// Says what its owner has to do before TrustVisor can keep a root in it (exit code 1: something)
    Provision,
    /// Prints the Name of the key that signs its quotes, for a verifier's policy. A TPM 1.2 makes the key first, if there is none
    Aik {
        /// What a TPM 1.2 needs to make it: a file with its owner's password (else the well-known secret: `tpm_takeownership -y`)
        #[arg(long, value_name = "FILE")]
        owner_password: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum Root {
    /// Saves it, sealed by the hardware TPM: GRUB hands it in at the next boot (`module2 FILE trustvisor-root`)
    Save {
        /// Where to
        file: PathBuf,
        /// Replace another root: what was sealed under that one will not open any more
        #[arg(long)]
        force: bool,
    },
    /// Hands it to a newer release: what was sealed, and counters, are that one's as well. Called twice, with a reboot of this release between:
    /// the first call says so
    Migrate {
        /// The newer release's manifest, signed
        #[arg(long)]
        to: PathBuf,
        /// The saved root, which GRUB hands in
        file: PathBuf,
        /// Where to write the root for the newer release
        new: PathBuf,
    },
    /// Removes the saved root and the counters in the hardware TPM: the next boot begins anew, with new identity keys. What was sealed will
    /// never open again
    Reset {
        /// The saved root
        file: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Info => print_info(&trustvisor::info()?),
        Command::Eventlog { file } => write_event_log(file.as_deref())?,
        Command::Image { elf, output, fpu } => {
            let file = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
            let flags = if fpu { FLAG_FPU } else { 0 };
            let image =
                trustvisor::image::from_elf(&file, flags).with_context(|| elf.display().to_string())?;
            fs::write(&output, &image).with_context(|| format!("cannot write {}", output.display()))?;
            print_digests(&trustvisor::image::measure(&image));
        }
        Command::Measure { image } => {
            let bytes = fs::read(&image).with_context(|| format!("cannot read {}", image.display()))?;
            trustvisor::image::header(&bytes)
                .map_err(trustvisor::Error::Image)
                .with_context(|| image.display().to_string())?;
            print_digests(&trustvisor::image::measure(&bytes));
        }
        Command::Root { command: Root::Save { file, force } } => saved_root::save(&file, force)?,
        Command::Root { command: Root::Reset { file } } => saved_root::reset(&file)?,
        Command::Root { command: Root::Migrate { to, file, new } } => saved_root::migrate(&to, &file, &new)?,
        Command::Tpm { command: Tpm::Provision } => {
            let found = trustvisor::provision()?;
            let (ready, text) = PROVISION
                .iter()
                .find(|(state, ..)| *state == found)
                .map_or_else(|| (false, format!("{found:?}")), |(_, ready, text)| (*ready, (*text).into()));
            println!("{text}");
            anyhow::ensure!(ready, "the hardware TPM cannot keep a root yet");
        }
        Command::Tpm { command: Tpm::Aik { owner_password } } => {
            let key = match trustvisor::attestation_key() {
                Err(trustvisor::Error::NoAttestationKey) => make_attestation_key(owner_password.as_deref())?,
                key => key?,
            };
            println!("000b{}", hex(&Sha256::digest(&key)));
        }
        Command::Collect => println!(
            "freed {} PALs (one is freed by the second look, 10 s after the first)",
            trustvisor::collect()?
        ),
    }
    Ok(())
}

/// Of a TPM 1.2, which keeps none itself.
fn make_attestation_key(owner_password: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let secret = match owner_password {
        None => [0; 20],
        Some(file) => {
            let password = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            Sha1::digest(password.strip_suffix(b"\n").unwrap_or(&password)).into()
        }
    };
    let key = trustvisor::make_attestation_key(&secret)?;
    let file = Path::new(trustvisor::AIK);
    fs::create_dir_all(file.parent().unwrap_or(file)).with_context(|| trustvisor::AIK)?;
    saved_root::replace(file, &key)?;
    Ok(trustvisor::attestation_key()?)
}

fn write_event_log(file: Option<&Path>) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    anyhow::ensure!(
        file.is_some() || !output.is_terminal(),
        "the event log is binary, not for a terminal (name a file)"
    );
    let log = trustvisor::event_log()?;
    match file {
        Some(file) => fs::write(file, log).with_context(|| format!("cannot write {}", file.display())),
        None => output.write_all(&log).context("cannot write the event log"),
    }
}

fn print_info(info: &Info) {
    let flag = |flag| info.flags & flag != 0;
    println!("TrustVisor, interface version {}", info.version);
    println!("dynamic launch: {}", if flag(info_flag::DYNAMIC_LAUNCH) { "yes" } else { "NO" });
    println!("protected from devices: {}", if flag(info_flag::DMA_UNPROTECTED) { "NO" } else { "yes" });
    println!(
        "TPM: {}",
        match (flag(info_flag::NO_TPM), flag(info_flag::TPM_12)) {
            (true, _) => "none",
            (_, true) => "1.2",
            (_, false) => "2.0",
        }
    );
    let root = root_state(info).map_or_else(|| format!("state {}", info.root), |(_, text)| text.into());
    println!("root: {root}");
    let counters = COUNTERS.iter().find(|(state, _)| *state as u32 == info.counters);
    let counters = counters.map_or_else(|| format!("state {}", info.counters), |(_, text)| (*text).into());
    println!("counters: {counters}");
    println!("reserve: {} MiB at {:#x}", info.reserve_size >> 20, info.reserve_base);
    println!("PALs: {}, frames free: {} of {}", info.pals, info.frames_free, info.frames_total);
    for (name, digests) in [("PCR 17", &info.pcr17), ("PCR 18", &info.pcr18)] {
        println!("{name} sha1   {}", hex(&digests.sha1));
        let sha256 = if digests.sha256 == [0; 32] { "none".into() } else { hex(&digests.sha256) };
        println!("{name} sha256 {sha256}");
    }
}

/// What became of the root, and how to say it; nothing if TrustVisor is newer and has more states.
fn root_state(info: &Info) -> Option<(RootState, &'static str)> {
    ROOT.into_iter().find(|(state, _)| *state as u32 == info.root)
}

const ROOT: [(RootState, &str); 12] = [
    (RootState::Opened, "the saved one, opened by the hardware TPM"),
    (RootState::NewNoBlob, "new, to be saved: none was handed in"),
    (RootState::NewMalformed, "new, to be saved: what was handed in is no saved root"),
    (
        RootState::NewOtherPolicy,
        "new, to be saved: the one handed in is for another TrustVisor or other options",
    ),
    (RootState::NewOtherTpm, "new, to be saved: the one handed in is damaged or another TPM's"),
    (RootState::NewNotOurs, "new, to be saved: the one handed in was not made by TrustVisor"),
    (RootState::NoLaunch, "ephemeral: there was no dynamic launch"),
    (RootState::NoTpm, "ephemeral: there is no hardware TPM"),
    (RootState::TakenOver, "an earlier release's, taken over: to be saved"),
    (RootState::HandedOver, "the saved one, opened by the hardware TPM, and sealed for a newer release"),
    (
        RootState::NotHandedOver,
        "the saved one, opened by the hardware TPM; NOT handed over: the manifest is not signed for this release, or of a lower \
         security version",
    ),
    (
        RootState::TpmFails,
        "NONE, nothing can be sealed: the hardware TPM fails, or has no owner as needed (`trustvisor tpm provision`)",
    ),
];

const COUNTERS: [(CountersState, &str); 6] = [
    (CountersState::Ready, "kept by the hardware TPM"),
    (CountersState::NoRoot, "none: they need a root that the hardware TPM keeps"),
    (
        CountersState::NotOurs,
        "NONE: what lies at their place in the hardware TPM is another root's, or somebody else's \
         (`trustvisor root reset` begins anew)",
    ),
    (
        CountersState::Gone,
        "NONE: they were removed from the hardware TPM (`trustvisor root reset` begins anew)",
    ),
    (CountersState::TpmFails, "NONE: the hardware TPM fails"),
    (CountersState::Tpm12, "none: unsupported on TPM 1.2"),
];

const PROVISION: [(Provision, bool, &str); 5] = [
    (Provision::Ready, true, "TPM 2.0: its owner authorisation is empty, as it must stay"),
    (
        Provision::OwnerAuth,
        false,
        "TPM 2.0: its owner authorisation must be empty (`tpm2_changeauth -c owner -p OLD`)",
    ),
    (Provision::LockedOut, false, "TPM 2.0: it is locked out (wait, or `tpm2_dictionarylockout -c`)"),
    (
        Provision::NoOwner,
        false,
        "TPM 1.2: it has no owner (`tpm_takeownership -z`: the storage root key has the well-known secret then)",
    ),
    (
        Provision::Owned,
        true,
        "TPM 1.2: it has an owner. Its storage root key must have the well-known secret: if `trustvisor info` says that there is no root, \
         `tpm_changeownerauth -s -r`",
    ),
];

fn print_digests(digests: &Digests) {
    println!("sha1   {}", hex(&digests.sha1));
    println!("sha256 {}", hex(&digests.sha256));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
