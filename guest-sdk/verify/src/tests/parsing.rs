//! Files that are not quite evidence, and bytes that are nothing.

use proptest::prelude::*;

use crate::event_log::EventLog;
use crate::evidence::Evidence;
use crate::hash::Family;
use crate::key::{Public, Signature};
use crate::quoted::Quoted;
use crate::tests::world::{World, policy_text, to_json};
use crate::{Malformed, Policy, PolicyError};

fn text() -> String {
    to_json(&World::call().evidence())
}

fn refused(old: &str, new: &str) -> String {
    let text = text();
    assert_eq!(text.matches(old).count(), 1, "{old}");
    Evidence::parse(text.replace(old, new).as_bytes()).unwrap_err().to_string()
}

#[test]
fn only_the_one_form() {
    let expects = |old: &str, new: &str, expected: &str| {
        let found = refused(old, new);
        assert!(found.contains(expected), "{old} -> {new}: {found}");
    };
    expects("\"version\": 1,", "\"version\": 2,", "version is 0x2, not 1");
    expects("\"version\": 1,", "\"version\": 01,", "a whole number");
    expects("\"version\": 1,", "\"version\": -1,", "a whole number");
    expects("\"version\": 1,", "\"version\": 1.0,", "','");
    expects("\"version\": 1,", "\"version\": 99999999999999999999,", "a whole number");
    expects("\"version\": 1,", "", "\"version\" expected");
    expects("\"version\": 1,", "\"version\": 1, \"version\": 1,", "\"tpm\" expected");
    expects("\"version\": 1,", "\"version\": 1, \"more\": 1,", "\"tpm\" expected");
    expects("\"version\": 1,", "\"versi\\u006fn\": 1,", "\"version\" expected");
    expects("\"tpm\": \"2.0\"", "\"tpm\": \"2\"", "family");
    expects("\"certificate\": null", "\"certificate\": nul", "expected");
    expects("\"certificate\": null", "\"certificate\": \"!\"", "not canonical base64");
    expects("\"pcrs\": {\"0\"", "\"pcrs\": {\"00\"", "registers");
    expects("\"pcrs\": {\"0\"", "\"pcrs\": {\"8\"", "registers");
    expects("\"entry\": 0", "\"entry\": 65536", "16 bits");
    expects("\"signature\": \"0102", "\"signature\": \"0 02", "plain character");
    expects("\"signature\": \"0102", "\"signature\": \"02", "hexadecimal of its size");
    let upper = text().replace(": \"0707", ": \"0A07");
    assert!(Evidence::parse(upper.as_bytes()).unwrap_err().to_string().contains("call.nonce"));
    for more in ["x", "{}", "\0"] {
        let error = Evidence::parse((text() + more).as_bytes()).unwrap_err();
        assert!(error.to_string().contains("the end of the file"), "{error}");
    }
}

#[test]
fn registers_ascend() {
    let mut evidence = World::quote(Family::V20).evidence();
    evidence.pcrs.swap(0, 1);
    assert!(Evidence::parse(to_json(&evidence).as_bytes()).is_err());
    evidence.pcrs[1] = evidence.pcrs[0].clone();
    assert!(Evidence::parse(to_json(&evidence).as_bytes()).is_err());
}

#[test]
fn base64_has_one_way_to_write_each_byte() {
    let certificate = |text: &str| refused("\"certificate\": null", &format!("\"certificate\": \"{text}\""));
    // Bits that say nothing, padding that is missing or too much.
    for text in ["QR==", "QQ", "QQ=", "QQ===", "QQ==QQ==", "Q", "QUF_", " QQ=="] {
        assert!(!certificate(text).is_empty(), "{text}");
    }
}

#[test]
fn what_is_too_long_is_not_read() {
    let mut evidence = World::call().evidence();
    evidence.event_log = vec![0; (64 << 10) + 1];
    let long = Evidence::parse(to_json(&evidence).as_bytes());
    assert!(matches!(long, Err(Malformed::TooLong { field: "event_log", .. })));
    let mut evidence = World::call().evidence();
    evidence.identity.push(vec![]);
    let long = Evidence::parse(to_json(&evidence).as_bytes());
    assert!(matches!(long, Err(Malformed::TooLong { field: "identity", .. })));
}

#[test]
fn every_beginning_of_a_file_is_refused() {
    let text = text();
    let end = text.trim_end().len();
    for length in 0..end {
        assert!(Evidence::parse(&text.as_bytes()[..length]).is_err(), "{length}");
    }
}

#[test]
fn every_beginning_of_a_structure_is_refused() {
    let evidence = World::quote(Family::V20).evidence();
    let old = World::quote(Family::V12).evidence();
    let all = |bytes: &[u8], read: &dyn Fn(&[u8]) -> bool| {
        assert!(read(bytes));
        assert!((0..bytes.len()).all(|length| !read(&bytes[..length])));
        assert!(!read(&[bytes, &[0]].concat()));
    };
    all(&evidence.hardware.key, &|bytes| Public::parse("key", bytes).is_ok());
    all(&evidence.identity[0], &|bytes| Public::parse("key", bytes).is_ok());
    all(&evidence.hardware.signature, &|bytes| Signature::parse("signature", bytes).is_ok());
    all(&old.hardware.signature, &|bytes| Signature::parse("signature", bytes).is_ok());
    all(&evidence.hardware.quoted, &|bytes| Quoted::parse("quote", Family::V20, bytes).is_ok());
    all(&old.hardware.quoted, &|bytes| Quoted::parse("quote", Family::V12, bytes).is_ok());
}

#[test]
fn policies() {
    let text = policy_text(Family::V20);
    let error = |old: &str, new: &str| {
        assert!(text.contains(old), "{old}");
        Policy::parse(&text.replacen(old, new, 1)).unwrap_err()
    };
    let toml = |old: &str, new: &str, expected: &str| match error(old, new) {
        PolicyError::Toml(text) => assert!(text.contains(expected), "{text}"),
        other => panic!("{other}"),
    };
    toml("tpm = \"2.0\"", "tpm = \"3.0\"", "unknown variant");
    toml("machine = \"rack 1\"", "machine = \"rack 1\"\ntrusted = true", "unknown field `trusted`");
    toml("machine = \"rack 1\"", "", "missing field `machine`");
    toml("sha256 = \"", "sha256 = \"00", "hexadecimal");
    toml("sha1 = \"", "sha2 = \"", "unknown field `sha2`");
    toml("name = \"000b", "name = \"000B", "hexadecimal");
    toml("\"in\", \"length\"]", "\"in\"]", "length after each buffer");
    toml("security_version = 1", "security_version = -1", "invalid value");
    assert_eq!(error("rack 2", "rack 1"), PolicyError::Twice("machine rack 1".into()));
    assert_eq!(error("pcrs = { 1 =", "pcrs = { 8 ="), PolicyError::MicroPcr("8".into()));
    assert_eq!(error("pcrs = { 1 =", "pcrs = { 0 ="), PolicyError::MicroPcr("0".into()));
    assert_eq!(
        error("options = [\"dma=unprotected\\ntpm=required\\n\"]", "options = []"),
        PolicyError::Nothing("options")
    );
    let adder = text.rfind("measurement = ").unwrap();
    let counter = text.find("measurement = ").unwrap();
    let line = |at: usize| text[at..].lines().next().unwrap();
    let twice = text.replace(line(adder), line(counter));
    assert!(
        matches!(Policy::parse(&twice), Err(PolicyError::Twice(what)) if what.starts_with("measurement"))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..150usize) {
        let world = World::quote(Family::V20).evidence();
        for family in [Family::V12, Family::V20] {
            let _ = EventLog::parse(&bytes, family).map(|log| log.launch().is_ok());
            let _ = Quoted::parse("quote", family, &bytes);
        }
        // And such as begin well.
        for good in [&world.identity[0], &world.hardware.key, &world.hardware.signature] {
            let bytes = [&good[..at.min(good.len())], &bytes].concat();
            let _ = Public::parse("key", &bytes).map(|public| public.key.rsa().is_some());
            let _ = Signature::parse("signature", &bytes).map(|signature| {
                Public::parse("key", &world.identity[0]).unwrap().key.verifies(b"", &signature)
            });
        }
        let _ = Evidence::parse(&bytes);
    }

    #[test]
    fn any_text_is_a_policy_or_none(text in "\\PC{0,200}") {
        let _ = Policy::parse(&text);
    }
}
