//! A lab of the test's own, by the built `watari`.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;
use watari_testkit::run;

use crate::node::{self, Place};

/// Where labs keep what they are.
const LABS: &str = "/run/watari/labs";

/// What the names of the labs of these tests begin with; the id of the test's process ends them.
const PREFIX: &str = "e2e-";

/// A lab that goes down with this value.
#[derive(Debug)]
pub struct TestLab {
    name: String,
    dir: TempDir,
}

impl TestLab {
    /// Brings up a lab of so many nodes, an agent in each; `hint` makes its name readable, the
    /// process makes it unique. Its plugin is that of `$WATARI_CNI`, else the one beside the test.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn up(hint: &str, nodes: u16) -> Self {
        Self::of(hint, &format!("{{nodes: {nodes}}}"))
    }

    /// The same by the fields of a `lab.yaml`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn of(hint: &str, fields: &str) -> Self {
        sweep();
        let name = format!("{PREFIX}{hint}-{}", std::process::id());
        // The value first: a lab that comes up half goes down too.
        let lab = Self {
            name,
            dir: tempfile::tempdir().expect("make a folder"),
        };
        let file = lab.dir.path().join("lab.yaml");
        fs::write(&file, fields).expect("write lab.yaml");
        let file = file.to_string_lossy();
        let plugin = std::env::var("WATARI_CNI").ok();
        let plugin = plugin.iter().flat_map(|path| ["--cni-bin", path]);
        let up = ["lab", "up", "-f", &file];
        lab.watari(&up.into_iter().chain(plugin).collect::<Vec<_>>());
        lab
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `watari … --lab NAME` and gives its output.
    ///
    /// # Panics
    /// When it fails; shows what it printed.
    pub fn watari(&self, words: &[&str]) -> String {
        self.watari_of(&binary("watari"), words)
    }

    /// The same by another build of `watari`.
    ///
    /// # Panics
    /// When it fails; shows what it printed.
    pub fn watari_of(&self, build: &Path, words: &[&str]) -> String {
        let watari = build.to_string_lossy();
        // Before what `exec` passes on.
        let (own, passed) =
            words.split_at(words.iter().position(|w| *w == "--").unwrap_or(words.len()));
        run(&[&[&watari as &str], own, &["--lab", &self.name], passed].concat())
    }

    /// Makes a pod of the lab on a node: the built-in server, HTTP on port 80. Gives its address.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn pod(&self, name: &str, node: &str) -> String {
        self.pod_of(name, node).remove(0)
    }

    /// The same; gives its address of each family, IPv4 first.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn pod_of(&self, name: &str, node: &str) -> Vec<String> {
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [
                { "name": "main", "image": "none", "ports": [{ "containerPort": 80 }] },
            ] },
        });
        let file = self.dir.path().join(format!("{name}.json"));
        fs::write(&file, manifest.to_string()).expect("write a manifest");
        self.watari(&["lab", "apply", "-f", &file.to_string_lossy()]);
        let pods = self.watari(&["lab", "get", "pods", "--json"]);
        let pods: Value = serde_json::from_str(&pods).expect("the pods, as JSON");
        let pods = pods["pods"].as_array().expect("a list of pods");
        let found = pods.iter().find(|pod| pod["name"] == name);
        let addresses = found.map(|pod| serde_json::from_value(pod["podIPs"].clone()));
        let addresses = addresses.and_then(Result::ok).unwrap_or_default();
        assert!(
            !Vec::is_empty(&addresses),
            "pod {name} has no address: {pods:?}"
        );
        addresses
    }

    /// Ends pods of the lab and removes them.
    ///
    /// # Panics
    /// When it fails.
    pub fn delete(&self, pods: &[&str]) {
        self.watari(&[&["lab", "delete"], pods].concat());
    }

    /// The primary IPv4 address of a node.
    ///
    /// # Panics
    /// When the lab has no such node.
    pub fn address(&self, node: &str) -> IpAddr {
        let path = Path::new(LABS).join(&self.name).join("lab.json");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
        let lab: Value = serde_json::from_str(&text).expect("lab.json is JSON");
        let nodes = lab["nodes"].as_array().expect("lab.json has nodes");
        let found = nodes.iter().find(|n| n["name"] == node);
        let primary = found.and_then(|n| n["primary"].as_str());
        primary
            .and_then(|text| text.parse().ok())
            .expect("the node has a primary address")
    }

    /// How to reach a node.
    ///
    /// # Panics
    /// When the lab has no such node.
    pub fn node(&self, node: &str) -> Place {
        let cgroup = format!("/watari/{}/{node}", self.name);
        let procs = node::unified()
            .join(&cgroup[1..])
            .join("holder/cgroup.procs");
        let text =
            fs::read_to_string(&procs).unwrap_or_else(|e| panic!("read {}: {e}", procs.display()));
        let pid = text
            .trim()
            .parse()
            .unwrap_or_else(|_| panic!("one holder of {cgroup}: {text:?}"));
        Place {
            pid,
            cgroup,
            dir: self.dir.path().to_owned(),
        }
    }
}

impl Drop for TestLab {
    fn drop(&mut self) {
        down(&self.name);
    }
}

fn down(name: &str) {
    let words = ["lab", "down", "--lab", name];
    match Command::new(binary("watari")).args(words).output() {
        Ok(output) if output.status.success() => {}
        other => eprintln!("cannot take lab {name} down: {other:?}"),
    }
    // In hierarchies of version 1, the parent of a pod's cgroups is its orchestrator's: ours.
    node::remove_cgroup(&format!("/watari/{name}"));
}

/// Takes down the labs of tests that were killed: those whose process is no more.
fn sweep() {
    for entry in fs::read_dir(LABS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.rsplit('-').next());
        // A process that has ended has no program, even while nobody has asked how it ended.
        if process.is_some_and(|id| fs::read_link(format!("/proc/{id}/exe")).is_err()) {
            down(&name);
        }
    }
}

/// The build of `watari` with another layout of tables (feature `other-abi`), that upgrades go to and
/// come from: `$WATARI_OTHER`.
///
/// # Panics
/// When it is not built.
pub fn other_build() -> PathBuf {
    const HOW: &str = "cargo build -p watari --features other-abi --target-dir target/other-abi \
                       && export WATARI_OTHER=$PWD/target/other-abi/debug/watari";
    let path = std::env::var_os("WATARI_OTHER").map(PathBuf::from);
    let path = path.unwrap_or_else(|| {
        panic!("WATARI_OTHER does not name the build with another layout (./run test does): {HOW}")
    });
    assert!(path.is_file(), "{} is not built: {HOW}", path.display());
    path
}

/// A built binary: in `$WATARI_BIN_DIR`, else beside the test.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    let dir = std::env::var_os("WATARI_BIN_DIR").map_or_else(
        || {
            let test = std::env::current_exe().expect("know the path of this test");
            test.ancestors()
                .nth(2)
                .expect("target/PROFILE/deps/TEST")
                .to_owned()
        },
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is not built: cargo build --workspace",
        path.display()
    );
    path
}
