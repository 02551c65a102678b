//! The example `password`: keeps a file of users, and has S say whether a password is right.
//!
//!     password FILE enroll USER       the password is the first line of standard input
//!     password FILE check USER        exit code 0: right; 1: wrong, or it cannot be said
//!
//! A line of the file is a user's name and, in hexadecimal, what S sealed.

use anyhow::{Context, bail, ensure};
use password_s::{MAX_RECORD, Refusal};
use std::fs;
use std::io::{ErrorKind, stdin};
use std::path::Path;
use trustvisor::Out;
use zeroize::Zeroizing;

static IMAGE: &[u8] = include_bytes!(env!("PASSWORD_PAL"));

trustvisor::stubs! {
    /// The functions of `password-pal`.
    struct Passwords {
        fn enroll(user: &str, password: &str, record: Out<'_>) -> Result<usize, Refusal> where size <= 16;
        fn check(user: &str, password: &str, record: &[u8]) -> Result<bool, Refusal> where size <= 16;
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [file, what, user] = &arguments[..] else { bail!("password FILE enroll|check USER") };
    ensure!(!user.contains(['\n', ' ']), "a user's name has no spaces");
    let (file, password) = (Path::new(file), password()?);
    let s = Passwords::register(IMAGE).context("registering S")?;
    match what.as_str() {
        "enroll" => {
            let mut record = [0; MAX_RECORD];
            let length = s.enroll(user, &password, Out(&mut record))?.map_err(why)?;
            write(file, user, &record[..length])?;
            println!("password: {user} is enrolled");
        }
        "check" => {
            let record = read(file, user)?;
            ensure!(s.check(user, &password, &record)?.map_err(why)?, "the password is wrong");
            println!("password: right");
        }
        _ => bail!("enroll or check, not {what}"),
    }
    Ok(())
}

fn why(refusal: Refusal) -> anyhow::Error {
    anyhow::Error::msg(match refusal {
        Refusal::User => "S takes names of 1 to 64 bytes",
        Refusal::Record => "the record is not this user's, or not of this S on this machine",
        Refusal::TooMany => "too many wrong passwords",
        Refusal::Tpm => "the micro-TPM does not seal here",
    })
}

fn password() -> anyhow::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::with_capacity(1024));
    stdin().read_line(&mut line).context("reading the password")?;
    while line.ends_with('\n') {
        line.pop();
    }
    Ok(line)
}

fn lines(file: &Path) -> anyhow::Result<Vec<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().map(String::from).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}

fn is_of(line: &str, user: &str) -> bool {
    line.split_once(' ').is_some_and(|(name, _)| name == user)
}

fn write(file: &Path, user: &str, record: &[u8]) -> anyhow::Result<()> {
    let mut lines = lines(file)?;
    lines.retain(|line| !is_of(line, user));
    let record: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
    lines.push(format!("{user} {record}"));
    // All of the new file or all of the old one, whatever happens.
    let new = file.with_added_extension("new");
    fs::write(&new, lines.join("\n") + "\n").with_context(|| new.display().to_string())?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, file).with_context(|| file.display().to_string())
}

fn read(file: &Path, user: &str) -> anyhow::Result<Vec<u8>> {
    let lines = lines(file)?;
    let line = lines.iter().find(|line| is_of(line, user)).context("there is no such user")?;
    let (_, digits) = line.split_once(' ').context("a line without a record")?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).map(byte).collect::<Option<Vec<_>>>().context("a record that is damaged")
}
