//! The tutorial is true: its files and commands, word for word, make a program that says in the guest what the tutorial says.

use super::LIMIT;
use anyhow::{Context, Result, ensure};
use machine::{Boot, root, run_shown, target_dir};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use trustvisor_tests::built;

const BUILDING: Duration = Duration::from_secs(20 * 60);

/// A fenced block, its language, and the file that it is, if the line before names one.
struct Block {
    language: String,
    file: Option<String>,
    text: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut before, mut lines) = (Vec::new(), "", text.lines());
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text: String =
                lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            let file = before.strip_prefix('`').and_then(|name| name.strip_suffix("`:")).map(String::from);
            blocks.push(Block { language: language.into(), file, text });
        }
        before = line;
    }
    blocks
}

/// In a folder outside of the workspace, whose `target` is kept for the next time.
fn follow(blocks: &[Block], folder: &Path) -> Result<()> {
    let target = target_dir().join("tutorial");
    fs::create_dir_all(&target)?;
    symlink(&target, folder.join("target"))?;
    for block in blocks {
        match (&block.file, block.language.as_str()) {
            (Some(file), _) => {
                fs::write(folder.join(file), &block.text).with_context(|| file.clone())?;
            }
            (None, "sh") => {
                let mut shell = Command::new("bash");
                shell.args(["-euc", &block.text]).current_dir(folder);
                shell.env("TRUSTVISOR", root()).env("CARGO_TARGET_DIR", folder.join("target"));
                run_shown("the tutorial", shell, BUILDING)?;
            }
            _ => ensure!(block.language == "text", "a block that is neither file nor command"),
        }
    }
    Ok(())
}

#[test]
fn the_tutorial_is_followed_word_for_word() -> Result<()> {
    let tutorial = fs::read_to_string(root().join("guest-sdk/TUTORIAL.md"))?;
    let blocks = blocks(&tutorial);
    ensure!(blocks.len() >= 13, "only {} blocks are found", blocks.len());
    let folder = tempfile::tempdir()?;
    follow(&blocks, folder.path())?;

    let program = fs::read(folder.path().join("target/x86_64-unknown-linux-gnu/release/app"))?;
    let disk = tempfile::NamedTempFile::new()?;
    fs::write(disk.path(), &program)?;
    disk.as_file().set_len(program.len().next_multiple_of(4096) as u64)?;
    let guest = Boot::new("guest-tutorial", built()?.as_ref()).disk(disk.path()).start()?;
    guest.wait_until_ready()?;
    let unpack = format!("head -c {} /dev/vda >/tmp/app && chmod +x /tmp/app", program.len());
    guest.succeed(&unpack, LIMIT)?;
    let said = guest.succeed("/tmp/app", LIMIT)?;
    let promised = blocks.iter().find(|block| block.language == "text").context("nothing is promised")?;
    ensure!(said.iter().eq(promised.text.lines()), "{said:?}");
    Ok(())
}
