//! The command, as a person or a script uses it, on the files that the documentation shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NONCE: &str = "0707070707070707070707070707070707070707070707070707070707070707";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn command(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trustvisor-verify")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

fn check(policy: &Path, evidence: &str, nonce: &str, more: &[&str]) -> (Option<i32>, String) {
    let (policy, evidence) =
        (policy.to_str().unwrap().to_owned(), data(evidence).to_str().unwrap().to_owned());
    let start = ["check", "--policy", &policy, "--evidence", &evidence, "--nonce", nonce];
    let output = command(&[&start, more].concat());
    (output.status.code(), text(&output))
}

#[test]
fn a_line_a_step() {
    let (code, text) = check(&data("policy.toml"), "quote.json", NONCE, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.lines().filter(|line| line.ends_with(" PASS")).count(), 10, "{text}");
    assert!(text.ends_with("\nPASS\n") && text.contains("PAL: counter\n"), "{text}");
    let (code, text) = check(&data("policy.toml"), "quote.json", &NONCE.replace('7', "8"), &[]);
    assert_eq!(code, Some(1));
    assert!(text.starts_with("format             PASS\nhardware key       PASS\n"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("hardware quote     FAIL: it is not fresh"), "{text}");
}

#[test]
fn a_call_and_what_its_caller_knows() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("buffer"), [3, 1]).unwrap();
    let made =
        command(&["input", "--signature", "int,in,length", "-o", &path("input"), "2", &path("buffer")]);
    assert!(made.status.success(), "{}", text(&made));
    assert!(command(&["output", "--returned", "6", "-o", &path("output")]).status.success());
    let known = ["--entry", "0", "--number", "1", "--input", &path("input"), "--output", &path("output")];
    let (code, text) = check(&data("policy.toml"), "call.json", NONCE, &known);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("entry add") && text.contains("next chain: "), "{text}");
    assert!(command(&["output", "--returned", "7", "-o", &path("output")]).status.success());
    let (code, text) = check(&data("policy.toml"), "call.json", NONCE, &known);
    assert!(
        code == Some(1) && text.contains("binding            FAIL: the output of the challenge"),
        "{text}"
    );
    let few = command(&["input", "--signature", "int,in,length", "-o", &path("input"), "2"]);
    assert_eq!(few.status.code(), Some(2));
}

#[test]
fn an_earlier_hardware_quote_needs_a_policy_that_says_so() {
    let earlier = data("quote.json");
    let more = [
        "--earlier",
        earlier.to_str().unwrap(),
        "--earlier-nonce",
        NONCE,
        "--earlier-issued",
        "100",
        "--time",
        "160",
    ];
    let (code, text) = check(&data("policy.toml"), "quote.json", &NONCE.replace('7', "8"), &more);
    assert!(code == Some(1) && text.contains("no max_age"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "max_age = 60\n".to_owned() + &fs::read_to_string(data("policy.toml")).unwrap())
        .unwrap();
    // The hardware quote will do; the micro-quote is not fresh.
    let (code, text) = check(&policy, "quote.json", &NONCE.replace('7', "8"), &more);
    assert!(code == Some(1) && text.contains("binding            FAIL"), "{text}");
}

#[test]
fn what_is_wrong_with_the_usage() {
    let code = |arguments: &[&str]| command(arguments).status.code();
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(check(&data("policy.toml"), "quote.json", "07", &[]).0, Some(2));
    assert_eq!(check(&data("policy.toml"), "quote.json", "xy", &[]).0, Some(2));
    assert_eq!(check(&data("policy.toml"), "none.json", NONCE, &[]).0, Some(2));
    assert_eq!(check(&data("quote.json"), "quote.json", NONCE, &[]).0, Some(2));
    assert_eq!(check(&data("policy.toml"), "quote.json", NONCE, &["--earlier", "x"]).0, Some(2));
    // Evidence that is none does not hold.
    let (code, text) = check(&data("policy.toml"), "policy.toml", NONCE, &[]);
    assert!(code == Some(1) && text.starts_with("format             FAIL: byte 0"), "{text}");
}

#[test]
fn explain_says_that_nothing_is_verified() {
    let output = command(&["explain", data("call.json").to_str().unwrap()]);
    assert!(output.status.success());
    let text = text(&output);
    assert!(text.starts_with("claims, nothing of this is verified:\n"), "{text}");
    assert!(text.contains("PCR 18") && text.contains("attested call: entry 0"), "{text}");
}

#[test]
fn credentials_are_files_of_tpm2_tools() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("secret"), [7; 32]).unwrap();
    let name = format!("000b{}", "55".repeat(32));
    let ek = data("ek.pub").to_str().unwrap().to_owned();
    let (secret, credential) = (path("secret"), path("credential"));
    let make = ["make-credential", "--ek", &ek, "--secret", &secret, "-o", &credential, "--name"];
    assert!(command(&[&make[..], &[&name]].concat()).status.success());
    assert_eq!(fs::read(&credential).unwrap()[..8], [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1]);
    assert_eq!(command(&[&make[..], &["00"]].concat()).status.code(), Some(2));
}
