//! A TPM that fails: stands between QEMU and swtpm and changes what comes back to commands of a locality above 0, which are
//! TrustVisor's; the firmware's and the guest's pass.
//!
//! QEMU names the locality and hands over the data channel by swtpm's control channel (swtpm_ioctls(3)): a command is a big-endian number
//! and what belongs to it, each answered before the next.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// What is wrong with a TPM.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The commands it shows at, by their codes; all if there are none.
    pub commands: Vec<u32>,
    /// How many of them are answered well before.
    pub after: usize,
    /// How it shows, from one of these commands to the next; the last for ever.
    pub how: Vec<Misbehaviour>,
}

/// What comes back to a command.
#[derive(Clone, Copy, Debug)]
pub enum Misbehaviour {
    /// An error code; the command is not executed.
    Code(u32),
    /// As much noise as there was answer.
    Noise,
    /// The answer cut, or longer by noise, to this many bytes: its size field says so too.
    Length(usize),
    /// The answer after this time.
    Late(Duration),
    /// Nothing, until the command is cancelled.
    Silence,
    /// Nothing, now and for ever.
    Death,
    /// What it should.
    Recovery,
}

/// Commands of the control channel.
const SET_LOCALITY: u32 = 5;
const CANCEL: u32 = 9;

/// Bytes of the header of commands and answers: tag, size, code.
const HEADER: usize = 10;
/// TPM_RC_CANCELED (TPM 2.0 Library part 2, 6.6.3).
const CANCELED: u32 = 0x909;

/// What control and data channel know of each other.
struct Shared {
    locality: AtomicU8,
    fault: Fault,
}

/// Stands before the TPM whose control channel this is; returns the one for QEMU. The threads end when it is closed.
pub(crate) fn put_before(tpm: UnixStream, fault: Fault) -> Result<UnixStream> {
    let (theirs, ours) = UnixStream::pair()?;
    let shared = Arc::new(Shared { locality: AtomicU8::new(0), fault });
    let (mut from, mut to) = (tpm.try_clone()?, ours.try_clone()?);
    thread::spawn(move || io::copy(&mut from, &mut to));
    thread::spawn(move || {
        // An end of either side is the machine's end.
        let _ = control(&ours, &tpm, &shared);
        let _ = tpm.shutdown(std::net::Shutdown::Both);
        let _ = ours.shutdown(std::net::Shutdown::Both);
    });
    Ok(theirs)
}

fn control(qemu: &UnixStream, mut tpm: &UnixStream, shared: &Arc<Shared>) -> io::Result<()> {
    let (cancel, cancelled) = mpsc::channel();
    let mut cancelled = Some(cancelled);
    let mut bytes = [0; 8192];
    loop {
        let (length, data) = receive(qemu, &mut bytes)?;
        let command = &bytes[..length];
        match command.split_first_chunk() {
            None if length == 0 => return Ok(()),
            Some((number, [locality, ..])) if u32::from_be_bytes(*number) == SET_LOCALITY => {
                shared.locality.store(*locality, Ordering::SeqCst);
            }
            // Nobody listens between two commands.
            Some((number, _)) if u32::from_be_bytes(*number) == CANCEL => drop(cancel.send(())),
            _ => (),
        }
        match (data, cancelled.take()) {
            (Some(data), Some(cancelled)) => {
                let (ours, theirs) = UnixStream::pair()?;
                send(tpm, command, &theirs)?;
                let shared = shared.clone();
                thread::spawn(move || answer(&data.into(), &ours, &shared, &cancelled));
            }
            (_, still) => {
                cancelled = still;
                tpm.write_all(command)?;
            }
        }
    }
}

/// A message, and the descriptor that came with it.
fn receive(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let length = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags)?.bytes;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((length, descriptor))
}

fn send(socket: &UnixStream, bytes: &[u8], descriptor: &UnixStream) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Carries commands and answers until a side ends.
fn answer(
    mut qemu: &UnixStream,
    mut tpm: &UnixStream,
    shared: &Shared,
    cancelled: &mpsc::Receiver<()>,
) -> io::Result<()> {
    let Fault { commands, after, how } = &shared.fault;
    let mut seen = 0;
    loop {
        let command = message(qemu)?;
        let code = u32::from_be_bytes([command[6], command[7], command[8], command[9]]);
        let hit =
            shared.locality.load(Ordering::SeqCst) > 0 && (commands.is_empty() || commands.contains(&code));
        seen += usize::from(hit);
        let how = if hit && seen > *after { how.get(seen - after - 1).or(how.last()) } else { None };
        while cancelled.try_recv().is_ok() {}
        let answer = match how {
            Some(Misbehaviour::Code(code)) => error(&command, *code),
            Some(Misbehaviour::Silence) => {
                // The control channel's end is the machine's.
                let _ = cancelled.recv();
                error(&command, CANCELED)
            }
            Some(Misbehaviour::Death) => {
                io::copy(&mut qemu, &mut io::sink())?;
                return Ok(());
            }
            how => {
                tpm.write_all(&command)?;
                change(message(tpm)?, how)
            }
        };
        qemu.write_all(&answer)?;
    }
}

fn change(mut answer: Vec<u8>, how: Option<&Misbehaviour>) -> Vec<u8> {
    match how {
        Some(Misbehaviour::Noise) => {
            let size = answer[2..6].to_vec();
            answer.iter_mut().enumerate().for_each(|(at, byte)| *byte = noise(at));
            answer[2..6].copy_from_slice(&size);
        }
        Some(Misbehaviour::Length(length)) => {
            let old = answer.len();
            answer.resize(*length, 0);
            answer.iter_mut().enumerate().skip(old).for_each(|(at, byte)| *byte = noise(at));
            answer[2..6].copy_from_slice(&(*length as u32).to_be_bytes());
        }
        Some(Misbehaviour::Late(time)) => thread::sleep(*time),
        _ => (),
    }
    answer
}

/// The same at every run.
fn noise(at: usize) -> u8 {
    ((at as u32 + 1).wrapping_mul(0x9e37_79b1) >> 13) as u8
}

/// The answer of a TPM that says no: TPM_ST_NO_SESSIONS, or of family 1.2 TPM_TAG_RSP_COMMAND.
fn error(command: &[u8], code: u32) -> Vec<u8> {
    let tag: [u8; 2] = if command[0] == 0x80 { [0x80, 0x01] } else { [0x00, 0xc4] };
    [&tag[..], &(HEADER as u32).to_be_bytes(), &code.to_be_bytes()].concat()
}

/// A command or an answer, whole.
fn message(mut socket: &UnixStream) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    socket.read_exact(&mut bytes)?;
    let size = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]) as usize;
    bytes.resize(size.max(HEADER), 0);
    socket.read_exact(&mut bytes[HEADER..])?;
    Ok(bytes)
}
