//! What a node holds, as text, to be compared before and after: what a removed pod may not leave.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use watari_store::Store;

use crate::node::{self, Place};

/// Kind → what there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings(BTreeMap<&'static str, BTreeSet<String>>);

/// Directories of a node in which pods leave files.
const FOLDERS: &[&str] = &["var/lib/cni", "run/netns", "run/containerd", "run/watari"];

/// Directories of a containerd in which pods leave files.
const CONTAINERD: &[&str] = &[
    "containerd/state/io.containerd.runtime.v2.task",
    "containerd/state/io.containerd.grpc.v1.cri",
    "containerd/root/io.containerd.runtime.v2.task",
    "containerd/root/io.containerd.grpc.v1.cri",
];

impl Holdings {
    /// What the network of a node holds: this must be right when the call that changed it returns.
    ///
    /// # Panics
    /// When it cannot be listed.
    pub fn of_network(place: &Place) -> Self {
        let list = |words: &[&str]| -> BTreeSet<String> {
            let output = place
                .command(words)
                .output()
                .expect("start a listing in a node");
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{words:?}: {err}");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().map(|line| line.trim().to_owned()).collect()
        };
        let links = list(&["ip", "-br", "link"]);
        let mut of_kind = BTreeMap::from([
            (
                "link",
                links
                    .iter()
                    .map(|l| l.split(['@', ' ']).next().unwrap_or(l).to_owned())
                    .collect(),
            ),
            (
                "route",
                list(&["ip", "-4", "route", "show", "table", "all"]),
            ),
            (
                "route6",
                list(&["ip", "-6", "route", "show", "table", "all"]),
            ),
            (
                "proxy neighbour",
                list(&["ip", "neighbour", "show", "proxy"]),
            ),
            (
                "neighbour",
                list(&["ip", "neighbour", "show", "nud", "permanent"]),
            ),
            ("nftables", list(&["nft", "--stateless", "list", "ruleset"])),
        ]);
        of_kind.insert("lease", leases(place));
        Self(of_kind)
    }

    /// All that a node holds. What a runtime ends in the background may lag behind its answer.
    ///
    /// # Panics
    /// When it cannot be listed.
    pub fn of_node(place: &Place) -> Self {
        let Self(mut of_kind) = Self::of_network(place);
        let root = format!("/proc/{}/root", place.pid);
        let mut files = BTreeSet::new();
        for folder in FOLDERS {
            list_files(&Path::new(&root).join(folder), &mut files);
        }
        for folder in CONTAINERD {
            list_files(&place.dir.join(folder), &mut files);
        }
        of_kind.insert("file", files);
        let cgroups = node::hierarchies()
            .into_iter()
            .flat_map(|mount| node::below(&mount.join(&place.cgroup[1..])))
            .map(|group| group.to_string_lossy().into_owned());
        of_kind.insert("cgroup", cgroups.collect());
        of_kind.insert(
            "process",
            place.processes().into_iter().filter_map(describe).collect(),
        );
        let mounts =
            fs::read_to_string(format!("/proc/{}/mounts", place.pid)).expect("list the mounts");
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        of_kind.insert("mount", targets.map(str::to_owned).collect());
        Self(of_kind)
    }

    /// What is here and was not there, a line each.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, here) in &self.0 {
            let there = before.0.get(kind);
            let new = here
                .iter()
                .filter(|item| !there.is_some_and(|t| t.contains(*item)));
            found.extend(new.map(|item| format!("{kind}: {item}")));
        }
        found
    }

    /// Everything, a line each.
    pub fn lines(&self) -> Vec<String> {
        self.beyond(&Self(BTreeMap::new()))
    }
}

/// Read from a copy: SQLite would resolve the path through `/proc` to the test's own file system.
fn leases(place: &Place) -> BTreeSet<String> {
    let dir = format!("/proc/{}/root{}", place.pid, watari_store::DEFAULT_DIR);
    if !Path::new(&dir).join(watari_store::FILE).exists() {
        return BTreeSet::new();
    }
    let copy = tempfile::tempdir().expect("make a folder");
    for entry in fs::read_dir(&dir).expect("list the node's state").flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(watari_store::FILE)
        {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copy the store");
        }
    }
    let store = Store::open(copy.path()).expect("open the node store");
    let leases = store.leases().expect("read the leases");
    leases
        .iter()
        .map(|l| format!("{} {:?}", l.address, l.holder))
        .collect()
}

/// Process id and name; none when it has ended meanwhile.
fn describe(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{pid} {}", name.trim()))
}

/// Every file and folder below, sorted; none when it does not exist. Links are not followed.
fn list_files(folder: &Path, found: &mut BTreeSet<String>) {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                open.push(entry.path());
            }
            found.insert(entry.path().to_string_lossy().into_owned());
        }
    }
}
