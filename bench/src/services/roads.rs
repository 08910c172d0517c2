//! Nodes with Services, by our datapath or by kube-proxy's rules, and a client and a server on each.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use watari_bpf::Attachment;
use watari_testbed::{Bed, Between, Datapaths, Layout, Loading};

use super::cgroup::{Cgroup, Served};
use super::peers::{Form, Mode, Took};
use super::sockets;
use super::tables::{Snapshot, Tables};
use super::traffic::{Client, Servers};
use super::world::World;

/// Bytes.
const MTU: u32 = 1500;
/// How long kube-proxy's rules may take to be loaded. Whatever takes longer is left out, and said.
pub const LOADING: Duration = Duration::from_secs(90);
/// How long where loading them is what is measured.
pub const LOADING_WHOLE: Duration = Duration::from_secs(150);

/// So many nodes with two pods each: on the first one a client and a server.
pub fn bed(nodes: u8) -> Result<Bed> {
    let bed = Bed::new(Layout {
        nodes,
        pods: 2,
        mtu: MTU,
        between: Between::Wire,
    })?;
    // A port in TIME-WAIT may be used again after a second, and there are enough of them. What is
    // above is for translated sources.
    let settings = [("tcp_tw_reuse", "1"), ("ip_local_port_range", "1024 60999")];
    for (key, value) in settings {
        let path = format!("/proc/sys/net/ipv4/{key}");
        let written = bed.pod(0, 0).netns.enter(|| std::fs::write(&path, value));
        written.with_context(|| format!("cannot write {path}"))?;
    }
    Ok(bed)
}

/// The address of the server.
pub fn server(bed: &Bed, v6: bool) -> IpAddr {
    bed.pod(0, 1).address(v6)
}

/// Our datapath.
pub struct Ours {
    // Ended in this order.
    /// A client whose sockets are served.
    pub served: Client,
    /// One whose sockets are not: its packets are.
    pub unserved: Client,
    _servers: Servers,
    /// Its Services.
    pub world: World,
    _datapaths: Datapaths,
    _cgroup: Served,
    _bed: Bed,
}

impl Ours {
    /// With so many Services.
    pub fn new(services: u32, endpoints: u32, v6: bool, cgroup: &Cgroup) -> Result<Self> {
        let bed = bed(1)?;
        let world = World::new(services, endpoints, Some(server(&bed, v6)));
        let datapaths = Datapaths::load(&bed, Loading::from(Attachment::Tcx))?;
        let mut tables = Tables::open(datapaths.root(0))?;
        tables.take(&Snapshot::of(&world))?;
        tables.apply()?;
        tables.hold()?;
        tables.switch_on(bed.nodes[0].addresses())?;
        let family = if v6 { "v6" } else { "v4" };
        let cgroup = cgroup.child(&format!("{services}-{family}"))?;
        sockets::attach(&bed, datapaths.root(0), cgroup.path())?;
        let client = bed.pod(0, 0);
        Ok(Self {
            served: Client::new(client, Some(&cgroup))?,
            unserved: Client::new(client, None)?,
            _servers: Servers::new(bed.pod(0, 1), &world.backends())?,
            world,
            _datapaths: datapaths,
            _cgroup: cgroup,
            _bed: bed,
        })
    }
}

/// One of kube-proxy's modes.
pub struct Theirs {
    /// A client.
    pub client: Client,
    _servers: Servers,
    /// Its Services.
    pub world: World,
    /// What it took to load them.
    pub took: Took,
    _bed: Bed,
}

impl Theirs {
    /// With so many Services; nothing when they take too long to be loaded.
    pub fn new(mode: Mode, services: u32, endpoints: u32) -> Result<Option<Self>> {
        let bed = bed(1)?;
        let world = World::new(services, endpoints, Some(server(&bed, false)));
        let node = &bed.nodes[0].netns;
        let form = Form::for_packets(&world);
        let Some(took) = mode.apply(node, &mode.all(&world, form), LOADING)? else {
            return Ok(None);
        };
        // As long as our datapath remembers them.
        node.enter(|| {
            let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait";
            std::fs::write(path, "30").with_context(|| format!("cannot write {path}"))
        })?;
        Ok(Some(Self {
            client: Client::new(bed.pod(0, 0), None)?,
            _servers: Servers::new(bed.pod(0, 1), &world.backends())?,
            world,
            took,
            _bed: bed,
        }))
    }
}
