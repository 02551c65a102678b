//! The event log as the relying party reads it.
//!
//! Demanded: what TrustVisor's own SDK writes of a launch is read; and of any bytes that are read, no beginning but at an event's
//! end and nothing longer by less than an event is.

use abi::{Digests, Extend, Info, info_flag};
use trustvisor_verify::{EventLog, Family};

use crate::input::Input;

/// The first byte says which family; and whether the bytes are the log, or what was extended.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let family = if input.bool() { Family::V12 } else { Family::V20 };
    if input.bool() {
        let log = trustvisor::event_log::format(&launch(&mut input, family));
        EventLog::parse(&log, family).expect("the SDK's own log");
        return;
    }
    let log = input.rest();
    if EventLog::parse(log, family).is_ok() {
        assert!(EventLog::parse(&[log, &[0]].concat(), family).is_err());
        // The shortest event has 32 bytes.
        let shorter =
            (1..32.min(log.len())).filter(|less| EventLog::parse(&log[..log.len() - less], family).is_ok());
        assert_eq!(shorter.count(), 0);
    }
}

fn launch(input: &mut Input, family: Family) -> Info {
    let flags = if family == Family::V12 { info_flag::TPM_12 } else { 0 };
    let mut info = Info { flags: flags | info_flag::DYNAMIC_LAUNCH, ..Info::default() };
    info.extends.banks[..3].copy_from_slice(&[4, 0x0b, 0x0c]);
    for extend in &mut info.extends.list {
        let digests = Digests { sha1: input.bytes(), sha256: input.bytes() };
        *extend = Extend { pcr: u32::from(input.u8() % 24), digests };
    }
    info
}
