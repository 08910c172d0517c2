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
}

/// A folder that is looked at now and then.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The node that looks.
    own: String,
    stamps: Option<BTreeSet<Stamp>>,
    found: Option<Cluster>,
    errors: Vec<String>,
    doubt: Option<String>,
}

impl Folder {
    /// Looked at by the node `own`; nothing is read yet.
    pub fn new(path: &Path, own: &str) -> Self {
        Self {
            path: path.to_owned(),
            own: own.to_owned(),
            stamps: None,
            found: None,
            errors: Vec::new(),
            doubt: None,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it said; none until it gave an answer for the first time.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.found.as_ref()
    }

    /// What could not be read.
    pub fn errors(&self) -> &[String] {
        &self.errors
    }

    /// Why what it says now is no answer, and what was known holds.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// Looks whether files came, changed or went, and reads them again if so; true if what is
    /// known is different.
    ///
    /// A folder that is gone or unreadable leaves what was known: an empty answer would take
    /// the ways to all nodes away. So does a file with errors for the nodes that it may have held,
    /// and a folder without this very node, which cannot be a list of the cluster: it was emptied,
    /// is only half written, or is another cluster's.
    pub fn poll(&mut self) -> bool {
        let Ok(stamps) = stamps(&self.path) else {
            return false;
        };
        if self.stamps.as_ref() == Some(&stamps) {
            return false;
        }
        self.stamps = Some(stamps);
        let manifests = match watari_manifests::load(&self.path) {
            Ok(manifests) => manifests,
            Err(error) => {
                self.errors = vec![error.to_string()];
                return false;
            }
        };
        let mut cluster = Cluster {
            nodes: manifests.nodes().cloned().collect(),
            masquerade: manifests.masquerade(),
        };
        self.errors = manifests.errors.iter().map(ToString::to_string).collect();
        if !self.errors.is_empty() {
            self.keep_known(&mut cluster);
        }
        cluster.nodes.sort();
        self.doubt = self.missing(&cluster.nodes);
        if self.doubt.is_some() || self.found.as_ref() == Some(&cluster) {
            return false;
        }
        self.found = Some(cluster);
        true
    }

    fn missing(&self, nodes: &[ClusterNode]) -> Option<String> {
        let (path, own) = (self.path.display(), &self.own);
        let what = if nodes.is_empty() {
            format!("{path} holds no Node")
        } else if nodes.iter().any(|node| node.name == *own) {
            return None;
        } else {
            format!("{path}: {own} is not among its nodes")
        };
        Some(format!("{what}; the ways to other nodes stay as they are"))
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
        let mut folder = Folder::new(&path, "b");
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
        assert!(!folder.poll());
        assert_eq!(
            names(&folder),
            ["a", "b"],
            "nobody can tell what b.yaml held"
        );
        assert_eq!(folder.errors().len(), 1);

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

    #[test]
    fn a_folder_without_this_node_is_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let file = path.join("nodes.yaml");
        let mut folder = Folder::new(&path, "a");
        assert!(!folder.poll());
        assert_eq!(folder.cluster(), None, "an empty folder says nothing");
        assert!(folder.doubt().unwrap().contains("no Node"));

        let both = format!(
            "{}---\n{}",
            node("a", "10.1.0.0/24"),
            node("b", "10.2.0.0/24")
        );
        fs::write(&file, &both).unwrap();
        assert!(folder.poll());
        assert_eq!((names(&folder), folder.doubt()), (vec!["a", "b"], None));

        for less in [String::new(), node("c", "10.3.0.0/24")] {
            fs::write(&file, less).unwrap();
            assert!(!folder.poll());
            assert_eq!(names(&folder), ["a", "b"]);
            assert!(folder.doubt().is_some());
        }

        fs::write(&file, node("a", "10.1.0.0/24")).unwrap();
        assert!(folder.poll());
        assert_eq!((names(&folder), folder.doubt()), (vec!["a"], None));
    }
}
