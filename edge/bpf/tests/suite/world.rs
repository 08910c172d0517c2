//! A node of a test: a network namespace with pods behind veths, and a bpffs of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use watari_bpf::{Attachment, LoadOptions, PodLink};
use watari_model::{IfName, MacAddr};
use watari_testkit::Netns;

/// What this kernel is known to lack: names of features, set by `./run kernels` for old kernels.
/// All else has to be there.
pub fn lacks(feature: &str) -> bool {
    let without = std::env::var("WATARI_WITHOUT").unwrap_or_default();
    without.split(',').any(|name| name == feature)
}

/// Every kind of attachment that this kernel has.
pub fn kinds() -> Vec<Attachment> {
    if lacks("tcx") {
        vec![Attachment::Clsact]
    } else {
        vec![Attachment::Tcx, Attachment::Clsact]
    }
}

/// A bpffs in a temporary directory.
pub struct BpfFs(TempDir);

impl BpfFs {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("watari-bpf-{}-", std::process::id()))
            .tempdir()
            .expect("make a directory");
        mount(
            Some("bpf"),
            dir.path(),
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("mount a bpffs (needs root)");
        Self(dir)
    }

    pub fn root(&self) -> PathBuf {
        self.0.path().join("watari")
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.0.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.path().display());
        }
    }
}

pub struct Pod {
    pub ns: Netns,
    pub link: IfName,
    pub mac: MacAddr,
    pub host_mac: MacAddr,
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    pub fn as_link(&self) -> PodLink<'_> {
        PodLink {
            link: &self.link,
            mac: self.mac,
            host_mac: self.host_mac,
            addresses: &self.addresses,
        }
    }
}

pub struct World {
    pub node: Netns,
    pub bpffs: BpfFs,
}

impl World {
    pub fn new() -> Self {
        let node = Netns::new("node");
        node.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        node.run(&["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]);
        Self {
            node,
            bpffs: BpfFs::new(),
        }
    }

    pub fn options(&self, attachment: Attachment) -> LoadOptions {
        LoadOptions {
            attachment: Some(attachment),
            ..LoadOptions::at(&self.bpffs.root())
        }
    }

    /// A pod with the addresses `10.9.0.N` and `fd00:9::N` behind the link `azvN`.
    pub fn pod(&self, number: u8) -> Pod {
        let pod = Pod {
            ns: Netns::new("pod"),
            link: IfName::new(format!("azv{number}")).expect("a name"),
            mac: MacAddr([2, 0, 0, 0, 1, number]),
            host_mac: MacAddr([2, 0, 0, 0, 2, number]),
            addresses: vec![
                Ipv4Addr::new(10, 9, 0, number).into(),
                Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, number.into()).into(),
            ],
        };
        let (mac, host_mac, dev) = (
            pod.mac.to_string(),
            pod.host_mac.to_string(),
            pod.link.as_str(),
        );
        let path = pod.ns.path().to_str().expect("a path");
        let pair = format!(
            "ip link add {dev} address {host_mac} type veth peer name eth0 address {mac} netns {path}"
        );
        self.node.run(&words(&pair));
        self.node.run(&["ip", "link", "set", dev, "up"]);
        pod.ns.run(&["ip", "link", "set", "eth0", "up"]);
        let gateways = [("-4", "169.254.1.1"), ("-6", "fe80::1")];
        for (address, (family, gateway)) in pod.addresses.iter().zip(gateways) {
            let length = if address.is_ipv4() { 32 } else { 128 };
            let in_pod = [
                format!("addr add {address}/{length} dev eth0"),
                format!("neigh add {gateway} lladdr {host_mac} dev eth0"),
                format!("route add {gateway} dev eth0"),
                format!("route add default via {gateway} dev eth0"),
            ];
            let on_node = [
                format!("route add {address} dev {dev}"),
                format!("neigh add {address} lladdr {mac} dev {dev}"),
            ];
            for line in in_pod {
                let nodad = family == "-6" && line.starts_with("addr");
                let line = format!("ip {family} {line}{}", if nodad { " nodad" } else { "" });
                pod.ns.run(&words(&line));
            }
            for line in on_node {
                self.node.run(&words(&format!("ip {family} {line}")));
            }
        }
        pod
    }

    /// Leaves the node no route to a pod: only the datapath knows the way.
    pub fn blackhole(&self, pod: &Pod) {
        for address in &pod.addresses {
            let family = if address.is_ipv4() { "-4" } else { "-6" };
            for line in [
                format!("ip {family} route del {address} dev {}", pod.link),
                format!("ip {family} route add blackhole {address}"),
            ] {
                self.node.run(&words(&line));
            }
        }
    }
}

pub fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

pub fn ping(from: &Pod, to: IpAddr) {
    let to = to.to_string();
    from.ns
        .run(&["ping", "-c", "2", "-i", "0.05", "-W", "5", &to]);
}
