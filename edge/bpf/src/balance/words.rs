//! Between the words of `core/tables` and the entries of the kernel's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use watari_abi::{
    Address, Frontend as Entry, FrontendKey, PortRangeKey, PrefixKey, ServiceName as Text,
    SourceRangeKey, frontend_flags,
};
use watari_model::{Protocol, ServiceName};
use watari_tables::{
    Backends, Balancer, BalancerName, Frontend, FrontendKind, Services, ServicesChange,
};

use super::Observed;

/// Bits of a v4-mapped address before the IPv4 part.
const MAPPED_BITS: u8 = 96;
/// Bits of a [`PortRangeKey`] before the port.
const PORT_AT: u32 = 136;

/// Members with their weights, as they are shared out.
pub(super) type Members = Arc<BTreeMap<SocketAddr, u8>>;

/// A network as a longest-prefix table has it.
pub(crate) fn prefix_key(range: IpNet) -> PrefixKey {
    let length = match range {
        IpNet::V4(v4) => MAPPED_BITS + v4.prefix_len(),
        IpNet::V6(v6) => v6.prefix_len(),
    };
    PrefixKey {
        length: u32::from(length),
        address: Address::from(range.network()),
    }
}

/// The network that a key stands for, if it is one.
pub(crate) fn range_of(key: &PrefixKey) -> Option<IpNet> {
    let length = u8::try_from(key.length).ok()?;
    let address = IpAddr::from(key.address);
    let length = match address {
        IpAddr::V4(_) => length.checked_sub(MAPPED_BITS)?,
        IpAddr::V6(_) => length,
    };
    IpNet::new(address, length).ok()
}

/// A client's network as the table of source ranges has it.
pub(super) fn source_key(service: u32, range: IpNet) -> SourceRangeKey {
    let PrefixKey { length, address } = prefix_key(range.trunc());
    SourceRangeKey {
        length: length + 32,
        service,
        address,
    }
}

/// The client's network that a key stands for, if it is one.
pub(super) fn source_of(key: &SourceRangeKey) -> Option<IpNet> {
    range_of(&PrefixKey {
        length: key.length.checked_sub(32)?,
        address: key.address,
    })
}

/// The entry of a port.
pub(super) fn frontend_key(address: IpAddr, port: u16, protocol: Protocol) -> FrontendKey {
    FrontendKey {
        address: Address::from(address),
        port: port.to_be(),
        protocol: protocol.number(),
        pad: 0,
    }
}

/// The entry of an address.
pub(super) fn address_key(address: Address) -> FrontendKey {
    FrontendKey {
        address,
        ..FrontendKey::default()
    }
}

/// True for the entry of an address.
pub(super) fn is_address(key: &FrontendKey) -> bool {
    (key.port, key.protocol) == (0, 0)
}

/// The protocol of that number.
pub(super) fn protocol_of(number: u8) -> Option<Protocol> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    all.into_iter().find(|protocol| protocol.number() == number)
}

/// The prefixes that a range of ports is made of. All ports are one: nobody sends to port zero.
pub(super) fn range_keys(at: &Frontend, protocol: Protocol) -> Vec<PortRangeKey> {
    let (mut from, to) = (u32::from(at.first), u32::from(at.last));
    if from <= 1 && to == u32::from(u16::MAX) {
        from = 0;
    }
    let mut keys = Vec::new();
    while from <= to {
        let bits = from.trailing_zeros().min((to - from + 1).ilog2()).min(16);
        keys.push(PortRangeKey {
            length: PORT_AT + 16 - bits,
            address: Address::from(at.address),
            protocol: protocol.number(),
            // At most 16 bits: `from` is no more than `to`.
            port: u16::try_from(from).unwrap_or(u16::MAX).to_be_bytes(),
            pad: 0,
        });
        from += 1 << bits;
    }
    keys
}

/// The ports of a prefix, first and last.
pub(super) fn ports_of(key: &PortRangeKey) -> Option<(u16, u16)> {
    let bits = (PORT_AT + 16).checked_sub(key.length)?;
    if bits > 16 {
        return None;
    }
    let first = u16::from_be_bytes(key.port);
    let last = u32::from(first) + (1 << bits) - 1;
    Some((first.max(1), u16::try_from(last).ok()?))
}

/// `NAMESPACE/NAME:PORT`, if there is room for it.
pub(super) fn text(name: &BalancerName) -> Option<Text> {
    let words = name.to_string();
    let mut text = [0; 192];
    text.get_mut(..words.len())?
        .copy_from_slice(words.as_bytes());
    Some(Text { text })
}

/// Whether a text is that of a name.
pub(super) fn is_text(name: &BalancerName, text: &Text) -> bool {
    let ServiceName {
        namespace,
        name: of,
    } = &name.service;
    let parts = [&**namespace, "/", &**of, ":", &*name.port];
    let mut rest = &text.text[..];
    for part in parts {
        let Some(after) = rest.strip_prefix(part.as_bytes()) else {
            return false;
        };
        rest = after;
    }
    rest.iter().all(|byte| *byte == 0)
}

/// What a name stands for; the family is that of its frontends.
pub(super) fn name_of(text: &Text, v6: bool) -> Option<BalancerName> {
    let end = text
        .text
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(text.text.len());
    let words = std::str::from_utf8(&text.text[..end]).ok()?;
    let (namespace, rest) = words.split_once('/')?;
    let (name, port) = rest.split_once(':')?;
    Some(BalancerName {
        service: ServiceName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        port: port.into(),
        v6,
    })
}

/// Flags of a frontend.
pub(super) fn flags(balancer: &Balancer, at: &Frontend, kind: FrontendKind) -> u32 {
    let cluster = kind == FrontendKind::ClusterIp;
    let inside = if cluster {
        &balancer.inside
    } else {
        &balancer.inside_external
    };
    let bits = [
        (inside.drops_when_empty, frontend_flags::INSIDE_DROPS),
        (
            balancer.least_connections,
            frontend_flags::LEAST_CONNECTIONS,
        ),
        (at.range, frontend_flags::KEEPS_PORT),
        (cluster, frontend_flags::CLUSTER_ADDRESS),
        (kind == FrontendKind::NodePort, frontend_flags::NODE_PORT),
        (
            kind == FrontendKind::LoadBalancer,
            frontend_flags::LOAD_BALANCER,
        ),
        (
            !cluster && balancer.outside.drops_when_empty,
            frontend_flags::OUTSIDE_DROPS,
        ),
        (
            !cluster && balancer.keeps_source,
            frontend_flags::KEEPS_SOURCE,
        ),
        (
            !cluster && balancer.direct_return,
            frontend_flags::DIRECT_RETURN,
        ),
        (
            kind == FrontendKind::LoadBalancer && balancer.source_ranges.is_some(),
            frontend_flags::SOURCE_RANGES,
        ),
    ];
    let set = bits.into_iter().filter(|(wanted, _)| *wanted);
    set.fold(0, |flags, (_, bit)| flags | bit)
}

/// What kind of address a frontend's entry says.
pub(super) fn kind_of(entry: &Entry) -> FrontendKind {
    if entry.flags & frontend_flags::CLUSTER_ADDRESS != 0 {
        FrontendKind::ClusterIp
    } else if entry.flags & frontend_flags::NODE_PORT != 0 {
        FrontendKind::NodePort
    } else if entry.flags & frontend_flags::LOAD_BALANCER != 0 {
        FrontendKind::LoadBalancer
    } else {
        FrontendKind::ExternalIp
    }
}

fn gcd(one: u8, two: u8) -> u8 {
    if two == 0 { one } else { gcd(two, one % two) }
}

/// How many slots each member has: the weights, divided by what they have in common.
pub(super) fn shares(members: &BTreeMap<SocketAddr, u8>) -> impl Iterator<Item = (SocketAddr, u8)> {
    let common = members
        .values()
        .fold(0, |common, weight| gcd(common, *weight))
        .max(1);
    members
        .iter()
        .filter(|(_, weight)| **weight > 0)
        .map(move |(at, weight)| (*at, weight / common))
}

fn canonical_members(members: &Members) -> Members {
    let common = members
        .values()
        .fold(0, |common, weight| gcd(common, *weight));
    if common == 1 {
        return members.clone();
    }
    Arc::new(shares(members).collect())
}

fn canonical_frontends(balancer: &Balancer) -> BTreeMap<Frontend, FrontendKind> {
    let mut all = BTreeMap::new();
    let mut last: Option<(Frontend, FrontendKind)> = None;
    for (at, kind) in &balancer.frontends {
        let mut at = *at;
        if at.range {
            at.first = at.first.max(1);
            if let Some((before, of)) = last
                && (before.address, of) == (at.address, *kind)
                && before.last.checked_add(1) == Some(at.first)
            {
                all.remove(&before);
                at.first = before.first;
            }
            last = Some((at, *kind));
        }
        all.insert(at, *kind);
    }
    all
}

/// A balancer as the kernel's tables can say it: what no frontend of it asks for is as for the others,
/// weights are as small as they can be, ranges that meet are one. Nothing without a frontend.
pub fn canonical(balancer: &Balancer) -> Option<Balancer> {
    let mut said = balancer.clone();
    said.frontends = canonical_frontends(balancer);
    let has = |kind| {
        said.frontends
            .values()
            .any(|of| (*of == FrontendKind::ClusterIp) == kind)
    };
    let (cluster, others) = (has(true), has(false));
    if !cluster && !others {
        return None;
    }
    if !cluster {
        said.inside = said.inside_external.clone();
    }
    if !others {
        said.inside_external = said.inside.clone();
        said.outside = said.inside.clone();
        (said.keeps_source, said.direct_return) = (false, false);
    }
    for of in [
        &mut said.inside,
        &mut said.inside_external,
        &mut said.outside,
    ] {
        of.members = canonical_members(&of.members);
    }
    let mut kinds = said.frontends.values();
    if !kinds.any(|kind| *kind == FrontendKind::LoadBalancer) {
        said.source_ranges = None;
    }
    if let Some(ranges) = &mut said.source_ranges {
        *ranges = ranges.iter().map(IpNet::trunc).collect();
    }
    said.affinity = said.affinity.filter(|seconds| *seconds > 0);
    Some(said)
}

pub(super) fn same(one: &Balancer, two: &Balancer) -> bool {
    let quickly = |one: &Backends, two: &Backends| Arc::ptr_eq(&one.members, &two.members);
    let same_members = quickly(&one.inside, &two.inside)
        && quickly(&one.inside_external, &two.inside_external)
        && quickly(&one.outside, &two.outside);
    same_members && one == two || canonical(one) == canonical(two)
}

/// Whether two are the same to the kernel's tables.
pub(super) fn same_cidrs(one: &BTreeSet<IpNet>, two: &BTreeSet<IpNet>) -> bool {
    let trunc =
        |cidrs: &BTreeSet<IpNet>| -> BTreeSet<IpNet> { cidrs.iter().map(IpNet::trunc).collect() };
    trunc(one) == trunc(two)
}

/// The fewest steps from what was observed to what is desired, as far as the kernel's tables can
/// tell the two apart.
pub fn difference(observed: &Observed, desired: &Services) -> Vec<ServicesChange> {
    let unfinished = &observed.unfinished;
    let observed = &observed.services;
    let unsaid = |change: &ServicesChange| match change {
        ServicesChange::Set(name, _) if unfinished.contains(name) => false,
        ServicesChange::Set(name, balancer) => match observed.balancers.get(name) {
            Some(there) => same(there, balancer),
            None => balancer.frontends.is_empty(),
        },
        ServicesChange::Cidrs(cidrs) => same_cidrs(cidrs, &observed.cidrs),
        _ => false,
    };
    let mut steps = observed.steps_to(desired);
    for name in unfinished {
        if let Some(balancer) = desired.balancers.get(name)
            && observed.balancers.get(name) == Some(balancer)
        {
            steps.push(ServicesChange::Set(name.clone(), balancer.clone()));
        }
    }
    steps.retain(|change| !unsaid(change));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(first: u16, last: u16) -> Frontend {
        Frontend {
            address: IpAddr::from([10, 0, 0, 1]),
            first,
            last,
            range: true,
        }
    }

    #[test]
    fn all_ports_are_one_prefix() {
        let keys = range_keys(&range(1, u16::MAX), Protocol::Tcp);
        assert_eq!(keys.len(), 1);
        assert_eq!((keys[0].length, keys[0].port), (136, [0, 0]));
        assert_eq!(ports_of(&keys[0]), Some((1, u16::MAX)));
        let one = range_keys(&range(53, 53), Protocol::Udp);
        assert_eq!((one.len(), one[0].length), (1, 152));
    }

    #[test]
    fn names_survive_the_table() {
        for port in ["", "http", "ranges/tcp"] {
            let name = BalancerName {
                service: ServiceName {
                    namespace: "kube-system".to_owned(),
                    name: "dns".to_owned(),
                },
                port: port.into(),
                v6: true,
            };
            let text = text(&name).unwrap();
            assert!(is_text(&name, &text));
            assert_eq!(name_of(&text, true), Some(name));
        }
    }

    fn network() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<[u8; 4]>(), 0_u8..=32)
            .prop_map(|(octets, length)| IpNet::new(octets.into(), length).unwrap().trunc());
        let v6 = (any::<[u8; 16]>(), 0_u8..=128)
            .prop_map(|(octets, length)| IpNet::new(octets.into(), length).unwrap().trunc())
            // A mapped range is an IPv4 one.
            .prop_filter(
                "not mapped",
                |net| matches!(net, IpNet::V6(v6) if v6.network().to_ipv4_mapped().is_none()),
            );
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn networks_survive_the_table(range in network()) {
            prop_assert_eq!(range_of(&prefix_key(range)), Some(range));
            prop_assert_eq!(source_of(&source_key(7, range)), Some(range));
        }

        #[test]
        fn a_range_is_its_prefixes(first in 1_u16.., length in 0_u16..) {
            let last = first.saturating_add(length);
            let keys = range_keys(&range(first, last), Protocol::Tcp);
            prop_assert!(keys.len() <= 30);
            let mut next = u32::from(first);
            for key in &keys {
                let (from, to) = ports_of(key).unwrap();
                prop_assert_eq!(u32::from(from), next);
                next = u32::from(to) + 1;
            }
            prop_assert_eq!(next, u32::from(last) + 1);
        }
    }
}
