//! `trustvisor info`.

use super::{Print, hex};
use serde_json::{Value, json};
use trustvisor::abi::{CountersState, Digests, Info, RootState, info_flag};

pub(super) fn run(print: Print) -> anyhow::Result<()> {
    let info = trustvisor::info()?;
    print.value(&text(&info), &as_json(&info));
    Ok(())
}

fn tpm(info: &Info) -> &'static str {
    let flag = |flag| info.flags & flag != 0;
    match (flag(info_flag::NO_TPM), flag(info_flag::TPM_12)) {
        (true, _) => "none",
        (_, true) => "1.2",
        (_, false) => "2.0",
    }
}

fn root(info: &Info) -> String {
    root_state(info).map_or_else(|| format!("state {}", info.root), |(_, text)| text.into())
}

fn counters(info: &Info) -> String {
    let known = COUNTERS.iter().find(|(state, _)| *state as u32 == info.counters);
    known.map_or_else(|| format!("state {}", info.counters), |(_, text)| (*text).into())
}

/// SHA-256 is there on TPM 2.0 alone.
fn sha256(digests: &Digests) -> Option<String> {
    (digests.sha256 != [0; 32]).then(|| hex(&digests.sha256))
}

pub(super) fn text(info: &Info) -> String {
    let flag = |flag| info.flags & flag != 0;
    let mut lines = vec![
        format!("TrustVisor, interface version {}", info.version),
        format!("dynamic launch: {}", if flag(info_flag::DYNAMIC_LAUNCH) { "yes" } else { "NO" }),
        format!("protected from devices: {}", if flag(info_flag::DMA_UNPROTECTED) { "NO" } else { "yes" }),
        format!("TPM: {}", tpm(info)),
        format!("root: {}", root(info)),
        format!("counters: {}", counters(info)),
        format!("reserve: {} MiB at {:#x}", info.reserve_size >> 20, info.reserve_base),
        format!("PALs: {}, frames free: {} of {}", info.pals, info.frames_free, info.frames_total),
    ];
    for (name, digests) in [("PCR 17", &info.pcr17), ("PCR 18", &info.pcr18)] {
        lines.push(format!("{name} sha1   {}", hex(&digests.sha1)));
        lines.push(format!("{name} sha256 {}", sha256(digests).unwrap_or("none".into())));
    }
    lines.join("\n")
}

pub(super) fn as_json(info: &Info) -> Value {
    let flag = |flag| info.flags & flag != 0;
    let pcr = |digests: &Digests| json!({ "sha1": hex(&digests.sha1), "sha256": sha256(digests) });
    json!({
        "version": info.version,
        "dynamic_launch": flag(info_flag::DYNAMIC_LAUNCH),
        "protected_from_devices": !flag(info_flag::DMA_UNPROTECTED),
        "tpm": tpm(info),
        "root": { "state": info.root, "text": root(info) },
        "counters": { "state": info.counters, "text": counters(info) },
        "reserve": { "base": info.reserve_base, "bytes": info.reserve_size },
        "pals": info.pals,
        "frames": { "free": info.frames_free, "total": info.frames_total, "bytes": 4096 },
        "pcr17": pcr(&info.pcr17),
        "pcr18": pcr(&info.pcr18),
    })
}

/// What became of the root, and how to say it; nothing if TrustVisor is newer and has more states.
pub fn root_state(info: &Info) -> Option<(RootState, &'static str)> {
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
