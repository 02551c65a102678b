//! A TPM by swtpm. Its state is a copy of a template made once by `swtpm_setup` and dies with the machine. Its control
//! channel is a socket pair of which QEMU and this process hold the same end, so this process can do what only a CPU
//! can: hash at locality 4.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::faulty_tpm::{self, Fault};
use crate::files;
use crate::paths::build_dir;
use crate::process::{Process, run, say};
use crate::srk;

/// Which TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// TPM 1.2.
    #[value(name = "1.2")]
    V12,
    /// TPM 2.0.
    #[value(name = "2.0")]
    V20,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V12 => "1.2",
            Self::V20 => "2.0",
        })
    }
}

const LIMIT: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Tpm {
    control: UnixStream,
    // Ends before its socket does.
    _process: Process,
}

impl Tpm {
    /// Starts a TPM: the one whose state is in `state`, else one fresh from the factory, with its state below `folder`.
    pub(crate) fn start(
        family: Family,
        folder: &Path,
        state: Option<&Path>,
        fault: Option<Fault>,
    ) -> Result<Self> {
        let state = state.map_or_else(|| folder.join("tpm"), Path::to_owned);
        if !state.exists() {
            copy(&template(family)?, &state)?;
        }
        let (control, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new("swtpm");
        command.arg("socket").arg("--tpmstate").arg(format!("dir={}", state.display()));
        command.arg("--ctrl").arg(format!("type=unixio,clientfd={}", theirs.as_raw_fd()));
        command.arg("--log").arg(format!("file={},level=1", folder.join("swtpm.log").display()));
        if family == Family::V20 {
            command.arg("--tpm2");
        }
        command.stdin(std::process::Stdio::null());
        let process = Process::spawn("swtpm", command, vec![theirs])?;
        let control = match fault {
            Some(fault) => faulty_tpm::put_before(control, fault)?,
            None => control,
        };
        Ok(Self { control, _process: process })
    }

    /// What it loses without power, PCRs among it, as it keeps them (swtpm's CMD_GET_STATEBLOB). Only while the machine is stopped; and
    /// swtpm takes this state up again at the machine's next reset.
    pub(crate) fn volatile_state(&self) -> Result<Vec<u8>> {
        const GET_STATE: u32 = 12;
        const VOLATILE: u32 = 2;
        // Flags: none; from its beginning.
        let request = [GET_STATE, 0, VOLATILE, 0].map(u32::to_be_bytes);
        let mut channel = Locality4(self.share()?);
        channel.0.write_all(request.as_flattened())?;
        // Result, flags, length of all, length of this.
        let mut header = [0; 16];
        channel.read(&mut header)?;
        let [result, _, _, length]: [u32; 4] =
            std::array::from_fn(|at| u32::from_be_bytes(header.as_chunks().0[at]));
        ensure!(result == 0, "swtpm answers {result:#x}");
        let mut state = vec![0; length as usize];
        channel.read(&mut state)?;
        Ok(state)
    }

    /// QEMU's copy of the control channel's end, which is also ours.
    pub(crate) fn share(&self) -> Result<UnixStream> {
        Ok(self.control.try_clone()?)
    }
}

/// The locality 4 commands of swtpm's control channel (and what goes the same way). Only while the machine is stopped: QEMU uses the channel too.
pub(crate) struct Locality4(UnixStream);

const HASH_START: u32 = 6;
const HASH_DATA: u32 = 7;
const HASH_END: u32 = 8;
const PIECE: usize = 4096;

impl Locality4 {
    pub(crate) fn new(tpm: &Tpm) -> Result<Self> {
        Ok(Self(tpm.share()?))
    }

    /// TPM_HASH_START, TPM_HASH_DATA, TPM_HASH_END (TCG PC Client TIS 1.3, 4.8).
    pub(crate) fn hash(&mut self, bytes: &[u8]) -> Result<()> {
        self.command(&HASH_START.to_be_bytes()).context("TPM_HASH_START")?;
        for piece in bytes.chunks(PIECE) {
            let header = [HASH_DATA.to_be_bytes(), (piece.len() as u32).to_be_bytes()].concat();
            self.command(&[&header, piece].concat()).context("TPM_HASH_DATA")?;
        }
        self.command(&HASH_END.to_be_bytes()).context("TPM_HASH_END")
    }

    fn command(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes)?;
        let mut answer = [0; 4];
        self.read(&mut answer)?;
        let answer = u32::from_be_bytes(answer);
        ensure!(answer == 0, "swtpm answers {answer:#x}");
        Ok(())
    }

    /// QEMU has made the shared end non-blocking.
    fn read(&mut self, answer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        let deadline = Instant::now() + ANSWER_LIMIT;
        while filled < answer.len() {
            match self.0.read(&mut answer[filled..]) {
                Ok(0) => bail!("swtpm has ended"),
                Ok(count) => filled += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return Err(e).context("swtpm does not answer"),
            }
        }
        Ok(())
    }
}

/// A TPM fresh from the factory; a 1.2 one is owned.
fn template(family: Family) -> Result<PathBuf> {
    let name = match family {
        Family::V12 => "1.2-owned",
        Family::V20 => "2.0",
    };
    let folder = build_dir().join("tpm").join(name);
    let _lock = files::lock(&build_dir().join("tpm"))?;
    if folder.exists() {
        return Ok(folder);
    }
    say(format_args!("making a TPM {family}"));
    let new = tempfile::tempdir_in(build_dir().join("tpm"))?;
    manufacture(family, new.path())?;
    fs::rename(new.keep(), &folder)?;
    Ok(folder)
}

/// Makes a TPM that is like no other, its state in an empty folder. A 1.2 one is owned, its storage root key's secret the well-known.
pub fn manufacture(family: Family, folder: &Path) -> Result<()> {
    let mut setup = Command::new("swtpm_setup");
    setup.arg("--tpmstate").arg(folder);
    setup.args(match family {
        Family::V12 => &["--createek", "--take-ownership", "--srk-well-known", "--owner-well-known"][..],
        Family::V20 => &["--tpm2", "--pcr-banks", "sha1,sha256,sha384,sha512"][..],
    });
    run(&format!("making a TPM {family}"), setup, LIMIT)?;
    if family == Family::V12 { srk::make_well_known(folder) } else { Ok(()) }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
