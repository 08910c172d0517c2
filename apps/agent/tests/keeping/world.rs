//! A node with pods as the plugin leaves them, and an agent on it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use watari_agent::{Daemon, Kept, Options, Status};
use watari_bpf::FakeDatapath;
use watari_ipam::{Holder, Millis, Pool, PoolId, Subnet, Wish};
use watari_model::{Attachment, ContainerId, HostPrefix, IfName, NetworkName, PodName};
use watari_netlink::{Handle, Netns, create};
use watari_plan::{Transparent, transparent};
use watari_store::{EndpointRecord, Store, StoreError};
use watari_testkit::Netns as TestNetns;

pub type Agent = Daemon<FakeDatapath>;

pub struct Node {
    pub netns: TestNetns,
}

pub struct Pod {
    pub netns: TestNetns,
    pub record: EndpointRecord,
}

fn network() -> NetworkName {
    NetworkName::new("azure").unwrap()
}

impl Node {
    pub fn new() -> Self {
        let netns = TestNetns::new("node");
        for words in [
            "ip link add eth0 type veth peer name fabric",
            "ip link set eth0 up",
            "ip link set fabric up",
            "ip address add 10.240.0.4/16 dev eth0",
            "ip address add fd00::4/64 dev eth0 nodad",
            "ip route add default via 10.240.0.1 dev eth0",
        ] {
            netns.run(&words.split(' ').collect::<Vec<_>>());
        }
        netns.enter(|| {
            for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
            }
        });
        Self { netns }
    }

    pub fn options(&self) -> Options {
        Options {
            cluster: self.cluster(),
            data_dir: self.netns.dir().join("state"),
            run_dir: self.netns.dir().join("run"),
            grace: Duration::from_secs(1),
            namespaces: Vec::new(),
            survey: Duration::from_millis(300),
            ..Options::new("node1")
        }
    }

    pub fn cluster(&self) -> PathBuf {
        self.netns.dir().join("cluster")
    }

    /// Writes a node's manifest.
    pub fn manifest(&self, name: &str, address: &str, cidr: &str) {
        let folder = self.cluster();
        std::fs::create_dir_all(&folder).unwrap();
        let text = format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{cidr}]}}\n\
             status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
        );
        std::fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
    }

    pub fn store(&self) -> Store {
        Store::open(&self.options().data_dir).unwrap()
    }

    /// What the plugin leaves of an ADD so many milliseconds ago: lease, record, links.
    pub fn pod(&self, container: &str, age: u64) -> Pod {
        let netns = TestNetns::new(container);
        let attachment = Attachment {
            container: ContainerId::new(container).unwrap(),
            ifname: IfName::new("eth0").unwrap(),
        };
        let holder = Holder {
            network: network(),
            attachment: attachment.clone(),
        };
        let store = self.store();
        let leased = |net: &str| {
            let id = PoolId {
                scope: "node".to_owned(),
                name: net.to_owned(),
            };
            let subnet = Subnet::whole(net.parse().unwrap()).unwrap();
            let wish = Wish {
                holder: &holder,
                address: None,
                now: watari_store::now(),
                cool_down: Millis(0),
            };
            let pool = Pool::new(id, vec![subnet]).unwrap();
            let leased = store.write(|tx| Ok::<_, StoreError>(tx.lease(&pool, wish)));
            let length = net.rsplit_once('/').unwrap().1;
            let net = format!("{}/{length}", leased.unwrap().unwrap());
            net.parse::<IpNet>().unwrap()
        };
        let tables = transparent(&Transparent {
            network: &holder.network,
            attachment: &attachment,
            prefix: &HostPrefix::default(),
            mtu: 1400,
            pod_mac: None,
            addresses: &[leased("10.244.1.0/24"), leased("fd0a:1::/64")],
            destinations: &[],
            ipv6: true,
        });
        let record = EndpointRecord {
            network: holder.network.clone(),
            attachment,
            pod: Some(PodName {
                namespace: "default".to_owned(),
                name: container.to_owned(),
            }),
            netns: Some(netns.path().to_owned()),
            host_ifname: tables.host.name.clone(),
            tables,
            ips_to_route_via_host: Vec::new(),
            created: Millis(watari_store::now().0.saturating_sub(age)),
        };
        store.write(|tx| tx.put_endpoint(&record)).unwrap();
        let inside = Netns::open(netns.path()).unwrap();
        self.netns
            .enter(|| create(&record.tables, &mut Handle::open().unwrap(), &inside).unwrap());
        Pod { netns, record }
    }

    /// Does this with an agent on the node.
    pub fn with_agent<R: Send>(&self, work: impl FnOnce(&mut Agent) -> R + Send) -> R {
        self.with(FakeDatapath::default(), work)
    }

    /// The same over a datapath that holds something.
    pub fn with<R: Send>(
        &self,
        kernel: FakeDatapath,
        work: impl FnOnce(&mut Agent) -> R + Send,
    ) -> R {
        self.run_agent(self.options(), kernel, work)
    }

    /// The same with other options.
    pub fn with_options<R: Send>(
        &self,
        options: Options,
        work: impl FnOnce(&mut Agent) -> R + Send,
    ) -> R {
        self.run_agent(options, FakeDatapath::default(), work)
    }

    fn run_agent<R: Send>(
        &self,
        options: Options,
        mut kernel: FakeDatapath,
        work: impl FnOnce(&mut Agent) -> R + Send,
    ) -> R {
        self.netns.enter(|| {
            let mut host = Handle::open().unwrap();
            let links = host.links().unwrap().into_iter();
            kernel.links = links.map(|link| link.name).collect();
            let reload = Box::new(|| Ok(FakeDatapath::default()));
            work(&mut Daemon::new(options, kernel, reload).unwrap())
        })
    }
}

impl Pod {
    pub fn link(&self) -> &str {
        self.record.host_ifname.as_str()
    }

    /// One answer is enough: the kernel may notice a carrier up to a second late, when links of
    /// other tests came shortly before, and loses what is sent until then.
    pub fn ping(&self) {
        let address = &self.record.tables.pod.addresses;
        let from = address.first().unwrap().addr().to_string();
        self.netns
            .run(&["ping", "-c5", "-i0.3", "-W2", "-I", &from, "10.240.0.4"]);
    }
}

/// Lets the agent do its work until something holds of its status.
#[track_caller]
pub fn until(agent: &mut Agent, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        agent.tick();
        let status = agent.status();
        if holds(&status) {
            return status;
        }
        assert!(Instant::now() < end, "waited for {what}: {status:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
pub fn until_healthy(agent: &mut Agent) -> Status {
    until(agent, "health", |status| status.healthy)
}

/// A repair with these words.
pub fn repaired(status: &Status, words: &str) -> bool {
    let mut last = status.last_repairs.iter();
    last.any(|repair| repair.what.contains(words))
}

pub fn failed(status: &Status) -> Option<&Kept> {
    status.kept.iter().find(|kept| kept.state == "failed")
}

pub fn run(netns: &TestNetns, words: &str) {
    netns.run(&words.split(' ').collect::<Vec<_>>());
}
