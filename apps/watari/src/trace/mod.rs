//! `watari trace`: what happens to a packet.

mod here;
mod lab;
mod parse;

use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use watari_lab::Label;
use watari_model::MacAddr;
use watari_trace::{Ask, Cluster, HOPS, Kind, Packet, Party, Place, Protocol, Question, Site};

use self::here::ThisNode;
use self::lab::LabNodes;
use self::parse::{Named, Who};
use crate::Outcome;

/// The sender's port, or an echo's identifier, when none is given.
const SOURCE_PORT: u16 = 54_321;

/// The longest question that a node is asked, in bytes.
const MAX_QUESTION: u64 = 1 << 20;

/// Explain, hop by hop, what happens to a packet.
///
/// Runs the decisions of the datapath over the real tables of the nodes that the packet comes by,
/// with the real routes, and says which table was asked for what. Sends nothing, changes nothing.
/// In a lab it follows the packet from node to node; on a node, as far as that node sees it.
///
/// Exit status: 0 delivered or handed on, 1 dropped or without a way, 2 could not be asked.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who sends it: [NAMESPACE/]NAME of a pod, a node of a lab, or an address.
    #[arg(value_name = "FROM")]
    from: Named,
    /// Whom it is for: the same, with `:PORT` for a connection; `[ADDRESS]:PORT` for IPv6.
    #[arg(value_name = "TO[:PORT]")]
    to: Named,
    /// What the packet is; with a port tcp, without one icmp (an echo request).
    #[arg(long)]
    protocol: Option<ProtocolName>,
    /// The sender's port, or an echo's identifier: that of a known connection, to see where its
    /// packets go.
    #[arg(long, value_name = "PORT", default_value_t = SOURCE_PORT,
        value_parser = clap::value_parser!(u16).range(1..))]
    source_port: u16,
    /// The way of the answer too.
    #[arg(long)]
    reply: bool,
    /// The version of IP, where both ends have both; 4 when not given.
    #[arg(long, value_parser = clap::value_parser!(u8).range(4..=6), value_name = "4|6")]
    family: Option<u8>,
    /// Hops that the packet may go.
    #[arg(long, default_value_t = HOPS)]
    ttl: u8,
    /// Bytes of data in it.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    data: u16,
    /// Send from this address instead of the sender's own.
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// Send from this MAC instead of the pod's own.
    #[arg(long, value_name = "MAC")]
    source_mac: Option<MacAddr>,
    /// The namespace of a pod that is named without one.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The lab; when absent this node or, where this machine is none, its only lab.
    #[arg(long, value_name = "NAME")]
    lab: Option<Label>,
    /// The node of the lab where a packet from outside comes in; when absent the receiver's.
    #[arg(long, value_name = "NAME")]
    node: Option<Label>,
    /// Where the datapath is pinned.
    #[arg(long, value_name = "DIR", default_value = watari_bpf::ROOT)]
    bpf_root: PathBuf,
    /// The directory of the node store.
    #[arg(long, value_name = "DIR", default_value = watari_store::DEFAULT_DIR)]
    data_dir: PathBuf,
    /// One JSON object instead of a picture.
    #[arg(long)]
    json: bool,
}

/// Answers for the node on which it runs: a question on standard input, the answer on standard
/// output.
#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    /// Where the datapath is pinned.
    #[arg(long)]
    bpf_root: PathBuf,
    /// The directory of the node store.
    #[arg(long)]
    data_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProtocolName {
    Tcp,
    Udp,
    Icmp,
}

/// Who is known by a name or an address: what it is, and its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    kind: Kind,
    name: Option<String>,
    addresses: Vec<IpAddr>,
    node: Option<String>,
}

/// The nodes that can be asked, and who is there.
trait Names: Cluster {
    /// Who that is.
    fn find(&self, namespace: &str, who: &Who) -> anyhow::Result<Known>;
}

impl Known {
    fn outside(address: IpAddr) -> Self {
        Self {
            kind: Kind::Outside,
            name: None,
            addresses: vec![address],
            node: None,
        }
    }

    fn address(&self, v4: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|address| address.is_ipv4() == v4)
    }

    fn party(&self, address: IpAddr) -> Party {
        Party {
            kind: self.kind,
            name: self.name.clone(),
            address,
            node: self.node.clone(),
        }
    }
}

impl Args {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let site = Site {
            name: None,
            bpf_root: self.bpf_root.clone(),
            data_dir: self.data_dir.clone(),
        };
        if self.is_for_lab()? {
            let mut nodes = LabNodes::open(self.lab.as_ref(), site)?;
            if let Some(node) = &self.node {
                nodes.require(node)?;
            }
            self.trace(&mut nodes)
        } else {
            let mut node = ThisNode::open(site)?;
            self.trace(&mut node)
        }
    }

    /// Whether the question is about a lab: it is named, or this machine has one and is no node.
    fn is_for_lab(&self) -> anyhow::Result<bool> {
        if self.lab.is_some() || self.node.is_some() {
            return Ok(true);
        }
        let is_node = self.bpf_root.is_dir() || self.data_dir.join(watari_store::FILE).exists();
        Ok(!is_node && !watari_lab::labs()?.is_empty())
    }

    fn trace(&self, nodes: &mut impl Names) -> anyhow::Result<Outcome> {
        let question = self.question(nodes)?;
        let trace = watari_trace::trace(nodes, &question)?;
        if self.json {
            println!("{}", serde_json::to_string(&trace)?);
        } else {
            print!("{}", watari_trace::picture(&trace));
        }
        Ok(if trace.is_well() {
            Outcome::Well
        } else {
            Outcome::Wrong
        })
    }

    fn question(&self, nodes: &impl Names) -> anyhow::Result<Question> {
        if self.from.port.is_some() {
            bail!("the sender's port is given with --source-port");
        }
        let from = nodes.find(&self.namespace, &self.from.who)?;
        let to = nodes.find(&self.namespace, &self.to.who)?;
        let (source, destination) = self.addresses(&from, &to)?;
        let protocol = self.protocol()?;
        let (node, place) = self.place(nodes, &from, &to, (source, destination))?;
        let packet = Packet {
            source_mac: self.source_mac,
            destination_mac: None,
            source: self.source.unwrap_or(source),
            destination,
            protocol,
            source_port: self.source_port,
            destination_port: match protocol {
                Protocol::Icmp => self.source_port,
                _ => self.to.port.unwrap_or_default(),
            },
            answer: false,
            ttl: self.ttl,
            data: self.data,
        };
        if packet.source.is_ipv4() != packet.destination.is_ipv4() {
            bail!(
                "{} and {} are of two families",
                packet.source,
                packet.destination
            );
        }
        Ok(Question {
            from: from.party(source),
            to: to.party(destination),
            packet,
            node,
            place,
            reply: self.reply,
        })
    }

    fn addresses(&self, from: &Known, to: &Known) -> anyhow::Result<(IpAddr, IpAddr)> {
        let wanted = match self.family {
            Some(4) => vec![true],
            Some(6) => vec![false],
            Some(other) => bail!("--family {other}: want 4 or 6"),
            None => vec![true, false],
        };
        let both = |v4: bool| from.address(v4).zip(to.address(v4));
        wanted.iter().find_map(|v4| both(*v4)).with_context(|| {
            format!(
                "the two have no addresses of {} in common: {:?} and {:?}",
                match self.family {
                    Some(family) => format!("IPv{family}"),
                    None => "one family".to_owned(),
                },
                from.addresses,
                to.addresses
            )
        })
    }

    fn protocol(&self) -> anyhow::Result<Protocol> {
        Ok(match (self.protocol, self.to.port) {
            (None | Some(ProtocolName::Tcp), Some(_)) => Protocol::Tcp,
            (Some(ProtocolName::Udp), Some(_)) => Protocol::Udp,
            (None | Some(ProtocolName::Icmp), None) => Protocol::Icmp,
            (Some(ProtocolName::Icmp), Some(_)) => bail!("icmp has no ports"),
            (Some(_), None) => bail!("to which port? TO:PORT says so"),
        })
    }

    /// Where the packet is first seen.
    fn place(
        &self,
        nodes: &impl Names,
        from: &Known,
        to: &Known,
        (source, destination): (IpAddr, IpAddr),
    ) -> anyhow::Result<(String, Place)> {
        if let (Some(at), Some(named)) = (&from.node, &self.node)
            && at != named.as_str()
        {
            bail!("the sender is on node {at}: --node {named} is for a packet from outside");
        }
        match (from.kind, &from.node) {
            (Kind::Pod, Some(node)) => Ok((node.clone(), Place::Pod { address: source })),
            (Kind::Node, Some(node)) => Ok((node.clone(), Place::Node)),
            _ => {
                let named = self.node.as_ref().map(ToString::to_string);
                let node = named.or_else(|| to.node.clone()).context(
                    "neither end is a pod or a node that is known here: --node names the node \
                     where the packet comes in",
                )?;
                let address = nodes.address(&node, destination).with_context(|| {
                    format!("node {node} has no address of the family of {destination}")
                })?;
                Ok((node, Place::Uplink { address }))
            }
        }
    }
}

impl NodeArgs {
    /// Does it.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let mut text = String::new();
        std::io::stdin()
            .take(MAX_QUESTION)
            .read_to_string(&mut text)
            .context("read the question")?;
        let ask: Ask = serde_json::from_str(&text).context("read the question")?;
        let site = Site {
            name: None,
            bpf_root: self.bpf_root,
            data_dir: self.data_dir,
        };
        let answer = watari_trace::answer(&site, &ask)?;
        println!("{}", serde_json::to_string(&answer)?);
        Ok(Outcome::Well)
    }
}

/// A path as an argument of another program.
fn as_text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
