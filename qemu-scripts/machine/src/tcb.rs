//! Counts the lines that have to be trusted: non-blank, non-comment lines of Rust and assembly, tests left out.

use std::path::Path;

use anyhow::{Result, ensure};
use machine::{root, say, source_files};

const TRUSTED: [&str; 3] = ["hypervisor", "utpm", "guest-sdk/abi"];
const MOST: usize = 8000;

/// Prints the count and fails if there are too many.
pub(crate) fn check() -> Result<()> {
    let mut total = 0;
    for folder in TRUSTED {
        let mut lines = 0;
        for file in source_files()?.iter().filter(|f| f.starts_with(folder) && is_code(f)) {
            let text = std::fs::read_to_string(root().join(file))?;
            lines += count(&text);
        }
        say(format_args!("{folder}: {lines} trusted lines"));
        total += lines;
    }
    say(format_args!("{total} trusted lines of at most {MOST}"));
    ensure!(total <= MOST, "the trusted code has {total} lines, more than {MOST}");
    Ok(())
}

fn is_code(file: &Path) -> bool {
    let code = file.extension().is_some_and(|e| e == "rs" || e == "s" || e == "S");
    let test = file.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "tests.rs")));
    code && !test
}

/// Relies on rustfmt: the item after `#[cfg(test)]` ends with `;` on a line of its own indentation, or with the first line
/// that consists of this indentation and `}`.
fn count(text: &str) -> usize {
    let mut lines = text.lines();
    let (mut code, mut comment) = (0, false);
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if comment {
            comment = !trimmed.contains("*/");
        } else if trimmed == "#[cfg(test)]" {
            skip_item(&mut lines, &line[..line.len() - line.trim_start().len()]);
        } else if trimmed.starts_with("/*") {
            comment = !trimmed.contains("*/");
        } else if !trimmed.is_empty() && !trimmed.starts_with("//") {
            code += 1;
        }
    }
    code
}

fn skip_item<'a>(lines: &mut impl Iterator<Item = &'a str>, indentation: &str) {
    for line in lines {
        let Some(rest) = line.strip_prefix(indentation) else { continue };
        let same_indentation = !rest.starts_with(char::is_whitespace);
        if same_indentation && (rest == "}" || rest.ends_with(';') || rest.ends_with("{}")) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blanks_and_tests_do_not_count() {
        let text = "//! Doc\n\n/* long\n comment */\npub mod a;\n#[cfg(test)]\nmod tests;\nfn f() {\n    // why\n    g();\n}\n\
            #[cfg(test)]\nmod tests {\n    fn t() {\n    }\n}\nconst A: u8 = 1;\n";
        assert_eq!(count(text), 5);
    }

    #[test]
    fn only_code_outside_tests_is_looked_at() {
        assert!(is_code(Path::new("utpm/src/lib.rs")) && is_code(Path::new("hypervisor/src/a.s")));
        assert!(!is_code(Path::new("utpm/tests/a.rs")) && !is_code(Path::new("utpm/src/tests.rs")));
        assert!(!is_code(Path::new("utpm/Cargo.toml")));
    }
}
