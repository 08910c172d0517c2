use std::fs::File;
use std::io::Read;
use std::path::Path;

use watari_ipam::{Document, MAX_DOCUMENT};

use crate::SourceError;

/// Reads a file of at most [`MAX_DOCUMENT`] bytes; only a regular one, so that a pipe in its
/// place cannot hold a pod's creation up.
pub fn read_file(path: &Path) -> Result<Vec<u8>, SourceError> {
    let error = |why: String| SourceError::File {
        path: path.display().to_string(),
        why,
    };
    let kind = std::fs::metadata(path).map_err(|source| error(source.to_string()))?;
    if !kind.is_file() {
        return Err(error("it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let bound = u64::try_from(MAX_DOCUMENT).unwrap_or(u64::MAX);
    File::open(path)
        .and_then(|file| file.take(bound + 1).read_to_end(&mut bytes))
        .map_err(|source| error(source.to_string()))?;
    if bytes.len() > MAX_DOCUMENT {
        return Err(error(format!("it is longer than {MAX_DOCUMENT} bytes")));
    }
    Ok(bytes)
}

/// Reads Azure Stack's `interfaces.json`.
pub fn stack_file(path: &Path) -> Result<Document, SourceError> {
    Document::from_json(&read_file(path)?).map_err(|why| SourceError::Document {
        from: path.display().to_string(),
        why,
    })
}
