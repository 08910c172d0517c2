//! What kube-proxy makes of Services: its nftables mode and its iptables mode, as text for `nft` and
//! `iptables-restore`, which kube-proxy executes as well.
//!
//! Written after what its tests expect of it (kubernetes, `pkg/proxy/nftables` and
//! `pkg/proxy/iptables`, `proxier_test.go`): the same chains, maps and rules, without comments, which
//! it leaves out itself when there are many endpoints. The legacy program for iptables: of the two it
//! loads faster by far, and the kernel goes through its rules faster.

use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use watari_testkit::Netns;

use super::world::World;

/// Between two looks whether a program has ended.
const BETWEEN_LOOKS: Duration = Duration::from_micros(200);
/// Who is not masqueraded: kube-proxy's cluster range, that of a bed's pods.
const PODS: &str = "10.250.0.0/16";

/// One of its modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A map of verdicts by address, protocol and port; a chain for each Service and endpoint.
    Nftables,
    /// A list of rules, one for each Service; a chain for each Service and endpoint.
    Iptables,
}

/// What it took to execute a program.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// In ms.
    pub wall: f64,
    /// What it worked, with what the kernel did for it, in ms.
    pub cpu: f64,
}

/// How much of Services is built that nobody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// All of it.
    Whole,
    /// Without the nameless map of verdicts by which nftables chooses an endpoint: for each map the
    /// kernel looks at all others for a name (1,000 Services take 0.3 s to load, 10,000 take 42 s,
    /// 50,000 would take a quarter of an hour). No packet comes there; the map of Services, which
    /// packets ask, is whole.
    Short,
}

impl Form {
    /// What can be loaded within the time that there is, where only packets are measured.
    pub fn for_packets(world: &World) -> Self {
        if world.services > LOADED_WHOLE {
            Self::Short
        } else {
            Self::Whole
        }
    }
}

/// So many Services are built whole, whatever is measured.
const LOADED_WHOLE: u32 = 1000;

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];

    /// In cases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// In the column of peers, with the version of the program.
    pub fn peer(self) -> Result<String> {
        let (program, what) = match self {
            Self::Nftables => ("nft", "verdict map"),
            Self::Iptables => ("iptables-legacy", "chains"),
        };
        let output = Command::new(program).arg("--version").output();
        let output = output.with_context(|| format!("cannot execute {program}"))?;
        ensure!(output.status.success(), "{program} --version failed");
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(format!("kube-proxy's {what}, {version}"))
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Nftables => &["nft", "-f", "-"],
            Self::Iptables => &["iptables-legacy-restore", "--noflush", "--wait", "10"],
        }
    }

    /// All of a world.
    pub fn all(self, world: &World, form: Form) -> String {
        match self {
            Self::Nftables => nftables(world, form),
            Self::Iptables => iptables(world),
        }
    }

    /// A Service gets these endpoints instead of those: what kube-proxy writes when nothing else has
    /// changed. Its iptables mode writes the list of Services anew each time.
    pub fn change(
        self,
        world: &World,
        service: u32,
        from: &[SocketAddr],
        to: &[SocketAddr],
    ) -> String {
        let mut text = String::new();
        let kept = |at: &&SocketAddr| !to.contains(at);
        let gone = from.iter().filter(kept);
        let new: Vec<_> = to.iter().filter(|at| !from.contains(at)).collect();
        match self {
            Self::Nftables => {
                let chain = nft_service(service);
                say(&mut text, &format!("add chain {TABLE} {chain}"));
                say(&mut text, &format!("flush chain {TABLE} {chain}"));
                for at in new {
                    nft_endpoint(&mut text, service, at);
                }
                nft_service_rules(&mut text, world, service, to);
                for at in gone {
                    let chain = nft_endpoint_name(service, at);
                    say(&mut text, &format!("flush chain {TABLE} {chain}"));
                }
            }
            Self::Iptables => {
                say(&mut text, "*nat");
                declare(&mut text, "KUBE-SERVICES");
                declare(&mut text, &ipt_service(service));
                for at in from.iter().chain(new.iter().copied()) {
                    declare(&mut text, &ipt_endpoint_name(service, at));
                }
                (0..world.services).for_each(|at| ipt_jump(&mut text, world, at));
                say(&mut text, NODE_PORTS);
                ipt_service_rules(&mut text, world, service, to);
                for at in to {
                    ipt_endpoint(&mut text, service, at);
                }
                for at in gone {
                    say(&mut text, &format!("-X {}", ipt_endpoint_name(service, at)));
                }
                say(&mut text, "COMMIT");
            }
        }
        text
    }

    /// Has the node's kernel do this; nothing when it takes longer than it may.
    pub fn apply(self, node: &Netns, text: &str, limit: Duration) -> Result<Option<Took>> {
        // Not a pipe: whoever writes it would be timed too.
        let file = node.dir().join("rules");
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let words = self.words();
        let worked = || -> Result<f64> {
            let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
            let sum = usage.user_time() + usage.system_time();
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52 µs")]
            Ok(sum.num_microseconds() as f64 / 1000.0)
        };
        node.enter(|| -> Result<_> {
            let (start, before) = (Instant::now(), worked()?);
            let mut child = Command::new(words[0])
                .args(&words[1..])
                .stdin(File::open(&file)?)
                .stdout(Stdio::null())
                .spawn()
                .with_context(|| format!("cannot execute {}", words[0]))?;
            let ended = loop {
                if let Some(status) = child.try_wait()? {
                    ensure!(status.success(), "{words:?}: {status}");
                    break true;
                }
                if start.elapsed() >= limit {
                    child.kill()?;
                    child.wait()?;
                    break false;
                }
                std::thread::sleep(BETWEEN_LOOKS);
            };
            Ok(ended.then_some(Took {
                wall: start.elapsed().as_secs_f64() * 1000.0,
                cpu: worked()? - before,
            }))
        })
    }
}

const TABLE: &str = "ip kube-proxy";

/// What is there without any Service. `th` is the transport header.
const NFTABLES: &str = "add table ip kube-proxy
add set ip kube-proxy cluster-ips { type ipv4_addr ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add chain ip kube-proxy filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority 0 ; }
add chain ip kube-proxy filter-input { type filter hook input priority 0 ; }
add chain ip kube-proxy filter-output { type filter hook output priority 0 ; }
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy firewall-check
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy services
add chain ip kube-proxy service-endpoints-check
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add rule ip kube-proxy cluster-ips-check ip daddr { 10.96.0.0/12 } drop
add rule ip kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-output-pre-dnat ct state new jump firewall-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump cluster-ips-check
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000
add rule ip kube-proxy masquerading mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading mark set mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add element ip kube-proxy nodeport-ips { 172.20.1.1 }
";

/// The same for iptables.
const IPTABLES: &str = "*filter
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

/// The last of the list of Services.
const NODE_PORTS: &str = "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS";

fn say(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn nftables(world: &World, form: Form) -> String {
    let mut text = NFTABLES.to_owned();
    for service in 0..world.services {
        let (at, chain) = (world.frontend(service), nft_service(service));
        let endpoints = world.endpoints_of(service);
        say(&mut text, &format!("add chain {TABLE} {chain}"));
        for at in &endpoints {
            nft_endpoint(&mut text, service, at);
        }
        if form == Form::Whole || world.is_used(service) {
            nft_service_rules(&mut text, world, service, &endpoints);
        } else {
            let first = nft_endpoint_name(service, &endpoints[0]);
            say(&mut text, &format!("add rule {TABLE} {chain} goto {first}"));
        }
        let (ip, port) = (at.ip(), at.port());
        say(
            &mut text,
            &format!("add element {TABLE} cluster-ips {{ {ip} }}"),
        );
        say(
            &mut text,
            &format!("add element {TABLE} service-ips {{ {ip} . tcp . {port} : goto {chain} }}"),
        );
    }
    text
}

/// With a digest in front, as the true ones; here the number is enough.
fn nft_service(service: u32) -> String {
    format!("service-{service:08X}-bench/{}/tcp/", World::name(service))
}

fn nft_endpoint_name(service: u32, at: &SocketAddr) -> String {
    let (name, ip, port) = (World::name(service), at.ip(), at.port());
    format!("endpoint-{service:08X}-bench/{name}/tcp/__{ip}/{port}")
}

fn nft_endpoint(text: &mut String, service: u32, at: &SocketAddr) {
    let (chain, ip) = (nft_endpoint_name(service, at), at.ip());
    say(text, &format!("add chain {TABLE} {chain}"));
    say(text, &format!("flush chain {TABLE} {chain}"));
    say(
        text,
        &format!("add rule {TABLE} {chain} ip saddr {ip} jump mark-for-masquerade"),
    );
    say(
        text,
        &format!("add rule {TABLE} {chain} meta l4proto tcp dnat to {at}"),
    );
}

fn nft_service_rules(text: &mut String, world: &World, service: u32, endpoints: &[SocketAddr]) {
    let (at, chain) = (world.frontend(service), nft_service(service));
    let (ip, port) = (at.ip(), at.port());
    say(
        text,
        &format!(
            "add rule {TABLE} {chain} ip daddr {ip} tcp dport {port} ip saddr != {PODS} \
             jump mark-for-masquerade"
        ),
    );
    let choice = |(number, at)| format!("{number} : goto {}", nft_endpoint_name(service, at));
    let choices: Vec<_> = endpoints.iter().enumerate().map(choice).collect();
    let (count, choices) = (endpoints.len(), choices.join(" , "));
    say(
        text,
        &format!("add rule {TABLE} {chain} numgen random mod {count} vmap {{ {choices} }}"),
    );
}

fn iptables(world: &World) -> String {
    let mut text = IPTABLES.to_owned();
    for service in 0..world.services {
        declare(&mut text, &ipt_service(service));
        for at in world.endpoints_of(service) {
            declare(&mut text, &ipt_endpoint_name(service, &at));
        }
    }
    (0..world.services).for_each(|service| ipt_jump(&mut text, world, service));
    say(&mut text, NODE_PORTS);
    for service in 0..world.services {
        let endpoints = world.endpoints_of(service);
        ipt_service_rules(&mut text, world, service, &endpoints);
        for at in &endpoints {
            ipt_endpoint(&mut text, service, at);
        }
    }
    say(&mut text, "COMMIT");
    text
}

fn declare(text: &mut String, chain: &str) {
    say(text, &format!(":{chain} - [0:0]"));
}

/// Sixteen letters behind the prefix, as the true ones.
fn ipt_service(service: u32) -> String {
    format!("KUBE-SVC-{service:016X}")
}

fn ipt_endpoint_name(service: u32, at: &SocketAddr) -> String {
    let ip = match at.ip() {
        std::net::IpAddr::V4(ip) => u32::from(ip),
        std::net::IpAddr::V6(_) => 0,
    };
    // Port and Service make those of one pod differ.
    let rest = (u64::from(at.port()) << 20) ^ u64::from(service);
    format!("KUBE-SEP-{ip:08X}{:08X}", rest & 0xffff_ffff)
}

/// Of the list of Services.
fn ipt_jump(text: &mut String, world: &World, service: u32) {
    let (at, chain) = (world.frontend(service), ipt_service(service));
    let (ip, port) = (at.ip(), at.port());
    say(
        text,
        &format!("-A KUBE-SERVICES -m tcp -p tcp -d {ip} --dport {port} -j {chain}"),
    );
}

fn ipt_service_rules(text: &mut String, world: &World, service: u32, endpoints: &[SocketAddr]) {
    let (at, chain) = (world.frontend(service), ipt_service(service));
    let (ip, port) = (at.ip(), at.port());
    say(
        text,
        &format!("-A {chain} -m tcp -p tcp -d {ip} --dport {port} ! -s {PODS} -j KUBE-MARK-MASQ"),
    );
    let mut left = endpoints.len();
    for at in endpoints {
        let mut rule = format!("-A {chain} ");
        if left > 1 {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52 endpoints")]
            let share = 1.0 / left as f64;
            // Writing to a string cannot fail.
            let _ = write!(
                rule,
                "-m statistic --mode random --probability {share:.10} "
            );
        }
        left -= 1;
        say(
            text,
            &format!("{rule}-j {}", ipt_endpoint_name(service, at)),
        );
    }
}

fn ipt_endpoint(text: &mut String, service: u32, at: &SocketAddr) {
    let (chain, ip) = (ipt_endpoint_name(service, at), at.ip());
    say(text, &format!("-A {chain} -s {ip} -j KUBE-MARK-MASQ"));
    say(
        text,
        &format!("-A {chain} -m tcp -p tcp -j DNAT --to-destination {at}"),
    );
}
