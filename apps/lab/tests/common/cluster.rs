//! A lab with pods that ask each other.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value;

use super::TestLab;

/// Two pods and one of the host's network on each of two nodes.
fn pods() -> String {
    let pod = |name: &str, node: &str, host: bool, port: u16| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  hostNetwork: {host}\n  containers:\n  - name: c\n    command: [watari, echo, --http, '{port}']\n---\n"
        )
    };
    [
        pod("a1", "node1", false, 80).replace(
            "  - name: c\n",
            "  - name: c\n    ports: [{containerPort: 80, hostPort: 8080}]\n",
        ),
        pod("a2", "node1", false, 80),
        pod("b1", "node2", false, 80),
        pod("b2", "node2", false, 80),
        pod("host1", "node1", true, 8081),
        pod("host2", "node2", true, 8081),
    ]
    .concat()
}

/// A lab of two nodes with these pods.
pub struct Cluster {
    pub lab: TestLab,
    /// As many addresses as each pod and node shall have.
    families: usize,
    known: RefCell<BTreeMap<String, Vec<String>>>,
}

impl Cluster {
    /// Brings it up; `fields` are those of `lab.yaml`.
    pub fn up(hint: &str, fields: &str) -> Self {
        let lab = TestLab::up(hint, &format!("{{nodes: 2, {fields}}}"));
        let file = lab.file("pods.yaml", &pods());
        lab.watari(&["apply", "-f", &file]);
        let six = usize::from(fields.contains("ipv6: true"));
        let four = usize::from(!fields.contains("ipv4: false"));
        let families = four + six;
        Self {
            lab,
            families,
            known: RefCell::default(),
        }
    }

    /// A pod's addresses.
    pub fn addresses(&self, pod: &str) -> Vec<String> {
        let mut known = self.known.borrow_mut();
        let look_up = || {
            let pod = self.lab.pod(pod).expect("the pod is listed");
            serde_json::from_value(pod["podIPs"].clone()).expect("addresses")
        };
        let all = known.entry(pod.to_owned()).or_insert_with(look_up);
        assert_eq!(all.len(), self.families, "{all:?}");
        all.clone()
    }

    /// Asks an address, with a port or without; who answered, and which address it saw. None without an answer.
    pub fn ask(&self, from: &str, address: &str) -> Option<(String, String)> {
        let bare = address.parse::<std::net::Ipv6Addr>();
        let host = bare.map_or_else(|_| address.to_owned(), |six| format!("[{six}]"));
        let line = format!("curl -gsf --retry 5 --retry-connrefused -m5 http://{host}/");
        let output = self
            .lab
            .try_watari(&["exec", from, "--", "sh", "-c", &line]);
        let said: Value = serde_json::from_slice(&output.stdout).ok()?;
        let peer: std::net::SocketAddr = said["peer"].as_str()?.parse().ok()?;
        Some((said["name"].as_str()?.to_owned(), peer.ip().to_string()))
    }

    /// What Kubernetes asks of a network.
    pub fn holds_the_three_requirements(&self) {
        let all = ["a1", "a2", "b1", "b2"];
        let near = |node: &str| {
            if node == "node1" {
                ["a1", "a2"]
            } else {
                ["b1", "b2"]
            }
        };
        let askers = [("a1", &all[..]), ("a2", &all), ("b1", &all), ("b2", &all)]
            .into_iter()
            .chain([("host1", &all[..]), ("host2", &all)]);
        for (from, to) in askers {
            self.reach(from, &self.addresses(from), to);
        }
        for (node, host) in [("node1", "host1"), ("node2", "host2")] {
            self.reach(node, &self.addresses(host), &near(node));
        }
    }

    /// `from` reaches each of `to` at each address, and is seen with one of its own.
    pub fn reach(&self, from: &str, own: &[String], to: &[&str]) {
        for pod in to {
            for address in self.addresses(pod) {
                let answer = self.ask(from, &address);
                let (name, peer) = answer.unwrap_or_else(|| panic!("{from} to {address}"));
                assert_eq!(name, format!("default/{pod}"));
                assert!(own.contains(&peer), "{from} to {address}: seen as {peer}");
            }
        }
    }

    /// The world answers pods, and sees their nodes.
    pub fn leads_out(&self, worlds: &[&str]) {
        for (pod, host) in [("a1", "host1"), ("b2", "host2")] {
            for world in worlds {
                let (name, peer) = self.ask(pod, world).expect("the world answers");
                assert_eq!(name, "world");
                assert!(self.addresses(host).contains(&peer), "{pod} seen as {peer}");
                // Without it the world does not know whom to answer.
                let address = self.addresses(pod);
                let own = address
                    .iter()
                    .find(|own| own.contains(':') == world.contains(':'));
                let own = own.expect("an address of the family");
                let ping = format!("ping -c1 -W1 {own}");
                assert!(!self.lab.sh_works("fabric", &ping), "the world knows {own}");
            }
        }
    }
}
