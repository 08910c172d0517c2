//! Plugins made of shell, which write down what they were told and do what the test says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use watari_cni_spec::{Capabilities, CniArgs};
use watari_model::Attachment;
use watari_runtime::{NetworkList, Runtime};

const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$0")
name=$(basename "$0")
stdin=$(cat)
printf '%s\t%s\t%s\n' "$CNI_COMMAND" "$name" "$stdin" >> "$here/../log"
env | grep ^CNI_ | sort > "$here/../$name.env"
[ -f "$here/../$name.$CNI_COMMAND" ] && . "$here/../$name.$CNI_COMMAND"
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}],"by":"'$name'"}'
"#;

/// A directory with plugins, a configuration and a cache.
pub struct World {
    pub dir: TempDir,
    pub runtime: Runtime,
    pub args: CniArgs,
    pub capabilities: Capabilities,
}

/// One execution, as the plugin wrote it down.
pub struct Told {
    pub what: String,
    pub conf: Value,
}

impl World {
    pub fn new(plugins: &[&str]) -> Self {
        let dir = TempDir::new().expect("a directory");
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).expect("bin");
        for plugin in plugins {
            let file = bin.join(plugin);
            fs::write(&file, PLUGIN).expect("a plugin");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        let runtime = Runtime {
            path: vec![dir.path().join("none"), bin],
            cache_dir: dir.path().join("cache"),
            timeout: Duration::from_secs(20),
        };
        Self {
            dir,
            runtime,
            args: CniArgs::new(),
            capabilities: Capabilities::new(),
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a plugin does on a command, in shell.
    pub fn on(&self, plugin: &str, command: &str, shell: &str) {
        fs::write(self.file(&format!("{plugin}.{command}")), shell).expect("a behaviour");
    }

    /// A network of these plugins, without more.
    pub fn list(&self, version: &str, plugins: &[&str]) -> NetworkList {
        let plugins: Vec<_> = plugins
            .iter()
            .map(|kind| serde_json::json!({"type": kind, "capabilities": {"mac": *kind == "b"}}))
            .collect();
        let conf = serde_json::json!({"cniVersion": version, "name": "net", "plugins": plugins});
        let file = self.file("net.conflist");
        fs::write(&file, conf.to_string()).expect("a conflist");
        NetworkList::read(&file).expect("a network")
    }

    pub fn add(&self, list: &NetworkList, of: &str) -> Result<String, String> {
        let added = self.runtime.add(
            list,
            &attachment(of),
            Path::new("/run/netns/x"),
            &self.args,
            &self.capabilities,
        );
        added
            .map(|result| result.to_json(list.conf.version))
            .map_err(|error| error.to_string())
    }

    /// The warning, if there is one.
    pub fn del(&self, list: &NetworkList, of: &str) -> Result<Option<String>, String> {
        let (args, capabilities) = (CniArgs::new(), Capabilities::new());
        let deleted = self
            .runtime
            .del(list, &attachment(of), None, &args, &capabilities);
        deleted
            .map(|warning| warning.map(|warning| warning.to_string()))
            .map_err(|error| error.to_string())
    }

    pub fn check(&self, list: &NetworkList, of: &str) -> Result<(), String> {
        let netns = Path::new("/run/netns/x");
        let (args, capabilities) = (CniArgs::new(), Capabilities::new());
        self.runtime
            .check(list, &attachment(of), netns, &args, &capabilities)
            .map_err(|error| error.to_string())
    }

    /// What plugins were told since the last call, in order.
    pub fn told(&self) -> Vec<Told> {
        let log = self.file("log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(&log);
        text.lines()
            .map(|line| {
                let mut words = line.splitn(3, '\t');
                let mut word = || words.next().unwrap_or_default();
                Told {
                    what: format!("{} {}", word(), word()),
                    conf: serde_json::from_str(word()).expect("a configuration"),
                }
            })
            .collect()
    }

    /// The same, without the configurations.
    pub fn order(&self) -> String {
        let told: Vec<_> = self.told().into_iter().map(|told| told.what).collect();
        told.join(", ")
    }
}

pub fn attachment(container: &str) -> Attachment {
    Attachment {
        container: container.parse().expect("a container id"),
        ifname: "eth0".parse().expect("an interface name"),
    }
}
