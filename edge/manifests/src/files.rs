use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::{Manifests, parse};

/// The longest file that is read, in bytes.
pub const MAX_FILE: usize = 8 << 20;

/// The most files that are read of one folder.
pub const MAX_FILES: usize = 10_000;

/// A file or folder that could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// What was to be read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// More files than are sensible.
    #[error("{} holds more than {MAX_FILES} manifests: name a folder further down", .0.display())]
    TooMany(PathBuf),
}

/// Reads a file, or every `.yaml`, `.yml` and `.json` file directly in a folder, in order of
/// name. Hidden files are left out.
pub fn load(path: &Path) -> Result<Manifests, LoadError> {
    let failed = |path: &Path, source| LoadError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(|source| failed(path, source))?;
    let files = if metadata.is_dir() {
        list(path)?
    } else {
        vec![path.to_owned()]
    };
    let mut all = Manifests::default();
    for file in files {
        let text = read(&file).map_err(|source| failed(&file, source))?;
        all.append(parse(&file, &text));
    }
    Ok(all.unique())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let failed = |source| LoadError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let manifest = path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if manifest && !hidden && path.is_file() {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(LoadError::TooMany(folder.to_owned()));
        }
    }
    files.sort();
    Ok(files)
}

/// One byte more than is allowed is enough for the reader to refuse.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?
        .take(MAX_FILE as u64 + 1)
        .read_to_end(&mut text)?;
    Ok(text)
}
