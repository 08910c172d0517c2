//! Nodes with pods, datapath and load balancing, and somebody outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use std::path::Path;

use anyhow::{Context as _, Result};
use watari_abi::{Connection, ConnectionKey, Counter, Reason, StackPort, maps};
use watari_bpf::balance::Departed;
use watari_bpf::{Clients, Datapath as _, Map, PinDir, netns_cookie};
use watari_model::{EndpointSlice, Protocol};
use watari_netlink::{Sockets, Transport};
use watari_services::Compiler;
use watari_testkit::Netns;

use crate::balancers::{Balancers, Left};
use crate::bed::{Bed, Between, Layout, Node, Pod};
use crate::cgroup::Cgroup;
use crate::datapath::{Datapaths, Loading};
use crate::outside::Outside;
use crate::said::{CIDRS, Said, cluster_node};
use crate::witness::Witness;

/// The ports that sources are translated to.
pub const SOURCE_PORTS: (u16, u16) = (61_000, 65_535);
/// The ports at which the pods' witnesses listen.
pub const PORTS: [u16; 3] = [8080, 9090, 7001];

/// Who talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A pod, by the indices of node and pod.
    Pod(usize, usize),
    /// A process of a node.
    Node(usize),
    /// Somebody outside, behind the router.
    Outside,
    /// The router, which is outside too.
    Router,
}

/// How a process inside is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// At its socket: it is in the node's cgroup.
    Socket,
    /// Packet by packet: it is not.
    Packet,
}

/// Both of them.
pub const WAYS: [Way; 2] = [Way::Socket, Way::Packet];

/// Two nodes with pods, datapath and load balancing, a router between them, and somebody outside.
/// In every pod a [`Witness`] listens at [`PORTS`], by the name of its node's number and its own.
pub struct Cluster {
    /// Nodes and pods.
    pub bed: Bed,
    /// Their programs and tables.
    pub datapaths: Datapaths,
    /// Somebody outside.
    pub outside: Outside,
    balancers: Balancers,
    cgroups: Vec<Cgroup>,
    witnesses: Vec<Vec<Option<Witness>>>,
    loading: Loading,
    blackholed: bool,
    /// Drops until [`Cluster::mark`].
    before: BTreeMap<(usize, &'static str), u64>,
}

impl Cluster {
    /// Two nodes with so many pods each.
    pub fn new(pods: u8, loading: impl Into<Loading>) -> Result<Self> {
        Self::with_mtu(pods, loading, 1500)
    }

    /// The second node is behind a link with this MTU.
    pub fn with_mtu(pods: u8, loading: impl Into<Loading>, mtu: u32) -> Result<Self> {
        let loading = loading.into();
        let bed = Bed::new(Layout {
            nodes: 2,
            pods,
            mtu: 1500,
            between: Between::Router { mtu },
        })?;
        let outside = Outside::new(&bed);
        let cgroups = bed.nodes.iter().map(|_| Cgroup::new());
        let cgroups = cgroups.collect::<Result<Vec<_>>>()?;
        let datapaths = Datapaths::load_with(&bed, loading, &cgroups)?;
        let mut cluster = Self {
            balancers: Balancers::default(),
            cgroups,
            witnesses: Vec::new(),
            bed,
            datapaths,
            outside,
            loading,
            blackholed: false,
            before: BTreeMap::new(),
        };
        for node in 0..cluster.bed.nodes.len() {
            let dir = PinDir::current(cluster.datapaths.root(node));
            cluster.balancers.add(&cluster.bed.nodes[node], &dir)?;
            register(&cluster.bed.nodes[node], cluster.datapaths.root(node))?;
        }
        cluster.witnesses = (0..cluster.bed.nodes.len())
            .map(|node| {
                (0..cluster.bed.nodes[node].pods.len())
                    .map(|_| None)
                    .collect()
            })
            .collect();
        for node in 0..cluster.bed.nodes.len() {
            for pod in 0..cluster.bed.nodes[node].pods.len() {
                cluster.start(node, pod)?;
            }
        }
        cluster.forget_all();
        Ok(cluster)
    }

    /// Whether the kernel has no route to any pod: what gets there goes by the datapath.
    pub fn blackhole(&mut self, is: bool) {
        if std::mem::replace(&mut self.blackholed, is) == is {
            return;
        }
        for node in &self.bed.nodes {
            for (family, range) in [("-4", "10.250.0.0/16"), ("-6", "fd50::/16")] {
                if is {
                    node.run(&format!(
                        "ip {family} route replace blackhole {range} table 99"
                    ));
                    node.run(&format!("ip {family} rule add pref 10 lookup 99"));
                } else {
                    node.run(&format!("ip {family} rule del pref 10"));
                }
            }
        }
    }

    /// Does this at somebody's place.
    ///
    /// # Panics
    /// When the thread cannot go there.
    pub fn at<R: Send>(&self, who: Who, way: Way, work: impl FnOnce() -> R + Send) -> R {
        let (netns, node) = match who {
            Who::Pod(node, pod) => (&self.bed.pod(node, pod).netns, Some(node)),
            Who::Node(node) => (&self.bed.nodes[node].netns, Some(node)),
            Who::Outside => (&self.outside.netns, None),
            Who::Router => (self.bed.router.as_ref().expect("a router"), None),
        };
        netns.enter(|| {
            if let (Some(node), Way::Socket) = (node, way) {
                self.cgroups[node].join().expect("join a cgroup");
            }
            work()
        })
    }

    /// The address by which a backend should see somebody whose source is kept.
    pub fn address(&self, who: Who, v6: bool) -> IpAddr {
        match who {
            Who::Pod(node, pod) => self.bed.pod(node, pod).address(v6),
            Who::Node(node) => self.bed.nodes[node].addresses()[usize::from(v6)],
            Who::Outside => self.outside.address(v6),
            // As the first node sees it.
            Who::Router if v6 => IpAddr::V6(Ipv6Addr::new(0xfd20, 0, 0, 1, 0, 0, 0, 254)),
            Who::Router => IpAddr::V4(Ipv4Addr::new(172, 20, 1, 254)),
        }
    }

    /// A pod.
    pub fn pod(&self, node: usize, pod: usize) -> &Pod {
        self.bed.pod(node, pod)
    }

    /// A node's address and a port of it.
    pub fn node_port(&self, node: usize, v6: bool, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(Who::Node(node), v6), port)
    }

    /// A pod's witness listens (again).
    pub fn start(&mut self, node: usize, pod: usize) -> Result<()> {
        let place = self.bed.pod(node, pod);
        let addresses = [place.v4.into(), place.v6.into()];
        let name = format!("{}-{}", node + 1, pod + 1);
        let witness = Witness::start(&place.netns, &name, &addresses, &PORTS)?;
        self.witnesses[node][pod] = Some(witness);
        Ok(())
    }

    /// A pod's witness ends, and all that it talks to.
    pub fn stop(&mut self, node: usize, pod: usize) {
        self.witnesses[node][pod] = None;
    }

    /// There is this Service.
    pub fn say(&mut self, said: &Said) {
        self.changed(|balancers| balancers.say(said));
    }

    /// There is no such Service any more.
    pub fn forget(&mut self, said: &Said) {
        self.changed(|balancers| balancers.forget(said));
    }

    /// Tells every node's compiler something.
    pub fn tell(&mut self, say: impl Fn(usize, &mut Compiler)) {
        self.changed(|balancers| balancers.tell(say));
    }

    fn changed(&mut self, change: impl FnOnce(&mut Balancers) -> Vec<Left>) {
        let mut balancers = std::mem::take(&mut self.balancers);
        let left = change(&mut balancers);
        self.end(&left);
        self.balancers = balancers;
    }

    /// For who changes Services while others use the cluster. [`Cluster::end`] is his then.
    pub fn take_balancers(&mut self) -> Balancers {
        std::mem::take(&mut self.balancers)
    }

    /// Ends what is connected to backends that are gone, as an agent does: connections are
    /// forgotten, and sockets are told.
    ///
    /// # Panics
    /// When a node cannot.
    pub fn end(&self, left: &[Left]) {
        for node in 0..self.bed.nodes.len() {
            let gone = left.iter().filter(|left| left.node == node && !left.drains);
            let gone: Vec<Departed> = gone.map(|left| left.departed).collect();
            if !gone.is_empty() {
                let ended = self.end_at(node, &gone);
                ended.unwrap_or_else(|error| panic!("node {node} cannot end {gone:?}: {error:#}"));
            }
        }
    }

    fn end_at(&self, node: usize, gone: &[Departed]) -> Result<()> {
        let (place, root) = (&self.bed.nodes[node], self.datapaths.root(node));
        let attachment = self.loading.attachment;
        let ended = place
            .netns
            .enter(|| -> Result<_> { Ok(watari_bpf::Node::open(root, attachment)?.end(gone)?) })?;
        let mut wanted: BTreeMap<Transport, BTreeMap<u64, SocketAddr>> = BTreeMap::new();
        for (key, service) in ended.sockets {
            let mut of = gone.iter();
            let of = of.find(|of| {
                let same = (of.service, of.backend) == (service.service, service.backend);
                same && of.protocol.number() == key.protocol
            });
            let Some(mut peer) = of.map(|of| of.at) else {
                continue;
            };
            if peer.port() == 0 {
                peer.set_port(u16::from_be(service.port));
            }
            let transport = if key.protocol == Protocol::Tcp.number() {
                Transport::Tcp
            } else {
                Transport::Udp
            };
            wanted
                .entry(transport)
                .or_default()
                .insert(key.cookie, peer);
        }
        let pods = place.pods.iter().map(|pod| &pod.netns);
        for netns in pods.chain([&place.netns]).filter(|_| !wanted.is_empty()) {
            netns.enter(|| -> Result<()> {
                let mut sockets = Sockets::open()?;
                for (transport, cookies) in &wanted {
                    sockets.end_all(*transport, cookies)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// There is no Service at all; the ranges of cluster addresses stay.
    pub fn forget_all(&mut self) {
        let cidrs: BTreeSet<_> = CIDRS
            .iter()
            .filter_map(|range| range.parse().ok())
            .collect();
        self.tell(|_, compiler| {
            compiler.load([], &[] as &[EndpointSlice]);
            compiler.set_cidrs(cidrs.clone());
        });
    }

    /// Forgets what another test has left. Servers end their connections: a client that was told of
    /// the end of a Service may not have told them. No pod has used a port by the stack: else the
    /// stack would get the packets of others to the same port for some minutes, which go nowhere
    /// where it has no routes; and so it would those of a connection that was picked up after its end.
    pub fn forget_traces(&mut self) -> Result<()> {
        for node in 0..self.bed.nodes.len() {
            for pod in 0..self.bed.nodes[node].pods.len() {
                self.stop(node, pod);
                self.start(node, pod)?;
            }
            let map = self.map::<StackPort, u64>(node, maps::STACK_PORTS)?;
            for (key, _) in map.entries()? {
                map.remove(&key)?;
            }
            for table in [maps::ESTABLISHED, maps::TRANSIENT] {
                let map = self.map::<ConnectionKey, Connection>(node, table)?;
                for (key, _) in map.entries()? {
                    map.remove(&key)?;
                }
            }
        }
        Ok(())
    }

    /// A node is in a zone from now on.
    pub fn zone(&mut self, node: usize, zone: Option<&str>) {
        let own = cluster_node(&self.bed.nodes[node], zone);
        self.tell(|_, compiler| compiler.set_node(&own));
    }

    /// A map of a node.
    pub fn map<K: watari_bpf::Plain, V: watari_bpf::Plain>(
        &self,
        node: usize,
        name: &str,
    ) -> Result<Map<K, V>> {
        Ok(Map::open(
            &PinDir::current(self.datapaths.root(node)).map(name),
        )?)
    }

    /// What a node has counted so far.
    ///
    /// # Panics
    /// When the counters cannot be read.
    pub fn count(&mut self, node: usize, counter: Counter) -> u64 {
        let tally = self.datapaths.counter(&self.bed, node, counter);
        tally.expect("read the counters").packets
    }

    /// Packets that a node has dropped for a reason.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn dropped(&mut self, node: usize, reason: Reason) -> u64 {
        let dropped = self.datapaths.dropped(&self.bed, node, reason, "");
        dropped.expect("read the drops").0
    }

    /// All that the nodes have dropped since [`Cluster::mark`]; but for what is sent to a Service
    /// that is gone, by connections that are about to end.
    pub fn drops(&mut self) -> Vec<(usize, &'static str, u64)> {
        let mut all = Vec::new();
        for node in 0..self.bed.nodes.len() {
            let reasons = Reason::ALL.iter();
            for reason in reasons.filter(|reason| **reason != Reason::UnallocatedService) {
                let name = reason.name();
                let before = self.before.get(&(node, name)).copied().unwrap_or(0);
                let packets = self.dropped(node, *reason) - before;
                if packets > 0 {
                    all.push((node, name, packets));
                }
            }
        }
        all
    }

    /// What was dropped until now is nobody's business any more.
    pub fn mark(&mut self) {
        self.before.clear();
        let all = self.drops().into_iter();
        self.before = all
            .map(|(node, name, count)| ((node, name), count))
            .collect();
    }

    /// Loads the programs anew on a node, as a restarted agent of another build does, and takes the
    /// tables up again.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        self.datapaths.reload(&self.bed, node, self.loading)?;
        let dir = PinDir::current(self.datapaths.root(node));
        self.balancers.reopen(node, &dir)
    }
}

/// Tells the programs whose processes are in which namespace.
fn register(node: &Node, root: &Path) -> Result<()> {
    let clients = Clients::open(root)?;
    let register = |netns: &Netns, addresses: &[IpAddr]| -> Result<()> {
        let cookie = netns.enter(netns_cookie)?;
        let cookie = cookie.context("network namespaces have no cookies (Linux 5.14)")?;
        clients.set(cookie, addresses)?;
        Ok(())
    };
    register(&node.netns, &node.addresses())?;
    let mut pods = node.pods.iter();
    pods.try_for_each(|pod| register(&pod.netns, &[pod.v4.into(), pod.v6.into()]))
}
