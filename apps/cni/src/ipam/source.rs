//! From the source of a configuration to pools, by way of the document cached in the node store.

use ipnet::IpNet;
use watari_azure::{SourceError, read_file, stack_file, wire_server};
use watari_cni_spec::{CniError, Code, Dns};
use watari_ipam::{
    Family, IpamConf, MIN_REFRESH, Millis, Pool, PoolError, PoolId, Select, Source, Subnet,
    parse_node_file, parse_resolv_conf,
};
use watari_model::MacAddr;
use watari_store::{Store, StoreError};

/// The scope of the node's own addresses, whatever network gives them out.
const NODE_SCOPE: &str = "node";

/// How long a source that did not answer is left alone while its older answer serves.
const LEAVE_ALONE: Millis = Millis(60_000);

/// How new an answer of the source is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Not older than the configured interval.
    Recent,
    /// Not older than [`MIN_REFRESH`]: the pool is exhausted.
    Newest,
}

/// Pools to lease from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pools: Vec<Pool>,
    dns: Dns,
}

impl Prepared {
    /// The pools: one address is given of each.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The result's `dns`: from the file that `resolvConf` names.
    pub fn dns(&self) -> &Dns {
        &self.dns
    }
}

/// Makes the pools of a configuration. Asks the source if its cached answer is too old, outside
/// of any transaction; a source that does not answer is no failure while there is an older
/// answer. Addresses do not change owners silently, so an old answer is right or, at worst,
/// incomplete. A new answer is cached at once, in a commit of its own, so that nothing that fails
/// later makes the next process ask again.
pub fn prepare(store: &Store, conf: &IpamConf, want: Want) -> Result<Prepared, CniError> {
    Ok(Prepared {
        pools: sourced(store, conf, want)?,
        dns: read_dns(conf)?,
    })
}

fn read_dns(conf: &IpamConf) -> Result<Dns, CniError> {
    let Some(path) = &conf.resolv_conf else {
        return Ok(Dns::default());
    };
    let bytes = read_file(path)
        .map_err(|error| CniError::new(Code::IO, format!("ipam.resolvConf: {error}")))?;
    Ok(parse_resolv_conf(&String::from_utf8_lossy(&bytes)))
}

fn sourced(store: &Store, conf: &IpamConf, want: Want) -> Result<Vec<Pool>, CniError> {
    match &conf.source {
        Source::Ranges(pools) => Ok(pools.clone()),
        Source::NodeCidrs { given, file, clamp } => {
            let cidrs = if given.is_empty() {
                let bytes = read_file(file).map_err(|error| {
                    no_source(&error).because("the agent writes it; or set ipam.podCIDRs")
                })?;
                parse_node_file(&bytes)?
            } else {
                given.clone()
            };
            let cidrs = Source::node_cidrs(&cidrs, *clamp);
            let subnets: Result<Vec<_>, _> = cidrs.into_iter().map(Subnet::whole).collect();
            let subnets =
                subnets.map_err(|error| CniError::new(Code::NO_SOURCE, error.to_string()))?;
            pools(conf, "pod-cidr", &subnets)
        }
        Source::WireServer(_) | Source::StackFile(_) => documented(store, conf, want),
    }
}

fn documented(store: &Store, conf: &IpamConf, want: Want) -> Result<Vec<Pool>, CniError> {
    let master = conf.master.as_ref().map_or("primary", |name| name.as_str());
    let key = match &conf.source {
        Source::WireServer(base) => format!("{base} {master}"),
        Source::StackFile(path) => format!("{} {master}", path.display()),
        Source::Ranges(_) | Source::NodeCidrs { .. } => String::new(),
    };
    let silent_key = format!("silent {key}");
    let (cached, silent) =
        store.read(|tx| Ok::<_, StoreError>((tx.document(&key)?, tx.document(&silent_key)?)))?;
    let now = watari_store::now();
    let name = format!("azure/{master}");
    let max_age = match want {
        Want::Recent => conf.refresh,
        Want::Newest => MIN_REFRESH,
    };
    let Some((body, at)) = cached else {
        let subnets = ask(conf, watari_azure::PATIENT)?;
        cache(store, &key, &to_body(&subnets)?, now)?;
        return pools(conf, &name, &subnets);
    };
    let left_alone = silent.is_some_and(|(_, at)| now.since(at) < LEAVE_ALONE);
    if now.since(at) < max_age || left_alone {
        return pools(conf, &name, &parse_cached(&body)?);
    }
    if let Ok(subnets) = ask(conf, watari_azure::HASTY) {
        cache(store, &key, &to_body(&subnets)?, now)?;
        return pools(conf, &name, &subnets);
    }
    cache(store, &silent_key, "", now)?;
    pools(conf, &name, &parse_cached(&body)?)
}

/// Unless another process has cached something newer meanwhile.
fn cache(store: &Store, key: &str, body: &str, asked: Millis) -> Result<(), StoreError> {
    store.write(|tx| match tx.document(key)? {
        Some((_, at)) if at >= asked => Ok(()),
        _ => tx.put_document(key, body, asked),
    })
}

fn to_body(subnets: &[Subnet]) -> Result<String, CniError> {
    serde_json::to_string(subnets)
        .map_err(|error| CniError::new(Code::INTERNAL, format!("caching the document: {error}")))
}

fn parse_cached(body: &str) -> Result<Vec<Subnet>, CniError> {
    serde_json::from_str(body).map_err(|error| {
        CniError::new(
            Code::STORE,
            "a cached document in the node store cannot be read",
        )
        .because(error)
    })
}

/// Asks the source now.
fn ask(conf: &IpamConf, patience: std::time::Duration) -> Result<Vec<Subnet>, CniError> {
    let select = match &conf.master {
        None => Select::Primary,
        Some(master) => Select::Mac(mac_of(master)?),
    };
    let document = match &conf.source {
        Source::WireServer(base) => wire_server(base, patience),
        Source::StackFile(path) => stack_file(path),
        Source::Ranges(_) | Source::NodeCidrs { .. } => return Ok(Vec::new()),
    };
    let document = document.map_err(|error| no_source(&error))?;
    let failed = |error: &dyn std::fmt::Display| {
        CniError::new(
            Code::NO_SOURCE,
            format!("the node's address document: {error}"),
        )
    };
    let interface = document.select(select).map_err(|error| failed(&error))?;
    interface.for_containers().map_err(|error| failed(&error))
}

fn mac_of(master: &watari_model::IfName) -> Result<MacAddr, CniError> {
    let kernel =
        |error: watari_netlink::NetlinkError| CniError::new(Code::KERNEL, error.to_string());
    let link = watari_netlink::Handle::open()
        .map_err(kernel)?
        .link(master)
        .map_err(kernel)?;
    let mac = link.and_then(|link| link.mac);
    mac.ok_or_else(|| {
        CniError::new(
            Code::INVALID_CONFIG,
            format!("master: the node has no interface {master} with a MAC"),
        )
    })
}

fn no_source(error: &SourceError) -> CniError {
    CniError::new(Code::NO_SOURCE, error.to_string())
}

/// One pool of each family that the plugin serves and the source has.
fn pools(conf: &IpamConf, name: &str, subnets: &[Subnet]) -> Result<Vec<Pool>, CniError> {
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let wanted = |subnet: &&Subnet| {
            let chosen = conf.subnet.is_none_or(|only: IpNet| {
                Family::of(only.addr()) != family || only.trunc() == subnet.net
            });
            Family::of(subnet.net.addr()) == family && conf.kind.serves(family) && chosen
        };
        let mine: Vec<Subnet> = subnets.iter().filter(wanted).cloned().collect();
        let id = PoolId {
            scope: NODE_SCOPE.to_owned(),
            name: format!("{name}/{}", family.number()),
        };
        match Pool::new(id, mine) {
            Ok(pool) => found.push(pool),
            Err(PoolError::Empty) => {}
            Err(error) => return Err(CniError::new(Code::NO_SOURCE, error.to_string())),
        }
    }
    if found.is_empty() {
        let has: Vec<String> = subnets
            .iter()
            .map(|subnet| subnet.net.to_string())
            .collect();
        return Err(CniError::new(
            Code::NO_SOURCE,
            format!(
                "the source has no address for {:?} to give to containers",
                conf.kind
            ),
        )
        .because(format_args!("its subnets: [{}]", has.join(", "))));
    }
    Ok(found)
}
