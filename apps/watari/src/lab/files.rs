//! The manifests that a command is given.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use watari_manifests::Manifests;

use crate::Outcome;

/// Reads the manifests of all files as one set, each object as it was given too.
pub fn load(files: &[PathBuf]) -> anyhow::Result<Manifests> {
    let mut all = Manifests::default();
    for file in files {
        all.append(if file.as_os_str() == "-" {
            let mut text = Vec::new();
            io::stdin()
                .take(watari_manifests::MAX_FILE as u64 + 1)
                .read_to_end(&mut text)
                .context("read manifests from standard input")?;
            watari_manifests::parse_whole(Path::new("standard input"), &text)
        } else {
            watari_manifests::load_whole(file)?
        });
    }
    Ok(all.unique())
}

/// Prints what was noted and what could not be read.
pub fn report(found: &Manifests) -> Outcome {
    for note in &found.notes {
        eprintln!("watari: note: {note}");
    }
    for error in &found.errors {
        eprintln!("watari: {error}");
    }
    if found.errors.is_empty() {
        Outcome::Well
    } else {
        Outcome::Wrong
    }
}

/// How the files are spoken of.
pub fn listed(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    names.join(", ")
}
