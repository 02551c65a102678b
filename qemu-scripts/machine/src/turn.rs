//! What is too much for every run goes by turns: each commit tries another part of it.

use std::process::Command;
use std::sync::LazyLock;

use crate::paths::root;

/// Whether it is the turn of this one of many with this commit, where so many commits try all of them together.
pub fn is_turn(index: usize, turns: usize) -> bool {
    static COMMITS: LazyLock<usize> = LazyLock::new(commits);
    index % turns == *COMMITS % turns
}

/// How many commits there are; 0 where that is not known.
fn commits() -> usize {
    let mut command = Command::new("git");
    command.args(["rev-list", "--count", "HEAD"]).current_dir(root());
    let output = command.output();
    output.ok().and_then(|output| String::from_utf8(output.stdout).ok()?.trim().parse().ok()).unwrap_or(0)
}
