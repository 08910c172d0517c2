//! Services of the folder come into the tables, stay there, and go.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use watari_abi::{FrontendKey, Reason, config_flags, maps};
use watari_agent::{Options, Status};
use watari_bpf::balance::{Balancer, Balancing, Layer as _, Memory, Table as _};
use watari_tables::Services;

use crate::world::{Agent, Node, repaired, until, until_healthy};

/// A Service and its slice with so many endpoints on this node; those in `ending` end.
pub fn service(
    name: &str,
    address: &str,
    port: u16,
    endpoints: &[&str],
    ending: &[&str],
) -> String {
    let all = endpoints.iter().map(|at| (at, true));
    let all = all.chain(ending.iter().map(|at| (at, false)));
    let endpoints: Vec<String> = all
        .map(|(at, ready)| {
            format!(
                "- {{addresses: [{at}], nodeName: node1, conditions: {{ready: {ready}, serving: true, \
                 terminating: {}}}}}\n",
                !ready
            )
        })
        .collect();
    let endpoints = if endpoints.is_empty() {
        "[]\n".to_owned()
    } else {
        format!("\n{}", endpoints.concat())
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: ClusterIP, clusterIP: {address}, \
         clusterIPs: [{address}], ports: [{{name: http, port: {port}}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-1, labels: \
         {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
         endpoints: {endpoints}---\n"
    )
}

/// Puts a file into the folder whole.
pub fn put(node: &Node, name: &str, text: &str) -> PathBuf {
    let (beside, path) = (node.cluster().join(".new"), node.cluster().join(name));
    fs::write(&beside, text).unwrap();
    fs::rename(beside, &path).unwrap();
    path
}

pub fn held(tables: &Memory) -> Services {
    Balancer::open(tables).unwrap().observe().unwrap().services
}

fn members(tables: &Memory) -> BTreeMap<String, Vec<String>> {
    let balancers = held(tables).balancers.into_iter();
    let each = balancers.map(|(name, balancer)| {
        let members = balancer.inside.members.keys().map(ToString::to_string);
        (name.to_string(), members.collect())
    });
    each.collect()
}

/// Lets the agent work until a balancer has these members.
fn until_members(agent: &mut Agent, node: &Node, name: &str, wanted: &[&str]) -> Status {
    let tables = node.tables.clone();
    until(agent, &format!("{name} to be {wanted:?}"), move |_| {
        members(&tables)
            .get(name)
            .is_some_and(|there| there == wanted)
    })
}

fn with_this_node() -> Node {
    let node = Node::new();
    node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
    node
}

#[test]
fn services_come_change_and_go() {
    let node = with_this_node();
    put(
        &node,
        "web.yaml",
        &service("web", "10.96.0.9", 80, &["10.244.1.2", "10.244.1.3"], &[]),
    );
    put(
        &node,
        "db.yaml",
        &service("db", "10.96.0.10", 5432, &["10.244.1.4"], &[]),
    );
    let options = Options {
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        survey: Duration::from_hours(1),
        ..node.options()
    };
    node.with_options(options, |agent| {
        let web = ["10.244.1.2:8080", "10.244.1.3:8080"];
        let status = until_members(agent, &node, "default/web:http", &web);
        assert_eq!(status.repairs, 0);
        let status = until_healthy(agent);
        let services = status.services.unwrap();
        assert_eq!(
            (services.services, services.ports, services.backends),
            (2, 2, 3)
        );
        assert!(services.synced_seconds_ago.is_some());
        let there = held(&node.tables);
        assert_eq!(there.cidrs, ["10.96.0.0/16".parse().unwrap()].into());
        assert!(there.addresses.contains_key(&"10.96.0.9".parse().unwrap()));

        only_what_changes_is_written(agent, &node);
        fs::remove_file(node.cluster().join("db.yaml")).unwrap();
        let tables = node.tables.clone();
        let status = until(agent, "db to go", move |_| members(&tables).len() == 1);
        assert_eq!(status.repairs, 0, "{status:#?}");
        until_healthy(agent);
    });
}

fn only_what_changes_is_written(agent: &mut Agent, node: &Node) {
    // A file that says the same again, and nothing at all.
    node.tables.take_journal();
    put(
        node,
        "web.yaml",
        &service("web", "10.96.0.9", 80, &["10.244.1.2", "10.244.1.3"], &[]),
    );
    put(
        node,
        "else.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n",
    );
    let end = std::time::Instant::now() + Duration::from_secs(3);
    until(agent, "time to pass", |_| std::time::Instant::now() > end);
    assert_eq!(
        node.tables.take_journal(),
        [],
        "an unchanged Service costs nothing"
    );

    // One more endpoint: its entry, its slot, the set.
    put(
        node,
        "web.yaml",
        &service(
            "web",
            "10.96.0.9",
            80,
            &["10.244.1.2", "10.244.1.3", "10.244.1.5"],
            &[],
        ),
    );
    let more = ["10.244.1.2:8080", "10.244.1.3:8080", "10.244.1.5:8080"];
    until_members(agent, node, "default/web:http", &more);
    let writes = node.tables.take_journal();
    assert!(writes.len() <= 5, "{writes:?}");
}

#[test]
fn an_agent_that_starts_again_writes_nothing() {
    let node = with_this_node();
    for number in 0..40 {
        let (name, address) = (format!("s{number}"), format!("10.96.1.{number}"));
        let endpoint = format!("10.244.1.{number}");
        put(
            &node,
            &format!("{name}.yaml"),
            &service(&name, &address, 80, &[&endpoint, "10.244.1.200"], &[]),
        );
    }
    node.with_agent(|agent| {
        until_members(
            agent,
            &node,
            "default/s39:http",
            &["10.244.1.39:8080", "10.244.1.200:8080"],
        );
        until_healthy(agent);
    });
    let before = node.tables.entries();
    assert!(!node.tables.take_journal().is_empty());
    // As after kill -9: nothing was told to the first one.
    node.with_agent(|agent| {
        let status = until(agent, "the first sync", |status| {
            status.healthy
                && status
                    .services
                    .is_some_and(|services| services.synced_seconds_ago.is_some())
        });
        let end = std::time::Instant::now() + Duration::from_secs(3);
        until(agent, "some looks", |_| std::time::Instant::now() > end);
        assert_eq!(node.tables.take_journal(), []);
        assert_eq!((status.repairs, status.services.unwrap().services), (0, 40));
    });
    assert_eq!(node.tables.entries(), before);
}

#[test]
fn nothing_is_withdrawn_before_the_folder_was_read_nor_for_half_a_file() {
    let node = with_this_node();
    let both = service("web", "10.96.0.9", 80, &["10.244.1.2"], &[])
        + &service("db", "10.96.0.10", 5432, &["10.244.1.4"], &[]);
    put(&node, "all.yaml", &both);
    let two = |tables: &Memory| members(tables).len() == 2;
    node.with_agent(|agent| {
        let tables = node.tables.clone();
        until(agent, "both", move |_| two(&tables));
        until_healthy(agent);
    });
    node.tables.take_journal();
    // The next agent finds a folder that is no answer: without this node, then without anything.
    let own = fs::read_to_string(node.cluster().join("node1.yaml")).unwrap();
    fs::write(node.cluster().join("node1.yaml"), "").unwrap();
    fs::write(node.cluster().join("all.yaml"), "").unwrap();
    node.with_agent(|agent| {
        let status = until(agent, "doubt", |status| {
            status
                .notes
                .iter()
                .any(|note| note.contains("the Services stay as they are"))
        });
        assert!(!status.healthy);
        assert!(two(&node.tables));
        // The node comes back, and its Services while they are being written: one, then both.
        fs::write(node.cluster().join("all.yaml"), &both).unwrap();
        fs::write(node.cluster().join("node1.yaml"), &own).unwrap();
        until(agent, "health", |status| {
            status.healthy && status.nodes == Some(1)
        });
        assert!(two(&node.tables));
        assert_eq!(node.tables.take_journal(), [], "it was all there");
        for cut in [both.len() - 30, both.len() / 2, 10] {
            fs::write(node.cluster().join("all.yaml"), &both[..cut]).unwrap();
            until(agent, "the error", |status| {
                status.notes.iter().any(|note| note.contains("all.yaml"))
            });
            assert!(two(&node.tables), "{cut}");
        }
        put(
            &node,
            "all.yaml",
            &service("web", "10.96.0.9", 80, &["10.244.1.2"], &[]),
        );
        let tables = node.tables.clone();
        until(agent, "what was meant", move |_| {
            members(&tables).len() == 1
        });
    });
}

#[test]
fn what_somebody_changed_in_the_tables_is_repaired_and_told() {
    let node = with_this_node();
    put(
        &node,
        "web.yaml",
        &service("web", "10.96.0.9", 80, &["10.244.1.2"], &[]),
    );
    node.with_agent(|agent| {
        until_members(agent, &node, "default/web:http", &["10.244.1.2:8080"]);
        until_healthy(agent);
        let there = held(&node.tables);
        let frontends = node
            .tables
            .table::<FrontendKey, watari_abi::Frontend>(maps::FRONTENDS);
        let frontends = frontends.unwrap();
        let mut keys = Vec::new();
        frontends.each(&mut |key, _| keys.push(key)).unwrap();
        frontends.remove(&keys).unwrap();
        let status = until(agent, "the repair", |status| {
            repaired(status, "default/web:http")
        });
        let kept = status
            .last_repairs
            .iter()
            .all(|repair| repair.of == "services");
        assert!(kept, "{status:#?}");
        assert_eq!(held(&node.tables), there);
        until_healthy(agent);
    });
}

#[test]
fn the_programs_are_told_of_the_node_and_whether_there_are_services() {
    let node = with_this_node();
    let config = |tables: &Memory| {
        let config = tables.array::<watari_abi::Config>(maps::CONFIG).unwrap();
        let all = watari_bpf::balance::Array::stretch(&config, 0, 1).unwrap();
        all[0]
    };
    node.with_agent(|agent| {
        let tables = node.tables.clone();
        until(agent, "the node's address", move |_| {
            config(&tables).v4 == "10.240.0.4".parse::<std::net::IpAddr>().unwrap().into()
        });
        let told = config(&node.tables);
        assert_eq!(told.flags & config_flags::SERVICES, 0);
        assert_eq!((told.first_port, told.last_port), (61_000, 65_535));
        let file = put(
            &node,
            "web.yaml",
            &service("web", "10.96.0.9", 80, &[], &[]),
        );
        let flag = |tables: &Memory| config(tables).flags & config_flags::SERVICES != 0;
        let tables = node.tables.clone();
        until(agent, "the flag", move |_| flag(&tables));
        fs::remove_file(file).unwrap();
        let tables = node.tables.clone();
        until(agent, "no flag", move |_| !flag(&tables));

        // The node takes ports of ours for itself: the rest is used, and it is said.
        node.netns
            .run(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 61999"]);
        let tables = node.tables.clone();
        until(agent, "other ports", move |_| {
            config(&tables).first_port == 62_000
        });
        let status = agent.status();
        assert!(status.healthy);
        assert!(
            status
                .notes
                .iter()
                .any(|note| note.contains("only 62000-65535")),
            "{status:#?}"
        );
        node.netns
            .run(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"]);
        let status = until(agent, "the refusal", |status| !status.healthy);
        assert!(
            status
                .notes
                .iter()
                .any(|note| note.contains("--source-ports")),
            "{status:#?}"
        );
        assert_eq!(
            config(&node.tables).first_port,
            62_000,
            "what was used is used on"
        );
    });
    assert_eq!(
        Reason::SourcePortsExhausted.name(),
        "source-ports-exhausted"
    );
}

#[test]
fn a_full_table_is_told_and_tried_again() {
    let node = with_this_node();
    node.tables.fail_after(Some(0));
    put(
        &node,
        "web.yaml",
        &service("web", "10.96.0.9", 80, &["10.244.1.2"], &[]),
    );
    node.with_agent(|agent| {
        let status = until(agent, "the failure", |status| {
            status
                .kept
                .iter()
                .any(|kept| kept.what == "services" && kept.state == "failed")
        });
        assert!(!status.healthy);
        node.tables.fail_after(None);
        until_members(agent, &node, "default/web:http", &["10.244.1.2:8080"]);
        until_healthy(agent);
    });
}
