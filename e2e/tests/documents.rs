//! The documents are true: their links lead somewhere, their commands exist, and ARCHITECTURE.md
//! names every room.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use watari_e2e::lab::binary;
use watari_testkit::run;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("e2e has a parent").to_owned()
}

/// The documents at the root and in `docs/`, with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for folder in [root(), root().join("docs")] {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "md") {
                let text = fs::read_to_string(&path).expect("read a document");
                found.push((path, text));
            }
        }
    }
    assert!(
        found.len() >= 4,
        "README, ARCHITECTURE, CONTRIBUTING, CHANGELOG: {found:?}"
    );
    found
}

/// What stands between back-ticks or in a block of shell, without comments.
fn code(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<bool> = None;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let shell = matches!(language, "sh" | "bash" | "console");
            block = block.map_or(Some(shell), |_| None);
        } else if let Some(shell) = block {
            let command = line
                .trim_start_matches("$ ")
                .split(" #")
                .next()
                .unwrap_or_default();
            if shell {
                found.push(command.trim().to_owned());
            }
        } else {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The words after `program` where code calls it, with `sudo` or a path before it or not.
fn calls(text: &str, program: &str) -> BTreeSet<Vec<String>> {
    let is_program = |word: &str| word == program || word.ends_with(&format!("/{program}"));
    code(text)
        .iter()
        .filter_map(|command| {
            let mut words = command.split_whitespace().skip_while(|w| *w == "sudo");
            is_program(words.next()?).then(|| words.map(str::to_owned).collect())
        })
        .collect()
}

fn is_plain(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase())
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap_or_default();
            let folder = path.parent().expect("a document is in a folder");
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_command_of_run_exists() {
    let script = root().join("run");
    let help = run(&[&script.to_string_lossy(), "help"]);
    let known: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(known.contains("demo") && known.contains("test"), "{help}");
    for (path, text) in documents() {
        for words in calls(&text, "run") {
            let Some(command) = words.first().filter(|word| is_plain(word)) else {
                continue;
            };
            assert!(
                known.contains(command.as_str()),
                "{}: ./run {command}",
                path.display()
            );
        }
    }
}

#[test]
fn every_command_of_watari_exists() {
    for (path, text) in documents() {
        for words in calls(&text, "watari") {
            let command = words.iter().take(2).take_while(|word| is_plain(word));
            let mut called = Command::new(binary("watari"));
            let output = called
                .args(command)
                .arg("--help")
                .output()
                .expect("start watari");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{}: watari {words:?}: {said}",
                path.display()
            );
        }
    }
}

#[test]
fn the_architecture_names_every_room() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("read ARCHITECTURE.md");
    let named: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(room, _)| room.trim_end_matches('/').to_owned())
        .collect();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("read Cargo.toml");
    let members = manifest
        .lines()
        .find(|l| l.starts_with("members"))
        .expect("members");
    for member in members.split('"').skip(1).step_by(2) {
        for room in rooms(member) {
            assert!(
                named.contains(&room),
                "ARCHITECTURE.md has no line for `{room}`"
            );
        }
    }
    for room in named {
        assert!(
            root().join(&room).is_dir(),
            "ARCHITECTURE.md names `{room}`, which is not there"
        );
    }
}

/// The folders that a member pattern stands for, relative to the root.
fn rooms(member: &str) -> Vec<String> {
    let Some(floor) = member.strip_suffix("/*") else {
        return vec![member.to_owned()];
    };
    let folders = fs::read_dir(root().join(floor))
        .expect("list a floor")
        .flatten();
    folders
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| format!("{floor}/{}", entry.file_name().to_string_lossy()))
        .collect()
}
