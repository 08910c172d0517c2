//! `watari demo`: a lab brought up, shown, and held to what a pod network promises.

mod datapath;
mod probe;

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use watari_manifests::Object;
use watari_netlink::Netns;
use watari_tables::Ranges;

use crate::enter::Target;
use crate::layout::{Node, SDN_MAC};
use crate::pod::{self, FoundPod, Outcome};
use crate::state::OpenLab;
use crate::up::AKS_CONFLIST;
use crate::{Label, Options, Spec, inspect, up};

/// The pods of the demonstration.
const PODS: &str = include_str!("../../../../examples/demo/pods.yaml");
/// Where every built-in server listens.
const PORT: u16 = 80;
/// The host port of the first pod, and who is behind it.
const HOST_PORT: (u16, &str) = (8080, "default/web-1");

/// Brings the lab up, shows it and tries it; true if all that it promises holds. The lab is left
/// up.
pub fn demo(name: &Label, options: &Options, out: &mut impl Write) -> Result<bool> {
    title(
        out,
        "Three nodes on an Azure fabric, with the conflist of an AKS node",
    )?;
    writeln!(out, "{}", AKS_CONFLIST.trim_end())?;
    if crate::labs()?.contains(name) {
        writeln!(
            out,
            "\n(the lab of an earlier demonstration is taken down first)"
        )?;
        if let Some(left) = crate::down(name)?.pop() {
            return Err(left.context("take the earlier lab down"));
        }
    }
    up(name, &Spec::default(), options)?;
    let lab = OpenLab::locked(Some(name))?;
    for node in &lab.lab.nodes {
        writeln!(out, "{}", crate::describe(node))?;
    }
    apply(&lab, out)?;
    let places = Places::of(&lab)?;
    places.wait_for_servers()?;
    show(&lab, &places, out)?;
    let owners = owners(&lab, &places, out)?;
    let promises = promises(&places, out)?;
    let port = host_port(&places, out)?;
    let datapath = datapath::show(&lab, &places, out)?;
    next(name, out)?;
    Ok(owners && promises && port && datapath)
}

fn title(out: &mut impl Write, text: &str) -> Result<()> {
    Ok(writeln!(out, "\n== {text}\n")?)
}

fn apply(lab: &OpenLab, out: &mut impl Write) -> Result<()> {
    title(out, "Pods: real processes, attached by the plugin")?;
    let found = watari_manifests::parse(Path::new("examples/demo/pods.yaml"), PODS.as_bytes());
    for manifest in &found.objects {
        let Object::Pod(pod) = &manifest.object else {
            continue;
        };
        let applied = pod::apply(lab, pod)?;
        match applied.outcome {
            Outcome::Created { node, addresses } => {
                writeln!(out, "{:8} {node}  {addresses}", applied.key.name)?;
            }
            Outcome::Failed(error) => return Err(error.context(applied.key.to_string())),
            other => bail!("pod {}: {other:?}", applied.key),
        }
    }
    Ok(())
}

/// A pod, or a node, and the network that it is in.
struct Place {
    name: String,
    node: String,
    address: IpAddr,
    netns: Netns,
}

/// Everybody who asks and is asked.
struct Places {
    nodes: Vec<Place>,
    pods: Vec<Place>,
    host_pods: Vec<Place>,
}

impl Places {
    fn of(lab: &OpenLab) -> Result<Self> {
        let nodes = lab.lab.nodes.iter().map(|node| Self::node(lab, node));
        let (mut pods, mut host_pods) = (Vec::new(), Vec::new());
        for found in pod::list(lab)? {
            let own_network = found.plan.as_ref().is_some_and(|plan| !plan.host_network);
            let place = Self::pod(lab, found)?;
            if own_network {
                pods.push(place);
            } else {
                host_pods.push(place);
            }
        }
        Ok(Self {
            nodes: nodes.collect::<Result<_>>()?,
            pods,
            host_pods,
        })
    }

    /// A container runs before its server listens; on a busy machine, well before.
    fn wait_for_servers(&self) -> Result<()> {
        for place in self.pods.iter().chain(&self.host_pods) {
            probe::wait_for_server(&place.netns, place.address, PORT)
                .with_context(|| format!("wait for the server of {}", place.name))?;
        }
        Ok(())
    }

    fn node(lab: &OpenLab, node: &Node) -> Result<Place> {
        Ok(Place {
            name: node.name.to_string(),
            node: node.name.to_string(),
            address: *node.primaries().first().context("a node has an address")?,
            netns: netns(lab, &Target::Node(node.name.to_string()))?,
        })
    }

    fn pod(lab: &OpenLab, found: FoundPod) -> Result<Place> {
        let (name, node) = (found.key.to_string(), found.node.to_string());
        let addresses = found.status.as_ref().map(|status| &status.pod_ips);
        let address = addresses.and_then(|addresses| addresses.first()?.parse().ok());
        Ok(Place {
            address: address.with_context(|| format!("pod {name} has no address"))?,
            netns: netns(lab, &Target::Pod(Box::new(found)))?,
            name,
            node,
        })
    }
}

fn netns(lab: &OpenLab, target: &Target) -> Result<Netns> {
    let kept = lab.namespaces(&target.cgroup(lab)?, &target.describe())?;
    Ok(Netns::open(Path::new(&kept.net_path()))?)
}

fn show(lab: &OpenLab, places: &Places, out: &mut impl Write) -> Result<()> {
    let (pod, node) = (&places.pods[0], &places.nodes[0]);
    // One look at another node and at the node itself, so that the neighbours can be seen.
    probe::ask(&pod.netns, places.nodes[1].address, PORT)?;
    probe::ask(&node.netns, pod.address, PORT)?;
    title(
        out,
        "A pod: one address, one way out, one permanent neighbour",
    )?;
    let target = Target::find(lab, "default", &pod.name)?;
    writeln!(out, "{}", inspect(lab, &target)?.to_string().trim_end())?;
    title(
        out,
        "Its node: a route for each pod, proxy ARP, no address on the host side",
    )?;
    let target = Target::find(lab, "default", &node.name)?;
    Ok(writeln!(
        out,
        "{}",
        inspect(lab, &target)?.to_string().trim_end()
    )?)
}

/// The fabric answers ARP for every address that a NIC owns, whether a pod has it or not.
fn owners(lab: &OpenLab, places: &Places, out: &mut impl Write) -> Result<bool> {
    title(
        out,
        "Who answers ARP: the fabric knows which NIC owns each address",
    )?;
    let last = lab.lab.nodes.last().context("a lab has nodes")?;
    let (_, idle) = *last.owned().first().context("a node owns addresses")?;
    let unowned = after(idle);
    let mut well = true;
    writeln!(out, "{}", probe::owned(&places.nodes[0].netns)?)?;
    for (address, what, expected) in [
        (idle, "owned, no pod has it", Some(SDN_MAC)),
        (unowned, "owned by no node", None),
    ] {
        let found = probe::resolve(&places.nodes[0].netns, address)?;
        let told = found.map_or("nobody answers".to_owned(), |mac| {
            format!("answered by {mac}")
        });
        well &= verdict(
            out,
            found == expected,
            &format!("{address} ({what}): {told}"),
        )?;
    }
    Ok(well)
}

fn after(address: IpAddr) -> IpAddr {
    Ranges::next(address).unwrap_or(address)
}

fn promises(places: &Places, out: &mut impl Write) -> Result<bool> {
    title(
        out,
        "The three requirements, by HTTP: who answered, and whose address it saw",
    )?;
    let all = |_: &Place, _: &Place| true;
    let same_node = |from: &Place, to: &Place| from.node == to.node;
    let mut well = true;
    for (what, askers, meant) in [
        (
            "a pod reaches every pod on every node without NAT",
            &places.pods,
            &all as &dyn Fn(&Place, &Place) -> bool,
        ),
        (
            "an agent on a node reaches every pod on that node",
            &places.nodes,
            &same_node,
        ),
        (
            "a pod in the host's network reaches every pod on every node without NAT",
            &places.host_pods,
            &all,
        ),
    ] {
        let mut wrong = Vec::new();
        let mut asked = 0;
        for from in askers {
            for to in places.pods.iter().filter(|to| meant(from, to)) {
                asked += 1;
                wrong.extend(problem(from, to, to.address, PORT).err());
            }
        }
        let right = asked - wrong.len();
        well &= verdict(
            out,
            wrong.is_empty(),
            &format!("{what}: {right} of {asked}"),
        )?;
        for error in wrong {
            writeln!(out, "       {error:#}")?;
        }
    }
    Ok(well)
}

/// Asks `to` at an address; an error if another answers, or sees another than `from`.
fn problem(from: &Place, to: &Place, address: IpAddr, port: u16) -> Result<()> {
    let said = probe::ask(&from.netns, address, port)
        .with_context(|| format!("{} to {}", from.name, to.name))?;
    if said.name != to.name || said.peer != from.address {
        bail!(
            "{} ({}) asked {} ({address}): {} answered and saw {}",
            from.name,
            from.address,
            to.name,
            said.name,
            said.peer
        );
    }
    Ok(())
}

fn host_port(places: &Places, out: &mut impl Write) -> Result<bool> {
    let (port, name) = HOST_PORT;
    title(
        out,
        "A host port: from another node, to a port of the node, into the pod",
    )?;
    let find = |name: &str| places.pods.iter().find(|pod| pod.name == name);
    let to = find(name).with_context(|| format!("pod {name}"))?;
    let node = places
        .nodes
        .iter()
        .find(|node| node.name == to.node)
        .context("its node")?;
    let from = places.nodes.last().context("a lab has nodes")?;
    let tried = problem(from, to, node.address, port);
    let told = format!(
        "{} asked {}:{port}, {name} answered and saw {}",
        from.name, node.address, from.address
    );
    match tried {
        Ok(()) => verdict(out, true, &told),
        Err(error) => verdict(out, false, &format!("{error:#}")),
    }
}

fn verdict(out: &mut impl Write, well: bool, text: &str) -> Result<bool> {
    writeln!(out, "{}  {text}", if well { "  ok " } else { "WRONG" })?;
    Ok(well)
}

fn next(name: &Label, out: &mut impl Write) -> Result<()> {
    title(out, "The lab is up. What to try next")?;
    let me = std::env::current_exe().context("find the running binary")?;
    let here = std::env::current_dir().context("find the working directory")?;
    let me = me.strip_prefix(&here).unwrap_or(&me).display();
    // `./run demo` of an ordinary user runs this through sudo; what they type needs it as well.
    let sudo = std::env::var_os("SUDO_UID").map_or("", |_| "sudo ");
    let me = format!("{sudo}{me}");
    writeln!(out, "{me} lab --lab {name} get pods -o wide")?;
    writeln!(
        out,
        "{me} lab --lab {name} shell web-1    # a shell inside a pod"
    )?;
    writeln!(
        out,
        "{me} lab --lab {name} down           # takes it all away"
    )?;
    Ok(())
}
