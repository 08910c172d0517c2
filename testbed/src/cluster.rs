//! Nodes with pods, datapath and load balancing, and somebody outside.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::time::{ClockId, clock_gettime};
use watari_abi::{Address, Client, Counter, Reason, maps};
use watari_bpf::balance::{Balancer, Balancing as _, Departed, NodeConfig};
use watari_bpf::{Attachment, Map, PinDir};
use watari_model::EndpointSlice;
use watari_services::{Compiler, Options};
use watari_testkit::Netns;

use crate::bed::{Bed, Between, Layout, Pod};
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
    /// Somebody outside.
    Outside,
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
    nodes: Vec<Balanced>,
    cgroups: Vec<Cgroup>,
    witnesses: Vec<Vec<Option<Witness>>>,
    loading: Loading,
}

/// A node's load balancing.
struct Balanced {
    compiler: Compiler,
    balancer: Balancer<PinDir>,
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
        let datapaths = Datapaths::load(&bed, loading)?;
        let mut cluster = Self {
            nodes: Vec::new(),
            cgroups: Vec::new(),
            witnesses: Vec::new(),
            bed,
            datapaths,
            outside,
            loading,
        };
        for node in 0..cluster.bed.nodes.len() {
            let balanced = cluster.balanced(node)?;
            cluster.nodes.push(balanced);
            cluster.cgroups.push(Cgroup::new()?);
            cluster.serve_sockets(node)?;
        }
        cluster.witnesses = (0..cluster.bed.nodes.len())
            .map(|node| (0..cluster.bed.nodes[node].pods.len()).map(|_| None).collect())
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
    pub fn blackhole(&self, is: bool) {
        for node in &self.bed.nodes {
            for (family, range) in [("-4", "10.250.0.0/16"), ("-6", "fd50::/16")] {
                if is {
                    node.run(&format!("ip {family} route replace blackhole {range} table 99"));
                    node.run(&format!("ip {family} rule add pref 10 lookup 99"));
                } else {
                    node.run(&format!("ip {family} rule del pref 10"));
                }
            }
        }
    }

    fn balanced(&self, node: usize) -> Result<Balanced> {
        let dir = PinDir::current(self.datapaths.root(node));
        let place = &self.bed.nodes[node];
        let mut balancer = Balancer::open(&dir)?;
        balancer.configure(&NodeConfig {
            services: true,
            v4: Some(place.v4().into()),
            v6: Some(place.v6().into()),
            ports: SOURCE_PORTS,
        })?;
        let own = cluster_node(place, None);
        let mut compiler = Compiler::new(Options {
            node: own.name.clone(),
            ..Options::default()
        });
        compiler.set_node(&own);
        let clients: Map<u64, Client> = Map::open(&dir.map(maps::CLIENTS))?;
        let register = |netns: &Netns, v4: IpAddr, v6: IpAddr| -> Result<()> {
            let client = Client {
                v4: Address::from(v4),
                v6: Address::from(v6),
            };
            Ok(clients.insert(&netns.enter(netns_cookie)?, &client)?)
        };
        let [v4, v6] = place.addresses();
        register(&place.netns, v4, v6)?;
        for pod in &place.pods {
            register(&pod.netns, pod.v4.into(), pod.v6.into())?;
        }
        Ok(Balanced { compiler, balancer })
    }

    fn serve_sockets(&self, _node: usize) -> Result<()> {
        Ok(())
    }

    /// Does this at somebody's place.
    pub fn at<R: Send>(&self, who: Who, way: Way, work: impl FnOnce() -> R + Send) -> R {
        let (netns, node) = match who {
            Who::Pod(node, pod) => (&self.bed.pod(node, pod).netns, Some(node)),
            Who::Node(node) => (&self.bed.nodes[node].netns, Some(node)),
            Who::Outside => (&self.outside.netns, None),
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

    /// Tells every node's compiler something, and makes what comes of it. Gives who left, by node.
    ///
    /// # Panics
    /// When a node cannot make it.
    pub fn tell(&mut self, say: impl Fn(usize, &mut Compiler)) -> Vec<Vec<Departed>> {
        let mut departed = Vec::new();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            say(number, &mut node.compiler);
            let changes = node.compiler.changes();
            let applied = node.balancer.apply(&changes, now());
            if let Some((change, error)) = applied.failed.first() {
                panic!("node {number} cannot make {change:?}: {error}");
            }
            departed.push(applied.departed);
        }
        departed
    }

    /// There is this Service.
    pub fn say(&mut self, said: &Said) -> Vec<Vec<Departed>> {
        let slices = said.slices();
        self.tell(|_, compiler| {
            compiler.set_service(&said.service);
            slices.iter().for_each(|slice| compiler.set_slice(slice));
        })
    }

    /// There is no such Service any more.
    pub fn forget(&mut self, said: &Said) -> Vec<Vec<Departed>> {
        let slices = said.slices();
        self.tell(|_, compiler| {
            compiler.remove_service(&said.service.name);
            slices.iter().for_each(|slice| compiler.remove_slice(&slice.name));
        })
    }

    /// There is no Service at all; the ranges of cluster addresses stay.
    pub fn forget_all(&mut self) {
        let cidrs: BTreeSet<_> = CIDRS.iter().filter_map(|range| range.parse().ok()).collect();
        self.tell(|_, compiler| {
            compiler.load([], &[] as &[EndpointSlice]);
            compiler.set_cidrs(cidrs.clone());
        });
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
        Ok(Map::open(&PinDir::current(self.datapaths.root(node)).map(name))?)
    }

    /// What a node has counted so far.
    pub fn count(&mut self, node: usize, counter: Counter) -> u64 {
        let tally = self.datapaths.counter(&self.bed, node, counter);
        tally.expect("read the counters").packets
    }

    /// Packets that a node has dropped for a reason.
    pub fn dropped(&mut self, node: usize, reason: Reason) -> u64 {
        let dropped = self.datapaths.dropped(&self.bed, node, reason, "");
        dropped.expect("read the drops").0
    }

    /// All that the nodes have dropped.
    pub fn drops(&mut self) -> Vec<(usize, &'static str, u64)> {
        let mut all = Vec::new();
        for node in 0..self.bed.nodes.len() {
            for reason in Reason::ALL {
                let packets = self.dropped(node, *reason);
                if packets > 0 {
                    all.push((node, reason.name(), packets));
                }
            }
        }
        all
    }

    /// Attaches the programs by the other kind.
    pub fn reattach(&mut self, attachment: Attachment) -> Result<()> {
        self.datapaths.reattach(&self.bed, attachment)
    }

    /// Loads the programs anew on a node, as a restarted agent of another build does, and takes the
    /// tables up again.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        self.datapaths.reload(&self.bed, node, self.loading)?;
        let dir = PinDir::current(self.datapaths.root(node));
        self.nodes[node].balancer = Balancer::open(&dir)?;
        let observed = self.nodes[node].balancer.observe()?;
        ensure!(observed.strays.is_empty(), "strays: {:?}", observed.strays);
        self.serve_sockets(node)
    }
}

/// Now, as the programs know it: ns of `CLOCK_MONOTONIC`.
///
/// # Panics
/// Never: every kernel has that clock.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the kernel has a clock");
    let (seconds, nanoseconds) = (time.tv_sec(), time.tv_nsec());
    u64::try_from(seconds).unwrap_or(0) * 1_000_000_000 + u64::try_from(nanoseconds).unwrap_or(0)
}

nix::sockopt_impl!(
    /// `SO_NETNS_COOKIE` (Linux 5.14).
    NetnsCookie,
    GetOnly,
    nix::libc::SOL_SOCKET,
    nix::libc::SO_NETNS_COOKIE,
    u64
);

/// The kernel's cookie of the calling thread's network namespace.
pub fn netns_cookie() -> Result<u64> {
    let (family, kind) = (AddressFamily::Inet, SockType::Datagram);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    getsockopt(&socket, NetnsCookie).context("cannot read the cookie of a network namespace")
}
