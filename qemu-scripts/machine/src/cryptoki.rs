//! The integration tests of the crate `cryptoki`, which try a PKCS#11 module from outside: built from the crate as cargo has fetched it, as
//! programs for the full guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::build::cargo;
use crate::paths::{build_dir, root, target_dir};
use crate::process::{self, say};

const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Its tests of what our module has.
const TESTS: [&str; 2] = ["basic", "allowed_mechanisms"];

/// The programs, `cryptoki-NAME` each.
pub(crate) fn cryptoki_tests() -> Result<Vec<PathBuf>> {
    let folder = build_dir().join("cryptoki");
    let sources = copy_of(&fetched()?, &folder.join("sources"))?;
    say("building the tests of the crate cryptoki");
    let mut build = cargo(&sources, &target_dir().join("cryptoki"));
    build.args(["test", "--no-run", "-q", "--message-format=json"]);
    build.args(TESTS.iter().flat_map(|test| ["--test", test]));
    build.envs([("CARGO_PROFILE_TEST_DEBUG", "0"), ("CARGO_PROFILE_TEST_STRIP", "symbols")]);
    let messages = process::output("building the tests of cryptoki", build, LIMIT)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = Vec::new();
    for message in messages {
        let (name, program) = (message["target"]["name"].as_str(), message["executable"].as_str());
        if let (Some(name), Some(program)) = (name.filter(|name| TESTS.contains(name)), program) {
            let named = folder.join(format!("cryptoki-{name}"));
            fs::copy(program, &named).with_context(|| format!("cannot copy {program}"))?;
            programs.push(named);
        }
    }
    ensure!(programs.len() == TESTS.len(), "cargo built {programs:?}");
    Ok(programs)
}

/// Where cargo has the crate's sources.
fn fetched() -> Result<PathBuf> {
    let mut command = cargo(root(), &target_dir());
    command.args(["metadata", "--format-version=1", "--locked"]);
    let metadata: Value = serde_json::from_str(&process::output("cargo metadata", command, LIMIT)?)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let cryptoki = packages.iter().find(|package| package["name"] == "cryptoki").context("no cryptoki")?;
    let manifest = Path::new(cryptoki["manifest_path"].as_str().context("no manifest")?);
    Ok(manifest.parent().context("a manifest is in a folder")?.into())
}

/// A copy that is a workspace of its own.
fn copy_of(sources: &Path, to: &Path) -> Result<PathBuf> {
    let name = sources.file_name().context("a crate has a folder")?;
    let copy = to.join(name);
    if !copy.join("Cargo.toml").exists() {
        fs::create_dir_all(to)?;
        let mut command = Command::new("cp");
        command.arg("-r").arg(sources).arg(to);
        process::run("copying cryptoki", command, LIMIT)?;
        let manifest = copy.join("Cargo.toml");
        let text = fs::read_to_string(&manifest)? + "\n[workspace]\n";
        fs::write(manifest, text)?;
    }
    Ok(copy)
}
