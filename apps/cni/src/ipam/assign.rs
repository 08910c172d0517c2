use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use watari_cni_spec::{CniError, CniResult, Code, Dns, IpConfig, ResultRoute};
use watari_ipam::{Holder, IpamConf, Millis, Pool, Refusal, Source, Wish};
use watari_store::Tx;

use super::Prepared;

/// What an attachment was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// One address of each pool, with the subnet's prefix length and gateway; `interface` is
    /// for the caller to set.
    pub ips: Vec<IpConfig>,
    /// The configured routes; else a default route of each family, unless the configuration
    /// brings its own `ranges`.
    pub routes: Vec<ResultRoute>,
    /// From `resolvConf`.
    pub dns: Dns,
}

impl Assigned {
    /// As the result of an IPAM plugin.
    pub fn into_result(self) -> CniResult {
        CniResult {
            interfaces: Vec::new(),
            ips: self.ips,
            routes: self.routes,
            dns: self.dns,
        }
    }
}

/// Leases one address of each prepared pool for the holder, the requested ones where asked,
/// inside the caller's transaction.
pub fn assign(
    tx: &Tx<'_>,
    conf: &IpamConf,
    prepared: &Prepared,
    holder: &Holder,
    now: Millis,
) -> Result<Assigned, CniError> {
    let pools = prepared.pools();
    let requests = share_out(pools, &conf.requested)?;
    let mut ips = Vec::new();
    for (pool, address) in pools.iter().zip(requests) {
        let wish = Wish {
            holder,
            address,
            now,
            cool_down: conf.cool_down,
        };
        ips.push(with_subnet(pool, tx.lease(pool, wish)?)?);
    }
    let routes = match (&conf.routes, &conf.source) {
        (Some(routes), _) => routes.clone(),
        (None, Source::Ranges(_)) => Vec::new(),
        (None, _) => ips.iter().filter_map(default_route).collect(),
    };
    let dns = prepared.dns().clone();
    Ok(Assigned { ips, routes, dns })
}

/// Which requested address each pool is asked for; every request has to find its own pool.
fn share_out(pools: &[Pool], requested: &[IpAddr]) -> Result<Vec<Option<IpAddr>>, CniError> {
    let mut shares = vec![None; pools.len()];
    for address in requested {
        let fits = |pool: &Pool| pool.contains(*address) || pool.reserves(*address);
        let free = pools
            .iter()
            .zip(&mut shares)
            .find(|(pool, share)| share.is_none() && fits(pool));
        let Some((_, share)) = free else {
            let all: Vec<String> = pools.iter().map(ToString::to_string).collect();
            let refusal = Refusal::Outside {
                address: *address,
                subnets: all.join(", "),
            };
            return Err(
                CniError::new(Code::ADDRESS_UNAVAILABLE, refusal.to_string())
                    .because("one address is given of each pool"),
            );
        };
        *share = Some(*address);
    }
    Ok(shares)
}

fn with_subnet(pool: &Pool, address: IpAddr) -> Result<IpConfig, CniError> {
    let subnet = pool.giver(address);
    let whole = subnet.and_then(|subnet| IpNet::new(address, subnet.net.prefix_len()).ok());
    let address = whole.ok_or_else(|| {
        CniError::new(Code::INTERNAL, format!("pool {} gave {address}", pool.id()))
            .because("which is not its own")
    })?;
    Ok(IpConfig {
        address,
        gateway: subnet.and_then(|subnet| subnet.gateway),
        interface: None,
    })
}

fn default_route(ip: &IpConfig) -> Option<ResultRoute> {
    let all: IpAddr = match ip.address {
        IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let route = ResultRoute::to(IpNet::new(all, 0).ok()?);
    Some(ResultRoute {
        gw: Some(ip.gateway?),
        ..route
    })
}
