use super::arguments::Given;
use super::*;
use clap::CommandFactory;
use std::path::PathBuf;
use trustvisor::abi::{Info, RootState, info_flag};

#[test]
fn the_command_line_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn words_become_arguments() {
    let parse = |word: &str| Given::parse(word).unwrap();
    assert_eq!(parse("42"), Given::Int(42));
    assert_eq!(parse("0xffffffffffffffff"), Given::Int(u64::MAX));
    assert_eq!(parse("-1"), Given::Int(u64::MAX));
    assert_eq!(parse("text:a:b"), Given::In(b"a:b".to_vec()));
    assert_eq!(parse("hex:00Ff"), Given::In(vec![0, 255]));
    assert_eq!(parse("hex:"), Given::In(vec![]));
    assert_eq!(parse("out:3"), Given::Out(vec![0; 3], None));
    assert_eq!(parse("out:0x10:f"), Given::Out(vec![0; 16], Some(PathBuf::from("f"))));
    for wrong in [
        "",
        "x",
        "0x",
        "1.5",
        "hex:0",
        "hex:0g",
        "out:",
        "out:-1",
        "out:16777217",
        "in:/nowhere",
        "inout:f",
        "file:f",
    ] {
        assert!(Given::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn hexadecimal_there_and_back() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(from_hex(&hex(&bytes)), Some(bytes));
    assert_eq!(from_hex("\u{e4}"), None);
}

#[test]
fn text_and_json_say_the_same() {
    let flags = info_flag::DYNAMIC_LAUNCH | info_flag::TPM_12;
    let mut info =
        Info { version: 1, flags, root: RootState::Opened as u32, counters: 99, ..Info::default() };
    info.pcr17.sha1 = [0xab; 20];
    let (text, json) = (info::text(&info), info::as_json(&info));
    assert!(text.contains("dynamic launch: yes\nprotected from devices: yes\nTPM: 1.2\n"), "{text}");
    assert!(text.contains("root: the saved one, opened by the hardware TPM\ncounters: state 99\n"), "{text}");
    assert!(text.ends_with("PCR 18 sha256 none"), "{text}");
    assert_eq!(json["tpm"], "1.2");
    assert_eq!(json["dynamic_launch"], true);
    assert_eq!(json["pcr17"]["sha1"], "ab".repeat(20));
    assert!(json["pcr17"]["sha256"].is_null());
    assert_eq!(json["root"]["state"], 0);
}
