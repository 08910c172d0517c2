//! The cluster as a folder of manifests tells it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use watari_model::ClusterNode;
use watari_routes::MasqueradeConf;

/// What a file is known by: name, inode, size, time of change in s and ns.
type Stamp = (PathBuf, u64, u64, i64, i64);

/// What the folder said last.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// The nodes, by name.
    pub nodes: Vec<ClusterNode>,
    /// How the way out of the cluster is masqueraded.
    pub masquerade: MasqueradeConf,
    /// What could not be read.
    pub errors: Vec<String>,
}

/// A folder that is looked at now and then.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    stamps: Option<BTreeSet<Stamp>>,
    found: Option<Cluster>,
}

impl Folder {
    /// Nothing is read yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            stamps: None,
            found: None,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it said; none until it could be read for the first time.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.found.as_ref()
    }

    /// Looks whether files came, changed or went, and reads them again if so; true if what they say
    /// is different.
    ///
    /// A folder that is gone or unreadable leaves what was known: an empty answer would take
    /// the ways to all nodes away. So does a file with errors for the nodes that it may have held.
    pub fn poll(&mut self) -> bool {
        let Ok(stamps) = stamps(&self.path) else {
            return false;
        };
        if self.stamps.as_ref() == Some(&stamps) {
            return false;
        }
        let cluster = match watari_manifests::load(&self.path) {
            Ok(manifests) => {
                let mut cluster = Cluster {
                    nodes: manifests.nodes().cloned().collect(),
                    masquerade: manifests.masquerade(),
                    errors: manifests.errors.iter().map(ToString::to_string).collect(),
                };
                if !cluster.errors.is_empty() {
                    self.keep_known(&mut cluster);
                }
                cluster.nodes.sort();
                cluster
            }
            Err(error) => Cluster {
                errors: vec![error.to_string()],
                ..self.found.clone().unwrap_or_default()
            },
        };
        self.stamps = Some(stamps);
        let changed = self.found.as_ref() != Some(&cluster);
        self.found = Some(cluster);
        changed
    }

    fn keep_known(&self, cluster: &mut Cluster) {
        let Some(known) = &self.found else { return };
        let named: BTreeSet<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
        let missing = known
            .nodes
            .iter()
            .filter(|node| !named.contains(&node.name));
        cluster.nodes.extend(missing.cloned());
        cluster.masquerade.merge(known.masquerade.clone());
    }
}

fn stamps(folder: &Path) -> std::io::Result<BTreeSet<Stamp>> {
    let mut stamps = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A link to a file is known by what it leads to: so are mounted ConfigMaps.
        if let Ok(meta) = fs::metadata(entry.path()) {
            let (ino, size) = (meta.ino(), meta.len());
            stamps.insert((entry.path(), ino, size, meta.mtime(), meta.mtime_nsec()));
        }
    }
    Ok(stamps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDR: {cidr}}}\n"
        )
    }

    fn names(folder: &Folder) -> Vec<&str> {
        let nodes = folder.cluster().map_or(&[][..], |cluster| &cluster.nodes);
        nodes.iter().map(|node| node.name.as_str()).collect()
    }

    #[test]
    fn it_is_read_when_it_changes_and_what_breaks_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        let mut folder = Folder::new(&path);
        assert!(!folder.poll());
        assert_eq!(folder.cluster(), None, "a missing folder is no empty one");

        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), node("a", "10.1.0.0/24")).unwrap();
        fs::write(path.join("b.yaml"), node("b", "10.2.0.0/24")).unwrap();
        assert!(folder.poll());
        assert_eq!(names(&folder), ["a", "b"]);
        assert!(!folder.poll());

        fs::write(path.join("b.yaml"), node("b", "nonsense")).unwrap();
        fs::remove_file(path.join("a.yaml")).unwrap();
        assert!(folder.poll());
        assert_eq!(
            names(&folder),
            ["a", "b"],
            "nobody can tell what b.yaml held"
        );
        assert_eq!(folder.cluster().unwrap().errors.len(), 1);

        fs::write(path.join("b.yaml"), node("b", "10.3.0.0/24")).unwrap();
        assert!(folder.poll());
        assert_eq!(names(&folder), ["b"]);
        assert_eq!(
            folder.cluster().unwrap().nodes[0].pod_cidrs[0].to_string(),
            "10.3.0.0/24"
        );

        fs::remove_dir_all(&path).unwrap();
        assert!(!folder.poll());
        assert_eq!(
            names(&folder),
            ["b"],
            "a folder that is gone takes nothing away"
        );
    }
}
