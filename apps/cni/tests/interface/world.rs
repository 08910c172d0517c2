//! The places and the people of these tests.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use watari_cni::Plugin;
use watari_cni_spec::{Capabilities, CniArgs, CniError, CniResult};
use watari_model::{Attachment, ContainerId, IfName};
use watari_runtime::{Error, NetworkList, Runtime};
use watari_testkit::Netns;

const REFERENCE: &str = "/usr/lib/cni";

/// A node: a namespace with a primary interface, the plugins under their names, and a directory.
pub struct Node {
    pub netns: Netns,
    pub runtime: Runtime,
}

impl Node {
    pub fn new() -> Self {
        let netns = Netns::new("node");
        for words in [
            "ip link add eth0 mtu 1400 type veth peer name fabric",
            "ip link set eth0 up",
            "ip link set fabric up",
            "ip address add 10.240.0.4/16 dev eth0",
            "ip address add fd00::4/128 dev eth0 nodad",
            "ip route add default via 10.240.0.1 dev eth0",
        ] {
            netns.run(&words.split(' ').collect::<Vec<_>>());
        }
        let bin = netns.dir().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in Plugin::NAMES {
            // A symbolic link is followed to one file, as hard links are of one file.
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_watari-cni"), bin.join(name)).unwrap();
        }
        let runtime = Runtime {
            cache_dir: netns.dir().join("cache"),
            ..Runtime::new(vec![bin, REFERENCE.into()])
        };
        Self { netns, runtime }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.netns.dir().join("state")
    }

    /// A network of one plugin; `ipam` gets the node's own store.
    pub fn network(&self, version: &str, mut plugin: Value) -> NetworkList {
        plugin["ipam"]["dataDir"] = json!(self.data_dir());
        let file = self.netns.dir().join("net.conflist");
        let list = json!({"cniVersion": version, "name": "azure", "plugins": [plugin]});
        std::fs::write(&file, list.to_string()).unwrap();
        NetworkList::read(&file).unwrap()
    }

    pub fn azure(&self, ipam: &Value) -> NetworkList {
        self.azure_of("1.1.0", ipam)
    }

    /// In the newest version that Debian's reference plugins know.
    pub fn azure_over_reference(&self, ipam: &Value) -> NetworkList {
        self.azure_of("1.0.0", ipam)
    }

    pub fn azure_of(&self, version: &str, ipam: &Value) -> NetworkList {
        let plugin = json!({
            "type": "azure-vnet",
            "mode": "transparent",
            "ipsToRouteViaHost": ["169.254.20.10"],
            "capabilities": {"ips": true, "mac": true},
            "ipam": ipam,
        });
        self.network(version, plugin)
    }

    pub fn dual(&self) -> NetworkList {
        self.azure(&json!({
            "type": "azure-vnet-ipam",
            "ranges": [[{"subnet": "10.240.0.0/16", "rangeStart": "10.240.0.10"}],
                       [{"subnet": "fd00::/64", "rangeStart": "fd00::10"}]],
        }))
    }

    pub fn add_with(
        &self,
        list: &NetworkList,
        pod: &Pod,
        capabilities: &Value,
    ) -> Result<CniResult, Error> {
        let capabilities: Capabilities = serde_json::from_value(capabilities.clone()).unwrap();
        self.netns.enter(|| {
            let (to, netns) = (&pod.attachment, pod.netns.path());
            self.runtime
                .add(list, to, netns, &CniArgs::new(), &capabilities)
        })
    }

    pub fn add(&self, list: &NetworkList, pod: &Pod) -> Result<CniResult, Error> {
        self.add_with(list, pod, &json!({}))
    }

    pub fn check(&self, list: &NetworkList, pod: &Pod) -> Result<(), Error> {
        let (to, netns) = (&pod.attachment, pod.netns.path());
        self.netns.enter(|| {
            self.runtime
                .check(list, to, netns, &CniArgs::new(), &Capabilities::new())
        })
    }

    pub fn del(&self, list: &NetworkList, pod: &Pod, netns: Option<&Path>) {
        let deleted = self.netns.enter(|| {
            let to = &pod.attachment;
            self.runtime
                .del(list, to, netns, &CniArgs::new(), &Capabilities::new())
        });
        deleted.unwrap();
    }

    pub fn links(&self) -> usize {
        self.netns
            .run(&["ip", "-o", "link"])
            .matches(" azv")
            .count()
    }

    pub fn leases(&self) -> usize {
        watari_store::Store::open(&self.data_dir())
            .unwrap()
            .leases()
            .unwrap()
            .len()
    }

    /// Nothing of any pod is left on the node.
    pub fn assert_clean(&self) {
        assert_eq!((self.links(), self.leases()), (0, 0));
        let routes = self.netns.run(&["ip", "route"]) + &self.netns.run(&["ip", "-6", "route"]);
        assert!(!routes.contains("azv"), "{routes}");
    }
}

pub struct Pod {
    pub netns: Netns,
    pub attachment: Attachment,
}

impl Pod {
    pub fn new(container: &str) -> Self {
        let attachment = Attachment {
            container: ContainerId::new(container).unwrap(),
            ifname: IfName::new("eth0").unwrap(),
        };
        Self {
            netns: Netns::new(container),
            attachment,
        }
    }

    /// The same container in a namespace of its own.
    pub fn again(&self) -> Self {
        Self::new(self.attachment.container.as_str())
    }
}

pub fn addresses(result: &CniResult) -> Vec<String> {
    result.ips.iter().map(|ip| ip.address.to_string()).collect()
}

pub fn plugin_error(error: &Error) -> &CniError {
    match error {
        Error::Plugin { error, .. } => error,
        other => panic!("not a plugin's error: {other}"),
    }
}
