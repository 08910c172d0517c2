//! A pod in transparent mode on a real kernel: made, looked at, pinged, broken, taken away.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use watari_model::{Attachment, ContainerId, HostPrefix, IfName, NetworkName};
use watari_netlink::{CreateError, Handle, Netns, create, observe, read_setting, remove};
use watari_plan::{Difference, Transparent, differences, transparent};
use watari_tables::Endpoint;
use watari_testkit::Netns as TestNetns;

fn plan(container: &str, ifname: &str, addresses: &[&str]) -> Endpoint {
    let addresses: Vec<IpNet> = addresses.iter().map(|net| net.parse().unwrap()).collect();
    transparent(&Transparent {
        network: &NetworkName::new("azure").unwrap(),
        attachment: &Attachment {
            container: ContainerId::new(container).unwrap(),
            ifname: IfName::new(ifname).unwrap(),
        },
        prefix: &HostPrefix::default(),
        mtu: 1400,
        pod_mac: None,
        addresses: &addresses,
        destinations: &[],
        ipv6: true,
    })
}

struct Place {
    node: TestNetns,
    pod: TestNetns,
}

impl Place {
    fn new() -> Self {
        let (node, pod) = (TestNetns::new("node"), TestNetns::new("pod"));
        node.enter(|| {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
            }
        });
        node.run(&["ip", "address", "add", "10.240.0.4/32", "dev", "lo"]);
        node.run(&["ip", "address", "add", "fd00::4/128", "dev", "lo"]);
        // Proxy ARP answers for what the node would send elsewhere: it needs a default route,
        // as every node has.
        node.run(&[
            "ip", "link", "add", "uplink", "type", "veth", "peer", "fabric",
        ]);
        node.run(&["ip", "link", "set", "uplink", "up"]);
        node.run(&["ip", "route", "add", "default", "dev", "uplink"]);
        Self { node, pod }
    }

    /// Runs in the node's namespace with a handle on it and the pod's namespace open.
    fn on_node<T: Send>(&self, work: impl FnOnce(&mut Handle, &Netns) -> T + Send) -> T {
        let pod = Netns::open(self.pod.path()).unwrap();
        self.node.enter(|| work(&mut Handle::open().unwrap(), &pod))
    }

    fn losses(&self, endpoint: &Endpoint) -> Vec<String> {
        self.on_node(|host, pod| {
            let mut found = differences(
                &endpoint.host,
                observe(host, &endpoint.host).unwrap().as_ref(),
            );
            let inside = pod
                .within(|| observe(&mut Handle::open().unwrap(), &endpoint.pod).unwrap())
                .unwrap();
            found.extend(differences(&endpoint.pod, inside.as_ref()));
            found.iter().map(ToString::to_string).collect()
        })
    }
}

#[test]
fn a_dual_stack_pod_is_exactly_what_was_planned_and_reached_at_once() {
    let place = Place::new();
    let endpoint = plan("c1", "eth0", &["10.240.0.88/16", "fd00::88/64"]);
    place.on_node(|host, pod| create(&endpoint, host, pod).unwrap());
    // No waiting between the two: an address that is still being detected would not answer.
    place.node.run(&["ping", "-c1", "-W1", "10.240.0.88"]);
    place
        .node
        .run(&["ping", "-c1", "-W1", "-I", "fd00::4", "fd00::88"]);
    place.pod.run(&["ping", "-c1", "-W1", "10.240.0.4"]);
    place.pod.run(&["ping", "-c1", "-W1", "fd00::4"]);
    assert_eq!(place.losses(&endpoint), Vec::<String>::new());
    let host = place
        .node
        .run(&["ip", "address", "show", "dev", endpoint.host.name.as_str()]);
    assert!(
        !host.contains("inet"),
        "the host side has an address:\n{host}"
    );
    let routes = place.node.run(&["ip", "route"]);
    let want = format!("10.240.0.88 dev {} proto static", endpoint.host.name);
    // To the letter, as a real node has it: no `scope link`.
    assert!(routes.lines().any(|line| line.trim() == want), "{routes}");
}

#[test]
fn without_its_neighbours_the_pod_still_finds_its_gateway_by_proxy() {
    let place = Place::new();
    let endpoint = plan("c1", "eth0", &["10.240.0.88/16", "fd00::88/64"]);
    place.on_node(|host, pod| create(&endpoint, host, pod).unwrap());
    place.pod.run(&[
        "ip",
        "neighbour",
        "flush",
        "dev",
        "eth0",
        "nud",
        "permanent",
    ]);
    place.pod.run(&["ping", "-c1", "-W1", "10.240.0.4"]);
    place.pod.run(&["ping", "-c1", "-W1", "fd00::4"]);
}

#[test]
fn each_thing_that_somebody_breaks_is_named() {
    let place = Place::new();
    let endpoint = plan("c1", "eth0", &["10.240.0.88/16", "fd00::88/64"]);
    place.on_node(|host, pod| create(&endpoint, host, pod).unwrap());
    let link = endpoint.host.name.as_str();
    place.node.run(&["ip", "route", "del", "10.240.0.88/32"]);
    place.node.run(&["ip", "link", "set", link, "mtu", "1300"]);
    place
        .pod
        .run(&["ip", "neighbour", "del", "169.254.1.1", "dev", "eth0"]);
    place
        .pod
        .run(&["ip", "address", "add", "10.9.9.9/32", "dev", "eth0"]);
    let found: BTreeSet<_> = place.losses(&endpoint).into_iter().collect();
    let want = BTreeSet::from([
        "MTU is 1300, should be 1400".to_owned(),
        "route 10.240.0.88/32 is missing".to_owned(),
        format!(
            "permanent neighbour 169.254.1.1 {} is missing",
            endpoint.host.mac
        ),
        "address 10.9.9.9/32 is unexpected".to_owned(),
    ]);
    assert_eq!(found, want);
}

#[test]
fn a_stale_link_of_the_same_attachment_is_replaced() {
    let place = Place::new();
    let endpoint = plan("c1", "eth0", &["10.240.0.88/16"]);
    place.node.run(&[
        "ip",
        "link",
        "add",
        endpoint.host.name.as_str(),
        "type",
        "veth",
    ]);
    place.on_node(|host, pod| create(&endpoint, host, pod).unwrap());
    assert_eq!(place.losses(&endpoint), Vec::<String>::new());
}

#[test]
fn a_foreign_interface_in_the_pod_is_left_alone_and_nothing_is_left_of_ours() {
    let place = Place::new();
    let endpoint = plan("c1", "eth0", &["10.240.0.88/16"]);
    place
        .pod
        .run(&["ip", "link", "add", "eth0", "type", "veth", "peer", "other"]);
    let error = place.on_node(|host, pod| create(&endpoint, host, pod).unwrap_err());
    assert!(matches!(error, CreateError::PodNameTaken { .. }), "{error}");
    assert!(place.pod.run(&["ip", "link"]).contains("other"));
    assert!(!place.node.run(&["ip", "link"]).contains("azv"));
}

#[test]
fn an_address_that_is_routed_elsewhere_is_refused_and_the_pair_undone() {
    let place = Place::new();
    let endpoint = plan("c1", "eth0", &["10.240.0.88/16"]);
    place
        .node
        .run(&["ip", "route", "add", "10.240.0.88/32", "dev", "lo"]);
    let error = place.on_node(|host, pod| create(&endpoint, host, pod).unwrap_err());
    assert!(
        error
            .to_string()
            .contains("cannot add route 10.240.0.88/32"),
        "{error}"
    );
    assert!(!place.node.run(&["ip", "link"]).contains("azv"));
    assert!(!place.pod.run(&["ip", "link"]).contains("eth0"));
}

#[test]
fn removing_twice_is_no_error() {
    let place = Place::new();
    let endpoint = plan("c1", "eth0", &["10.240.0.88/16"]);
    place.on_node(|host, pod| {
        create(&endpoint, host, pod).unwrap();
        assert!(remove(host, &endpoint.host.name).unwrap());
        assert!(!remove(host, &endpoint.host.name).unwrap());
        let observed = observe(host, &endpoint.host).unwrap();
        assert_eq!(
            differences(&endpoint.host, observed.as_ref()),
            [Difference::LinkMissing]
        );
    });
}

#[test]
fn the_way_to_an_address_is_the_kernels() {
    let place = Place::new();
    let endpoint = plan("c1", "eth0", &["10.240.0.88/16"]);
    place.on_node(|host, pod| {
        let index = create(&endpoint, host, pod).unwrap().host_index;
        let to = |host: &mut Handle, text: &str| {
            host.route_to(text.parse::<IpAddr>().unwrap())
                .unwrap()
                .map(|to| to.index)
        };
        assert_eq!(to(host, "10.240.0.88"), Some(index));
        assert_ne!(to(host, "10.240.0.89"), Some(index));
        assert_eq!(to(host, "fd00::99"), None);
        let forward = read_setting("/proc/sys/net/ipv4/ip_forward".as_ref()).unwrap();
        assert_eq!(forward.as_deref(), Some("1"));
    });
}
