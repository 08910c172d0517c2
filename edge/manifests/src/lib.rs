//! Ordinary Kubernetes manifests as a source: a file, or a folder of them.
//!
//! YAML with several documents, JSON, and `List` kinds are read; every object is judged by
//! itself, so a wrong one loses nothing of the others. All sizes are bounded.

mod cluster;
mod document;
mod files;
mod object;

pub use cluster::OWNED_ADDRESSES;
pub use document::MAX_DOCUMENTS;
pub use files::{LoadError, MAX_FILE, MAX_FILES, load};
pub use object::{Manifest, Object, ObjectId};

use std::fmt;
use std::path::{Path, PathBuf};

use watari_model::ClusterNode;
use watari_routes::MasqueradeConf;

/// Where an object was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// Which document of the file, from 1.
    pub document: usize,
    /// The line that the document starts at, from 1.
    pub line: usize,
    /// Which item of a `List`, from 0; inner lists add a number each.
    pub items: Vec<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, document, line) = (self.file.display(), self.document, self.line);
        write!(f, "{file}: document {document} (from line {line})")?;
        for item in &self.items {
            write!(f, ": items[{item}]")?;
        }
        Ok(())
    }
}

/// Something about one object, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}{}{path}: {reason}", if path.is_empty() { "" } else { ": " })]
pub struct Finding {
    /// The object.
    pub origin: Origin,
    /// The field, as in `spec.containers[0].image`; empty for the whole.
    pub path: String,
    /// What is wrong, or worth knowing.
    pub reason: String,
}

/// What was read from one or several files.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The objects that were understood, in order of reading.
    pub objects: Vec<Manifest>,
    /// Objects that were not, and why.
    pub errors: Vec<Finding>,
    /// Fields that no version of the API knows: most often a typing mistake.
    pub notes: Vec<Finding>,
}

impl Manifests {
    /// The nodes of the cluster, in order of reading.
    pub fn nodes(&self) -> impl Iterator<Item = &ClusterNode> {
        self.objects
            .iter()
            .filter_map(|manifest| match &manifest.object {
                Object::Node(node) => Some(node),
                _ => None,
            })
    }

    /// Who is masqueraded: all that is said of it, put together; the default when nothing is.
    pub fn masquerade(&self) -> MasqueradeConf {
        let mut all = MasqueradeConf::default();
        for manifest in &self.objects {
            if let Object::Masquerade { conf, .. } = &manifest.object {
                all.merge(conf.clone());
            }
        }
        all
    }

    /// Adds what another file holds.
    pub fn append(&mut self, mut more: Self) {
        self.objects.append(&mut more.objects);
        self.errors.append(&mut more.errors);
        self.notes.append(&mut more.notes);
    }

    /// Moves every object but the first of a kind, namespace and name to the errors.
    #[must_use]
    pub fn unique(mut self) -> Self {
        let mut seen = std::collections::BTreeMap::new();
        let mut kept = Vec::with_capacity(self.objects.len());
        for manifest in self.objects {
            if let Some(first) = seen.get(&manifest.id()) {
                self.errors.push(Finding {
                    reason: format!("{} stands also in {first}", manifest.id()),
                    path: String::new(),
                    origin: manifest.origin,
                });
            } else {
                seen.insert(manifest.id(), manifest.origin.clone());
                kept.push(manifest);
            }
        }
        self.objects = kept;
        self
    }
}

/// Reads the text of one file: JSON if its name ends in `.json`, else YAML (of which JSON is
/// a part).
pub fn parse(file: &Path, text: &[u8]) -> Manifests {
    let mut found = Manifests::default();
    let origin = |document, line| Origin {
        file: file.to_owned(),
        document,
        line,
        items: Vec::new(),
    };
    if text.len() > MAX_FILE {
        found.errors.push(Finding {
            origin: origin(1, 1),
            path: String::new(),
            reason: format!("the file has more than {MAX_FILE} bytes"),
        });
        return found;
    }
    let json = file.extension().is_some_and(|end| end == "json");
    let documents = document::split(text, json);
    for (at, document) in documents.into_iter().enumerate() {
        let origin = origin(at + 1, document.line);
        match document.value {
            Ok(value) => object::read(&origin, value, &mut found),
            Err(reason) => found.errors.push(Finding {
                origin,
                path: String::new(),
                reason,
            }),
        }
    }
    found
}
