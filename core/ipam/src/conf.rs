//! The `ipam` section of a network configuration.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use watari_cni_spec::{CniArgs, CniError, Code, Field, NetConf, Object, ResultRoute};
use watari_model::IfName;

use crate::lease::DEFAULT_COOL_DOWN;
use crate::span::{Family, next, previous};
use crate::{Millis, Pool, PoolId, Span, Subnet};

/// Where the wire server of a real Azure host is.
pub const WIRE_SERVER: &str = "http://168.63.129.16";
/// Azure Stack's file.
pub const STACK_FILE: &str = "/etc/kubernetes/interfaces.json";
/// Where the agent (or the lab) writes what it knows of the node.
pub const NODE_FILE: &str = "/run/watari/node.json";
/// How old a cached document may be before it is fetched again, unless configured.
pub const DEFAULT_REFRESH: Millis = Millis(600_000);
/// The shortest such age, as with the Azure plugins; also before an exhausted pool is
/// fetched again.
pub const MIN_REFRESH: Millis = Millis(10_000);
/// The Azure IPv6 source gives out the first /120 of the node's Pod CIDR.
const V6_NODE_PREFIX: u8 = 120;
/// The most range sets, and ranges in one.
const MAX_RANGES: usize = 256;

/// The plugin that is asked: which families it hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `azure-vnet-ipam`: IPv4.
    AzureV4,
    /// `azure-vnet-ipamv6`: IPv6.
    AzureV6,
    /// `watari-cni`: every family that the source has.
    Watari,
}

impl Kind {
    /// By the plugin's name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "azure-vnet-ipam" => Some(Self::AzureV4),
            "azure-vnet-ipamv6" => Some(Self::AzureV6),
            "watari-cni" => Some(Self::Watari),
            _ => None,
        }
    }

    /// True for a family that it hands out.
    pub fn serves(self, family: Family) -> bool {
        match self {
            Self::AzureV4 => family == Family::V4,
            Self::AzureV6 => family == Family::V6,
            Self::Watari => true,
        }
    }
}

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The configuration itself (`ranges`): one address of each pool.
    Ranges(Vec<Pool>),
    /// The Azure wire server at this base URL (`wireServer`).
    WireServer(String),
    /// Azure Stack's file (`interfacesFile`).
    StackFile(PathBuf),
    /// The node's Pod CIDRs: those of the configuration (`podCIDRs`), or the ones in the node
    /// file (`nodeFile`).
    NodeCidrs {
        /// From the configuration.
        given: Vec<IpNet>,
        /// The node file.
        file: PathBuf,
        /// Only IPv6, and of that the first /120: the Azure environment `ipv6NodeIpam`.
        clamp: bool,
    },
}

/// A parsed `ipam` section with what the runtime asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpamConf {
    /// The plugin.
    pub kind: Kind,
    /// Where addresses come from.
    pub source: Source,
    /// `master`: the node's interface whose addresses are given out; its primary when absent.
    pub master: Option<IfName>,
    /// `ipam.subnet`: only this one of a document's subnets.
    pub subnet: Option<IpNet>,
    /// Routes for the container; the default route of each family when absent and the source
    /// is not `ranges`.
    pub routes: Option<Vec<ResultRoute>>,
    /// Addresses that the runtime or the operator asks for.
    pub requested: Vec<IpAddr>,
    /// `coolDownSeconds`: how long a released address rests.
    pub cool_down: Millis,
    /// `queryInterval` (seconds): how old a cached document may be.
    pub refresh: Millis,
    /// `dataDir`: where the node store is.
    pub data_dir: Option<PathBuf>,
    /// `resolvConf`: a file to take the result's `dns` from.
    pub resolv_conf: Option<PathBuf>,
}

impl IpamConf {
    /// Reads `ipam` of a configuration, `master`, and the requested addresses: of capability
    /// `ips`, `args.cni.ips`, `CNI_ARGS` `IP=` and `ipam.ipAddress`.
    pub fn parse(conf: &NetConf, args: &CniArgs, kind: Kind) -> Result<Self, CniError> {
        let root = Object::root(&conf.raw);
        let ipam = root.require("ipam")?.object()?;
        let seconds = |key, least, default| {
            let seconds = ipam.number(key, least..=86_400)?;
            Ok::<_, CniError>(seconds.map_or(default, |s| Millis(u64::from(s) * 1000)))
        };
        let source = read_source(&ipam, conf.name.as_str())?;
        // A single-family Azure plugin has a sibling that serves the other family.
        let concerns = |address: &IpAddr| {
            matches!(source, Source::Ranges(_)) || kind.serves(Family::of(*address))
        };
        let mut requested = read_requested(conf, &root, &ipam, args)?;
        requested.retain(concerns);
        let routes = ipam.get("routes").map(|_| {
            let items = ipam.items("routes")?;
            items.iter().map(ResultRoute::read).collect()
        });
        Ok(Self {
            kind,
            source,
            requested,
            master: root.parsed("master", "an interface name")?,
            subnet: ipam.parsed("subnet", "a prefix as 10.240.0.0/16")?,
            routes: routes.transpose()?,
            cool_down: seconds("coolDownSeconds", 0, DEFAULT_COOL_DOWN)?,
            refresh: read_interval(&ipam)?,
            data_dir: path(&ipam, "dataDir")?,
            resolv_conf: path(&ipam, "resolvConf")?,
        })
    }
}

/// A path that is not empty; it has to be absolute, since a plugin's directory is anyone's guess.
fn path(of: &Object<'_>, key: &str) -> Result<Option<PathBuf>, CniError> {
    let Some(text) = of.text(key)? else {
        return Ok(None);
    };
    let path = PathBuf::from(text);
    match of.get(key) {
        Some(field) if !path.is_absolute() || text.contains('\0') => {
            Err(field.invalid("an absolute path"))
        }
        _ => Ok(Some(path)),
    }
}

/// `queryInterval`: a number of seconds, which the Azure plugins write as text.
fn read_interval(ipam: &Object<'_>) -> Result<Millis, CniError> {
    let Some(field) = ipam.get("queryInterval") else {
        return Ok(DEFAULT_REFRESH);
    };
    let seconds: u32 = match field.text() {
        Ok("") => return Ok(DEFAULT_REFRESH),
        Ok(_) => field.parse("a number of seconds")?,
        Err(_) => field.number(0..=86_400)?,
    };
    Ok(Millis(u64::from(seconds) * 1000).max(MIN_REFRESH))
}

fn read_source(ipam: &Object<'_>, network: &str) -> Result<Source, CniError> {
    if ipam.get("ranges").is_some() {
        return read_ranges(ipam, network).map(Source::Ranges);
    }
    let mut given: Vec<IpNet> = Vec::new();
    for field in ipam.items("podCIDRs")? {
        given.push(field.parse::<IpNet>("a prefix")?.trunc());
    }
    let environment = ipam.text("environment")?.unwrap_or_default();
    let node = |clamp| {
        let file = path(ipam, "nodeFile")?.unwrap_or_else(|| NODE_FILE.into());
        Ok(Source::NodeCidrs {
            given: given.clone(),
            file,
            clamp,
        })
    };
    match environment {
        "" if !given.is_empty() => node(false),
        "node" => node(false),
        "ipv6NodeIpam" => node(true),
        "" | "azure" => {
            let base = ipam.text("wireServer")?.unwrap_or(WIRE_SERVER);
            Ok(Source::WireServer(base.trim_end_matches('/').to_owned()))
        }
        "mas" | "fileIpam" => {
            let file = path(ipam, "interfacesFile")?.unwrap_or_else(|| STACK_FILE.into());
            Ok(Source::StackFile(file))
        }
        _ => Err(ipam.require("environment")?.invalid(
            "one of azure, mas, fileIpam, ipv6NodeIpam (the Azure plugins' names) or node",
        )),
    }
}

/// `ranges` as `host-local` has it: one address of each set.
fn read_ranges(ipam: &Object<'_>, network: &str) -> Result<Vec<Pool>, CniError> {
    let sets = ipam.items("ranges")?;
    let field = ipam.require("ranges")?;
    if sets.is_empty() || sets.len() > MAX_RANGES {
        return Err(field.invalid(format_args!("1 to {MAX_RANGES} range sets")));
    }
    let mut pools: Vec<Pool> = Vec::new();
    for (at, set) in sets.iter().enumerate() {
        let ranges = set.items()?;
        if ranges.is_empty() || ranges.len() > MAX_RANGES {
            return Err(set.invalid(format_args!("1 to {MAX_RANGES} ranges")));
        }
        let subnets = ranges.iter().map(read_range).collect::<Result<_, _>>()?;
        let id = PoolId {
            scope: format!("network/{network}"),
            name: at.to_string(),
        };
        let pool = Pool::new(id, subnets).map_err(|error| set.invalid(error))?;
        if let Some(other) = pools.iter().find(|other| overlap(other, &pool)) {
            return Err(set.invalid(format_args!(
                "addresses apart from those of range set {} ({other})",
                other.id().name
            )));
        }
        pools.push(pool);
    }
    Ok(pools)
}

fn overlap(a: &Pool, b: &Pool) -> bool {
    a.spans().any(|span| b.contains(span.first())) || b.spans().any(|span| a.contains(span.first()))
}

fn read_range(field: &Field<'_>) -> Result<Subnet, CniError> {
    let range = field.object()?;
    let subnet = range.require("subnet")?;
    let net: IpNet = subnet.parse("a prefix as 10.1.0.0/16")?;
    if net != net.trunc() {
        return Err(subnet.invalid(format_args!("no host bits set, as in {}", net.trunc())));
    }
    let end = |key: &str, default: Option<IpAddr>| -> Result<IpAddr, CniError> {
        let given: Option<IpAddr> = range.parsed(key, "an IP address")?;
        match given.map(|ip| ip.to_canonical()) {
            Some(ip) if !net.contains(&ip) => Err(range
                .require(key)?
                .invalid(format_args!("an address of {net}"))),
            Some(ip) => Ok(ip),
            None => default.ok_or_else(|| subnet.invalid("a prefix with addresses")),
        }
    };
    let wide = net.max_prefix_len() - net.prefix_len() >= 2;
    let first = net.network();
    let last = net.broadcast();
    let start = end("rangeStart", if wide { next(first) } else { Some(first) })?;
    let finish = end(
        "rangeEnd",
        if wide && first.is_ipv4() {
            previous(last)
        } else {
            Some(last)
        },
    )?;
    let span = Span::new(start, finish).ok_or_else(|| {
        field.invalid(format_args!(
            "rangeStart {start} not behind rangeEnd {finish}"
        ))
    })?;
    let gateway: Option<IpAddr> = range.parsed("gateway", "an IP address")?;
    let gateway = gateway
        .map(|ip| ip.to_canonical())
        .or_else(|| crate::pool::first_host(net));
    if let Some(bad) = gateway.filter(|gateway| Family::of(*gateway) != Family::of(first)) {
        return Err(field.invalid(format_args!("a gateway of the family of {net}, not {bad}")));
    }
    Subnet::new(net, gateway, vec![span], []).map_err(|error| field.invalid(error))
}

fn read_requested(
    conf: &NetConf,
    root: &Object<'_>,
    ipam: &Object<'_>,
    args: &CniArgs,
) -> Result<Vec<IpAddr>, CniError> {
    let mut texts: Vec<(&str, String)> = Vec::new();
    let runtime = conf.runtime.ips.iter().cloned();
    texts.extend(runtime.map(|text| ("runtimeConfig.ips", text)));
    if let Some(args) = root.get("args").map(|field| field.object()).transpose()?
        && let Some(cni) = args.get("cni").map(|field| field.object()).transpose()?
    {
        let ips = cni.texts("ips")?;
        texts.extend(ips.into_iter().map(|text| ("args.cni.ips", text)));
    }
    if let Some(list) = args.get("IP") {
        let list = list.split(',').filter(|text| !text.is_empty());
        texts.extend(list.map(|text| ("CNI_ARGS IP", text.to_owned())));
    }
    if let Some(text) = ipam.text("ipAddress")? {
        texts.push(("ipam.ipAddress", text.to_owned()));
    }
    let mut requested = Vec::new();
    for (from, text) in texts {
        let address = parse_requested(&text).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            CniError::new(
                Code::INVALID_CONFIG,
                format!("the requested address {shown:?} ({from}) is none"),
            )
            .because("want an IP address, with or without a prefix length")
        })?;
        if !requested.contains(&address) {
            requested.push(address);
        }
    }
    Ok(requested)
}

/// The prefix length that a runtime may write along says nothing: that of the pool counts.
fn parse_requested(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let address: IpAddr = match text.parse::<IpNet>() {
        Ok(net) => net.addr(),
        Err(_) => text.parse().ok()?,
    };
    Some(address.to_canonical())
}

impl Source {
    /// What of the Pod CIDRs is given out.
    pub fn node_cidrs(cidrs: &[IpNet], clamp: bool) -> Vec<IpNet> {
        let take = |cidr: &IpNet| {
            if !clamp {
                return Some(cidr.trunc());
            }
            if cidr.addr().is_ipv4() {
                return None;
            }
            let length = cidr.prefix_len().max(V6_NODE_PREFIX);
            IpNet::new(cidr.network(), length).ok()
        };
        cidrs.iter().filter_map(take).collect()
    }
}

/// Reads the node file, `{"podCIDRs": ["10.244.1.0/24", …]}`; other fields are not ours.
pub fn parse_node_file(bytes: &[u8]) -> Result<Vec<IpNet>, CniError> {
    let map = watari_cni_spec::parse_object(bytes, "the node file")?;
    let items = Object::root(&map).items("podCIDRs")?;
    let parse = |item: &Field<'_>| item.parse::<IpNet>("a prefix").map(|net| net.trunc());
    items.iter().map(parse).collect()
}

/// Reads `resolv.conf` (resolv.conf(5)): unknown and malformed lines are skipped, as every
/// resolver does.
pub fn parse_resolv_conf(text: &str) -> watari_cni_spec::Dns {
    let mut dns = watari_cni_spec::Dns::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.nameservers.extend(words.next()),
            Some("domain") => dns.domain = words.next(),
            Some("search") => dns.search = words.collect(),
            Some("options") => dns.options.extend(words),
            _ => {}
        }
    }
    dns
}
