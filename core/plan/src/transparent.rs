use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use watari_model::{Attachment, ContainerId, HostPrefix, IfName, MacAddr, NetworkName};
use watari_tables::{Endpoint, LinkTables, Neighbour, Route, Sysctl, SysctlTable};

/// The next hop of every pod for IPv4: an address that nobody has. The host-side link answers
/// for it by proxy ARP, and a permanent neighbour makes even that question needless.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The next hop of every pod for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x1234, 0x5678, 0x9abc);

/// The longest `ifalias`: `IFALIASZ` of `linux/if.h` without its final zero byte.
const ALIAS_MAX: usize = 255;
const ALIAS_PREFIX: &str = "watari:";

/// What the tables of a pod in transparent mode are made from.
#[derive(Debug, Clone)]
pub struct Transparent<'a> {
    /// The network that the attachment is of.
    pub network: &'a NetworkName,
    /// Container and interface.
    pub attachment: &'a Attachment,
    /// How host-side links are called.
    pub prefix: &'a HostPrefix,
    /// The MTU of the node's primary interface in bytes.
    pub mtu: u32,
    /// The MAC that the runtime asks for.
    pub pod_mac: Option<MacAddr>,
    /// The pod's addresses with the prefix lengths of their subnets.
    pub addresses: &'a [IpNet],
    /// What the pod reaches; for a family without any, everything.
    pub destinations: &'a [IpNet],
    /// Whether the node's kernel has IPv6.
    pub ipv6: bool,
}

/// Whose a host-side link is, as its alias says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The network.
    pub network: NetworkName,
    /// Container and interface.
    pub attachment: Attachment,
}

impl Owner {
    /// The alias of the host-side link; empty where names are too long for one.
    pub fn alias(&self) -> String {
        let alias = format!("{ALIAS_PREFIX}{}/{}", self.network, self.attachment);
        if alias.len() > ALIAS_MAX {
            String::new()
        } else {
            alias
        }
    }
}

/// The owner that an alias names; none for links that are not ours.
pub fn owner_of_alias(alias: &str) -> Option<Owner> {
    let mut parts = alias.strip_prefix(ALIAS_PREFIX)?.splitn(3, '/');
    let network = NetworkName::new(parts.next()?).ok()?;
    let container = ContainerId::new(parts.next()?).ok()?;
    let ifname = IfName::new(parts.next()?).ok()?;
    Some(Owner {
        network,
        attachment: Attachment { container, ifname },
    })
}

/// The pods' next hop of an address's family.
pub fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() {
        GATEWAY_V4.into()
    } else {
        GATEWAY_V6.into()
    }
}

/// The network that holds one address and no other.
pub fn single(address: IpAddr) -> IpNet {
    address.into()
}

/// The tables of a pod in transparent mode, as Azure's plugin makes them on a node, but for what
/// hurt there: both neighbours are permanent, and the node never has to ask for its own pods.
pub fn transparent(input: &Transparent<'_>) -> Endpoint {
    let host_mac = input.attachment.host_mac();
    let pod_mac = input.pod_mac.unwrap_or_else(|| input.attachment.pod_mac());
    let owner = Owner {
        network: input.network.clone(),
        attachment: input.attachment.clone(),
    };
    Endpoint {
        host: LinkTables {
            name: input.attachment.host_ifname(input.prefix),
            mac: host_mac,
            mtu: input.mtu,
            alias: owner.alias(),
            addresses: BTreeSet::new(),
            routes: each(input, |net| Route {
                destination: single(net.addr()),
                via: None,
            }),
            neighbours: each(input, |net| Neighbour {
                address: net.addr(),
                mac: pod_mac,
            }),
            proxies: if has_v6(input) {
                [GATEWAY_V6.into()].into()
            } else {
                BTreeSet::new()
            },
            sysctls: host_settings(input),
        },
        pod: LinkTables {
            name: input.attachment.ifname.clone(),
            mac: pod_mac,
            mtu: input.mtu,
            alias: String::new(),
            addresses: input.addresses.iter().copied().collect(),
            routes: pod_routes(input),
            neighbours: each(input, |net| Neighbour {
                address: gateway(net.addr()),
                mac: host_mac,
            }),
            proxies: BTreeSet::new(),
            sysctls: pod_settings(input),
        },
    }
}

fn each<T: Ord>(input: &Transparent<'_>, make: impl Fn(&IpNet) -> T) -> BTreeSet<T> {
    input.addresses.iter().map(make).collect()
}

fn has_v6(input: &Transparent<'_>) -> bool {
    input.addresses.iter().any(|net| net.addr().is_ipv6())
}

fn pod_routes(input: &Transparent<'_>) -> BTreeSet<Route> {
    let mut routes = BTreeSet::new();
    for net in input.addresses {
        let via = gateway(net.addr());
        routes.insert(Route {
            destination: single(via),
            via: None,
        });
        let same = |other: &&IpNet| other.addr().is_ipv4() == net.addr().is_ipv4();
        let mut named = input.destinations.iter().filter(same).peekable();
        if named.peek().is_none() {
            routes.insert(Route {
                destination: everything(net.addr()),
                via: Some(via),
            });
        }
        routes.extend(named.map(|net| Route {
            destination: net.trunc(),
            via: Some(via),
        }));
    }
    routes
}

fn everything(address: IpAddr) -> IpNet {
    IpNet::new_assert(
        if address.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        },
        0,
    )
}

fn setting(table: SysctlTable, key: &str, value: &str) -> Sysctl {
    Sysctl {
        table,
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

/// The host side answers for the gateway at once (`proxy_delay` is 0.8 s by default) and gets
/// no address of its own, a link-local one neither (`addr_gen_mode` 1: none).
fn host_settings(input: &Transparent<'_>) -> BTreeSet<Sysctl> {
    let mut settings = BTreeSet::from([
        setting(SysctlTable::Ipv4Conf, "proxy_arp", "1"),
        setting(SysctlTable::Ipv4Neigh, "proxy_delay", "0"),
    ]);
    if input.ipv6 {
        settings.insert(setting(SysctlTable::Ipv6Conf, "addr_gen_mode", "1"));
    }
    if has_v6(input) {
        settings.insert(setting(SysctlTable::Ipv6Conf, "disable_ipv6", "0"));
        settings.insert(setting(SysctlTable::Ipv6Conf, "proxy_ndp", "1"));
        settings.insert(setting(SysctlTable::Ipv6Neigh, "proxy_delay", "0"));
    }
    settings
}

/// A runtime may hand over a namespace in which IPv6 is off by default.
fn pod_settings(input: &Transparent<'_>) -> BTreeSet<Sysctl> {
    if !has_v6(input) {
        return BTreeSet::new();
    }
    let off = |key| setting(SysctlTable::Ipv6Conf, key, "0");
    BTreeSet::from([off("accept_dad"), off("accept_ra"), off("disable_ipv6")])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(addresses: &[&str], destinations: &[&str]) -> Endpoint {
        let parse = |nets: &[&str]| {
            nets.iter()
                .map(|net| net.parse().unwrap())
                .collect::<Vec<_>>()
        };
        transparent(&Transparent {
            network: &NetworkName::new("azure").unwrap(),
            attachment: &Attachment {
                container: ContainerId::new("c0ffee").unwrap(),
                ifname: IfName::new("eth0").unwrap(),
            },
            prefix: &HostPrefix::default(),
            mtu: 1500,
            pod_mac: None,
            addresses: &parse(addresses),
            destinations: &parse(destinations),
            ipv6: true,
        })
    }

    fn routes(link: &LinkTables) -> Vec<String> {
        let one = |route: &Route| match route.via {
            Some(via) => format!("{} via {via}", route.destination),
            None => route.destination.to_string(),
        };
        link.routes.iter().map(one).collect()
    }

    #[test]
    fn ipv4_is_as_on_the_reference_page() {
        let endpoint = made(&["10.240.0.88/16"], &[]);
        assert_eq!(endpoint.host.name.as_str(), "azv6ad2516ced2");
        assert!(endpoint.host.addresses.is_empty());
        assert_eq!(routes(&endpoint.host), ["10.240.0.88/32"]);
        assert_eq!(
            routes(&endpoint.pod),
            ["0.0.0.0/0 via 169.254.1.1", "169.254.1.1/32"]
        );
        let neighbours: Vec<_> = endpoint.pod.neighbours.iter().collect();
        let gateway = Neighbour {
            address: GATEWAY_V4.into(),
            mac: endpoint.host.mac,
        };
        assert_eq!(neighbours, [&gateway]);
        assert!(endpoint.host.proxies.is_empty() && endpoint.pod.sysctls.is_empty());
        assert!(
            endpoint
                .host
                .sysctls
                .contains(&setting(SysctlTable::Ipv4Conf, "proxy_arp", "1"))
        );
    }

    #[test]
    fn dual_stack_has_both_gateways() {
        let endpoint = made(&["10.240.0.88/16", "fd00::88/64"], &[]);
        assert_eq!(routes(&endpoint.host), ["10.240.0.88/32", "fd00::88/128"]);
        assert_eq!(
            routes(&endpoint.pod),
            [
                "0.0.0.0/0 via 169.254.1.1",
                "169.254.1.1/32",
                "::/0 via fe80::1234:5678:9abc",
                "fe80::1234:5678:9abc/128",
            ]
        );
        assert!(endpoint.host.proxies.contains(&GATEWAY_V6.into()));
    }

    #[test]
    fn named_destinations_take_the_place_of_the_default_route_of_their_family() {
        let endpoint = made(&["10.240.0.88/16", "fd00::88/64"], &["10.0.0.0/8"]);
        assert_eq!(
            routes(&endpoint.pod),
            [
                "10.0.0.0/8 via 169.254.1.1",
                "169.254.1.1/32",
                "::/0 via fe80::1234:5678:9abc",
                "fe80::1234:5678:9abc/128",
            ]
        );
    }

    #[test]
    fn an_alias_names_its_owner() {
        let endpoint = made(&["10.240.0.88/16"], &[]);
        assert_eq!(endpoint.host.alias, "watari:azure/c0ffee/eth0");
        let owner = owner_of_alias(&endpoint.host.alias).unwrap();
        assert_eq!(owner.attachment.to_string(), "c0ffee/eth0");
        assert_eq!(owner_of_alias("watari:azure/c0ffee"), None);
        assert_eq!(owner_of_alias("something else"), None);
        let long = Owner {
            network: NetworkName::new("n".repeat(256)).unwrap(),
            ..owner
        };
        assert_eq!(long.alias(), "");
    }
}
