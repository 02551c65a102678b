//! Mutations: the trusted code with one check, wipe or flush removed, to show that some test misses it.
//!
//! `tests/mutations.toml` lists them. Each replaces a text that must occur exactly once in its file, outside tests, so that
//! the list cannot silently outlive the code it speaks of. A mutation is applied to a copy of the workspace, never to the
//! workspace itself; a copy is kept between mutations, and cargo builds anew what depends on the changed file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::build::{cargo, files_below, source_files};
use crate::files;
use crate::paths::{root, target_dir};
use crate::process::{self, Process};

const LIST: &str = "tests/mutations.toml";
/// What mutations are about: packages and their sources. File names start in the first, or name the other.
const MUTATED: [(&str, &str); 2] = [("hypervisor", "hypervisor/src"), ("utpm", "utpm/src")];

/// One mutation.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// What tests call it.
    pub name: String,
    change: Change,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    file: PathBuf,
    removes: String,
    find: String,
    replace: String,
    shown_by: Option<String>,
}

/// All mutations, in the order of their names.
pub fn mutations() -> Result<Vec<Mutation>> {
    parse(&fs::read_to_string(root().join(LIST)).context(LIST)?)
}

pub(crate) fn named(name: &str) -> Result<Mutation> {
    mutations()?
        .into_iter()
        .find(|m| m.name == name)
        .with_context(|| format!("{LIST} has no mutation {name}"))
}

fn parse(list: &str) -> Result<Vec<Mutation>> {
    let changes: BTreeMap<String, Change> = toml::from_str(list).context(LIST)?;
    Ok(changes.into_iter().map(|(name, change)| Mutation { name, change }).collect())
}

/// Another release: it says this of itself.
pub(crate) fn release(itself: &str) -> Result<Mutation> {
    const FILE: &str = "release.rs";
    let text = fs::read_to_string(root().join(MUTATED[0].1).join(FILE))?;
    let from = text.find("pub static RELEASE").context(FILE)?;
    let until = from + text[from..].find(';').context(FILE)?;
    let find = text[from..=until].to_owned();
    let replace = format!("pub static RELEASE: Release = {itself};");
    let change = Change { file: FILE.into(), removes: String::new(), find, replace, shown_by: None };
    Ok(Mutation { name: "another release".to_owned(), change })
}

impl Mutation {
    /// What the code lacks with it.
    pub fn removes(&self) -> &str {
        &self.change.removes
    }

    /// The system test that must notice it; without one, a unit test must.
    pub fn shown_by(&self) -> Option<&str> {
        self.change.shown_by.as_deref()
    }

    /// Whether it still fits the code.
    pub fn check(&self) -> Result<()> {
        let file = self.file();
        self.apply(
            &fs::read_to_string(root().join(&file)).with_context(|| format!("mutation {}", self.name))?,
        )?;
        Ok(())
    }

    fn file(&self) -> PathBuf {
        let (package, sources) = self.package();
        if package == MUTATED[0].0 {
            Path::new(sources).join(&self.change.file)
        } else {
            self.change.file.clone()
        }
    }

    /// The package of its file, and where its sources are.
    fn package(&self) -> (&'static str, &'static str) {
        let own = MUTATED.into_iter().find(|(_, sources)| self.change.file.starts_with(sources));
        own.unwrap_or(MUTATED[0])
    }

    /// How the names of the tests beside its file begin.
    fn module(&self) -> String {
        let (_, sources) = self.package();
        let module = self.change.file.strip_prefix(sources).unwrap_or(&self.change.file).with_extension("");
        module.iter().next().unwrap_or_default().to_string_lossy().into_owned() + "::"
    }

    /// The text of its file, mutated.
    fn apply(&self, text: &str) -> Result<String> {
        let Change { file, find, replace, .. } = &self.change;
        let (name, file) = (&self.name, file.display());
        ensure!(!find.is_empty() && find != replace, "mutation {name} changes nothing");
        let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        let places = text[..tests].matches(find.as_str()).count();
        ensure!(places == 1, "mutation {name}: its text occurs {places} times in {file}, not once");
        Ok(text.replacen(find, replace, 1))
    }
}

/// Makes `copy` a copy of the workspace as it is now, with these mutations. What is already so is not touched.
pub(crate) fn mirror(copy: &Path, mutations: &[Mutation]) -> Result<()> {
    let mut sources = source_files()?;
    if copy.starts_with(root()) {
        // Cargo reads the configuration of the folders above as well: aliases would come twice.
        sources.retain(|file| !file.starts_with(".cargo"));
    }
    for mutated in mutations.iter().map(Mutation::file) {
        ensure!(sources.contains(&mutated), "a mutation of {}, which does not exist", mutated.display());
    }
    for file in &sources {
        let mut bytes = files::read(&root().join(file))?;
        for mutation in mutations.iter().filter(|m| m.file() == *file) {
            bytes = mutation.apply(&String::from_utf8(bytes)?)?.into_bytes();
        }
        files::write(&copy.join(file), &bytes)?;
    }
    for file in files_below(copy)? {
        if sources.binary_search(&file).is_err() {
            fs::remove_file(copy.join(file))?;
        }
    }
    Ok(())
}

/// A copy of the workspace in which the unit tests of a mutated crate run, with one mutation after the other.
pub struct Trial {
    sources: PathBuf,
    target: PathBuf,
    _lock: File,
}

/// What the unit tests said to a mutation.
#[derive(Debug)]
pub enum Verdict {
    /// All passed.
    Unnoticed,
    /// The first that failed; or that they came to no end.
    Noticed(String),
}

/// For a build from nothing, on a busy machine.
const BUILD_LIMIT: Duration = Duration::from_secs(10 * 60);
/// Several times what all unit tests take.
const TEST_LIMIT: Duration = Duration::from_secs(4 * 60);

/// What takes longest, and is asked last: the quickest to notice something first.
const SLOW: [&str; 2] = ["pal::tests::model", "pal::tests::full_size"];
/// Cargo's, for a build in a third of the time, good enough for the other tests.
const NOT_OPTIMISED: [&str; 2] = ["--config", "profile.dev.package.hypervisor.opt-level=0"];
/// The same numbers each time. What fails is not made smaller, nor kept for the next mutation.
const PROPTEST: [(&str, &str); 4] = [
    ("PROPTEST_CASES", "64"),
    ("PROPTEST_RNG_SEED", "1"),
    ("PROPTEST_MAX_SHRINK_ITERS", "0"),
    ("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1"),
];

impl Trial {
    /// Trials have numbers: each has a copy of its own.
    pub fn new(number: usize) -> Result<Self> {
        let folder = target_dir().join(format!("mutants-{number}"));
        let lock = files::lock(&folder)?;
        let sources = folder.join("sources");
        mirror(&sources, &[])?;
        Ok(Self { sources, target: folder.join("target"), _lock: lock })
    }

    /// Runs the unit tests until one fails, the quick ones of the mutated module first. What says nothing about them is an error:
    /// they do not compile.
    pub fn test(&self, mutation: Option<&Mutation>) -> Result<Verdict> {
        let Some(mutation) = mutation else { return self.ask(None) };
        let file = self.sources.join(mutation.file());
        let text = fs::read_to_string(&file)?;
        files::write(&file, mutation.apply(&text)?.as_bytes())?;
        let verdict = self.ask(Some(mutation));
        files::write(&file, text.as_bytes())?;
        verdict
    }

    fn ask(&self, mutation: Option<&Mutation>) -> Result<Verdict> {
        let skip: Vec<_> = SLOW.iter().flat_map(|slow| ["--skip", slow]).collect();
        let module = mutation.map(Mutation::module).unwrap_or_default();
        let quick = [module.as_str(), ""].map(|names| [&skip[..], &[names]].concat());
        match self.first_to_fail(mutation, &NOT_OPTIMISED, &quick)? {
            Verdict::Unnoticed => self.first_to_fail(mutation, &[], &SLOW.map(|slow| vec![slow])),
            noticed => Ok(noticed),
        }
    }

    /// Builds the tests and runs one selection of them after the other.
    fn first_to_fail(
        &self,
        mutation: Option<&Mutation>,
        how: &[&str],
        selections: &[Vec<&str>],
    ) -> Result<Verdict> {
        let built = self.build(mutation.map_or(MUTATED[0].0, |mutation| mutation.package().0), how)?;
        ensure!(!built.fresh || mutation.is_none(), "cargo did not build the mutated code");
        for selection in selections {
            if let Verdict::Noticed(test) = self.run(&built.tests, selection)? {
                return Ok(Verdict::Noticed(test));
            }
        }
        Ok(Verdict::Unnoticed)
    }

    fn run(&self, tests: &Path, arguments: &[&str]) -> Result<Verdict> {
        let output = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(tests);
        command.arg("--test-threads=1").args(arguments).current_dir(&self.sources).envs(PROPTEST);
        command.stdin(Stdio::null()).stdout(output.as_file().try_clone()?).stderr(Stdio::null());
        let mut running = Process::spawn("the unit tests", command, Vec::new())?;
        let deadline = Instant::now() + TEST_LIMIT;
        loop {
            let ended = running.ended();
            let failed = first_failure(&fs::read_to_string(output.path())?);
            match (failed, ended) {
                (Some(name), _) => return Ok(Verdict::Noticed(name)),
                (None, Some(status)) if status.success() => return Ok(Verdict::Unnoticed),
                (None, Some(status)) => return Ok(Verdict::Noticed(format!("the tests end with {status}"))),
                (None, None) if Instant::now() > deadline => {
                    let seconds = TEST_LIMIT.as_secs();
                    return Ok(Verdict::Noticed(format!("a test does not end within {seconds} s")));
                }
                (None, None) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn build(&self, package: &str, how: &[&str]) -> Result<Built> {
        let mut command = cargo(&self.sources, &self.target);
        command.args(["test", "-q", "-p", package, "--lib", "--no-run", "--message-format=json"]);
        command.args(how).env("CARGO_PROFILE_DEV_DEBUG", "0");
        let messages = process::output("building the unit tests", command, BUILD_LIMIT)?;
        let built = messages.lines().find_map(|message| serde_json::from_str(message).ok());
        built.context("cargo names no binary of the unit tests")
    }
}

/// What cargo says of a binary.
#[derive(Deserialize)]
struct Built {
    #[serde(rename = "executable")]
    tests: PathBuf,
    /// It was there already.
    fresh: bool,
}

fn first_failure(output: &str) -> Option<String> {
    let failed = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    output.lines().find_map(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "[name]\nfile = 'a.rs'\nremoves = 'b'\nfind = '''\nx &&\n    y'''\nreplace = 'x'\n";

    #[test]
    fn a_text_that_is_not_there_exactly_once_is_an_error() {
        let mutation = parse(ONE).unwrap().remove(0);
        assert_eq!(mutation.apply("if x &&\n    y {}").unwrap(), "if x {}");
        let error = |text| mutation.apply(text).unwrap_err().to_string();
        assert_eq!(error("if x && y {}"), "mutation name: its text occurs 0 times in a.rs, not once");
        assert!(error("x &&\n    y x &&\n    y").contains("2 times"));
        assert!(
            error("#[cfg(test)]\nmod tests {\n x &&\n    y }").contains("0 times"),
            "tests are not mutated"
        );
        let in_code = mutation.apply("x &&\n    y\n#[cfg(test)]\nmod tests {\n x &&\n    y }").unwrap();
        assert!(in_code.starts_with("x\n") && in_code.ends_with("x &&\n    y }"));
    }

    #[test]
    fn a_mutation_that_changes_nothing_is_an_error() {
        for same in ["x", ""] {
            let list = format!("[name]\nfile = 'a.rs'\nremoves = 'b'\nfind = '{same}'\nreplace = '{same}'\n");
            let mutation = parse(&list).unwrap().remove(0);
            assert_eq!(mutation.apply("x").unwrap_err().to_string(), "mutation name changes nothing");
        }
    }

    #[test]
    fn a_list_with_a_name_twice_or_an_unknown_field_is_an_error() {
        assert!(parse(&format!("{ONE}{ONE}")).is_err());
        assert!(parse(&format!("{ONE}shownby = 'pal'\n")).is_err());
        assert_eq!(parse(&format!("{ONE}shown_by = 'pal'\n")).unwrap()[0].shown_by(), Some("pal"));
    }

    #[test]
    fn every_mutation_fits_the_code() {
        let mutations = mutations().unwrap();
        assert!(mutations.len() >= 60);
        let wrong: Vec<_> = mutations.iter().filter_map(|m| m.check().err()).map(|e| e.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn the_first_test_that_fails() {
        let output = "running 2 tests\ntest a::b ... ok\ntest a::c ... FAILED\ntest d ... FAILED\n";
        assert_eq!(first_failure(output).as_deref(), Some("a::c"));
        assert_eq!(first_failure("test a::b ... ok\ntest result: FAILED. 1 passed"), None);
    }

    #[test]
    fn a_copy_follows_the_workspace() {
        let folder = tempfile::tempdir().unwrap();
        let stale = folder.path().join("hypervisor/src/gone.rs");
        files::write(&stale, b"").unwrap();
        let mutation = mutations().unwrap().remove(0);
        mirror(folder.path(), std::slice::from_ref(&mutation)).unwrap();
        assert!(!stale.exists());
        let same =
            |file: &Path| fs::read(root().join(file)).unwrap() == fs::read(folder.path().join(file)).unwrap();
        assert!(!same(&mutation.file()) && same(Path::new("Cargo.toml")));
        mirror(folder.path(), &[]).unwrap();
        assert!(same(&mutation.file()));
    }
}
