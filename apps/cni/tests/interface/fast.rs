//! Pods on a node with a datapath: loaded by nobody but the test, as by an agent that is down.

use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use watari_abi::{Address, Endpoint, Link, maps};
use watari_bpf::{LoadOptions, Map, PinDir, load};
use watari_cni_spec::Code;
use watari_runtime::NetworkList;

use crate::world::{Node, Pod, plugin_error};

/// A node with a bpffs of its own.
struct Fast {
    node: Node,
    mount: PathBuf,
}

impl Fast {
    fn new() -> Self {
        let node = Node::new();
        let mount_point = node.netns.dir().join("bpf");
        std::fs::create_dir(&mount_point).unwrap();
        let kind = Some("bpf");
        mount(kind, &mount_point, kind, MsFlags::empty(), None::<&str>).unwrap();
        Self {
            node,
            mount: mount_point,
        }
    }

    fn root(&self) -> PathBuf {
        self.mount.join("watari")
    }

    fn load(&self) {
        let options = LoadOptions::at(&self.root());
        self.node.netns.enter(|| load(&options).unwrap());
    }

    fn list(&self) -> NetworkList {
        self.node.network(
            "1.1.0",
            json!({
                "type": "azure-vnet",
                "bpfRoot": self.root(),
                "ipam": {
                    "type": "azure-vnet-ipam",
                    "ranges": [[{"subnet": "10.240.0.0/16", "rangeStart": "10.240.0.10"}],
                               [{"subnet": "fd00::/64", "rangeStart": "fd00::10"}]],
                },
            }),
        )
    }

    fn endpoints(&self) -> Map<Address, Endpoint> {
        Map::open(&PinDir::current(&self.root()).map(maps::ENDPOINTS)).unwrap()
    }

    /// How many addresses and links the datapath knows.
    fn known(&self) -> (usize, usize) {
        let links = PinDir::current(&self.root()).map(maps::LINKS);
        let links: Map<u32, Link> = Map::open(&links).unwrap();
        let endpoints = self.endpoints().entries().unwrap();
        (endpoints.len(), links.entries().unwrap().len())
    }

    /// The programs at a pod's link, as `tc` and `bpftool` would show them.
    fn programs(&self, pod: &Pod) -> usize {
        let link = pod
            .attachment
            .host_ifname(&watari_model::HostPrefix::default());
        let shown = ["ingress", "egress"].map(|way| {
            let words = ["tc", "filter", "show", "dev", link.as_str(), way];
            self.node.netns.run(&words)
        });
        shown.iter().filter(|way| way.contains("watari_")).count()
    }
}

impl Drop for Fast {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.mount, MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.mount.display());
        }
    }
}

#[test]
fn a_pod_is_registered_and_attached_before_add_returns_and_taken_out_by_del() {
    let (fast, pod) = (Fast::new(), Pod::new("c1"));
    fast.load();
    let list = fast.list();
    fast.node.add(&list, &pod).unwrap();
    assert_eq!((fast.known(), fast.programs(&pod)), ((2, 1), 2));
    let address = "10.240.0.10".parse::<std::net::IpAddr>().unwrap();
    let entry = fast.endpoints().get(&address.into()).unwrap().unwrap();
    assert_eq!(entry.mac, pod.attachment.pod_mac().0);
    assert_eq!(entry.host_mac, pod.attachment.host_mac().0);
    pod.netns.run(&["ping", "-c1", "-W2", "10.240.0.4"]);
    fast.node.check(&list, &pod).unwrap();

    fast.endpoints().remove(&address.into()).unwrap();
    let error = fast.node.check(&list, &pod).unwrap_err();
    assert_eq!(plugin_error(&error).code, Code::CHECK_FAILED);
    assert!(error.to_string().contains("10.240.0.10"), "{error}");

    fast.node.del(&list, &pod, Some(pod.netns.path()));
    assert_eq!(fast.known(), (0, 0));
    fast.node.assert_clean();
    fast.node.del(&list, &pod, None);
}

#[test]
fn without_a_datapath_a_pod_takes_the_ordinary_road() {
    let (fast, pod) = (Fast::new(), Pod::new("c1"));
    let list = fast.list();
    fast.node.add(&list, &pod).unwrap();
    fast.node.check(&list, &pod).unwrap();
    pod.netns.run(&["ping", "-c1", "-W2", "10.240.0.4"]);
    // Loaded meanwhile: what is missing is said, and DEL finds nothing to remove.
    fast.load();
    let error = fast.node.check(&list, &pod).unwrap_err();
    assert!(
        error.to_string().contains("from_pod is not attached"),
        "{error}"
    );
    fast.node.del(&list, &pod, Some(pod.netns.path()));
    fast.node.assert_clean();
}

#[test]
fn a_pod_that_the_datapath_refuses_is_undone() {
    let (fast, pod) = (Fast::new(), Pod::new("c1"));
    fast.load();
    let list = fast.list();
    // A pod that no program sees would escape what the programs enforce.
    std::fs::remove_file(PinDir::current(&fast.root()).path().join("programs/to_pod")).unwrap();
    let error = fast.node.add(&list, &pod).unwrap_err();
    assert_eq!(plugin_error(&error).code, Code::KERNEL);
    assert!(error.to_string().contains("to_pod"), "{error}");
    assert_eq!(fast.known(), (0, 0));
    fast.node.assert_clean();
}

#[test]
fn gc_takes_pods_out_too() {
    let fast = Fast::new();
    let (pod, other) = (Pod::new("c1"), Pod::new("c2"));
    fast.load();
    let list = fast.list();
    fast.node.add(&list, &pod).unwrap();
    fast.node.add(&list, &other).unwrap();
    assert_eq!(fast.known(), (4, 2));
    std::fs::remove_dir_all(&fast.node.runtime.cache_dir).unwrap();
    let valid = [pod.attachment.clone()];
    let gc = || fast.node.runtime.gc(&list, &valid);
    fast.node.netns.enter(gc).unwrap();
    assert_eq!((fast.known(), fast.node.links()), ((2, 1), 1));
}
