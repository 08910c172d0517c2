//! The cluster as a folder of manifests tells it.

mod files;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use watari_model::ClusterNode;
use watari_routes::MasqueradeConf;

pub use files::Event;
use files::Files;

/// How many times longer than the last look took the next is waited for, and at most: looks take at most
/// 0.4 % of a CPU, up to some ten thousands of files.
const REST: u32 = 250;
const REST_MAX: Duration = Duration::from_secs(10);

/// What the folder said last, beside its Services.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// The nodes, by name.
    pub nodes: Vec<ClusterNode>,
    /// How the way out of the cluster is masqueraded.
    pub masquerade: MasqueradeConf,
    /// The ranges of Services' addresses.
    pub cidrs: BTreeSet<IpNet>,
}

/// A folder that is looked at now and then.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The node that looks.
    own: String,
    files: Files,
    found: Option<Cluster>,
    errors: Vec<String>,
    doubt: Option<String>,
    /// A large folder is looked at less often.
    rest: Option<Instant>,
}

impl Folder {
    /// Looked at by the node `own`; nothing is read yet.
    pub fn new(path: &Path, own: &str) -> Self {
        Self {
            path: path.to_owned(),
            own: own.to_owned(),
            files: Files::default(),
            found: None,
            errors: Vec::new(),
            doubt: None,
            rest: None,
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

    /// What the folder says is an answer; without, what is heard of Services is nothing to go by.
    pub fn is_answer(&self) -> bool {
        self.found.is_some() && self.doubt.is_none()
    }

    /// Looks whether files came, changed or went, and reads those; true if what is known of the
    /// cluster beside Services is different.
    ///
    /// A folder that is gone or unreadable leaves what was known: an empty answer would take
    /// the ways to all nodes away. So does a file with errors for what it may have held, a file that
    /// is just being written, and a folder without this very node, which cannot be a list of the
    /// cluster: it was emptied, is only half written, or is another cluster's.
    ///
    /// What comes and goes of Services is handed to `sink` as it is read.
    pub fn poll(&mut self, sink: &mut dyn FnMut(Event)) -> bool {
        let since = Instant::now();
        if self.rest.is_some_and(|rest| since < rest) {
            return false;
        }
        let changed = self.files.poll(&self.path, sink).unwrap_or_else(|error| {
            if error.kind() != std::io::ErrorKind::NotFound {
                self.errors = vec![format!("cannot read {}: {error}", self.path.display())];
            }
            false
        });
        self.rest = since.checked_add((since.elapsed() * REST).min(REST_MAX));
        if !changed {
            return false;
        }
        let mut cluster = Cluster {
            nodes: self.files.nodes(),
            masquerade: self.files.masquerade(),
            cidrs: self.files.cidrs(),
        };
        self.errors = self.files.errors();
        if self.files.is_broken() {
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
        Some(format!(
            "{what}; the ways to other nodes and the Services stay as they are"
        ))
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
        cluster.cidrs.extend(&known.cidrs);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// As if a second had passed.
    fn poll(folder: &mut Folder) -> bool {
        folder.rest = None;
        folder.poll(&mut |_| {})
    }

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
        assert!(!poll(&mut folder));
        assert_eq!(folder.cluster(), None, "a missing folder is no empty one");

        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), node("a", "10.1.0.0/24")).unwrap();
        fs::write(path.join("b.yaml"), node("b", "10.2.0.0/24")).unwrap();
        assert!(poll(&mut folder));
        assert_eq!(names(&folder), ["a", "b"]);
        assert!(!poll(&mut folder));

        fs::write(path.join("b.yaml"), node("b", "nonsense")).unwrap();
        fs::remove_file(path.join("a.yaml")).unwrap();
        assert!(!poll(&mut folder));
        assert_eq!(
            names(&folder),
            ["a", "b"],
            "nobody can tell what b.yaml held"
        );
        assert_eq!(folder.errors().len(), 1);

        fs::write(path.join("b.yaml"), node("b", "10.3.0.0/24")).unwrap();
        assert!(poll(&mut folder));
        assert_eq!(names(&folder), ["b"]);
        assert_eq!(
            folder.cluster().unwrap().nodes[0].pod_cidrs[0].to_string(),
            "10.3.0.0/24"
        );

        fs::remove_dir_all(&path).unwrap();
        assert!(!poll(&mut folder));
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
        assert!(!poll(&mut folder));
        assert_eq!(folder.cluster(), None, "an empty folder says nothing");
        assert!(folder.doubt().unwrap().contains("no Node"));

        let both = format!(
            "{}---\n{}",
            node("a", "10.1.0.0/24"),
            node("b", "10.2.0.0/24")
        );
        fs::write(&file, &both).unwrap();
        assert!(poll(&mut folder));
        assert_eq!((names(&folder), folder.doubt()), (vec!["a", "b"], None));

        for less in [String::new(), node("c", "10.3.0.0/24")] {
            fs::write(&file, less).unwrap();
            assert!(!poll(&mut folder));
            assert_eq!(names(&folder), ["a", "b"]);
            assert!(folder.doubt().is_some());
        }

        fs::write(&file, node("a", "10.1.0.0/24")).unwrap();
        assert!(poll(&mut folder));
        assert_eq!((names(&folder), folder.doubt()), (vec!["a"], None));
    }

    fn service(name: &str, port: u16) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{clusterIP: 10.96.0.9, ports: [{{port: {port}}}]}}\n---\n"
        )
    }

    /// What is heard of at this look, in words.
    fn heard(folder: &mut Folder) -> Vec<String> {
        folder.rest = None;
        let mut events = Vec::new();
        folder.poll(&mut |event| events.push(event));
        let events = events.into_iter();
        let words = events.map(|event| match event {
            Event::Service(service) => format!("{}:{}", service.name.name, service.ports[0].port),
            Event::NoService(name) => format!("no {}", name.name),
            other => format!("{other:?}"),
        });
        words.collect()
    }

    /// Puts a file there whole, as a rename does.
    fn put(dir: &Path, name: &str, text: &str) {
        let beside = dir.join(".new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, dir.join(name)).unwrap();
    }

    fn with_node() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.yaml"), node("a", "10.1.0.0/24")).unwrap();
        let folder = Folder::new(dir.path(), "a");
        (dir, folder)
    }

    #[test]
    fn services_come_change_and_go_one_by_one() {
        let (dir, mut folder) = with_node();
        put(
            dir.path(),
            "one.yaml",
            &(service("x", 1) + &service("y", 2)),
        );
        put(dir.path(), "two.yaml", &service("z", 3));
        assert_eq!(heard(&mut folder), ["x:1", "y:2", "z:3"]);
        assert_eq!(heard(&mut folder), [""; 0]);
        put(dir.path(), "two.yaml", &service("z", 4));
        assert_eq!(
            heard(&mut folder),
            ["z:4"],
            "other files are not read again"
        );
        put(dir.path(), "one.yaml", &service("y", 2));
        assert_eq!(heard(&mut folder), ["y:2", "no x"]);
        fs::remove_file(dir.path().join("two.yaml")).unwrap();
        assert_eq!(heard(&mut folder), ["no z"]);
    }

    #[test]
    fn a_folder_without_this_node_is_nothing_to_go_by() {
        let (dir, mut folder) = with_node();
        fs::write(dir.path().join("node.yaml"), "").unwrap();
        assert!(!poll(&mut folder) && !folder.is_answer());
        fs::write(dir.path().join("node.yaml"), node("a", "10.1.0.0/24")).unwrap();
        assert!(poll(&mut folder) && folder.is_answer());
        fs::remove_file(dir.path().join("node.yaml")).unwrap();
        assert!(!poll(&mut folder) && !folder.is_answer(), "emptied");
    }

    #[test]
    fn half_a_file_takes_no_service_away() {
        let (dir, mut folder) = with_node();
        let file = dir.path().join("all.yaml");
        let (x, y) = (service("x", 1), service("y", 2));
        fs::write(&file, format!("{x}{y}")).unwrap();
        assert_eq!(heard(&mut folder), ["x:1", "y:2"]);

        // Written over in place: cut where it makes sense, and where it makes none.
        fs::write(&file, &x).unwrap();
        assert_eq!(heard(&mut folder), ["x:1"]);
        fs::write(&file, format!("{x}{}", &y[..y.len() - 20])).unwrap();
        assert_eq!(heard(&mut folder), ["x:1"]);
        assert_eq!(folder.errors().len(), 1);
        fs::write(&file, format!("{x}{y}")).unwrap();
        assert_eq!(heard(&mut folder), ["x:1", "y:2"]);
        assert_eq!(folder.errors().len(), 0);

        // It stays so: it was meant.
        fs::write(&file, &x).unwrap();
        assert_eq!(heard(&mut folder), ["x:1"]);
        assert_eq!(heard(&mut folder), ["x:1", "no y"]);
        assert_eq!(heard(&mut folder), [""; 0]);
    }

    #[test]
    fn what_may_have_moved_into_a_file_that_broke_stays() {
        let (dir, mut folder) = with_node();
        put(dir.path(), "a.yaml", &service("x", 1));
        put(dir.path(), "b.yaml", &service("y", 2));
        assert_eq!(heard(&mut folder), ["x:1", "y:2"]);
        put(dir.path(), "b.yaml", "{");
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        assert_eq!(heard(&mut folder), [""; 0]);
        put(dir.path(), "b.yaml", &(service("x", 1) + &service("y", 2)));
        assert_eq!(heard(&mut folder), ["x:1", "y:2"]);
        // A file that broke before holds nothing back.
        put(dir.path(), "c.yaml", "{");
        heard(&mut folder);
        put(dir.path(), "b.yaml", &service("x", 1));
        assert_eq!(heard(&mut folder), ["x:1", "no y"]);
    }

    #[test]
    fn of_two_the_first_file_has_it() {
        let (dir, mut folder) = with_node();
        put(dir.path(), "b.yaml", &service("x", 2));
        assert_eq!(heard(&mut folder), ["x:2"]);
        put(dir.path(), "c.yaml", &service("x", 3));
        assert_eq!(heard(&mut folder), [""; 0]);
        let told = folder.errors()[0].clone();
        assert!(
            told.contains("c.yaml: Service default/x stands also in") && told.ends_with("b.yaml"),
            "{told}"
        );
        put(dir.path(), "a.yaml", &service("x", 1));
        assert_eq!(heard(&mut folder), ["x:1"]);
        assert_eq!(folder.errors().len(), 2);
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        assert_eq!(heard(&mut folder), ["x:2"]);
        fs::remove_file(dir.path().join("b.yaml")).unwrap();
        assert_eq!(heard(&mut folder), ["x:3"]);
        assert_eq!(folder.errors().len(), 0);
        fs::remove_file(dir.path().join("c.yaml")).unwrap();
        assert_eq!(heard(&mut folder), ["no x"]);
    }
}
