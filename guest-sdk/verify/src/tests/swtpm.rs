//! A real TPM 2.0 (swtpm) and tpm2-tools: their quote in our evidence, our micro-quote before their eyes, our credential in their TPM.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::credential::{EndorsementKey, make};
use crate::evidence::Hardware;
use crate::hash::{Family, Hash, hex, sha256};
use crate::tests::keys::TestKey;
use crate::tests::world::{NONCE, World, challenge, policy_text};
use crate::{Policy, Step, verify};

/// Commands of its control channel (swtpm_ioctls(3)).
const SET_LOCALITY: u32 = 5;
const HASH_START: u32 = 6;
const HASH_DATA: u32 = 7;
const HASH_END: u32 = 8;
/// Where the endorsement key is kept.
const EK: &str = "0x81010001";

struct SwTpm {
    folder: TempDir,
    process: Child,
    port: u16,
}

impl Drop for SwTpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl SwTpm {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Somebody else may take the ports in between.
        (0..10)
            .find_map(|_| Self::start(&folder))
            .map(|(process, port)| Self { folder, process, port })
            .unwrap()
    }

    fn start(folder: &TempDir) -> Option<(Child, u16)> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok()?;
        let channel = |port: u16| format!("type=tcp,bindaddr=127.0.0.1,port={port}");
        let mut command = Command::new("swtpm");
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
        command.arg("--tpmstate").arg(format!("dir={}", folder.path().display()));
        command.args(["--server", &channel(port), "--ctrl", &channel(port + 1)]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().expect("Debian package swtpm");
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port + 1)).is_ok() {
                return Some((process, port));
            }
            if process.try_wait().unwrap().is_some() {
                return None;
            }
            sleep(Duration::from_millis(10));
        }
        let _ = process.kill();
        let _ = process.wait();
        None
    }

    fn connect(&self, port: u16) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    fn control(&self, command: u32, rest: &[u8]) {
        let mut stream = self.connect(self.port + 1);
        stream.write_all(&[&command.to_be_bytes(), rest].concat()).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0; 4], "control command {command}");
    }

    /// SKINIT of what the first event measured, then all other events at locality 2.
    fn launch(&self, world: &World) {
        let slb = &world.events[0].measured;
        self.control(HASH_START, &[]);
        self.control(HASH_DATA, &[&(slb.len() as u32).to_be_bytes(), &slb[..]].concat());
        self.control(HASH_END, &[]);
        self.control(SET_LOCALITY, &[2]);
        for event in &world.events[1..] {
            self.extend(event.pcr, &sha256(&[&event.measured]));
        }
        self.control(SET_LOCALITY, &[0]);
    }

    /// TPM2_PCR_Extend with an empty password.
    fn extend(&self, pcr: u8, digest: &[u8; 32]) {
        let mut rest = [&0x182u32.to_be_bytes()[..], &u32::from(pcr).to_be_bytes()].concat();
        rest.extend(
            [&[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0][..], &[0, 0, 0, 1, 0, 0x0b], digest].concat(),
        );
        let size = (6 + rest.len()) as u32;
        let mut stream = self.connect(self.port);
        stream.write_all(&[&[0x80, 2][..], &size.to_be_bytes(), &rest].concat()).unwrap();
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[6..], [0; 4], "TPM2_PCR_Extend");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// One of tpm2-tools, in the folder of the state; nothing of it stays loaded.
    fn tool(&self, line: &str) {
        let mut words = line.split(' ');
        let mut command = Command::new("timeout");
        command.arg("60").arg(format!("tpm2_{}", words.next().unwrap())).args(words);
        command.current_dir(self.folder.path());
        command.env("TPM2TOOLS_TCTI", format!("swtpm:host=127.0.0.1,port={}", self.port));
        let output = command.output().expect("Debian package tpm2-tools");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        if !line.starts_with("flushcontext") && !line.starts_with("checkquote") {
            self.tool("flushcontext -t");
        }
    }

    /// Endorsement key and attestation key; the Name of the latter, and its TPMT_PUBLIC.
    fn keys(&self, algorithm: &str, scheme: &str) -> (Vec<u8>, Vec<u8>) {
        self.tool(&format!("createek -c {EK} -G {algorithm} -u ek.pub"));
        self.tool(&format!(
            "createak -C {EK} -c ak.ctx -G {algorithm} -g sha256 -s {scheme} -u ak.pub -f tss -n ak.name"
        ));
        (self.read("ak.name"), self.read("ak.pub")[2..].to_vec())
    }
}

const KINDS: [(&str, &str); 2] = [("ecc", "ecdsa"), ("rsa", "rsassa")];

#[test]
fn the_quote_of_a_true_tpm_is_believed() {
    for (algorithm, scheme) in KINDS {
        let tpm = SwTpm::new();
        let (name, key) = tpm.keys(algorithm, scheme);
        let mut world = World::call();
        tpm.launch(&world);
        let mut evidence = world.evidence();
        let over = crate::challenge::extra_data(Family::V20, &NONCE, &evidence.quote.quoted);
        let quote = |over: &[u8], pcrs: &str| {
            tpm.tool(&format!("quote -c ak.ctx -l {pcrs} -g sha256 -q {} -m quoted -s signature", hex(over)));
            (tpm.read("quoted"), tpm.read("signature"))
        };
        let (quoted, signature) = quote(&over, "sha256:17,18,19");
        evidence.hardware = Hardware { quoted, signature, key, certificate: None };
        let text = policy_text(Family::V20);
        let pinned = text.lines().find(|line| line.starts_with("name = \"000b")).unwrap();
        let policy = Policy::parse(&text.replace(pinned, &format!("name = \"{}\"", hex(name)))).unwrap();
        assert_eq!(verify(&policy, &evidence, &challenge()).unwrap().machine, "rack 1");

        (evidence.hardware.quoted, evidence.hardware.signature) = quote(&over, "sha256:17,18");
        assert_eq!(verify(&policy, &evidence, &challenge()).unwrap_err().step(), Step::HardwareQuote);
        (evidence.hardware.quoted, evidence.hardware.signature) = quote(&[1; 32], "sha256:17,18,19");
        assert_eq!(verify(&policy, &evidence, &challenge()).unwrap_err().step(), Step::HardwareQuote);
        // One more event, at a locality that may.
        tpm.control(SET_LOCALITY, &[2]);
        tpm.extend(19, &[1; 32]);
        tpm.control(SET_LOCALITY, &[0]);
        (evidence.hardware.quoted, evidence.hardware.signature) = quote(&over, "sha256:17,18,19");
        assert_eq!(verify(&policy, &evidence, &challenge()).unwrap_err().step(), Step::EventLog);
        // Without a dynamic launch the registers are all ones.
        world.events.clear();
        let other = SwTpm::new();
        other.keys(algorithm, scheme);
        other.tool(&format!(
            "quote -c ak.ctx -l sha256:17,18,19 -g sha256 -q {} -m quoted -s signature",
            hex(&over)
        ));
        let key = other.read("ak.pub")[2..].to_vec();
        evidence.hardware = Hardware {
            quoted: other.read("quoted"),
            signature: other.read("signature"),
            key,
            certificate: None,
        };
        let policy = text.replace(pinned, &format!("name = \"{}\"", hex(other.read("ak.name"))));
        let failure = verify(&Policy::parse(&policy).unwrap(), &evidence, &challenge()).unwrap_err();
        assert_eq!(failure.step(), Step::EventLog);
    }
}

#[test]
fn tpm2_checkquote_accepts_a_micro_quote() {
    let tpm = SwTpm::new();
    for signer in [TestKey::Rsa(0), TestKey::P256(1)] {
        let evidence = World { signer, ..World::quote(Family::V20) }.evidence();
        let public = signer.public();
        let values: Vec<u8> = evidence.pcrs.iter().flat_map(|(_, value)| value.clone()).collect();
        for (name, bytes) in [
            ("key", &[&(public.len() as u16).to_be_bytes()[..], &public].concat()),
            ("quoted", &evidence.quote.quoted),
            ("signature", &evidence.quote.signature),
            ("values", &values),
        ] {
            fs::write(tpm.path(name), bytes).unwrap();
        }
        let over = hex([&[1][..], &NONCE].concat());
        tpm.tool(&format!(
            "checkquote -u key -m quoted -s signature -g sha256 -f values -l sha256:0,1,5 -q {over}"
        ));
    }
}

#[test]
fn a_true_tpm_opens_a_credential() {
    for (algorithm, scheme) in KINDS {
        let tpm = SwTpm::new();
        let (name, key) = tpm.keys(algorithm, scheme);
        assert_eq!(name, [&[0, 0x0b][..], &Hash::Sha256.of(&[&key])].concat());
        let ek = EndorsementKey::parse(&tpm.read("ek.pub")).unwrap();
        for secret in [&b"0123456789abcdef0123456789abcdef"[..], b"x"] {
            fs::write(tpm.path("credential"), make(&ek, &name, secret).unwrap().to_file()).unwrap();
            tpm.tool("startauthsession --policy-session -S session");
            tpm.tool("policysecret -S session -c e");
            tpm.tool(&format!(
                "activatecredential -c ak.ctx -C {EK} -i credential -o secret -P session:session"
            ));
            tpm.tool("flushcontext session");
            assert_eq!(tpm.read("secret"), secret);
        }
    }
}
