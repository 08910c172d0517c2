//! What each fuzz target does with its bytes. `./run fuzz` feeds them by libFuzzer, the tests of
//! this crate from the seeds. A target fails by panicking.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a target fails by panicking"
)]

mod packets;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use watari_cni_spec::{
    CniArgs, CniResult, Command, ConfList, NetConf, PluginConf, Request, Version, VersionReply,
    format_args_variable, parse_args,
};
use watari_ipam::{Document, IpamConf, Kind, Select, parse_node_file, parse_resolv_conf};
use watari_nft::attr::parse_attrs;
use watari_nft::interval::{parse_marks, ranges_of};
use watari_nft::message::parse_frames;
use watari_nft::monitor::{Changed, read_changes};
use watari_nft::object::{parse_comment, parse_elements, parse_generation};

pub use packets::datapath;

/// What a target is.
pub type Target = fn(&[u8]);

/// All, by the names of `fuzz_targets/` and `seeds/`.
pub const TARGETS: [(&str, Target); 11] = [
    ("cni_conf", cni_conf),
    ("cni_list", cni_list),
    ("cni_result", cni_result),
    ("cni_request", cni_request),
    ("ipam_document", ipam_document),
    ("manifests", manifests),
    ("lab_spec", lab_spec),
    ("nft_answer", nft_answer),
    ("netlink_answer", netlink_answer),
    ("result_cache", result_cache),
    ("datapath", datapath),
];

/// A network configuration, for each command and for each kind of address plugin.
pub fn cni_conf(bytes: &[u8]) {
    let _ = VersionReply::answer(bytes);
    let _ = VersionReply::from_json(bytes);
    for command in Command::ALL {
        let Ok(conf) = NetConf::parse_for(command, bytes) else {
            continue;
        };
        let _ = conf.ipam_kind();
        for kind in [Kind::AzureV4, Kind::AzureV6, Kind::Watari] {
            let _ = IpamConf::parse(&conf, &CniArgs::new(), kind);
        }
    }
}

/// A list of plugins, or the configuration of one.
pub fn cni_list(bytes: &[u8]) {
    let _ = ConfList::parse(bytes);
    let _ = PluginConf::parse(bytes);
}

/// The result of a plugin, which reads back in every version.
pub fn cni_result(bytes: &[u8]) {
    let _ = watari_cni_spec::CniError::from_json(bytes);
    let Ok(result) = CniResult::from_json(bytes) else {
        return;
    };
    for version in Version::ALL {
        let text = result.to_json(version);
        let again = CniResult::from_json(text.as_bytes()).expect("what we write, we read");
        if version == Version::LATEST {
            assert_eq!(again, result);
        }
    }
}

/// The environment of a plugin: a line a variable, `NAME=VALUE`.
pub fn cni_request(bytes: &[u8]) {
    let lookup = |name: &str| {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let value =
            lines.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        Some(OsString::from_vec(value.to_vec()))
    };
    if let Ok(request) = Request::from_env(lookup) {
        let text = format_args_variable(&request.args);
        let again = parse_args(&text).expect("what we write, we read");
        assert_eq!(again, request.args);
    }
}

/// What a host says of a node's addresses, the node file, and `resolv.conf`.
pub fn ipam_document(bytes: &[u8]) {
    let documents = [Document::from_xml(bytes), Document::from_json(bytes)];
    for document in documents.into_iter().flatten() {
        if let Ok(interface) = document.select(Select::Primary) {
            let _ = interface.for_containers();
        }
    }
    let _ = parse_node_file(bytes);
    let _ = parse_resolv_conf(&String::from_utf8_lossy(bytes));
}

/// A file of Kubernetes manifests.
pub fn manifests(bytes: &[u8]) {
    for name in ["pods.yaml", "pods.json"] {
        let _ = watari_manifests::parse(Path::new(name), bytes);
    }
}

/// A `lab.yaml`, and the addresses that follow from it.
pub fn lab_spec(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(spec) = watari_lab::Spec::parse(&text) else {
        return;
    };
    let name = watari_lab::Label::new("fuzz").expect("a name");
    if let Ok(lab) = watari_lab::Lab::new(name, &spec) {
        for node in &lab.nodes {
            let _ = (node.in_cluster(), node.secondaries());
        }
    }
}

/// What the kernel answers on a netfilter socket, for nftables and connection tracking.
pub fn nft_answer(bytes: &[u8]) {
    let _ = parse_comment(bytes);
    let _ = read_changes(bytes, &mut Changed::default());
    let _ = parse_attrs(bytes);
    for frame in parse_frames(bytes).into_iter().flatten() {
        let _ = frame.outcome();
        if let Ok(attributes) = frame.attributes() {
            let _ = parse_generation(attributes);
            let _ = parse_elements(attributes);
            let _ = parse_marks(attributes).and_then(ranges_of);
            let values = parse_attrs(attributes).into_iter().flatten();
            for attr in values {
                let _ = (attr.be16(), attr.be32(), attr.text().is_ok());
                let _ = parse_attrs(attr.value);
            }
        }
    }
}

/// What the kernel answers on a route netlink socket.
pub fn netlink_answer(bytes: &[u8]) {
    let _ = watari_netlink::read_datagram(bytes);
}

/// An entry of the result cache.
pub fn result_cache(bytes: &[u8]) {
    let _ = watari_runtime::CacheEntry::parse(Path::new("entry"), bytes);
}
