use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::span::{next, normalise, subtract};
use crate::{Family, Span};

/// The name of a pool in the node store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolId {
    /// Within a scope an address is leased at most once. Addresses that belong to the node
    /// (Azure, Pod CIDR) share one scope whatever the network; those of a configuration's
    /// `ranges` have the network's own, as with `host-local`.
    pub scope: String,
    /// Tells the pools of a scope apart.
    pub name: String,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope, self.name)
    }
}

/// Addresses of one subnet that may be given to containers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The prefix that a container's address carries.
    pub net: IpNet,
    /// The next hop in it.
    pub gateway: Option<IpAddr>,
    /// Never given: the gateway, the node's own address, network and broadcast address.
    pub reserved: BTreeSet<IpAddr>,
    /// What may be given: ascending, disjoint, without the reserved.
    pub spans: Vec<Span>,
}

impl Subnet {
    /// Puts the spans in order and takes the reserved addresses out, among them the gateway,
    /// and network and broadcast address where the prefix has such (RFC 3021, RFC 6164: not
    /// with fewer than two host bits; IPv6 has no broadcast, its first is the routers' anycast).
    /// The gateway may lie elsewhere (169.254.1.1, `fe80::1`).
    pub fn new(
        net: IpNet,
        gateway: Option<IpAddr>,
        spans: Vec<Span>,
        reserved: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, PoolError> {
        let net = net.trunc();
        if net.addr().to_canonical() != net.addr() {
            return Err(PoolError::Mapped(net));
        }
        for span in &spans {
            for end in [span.first(), span.last()] {
                if !net.contains(&end) {
                    return Err(PoolError::Outside { address: end, net });
                }
            }
        }
        let mut reserved: BTreeSet<IpAddr> = reserved.into_iter().chain(gateway).collect();
        if net.max_prefix_len() - net.prefix_len() >= 2 {
            reserved.insert(net.network());
            if net.addr().is_ipv4() {
                reserved.insert(net.broadcast());
            }
        }
        Ok(Self {
            spans: subtract(&normalise(spans), reserved.iter().copied()),
            net,
            gateway,
            reserved,
        })
    }

    /// All of a prefix, with its first address as the gateway.
    pub fn whole(net: IpNet) -> Result<Self, PoolError> {
        let net = net.trunc();
        let span = Span::new(net.network(), net.broadcast())
            .into_iter()
            .collect();
        Self::new(net, first_host(net), span, [])
    }
}

/// The first address of a prefix that a host can have: where Azure and Kubernetes put the gateway.
pub fn first_host(net: IpNet) -> Option<IpAddr> {
    let net = net.trunc();
    (net.max_prefix_len() - net.prefix_len() >= 2)
        .then(|| next(net.network()))
        .flatten()
}

/// Addresses of one family of which an attachment gets one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    id: PoolId,
    family: Family,
    subnets: Vec<Subnet>,
}

/// A pool that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// An address lies outside of its subnet.
    #[error("{address} is not in {net}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The subnet.
        net: IpNet,
    },
    /// An IPv4 prefix that is written as an IPv6 one.
    #[error("{0} holds IPv4 addresses; it has to be written as IPv4, as 10.1.0.0/16")]
    Mapped(IpNet),
    /// Two families in one pool.
    #[error("{0} is of another family than {1}; a pool has one")]
    Mixed(IpNet, IpNet),
    /// The same addresses twice.
    #[error("{0} and {1} overlap")]
    Overlap(IpNet, IpNet),
    /// There is nothing to give.
    #[error("no address is left to give to containers")]
    Empty,
}

impl Pool {
    /// Joins subnets of one family. Ranges of the same subnet may be listed one by one; the
    /// addresses of two must not overlap.
    pub fn new(id: PoolId, mut subnets: Vec<Subnet>) -> Result<Self, PoolError> {
        subnets.retain(|subnet| !subnet.spans.is_empty());
        subnets.sort_by_key(|subnet| subnet.spans[0]);
        let Some(first) = subnets.first() else {
            return Err(PoolError::Empty);
        };
        let family = Family::of(first.net.addr());
        for pair in subnets.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            if Family::of(a.net.addr()) != Family::of(b.net.addr()) {
                return Err(PoolError::Mixed(b.net, a.net));
            }
            // Ordered by their first span: an overlap exists only if the earlier one reaches
            // into the later one.
            if a.spans.last().map(|span| span.last()) >= b.spans.first().map(|span| span.first()) {
                return Err(PoolError::Overlap(a.net, b.net));
            }
        }
        Ok(Self {
            id,
            family,
            subnets,
        })
    }

    /// Its name.
    pub fn id(&self) -> &PoolId {
        &self.id
    }

    /// The family of its addresses.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Its subnets, ascending.
    pub fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }

    /// All that may be given, ascending.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.subnets
            .iter()
            .flat_map(|subnet| subnet.spans.iter().copied())
    }

    /// The subnet that may give this address. O(log n).
    pub fn giver(&self, address: IpAddr) -> Option<&Subnet> {
        if Family::of(address) != self.family {
            return None;
        }
        let at = self
            .subnets
            .partition_point(|subnet| subnet.spans[0].first() <= address);
        let subnet = self.subnets.get(at.checked_sub(1)?)?;
        let at = subnet.spans.partition_point(|span| span.first() <= address);
        subnet
            .spans
            .get(at.checked_sub(1)?)
            .filter(|span| span.contains(address))
            .map(|_| subnet)
    }

    /// True for an address that this pool may give.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.giver(address).is_some()
    }

    /// True for an address that is kept for the gateway, the node or the prefix itself.
    pub fn reserves(&self, address: IpAddr) -> bool {
        self.subnets
            .iter()
            .any(|subnet| subnet.reserved.contains(&address))
    }

    /// How many addresses it may give.
    pub fn size(&self) -> u128 {
        self.spans()
            .fold(0, |sum, span| sum.saturating_add(span.count()))
    }

    /// What may be given without `used` (ascending).
    pub fn without(&self, used: impl IntoIterator<Item = IpAddr>) -> Vec<Span> {
        subtract(&self.spans().collect::<Vec<_>>(), used)
    }

    /// A number that changes when the addresses do; the same in every build.
    pub fn digest(&self) -> u64 {
        let mut hash = Sha256::new();
        for span in self.spans() {
            hash.update(format!("{}-{} ", span.first(), span.last()));
        }
        let all: [u8; 32] = hash.finalize().into();
        let first: [u8; 8] = std::array::from_fn(|at| all[at]);
        u64::from_be_bytes(first)
    }
}

/// For messages: `10.1.0.0/16, 10.2.0.0/16`.
impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, subnet) in self.subnets.iter().take(4).enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { ", " }, subnet.net)?;
        }
        if self.subnets.len() > 4 {
            write!(f, " and {} more", self.subnets.len() - 4)?;
        }
        Ok(())
    }
}
