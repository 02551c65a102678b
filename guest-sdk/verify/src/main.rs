//! The command `trustvisor-verify`: the relying party's, wherever that is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};
use trustvisor_verify::credential::{EndorsementKey, make};
use trustvisor_verify::{
    Argument, Challenge, Earlier, Evidence, Failure, Policy, Proof, Signature, Step, Verified, input, output,
    token_key, verify,
};

/// Checks what a machine under TrustVisor proves; needs no TPM, no AMD processor and no network.
///
/// Exit code: 0 all holds, 1 something does not hold, 2 wrong usage or files that cannot be read.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks an evidence file against a policy: a line a step, to the first thing that does not hold
    Check(Box<Check>),
    /// Checks that the key of a certificate was made in the PKCS#11 token of a machine under TrustVisor, and never leaves it
    ///
    /// The policy lists the token's S (`trustvisor measure`), without entries. After that line all is as with `check`.
    Key {
        /// What S says of the key (`trustvisor token evidence`)
        #[arg(long)]
        statement: PathBuf,
        /// The certificate, in PEM
        #[arg(long)]
        certificate: PathBuf,
        #[command(flatten)]
        check: Box<Check>,
    },
    /// Shows what an evidence file claims; nothing is verified
    Explain {
        /// The evidence file
        evidence: PathBuf,
    },
    /// Writes the bytes behind H(in) of a call, for `check --input`
    ///
    /// Each argument of the call as its caller has it: a number, a file with what is in an in or in-out buffer, or the length
    /// of an out buffer.
    Input {
        /// The entry's signature, as in the policy: in,length,int
        #[arg(long, value_delimiter = ',', required = true)]
        signature: Vec<String>,
        /// Where to
        #[arg(short)]
        output: PathBuf,
        /// The arguments, lengths of buffers left out
        arguments: Vec<String>,
    },
    /// Writes the bytes behind H(out) of a call, for `check --output`
    Output {
        /// What the entry returned
        #[arg(long)]
        returned: u64,
        /// Where to
        #[arg(short)]
        output: PathBuf,
        /// What is in its out and in-out buffers, in their order and in their whole length
        buffers: Vec<PathBuf>,
    },
    /// Wraps a secret that only a certain TPM with a certain attestation key can unwrap (TPM2_MakeCredential)
    ///
    /// A machine that answers the secret holds a key of that Name in the TPM of that endorsement key: the Name can be pinned in the
    /// policy. That the endorsement key is a true TPM's has to be made sure of before, by its certificate for example.
    MakeCredential {
        /// The endorsement key's public part, a TPM2B_PUBLIC (`tpm2_createek -u`)
        #[arg(long)]
        ek: PathBuf,
        /// The attestation key's Name in hexadecimal (as `trustvisor tpm aik` prints it, or `tpm2_readpublic -n`)
        #[arg(long, value_parser = bytes)]
        name: Bytes,
        /// A file with the secret: 1 to 32 random bytes
        #[arg(long)]
        secret: PathBuf,
        /// Where to, for `tpm2_activatecredential -i`
        #[arg(short)]
        output: PathBuf,
    },
}

#[derive(Args)]
struct Check {
    /// What is believed (`cat policy.toml release.toml` makes one of two)
    #[arg(long)]
    policy: PathBuf,
    /// What the machine answered
    #[arg(long)]
    evidence: PathBuf,
    /// The nonce that was sent: 16 to 64 bytes in hexadecimal, 32 for an attested call
    #[arg(long, value_parser = bytes)]
    nonce: Bytes,
    /// The attested call must be of this entry (else: any that the policy lists)
    #[arg(long)]
    entry: Option<u16>,
    /// It must be this call of the PAL, counted from 1
    #[arg(long)]
    number: Option<u64>,
    /// The PAL's earlier attested calls must have led to this chain (the `next chain` of the last check)
    #[arg(long, value_parser = chain)]
    chain: Option<[u8; 32]>,
    /// What was given to S, as the command `input` writes it
    #[arg(long)]
    input: Option<PathBuf>,
    /// What S is said to have answered, as the command `output` writes it
    #[arg(long)]
    output: Option<PathBuf>,
    /// Now, in seconds since 1970, if this machine's clock is wrong
    #[arg(long, value_name = "SECONDS")]
    time: Option<u64>,
    /// Evidence that answered an earlier nonce: its hardware quote will do again if the policy has a max_age
    #[arg(long, requires = "earlier_nonce", requires = "earlier_issued")]
    earlier: Option<PathBuf>,
    /// The nonce of then
    #[arg(long, requires = "earlier", value_parser = bytes)]
    earlier_nonce: Option<Bytes>,
    /// When that nonce was made, in seconds since 1970
    #[arg(long, requires = "earlier", value_name = "SECONDS")]
    earlier_issued: Option<u64>,
}

/// A type of its own: clap takes a Vec for an argument given many times.
#[derive(Clone)]
struct Bytes(Vec<u8>);

fn bytes(text: &str) -> Result<Bytes, &'static str> {
    base16ct::mixed::decode_vec(text).map(Bytes).map_err(|_| "not hexadecimal")
}

fn chain(text: &str) -> Result<[u8; 32], &'static str> {
    bytes(text)?.0.try_into().map_err(|_| "a chain has 32 bytes")
}

/// Why there is no answer: exit code 2.
type Usage = String;

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(usage) => {
            eprintln!("error: {usage}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<bool, Usage> {
    match command {
        Command::Check(check) => return check.run(check.nonce.0.clone()),
        Command::Key { statement, certificate, check } => {
            let certificate = read(&certificate)?;
            return match token_key::nonce(&read(&statement)?, &certificate, &check.nonce.0) {
                Ok(nonce) => {
                    println!("{:<18} PASS", "key");
                    check.run(nonce.to_vec())
                }
                Err(error) => {
                    println!("{:<18} FAIL: {error}", "key");
                    Ok(false)
                }
            };
        }
        Command::Explain { evidence } => {
            let file = read(&evidence)?;
            let evidence = Evidence::parse(&file).map_err(|error| error.to_string())?;
            print!("{}", evidence.explain());
        }
        Command::Input { signature, output, arguments } => {
            let known =
                "a signature is at most six of none, int, in, out, in-out, length; length after each buffer";
            let signature = Signature::from_words(&signature).ok_or(known)?;
            write(&output, &hashed_input(signature, &arguments)?)?;
        }
        Command::Output { returned, output: file, buffers } => {
            let buffers = buffers.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
            write(&file, &output(returned, &buffers.iter().map(Vec::as_slice).collect::<Vec<_>>()))?;
        }
        Command::MakeCredential { ek, name, secret, output } => {
            let ek = EndorsementKey::parse(&read(&ek)?).map_err(|error| error.to_string())?;
            let credential = make(&ek, &name.0, &read(&secret)?).map_err(|error| error.to_string())?;
            write(&output, &credential.to_file())?;
        }
    }
    Ok(true)
}

fn read(path: &Path) -> Result<Vec<u8>, Usage> {
    fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Usage> {
    fs::write(path, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Numbers and the names of files become what the signature says.
fn hashed_input(signature: Signature, arguments: &[String]) -> Result<Vec<u8>, Usage> {
    let kinds = signature.bytes().into_iter().filter(|kind| (1..=4).contains(kind));
    let number = |text: &String| text.parse().map_err(|_| format!("{text:?} is not a number"));
    let mut values = Vec::new();
    for (kind, text) in kinds.clone().zip(arguments) {
        values.push(match kind {
            1 | 3 => (number(text)?, Vec::new()),
            _ => (0, read(Path::new(text))?),
        });
    }
    if arguments.len() != kinds.clone().count() {
        return Err(format!("{} arguments, the signature has {}", arguments.len(), kinds.count()));
    }
    let arguments: Vec<_> = kinds
        .zip(&values)
        .map(|(kind, (number, contents))| match kind {
            1 => Argument::Int(*number),
            2 => Argument::In(contents),
            3 => Argument::Out(*number),
            _ => Argument::InOut(contents),
        })
        .collect();
    input(signature, &arguments).ok_or("the arguments do not fit the signature".into())
}

impl Check {
    fn run(&self, nonce: Vec<u8>) -> Result<bool, Usage> {
        let text = String::from_utf8(read(&self.policy)?).map_err(|_| "the policy is not UTF-8")?;
        let policy = Policy::parse(&text).map_err(|error| format!("{}: {error}", self.policy.display()))?;
        let challenge = self.challenge(nonce)?;
        let file = read(&self.evidence)?;
        let verified = Evidence::parse(&file)
            .map_err(Failure::from)
            .and_then(|evidence| verify(&policy, &evidence, &challenge));
        report(&verified);
        Ok(verified.is_ok())
    }

    fn challenge(&self, nonce: Vec<u8>) -> Result<Challenge, Usage> {
        let mut challenge = Challenge::new(nonce).map_err(|error| error.to_string())?;
        challenge.entry = self.entry;
        challenge.number = self.number;
        challenge.chain = self.chain;
        challenge.input = self.input.as_deref().map(read).transpose()?;
        challenge.output = self.output.as_deref().map(read).transpose()?;
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        challenge.time = self.time.or(clock);
        if let (Some(path), Some(nonce), Some(issued)) =
            (&self.earlier, &self.earlier_nonce, self.earlier_issued)
        {
            let evidence = Evidence::parse(&read(path)?).map_err(|error| error.to_string())?;
            challenge.earlier = Some(Earlier::new(nonce.0.clone(), &evidence, issued));
        }
        Ok(challenge)
    }
}

/// A line a step, to the first that does not hold; then what is proved.
fn report(verified: &Result<Verified, Failure>) {
    let failed = verified.as_ref().err().map(Failure::step);
    for step in Step::ALL.into_iter().take_while(|step| Some(*step) != failed) {
        println!("{step:<18} PASS");
    }
    match verified {
        Err(failure) => println!("{:<18} FAIL: {failure}", failure.step()),
        Ok(verified) => {
            print_verified(verified);
            println!("PASS");
        }
    }
}

fn print_verified(verified: &Verified) {
    println!("machine: {}", verified.machine);
    println!("hardware key: {}", hex(&verified.hardware_key));
    if let Some(age) = verified.age {
        println!("hardware quote: at most {age} seconds old");
    }
    println!("release: {}, security version {}", verified.release, verified.security_version);
    println!("options: {}", verified.options.trim_end().replace('\n', " "));
    println!("PAL: {}", verified.pal);
    for (number, value) in &verified.pcrs {
        println!("micro-PCR {number}: {}", hex(value));
    }
    if let Proof::Call(call) = &verified.proof {
        println!("call: {} of the PAL, entry {}", call.number, call.entry);
        println!("H(in): {}{}", hex(&call.input_hash), known(&call.input));
        println!("H(out): {}{}", hex(&call.output_hash), known(&call.output));
        println!("next chain: {}", hex(&call.next_chain));
    }
}

fn known(data: &Option<Vec<u8>>) -> String {
    data.as_ref().map_or(" (not shown)".into(), |data| format!(" (of {} bytes, compared)", data.len()))
}

fn hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}
