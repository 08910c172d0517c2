//! Ordinary Kubernetes manifests as a source: a file, or a folder of them.
//!
//! YAML with several documents, JSON, and `List` kinds are read; every object is judged by
//! itself, so a wrong one loses nothing of the others. All sizes are bounded.

mod check;
mod cluster;
mod document;
mod files;
mod object;
mod pod;
mod service;
mod slice;
mod workload;

pub use cluster::OWNED_ADDRESSES;
pub use document::MAX_DOCUMENTS;
pub use files::{LoadError, MAX_FILE, MAX_FILES, load, load_whole};
pub use object::{Manifest, Object, ObjectId};
pub use pod::cluster_pod;
pub use service::{ALGORITHM, DIRECT_RETURN, PORT_RANGES, service};
pub use slice::{SERVICE_NAME, WEIGHT};
pub use workload::{MOST_REPLICAS, Workload, WorkloadKind};

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use object::Reading;
use watari_model::{ClusterNode, EndpointSlice, Service};
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

    /// The Services, in order of reading.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        let objects = self.objects.iter();
        objects.filter_map(|manifest| match &manifest.object {
            Object::Service(service) => Some(service),
            _ => None,
        })
    }

    /// The slices of Services' endpoints, in order of reading.
    pub fn endpoint_slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let objects = self.objects.iter();
        objects.filter_map(|manifest| match &manifest.object {
            Object::EndpointSlice(slice) => Some(slice),
            _ => None,
        })
    }

    /// Where the Services' cluster addresses are from.
    pub fn service_cidrs(&self) -> impl Iterator<Item = IpNet> {
        let objects = self.objects.iter();
        let cidrs = objects.filter_map(|manifest| match &manifest.object {
            Object::ServiceCidr { cidrs, .. } => Some(cidrs),
            _ => None,
        });
        cidrs.flatten().copied()
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
    read(file, text, &mut Reading::default())
}

/// The same; each object also as it was given.
pub fn parse_whole(file: &Path, text: &[u8]) -> Manifests {
    let mut reading = Reading {
        keep: true,
        ..Reading::default()
    };
    read(file, text, &mut reading)
}

/// Judges one object that was read by other means; `place` is where it is from.
pub fn judge(place: &Path, value: serde_json::Value) -> Manifests {
    let mut found = Manifests::default();
    let origin = Origin {
        file: place.to_owned(),
        document: 1,
        line: 1,
        items: Vec::new(),
    };
    object::read(&origin, value, &mut Reading::default(), &mut found);
    found
}

fn read(file: &Path, text: &[u8], reading: &mut Reading) -> Manifests {
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
            Ok(value) => object::read(&origin, value, reading, &mut found),
            Err(reason) => found.errors.push(Finding {
                origin,
                path: String::new(),
                reason,
            }),
        }
    }
    found
}
