//! Who owns what: idempotence, conflicts, late and concurrent calls, CHECK, GC, STATUS.

use std::time::Instant;

use serde_json::json;
use watari_cni::portmap;
use watari_cni_spec::{Code, Command};
use watari_testkit::Netns;

use crate::world::{Pod, World, conf, listen, reaches};

/// A pod without a namespace that anything happens in.
fn paper_pod(number: u16) -> Pod {
    let [high, low] = number.to_be_bytes();
    Pod {
        ns: Netns::new("paper"),
        link: "none".to_owned(),
        addresses: [
            [10, 245, high, low].into(),
            format!("fd45::{number:x}").parse().expect("an address"),
        ],
        container: format!("paper{number}"),
    }
}

#[test]
fn nft_lists_the_table_readably() {
    let world = World::new();
    let pod = world.pod(1);
    world.add(&pod, &conf(&[(8080, 80, "tcp")]));
    let ruleset = world.ruleset();
    for line in [
        "tcp . 8080 comment \"test-net/pod1/eth0\" : 10.244.0.1 . 80",
        "tcp . 8080 comment \"test-net/pod1/eth0\" : fd44::1 . 80",
        "type nat hook prerouting priority dstnat; policy accept;",
        "type nat hook output priority -100; policy accept;",
        "type nat hook postrouting priority srcnat; policy accept;",
        "ip6 daddr ::1 return",
        "fib daddr type local goto hostports",
        "dnat ip to ip daddr . meta l4proto . th dport map @boundports4",
        "dnat ip to meta l4proto . th dport map @hostports4",
        "dnat ip6 to ip6 daddr . meta l4proto . th dport map @boundports6",
        "ct status dnat ip saddr . ip daddr @snat4 masquerade",
        "ct status dnat ip6 saddr . ip6 daddr @snat6 masquerade",
        "iif != \"lo\" ip daddr 127.0.0.0/8 drop",
        "elements = { \"d1b121f2dbde30a\" comment \"test-net/pod1/eth0\" }",
        "127.0.0.1 . 10.244.0.1 comment \"test-net/pod1/eth0\"",
    ] {
        assert!(ruleset.contains(line), "{line} is not in\n{ruleset}");
    }
    println!("{ruleset}");
}

#[test]
fn add_is_idempotent_and_a_taken_port_names_its_holder_and_changes_nothing() {
    let world = World::new();
    let (one, two) = (world.pod(1), world.pod(2));
    let mappings = conf(&[(8080, 80, "tcp"), (0, 81, "tcp")]);
    world.add(&one, &mappings);
    let before = world.ruleset();
    world.add(&one, &mappings);
    assert_eq!(world.ruleset(), before);
    let error = world
        .try_add(&two, &conf(&[(8081, 80, "tcp"), (8080, 80, "tcp")]))
        .expect_err("the port is taken");
    assert_eq!(error.code, Code::PORT_TAKEN);
    assert!(error.to_string().contains("8080/tcp"), "{error}");
    assert!(error.to_string().contains("test-net/pod1/eth0"), "{error}");
    assert_eq!(world.ruleset(), before);
    // The same container with another port: the mapping follows.
    world.add(&one, &conf(&[(8080, 90, "tcp")]));
    let server = listen(&one.ns, "[::]:90");
    reaches(&world.client, "10.9.0.1:8080", &server);
    // An address belongs to one: who has it now takes over what it led to.
    let mut heir = one;
    let container = std::mem::replace(&mut heir.container, "heir".to_owned());
    world.add(&heir, &mappings);
    world.check(&heir, &mappings).unwrap();
    let late = Pod { container, ..heir };
    world.del(&late, &json!({}));
    let ruleset = world.ruleset();
    assert!(!ruleset.contains("pod1/eth0"), "{ruleset}");
    assert!(ruleset.contains("heir/eth0"), "{ruleset}");
}

#[test]
fn a_late_del_does_not_hurt_the_next_holder() {
    let world = World::new();
    let (one, two) = (world.pod(1), world.pod(2));
    let mappings = conf(&[(8080, 80, "tcp"), (5353, 53, "udp")]);
    world.del(&one, &mappings);
    world.del(&one, &json!({}));
    world.add(&one, &mappings);
    world.del(&one, &json!({}));
    assert_eq!(world.elements(), 0);
    world.add(&two, &mappings);
    let before = world.ruleset();
    world.del(&one, &mappings);
    world.del(&one, &json!({}));
    assert_eq!(world.ruleset(), before);
    world.node.run(&["nft", "flush", "ruleset"]);
    world.del(&two, &mappings);
    world.del(&two, &json!({}));
}

#[test]
fn sixteen_at_once_share_the_table_and_one_alone_gets_a_port() {
    let world = World::new();
    let pods: Vec<Pod> = (1..=16).map(paper_pod).collect();
    let of = |pod: &Pod| {
        let base: u16 = pod.container[5..].parse::<u16>().unwrap() * 100;
        let mappings: Vec<_> = (0..8).map(|at| (base + at, 80, "tcp")).collect();
        conf(&mappings)
    };
    for round in 0..3 {
        std::thread::scope(|scope| {
            for pod in &pods {
                scope.spawn(|| world.add(pod, &of(pod)));
            }
        });
        // For each family: eight mappings, hairpin; for IPv4 the loopback; the owner.
        assert_eq!(world.elements(), 16 * (2 * 9 + 2));
        let given = if round == 1 { Some(json!({})) } else { None };
        std::thread::scope(|scope| {
            for pod in &pods {
                let conf = given.clone().unwrap_or_else(|| of(pod));
                let world = &world;
                scope.spawn(move || world.del(pod, &conf));
            }
        });
        assert_eq!(world.elements(), 0, "{}", world.ruleset());
    }
    let wanted = conf(&[(8080, 80, "tcp")]);
    let won = std::thread::scope(|scope| {
        let tries: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(|| world.try_add(pod, &wanted)))
            .collect();
        let results = tries.into_iter().map(|at| at.join().unwrap());
        results
            .filter(|result| match result {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.code, Code::PORT_TAKEN, "{error}");
                    false
                }
            })
            .count()
    });
    assert_eq!(won, 1);
}

const LIST: [&str; 2] = ["inet", "watari-portmap"];

/// After this change on the node, CHECK says this.
#[track_caller]
fn differs(world: &World, pod: &Pod, change: &[&str], said: &str) {
    let mappings = conf(&[(8080, 80, "tcp")]);
    world.add(pod, &mappings);
    assert_eq!(world.check(pod, &mappings), Ok(()));
    world.node.run(change);
    let error = world.check(pod, &mappings).expect_err(said);
    assert_eq!(error.code, Code::CHECK_FAILED);
    assert!(error.details.contains(said), "{error}");
}

#[test]
fn check_names_what_differs_and_add_repairs_it() {
    let world = World::new();
    let pod = world.pod(1);
    let [family, name] = LIST;
    let delete = ["nft", "delete", "element", family, name];
    differs(
        &world,
        &pod,
        &[&delete[..], &["hostports4", "{ tcp . 8080 }"]].concat(),
        "element 8080/tcp : 10.244.0.1:80 of map hostports4 is missing",
    );
    differs(
        &world,
        &pod,
        &[&delete[..], &["snat4", "{ 127.0.0.1 . 10.244.0.1 }"]].concat(),
        "element 127.0.0.1 . 10.244.0.1 of set snat4 is missing",
    );
    let echo = "echo 0 >/proc/sys/net/ipv4/conf/azv1/route_localnet";
    let said = "route_localnet is 0 instead of 1";
    differs(&world, &pod, &["sh", "-c", echo], said);
    let delete = ["nft", "delete", "table", family, name];
    let said = "table inet watari-portmap is missing";
    differs(&world, &pod, &delete, said);
}

#[test]
fn check_names_the_rule_that_differs() {
    let world = World::new();
    let pod = world.pod(1);
    let [family, name] = LIST;
    let delete = ["nft", "delete", "table", family, name];
    let insert = [
        "nft",
        "insert",
        "rule",
        family,
        name,
        "prerouting",
        "accept",
    ];
    let said = "chain prerouting has 2 rules instead of 1";
    differs(&world, &pod, &insert, said);
    world.node.run(&delete);
    let flush = ["nft", "flush", "chain", family, name, "output"];
    differs(&world, &pod, &flush, "chain output has 0 rules");
    world.node.run(&delete);
    let script = "handle=$(nft -a list chain inet watari-portmap prerouting \
        | sed -n 's/.*goto hostports # handle //p'); \
        nft replace rule inet watari-portmap prerouting handle $handle accept";
    let said = "rule 1 of chain prerouting differs";
    differs(&world, &pod, &["sh", "-c", script], said);
}

#[test]
fn gc_removes_what_no_valid_attachment_of_this_network_has() {
    let world = World::new();
    let (kept, gone) = (world.pod(1), world.pod(2));
    world.add(&kept, &conf(&[(8080, 80, "tcp")]));
    world.add(&gone, &conf(&[(8081, 80, "tcp"), (5353, 53, "udp")]));
    world.node.run(&[
        "nft",
        "add element inet watari-portmap hostports4 \
         { tcp . 9 comment \"test-net2/pod9/eth0\" : 10.0.0.9 . 9 }",
    ]);
    let error = world
        .plugin(&kept, Command::Gc, &json!({}), portmap::gc)
        .expect_err("no list of valid attachments");
    assert_eq!(error.code, Code::INVALID_CONFIG);
    let valid = json!({ "cni.dev/valid-attachments":
        [{ "containerID": "pod1", "ifname": "eth0" }] });
    world
        .plugin(&kept, Command::Gc, &valid, portmap::gc)
        .unwrap();
    world.check(&kept, &conf(&[(8080, 80, "tcp")])).unwrap();
    let ruleset = world.ruleset();
    assert!(!ruleset.contains("test-net/pod2"), "{ruleset}");
    assert!(ruleset.contains("test-net2/pod9"), "{ruleset}");
}

#[test]
fn status_probes_and_leaves_nothing() {
    let world = World::new();
    let pod = world.pod(1);
    world
        .plugin(&pod, Command::Status, &json!({}), portmap::status)
        .unwrap();
    assert_eq!(world.ruleset(), "");
    world.add(&pod, &conf(&[(8080, 80, "tcp")]));
    world
        .plugin(&pod, Command::Status, &json!({}), portmap::status)
        .unwrap();
}

#[test]
fn status_beside_add_never_takes_a_mapping_away() {
    let world = World::new();
    let pod = paper_pod(1);
    let mappings = conf(&[(8080, 80, "tcp")]);
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    world
                        .plugin(&pod, Command::Status, &json!({}), portmap::status)
                        .unwrap_or_else(|error| panic!("{error}"));
                });
            }
            scope.spawn(|| world.add(&pod, &mappings));
        });
        assert_eq!(world.check(&pod, &mappings), Ok(()));
        world.node.run(&["nft", "flush", "ruleset"]);
    }
}

#[test]
fn what_is_not_supported_is_refused_and_what_does_no_harm_is_not() {
    let world = World::new();
    let pod = world.pod(1);
    let with = |field: &str, value: serde_json::Value| {
        let mut conf = conf(&[(8080, 80, "tcp")]);
        conf[field] = value;
        world.try_add(&pod, &conf).map_err(|error| error.code)
    };
    let refused = Err(Code::UNSUPPORTED_FIELD);
    assert_eq!(
        with("conditionsV4", json!(["-s", "10.0.0.0/8"])).map(drop),
        refused
    );
    assert_eq!(
        with("conditionsV6", json!(["!", "-d", "::1"])).map(drop),
        refused
    );
    assert_eq!(with("backend", json!("iptables")).map(drop), refused);
    assert_eq!(
        with("snat", json!("yes")).map(drop),
        Err(Code::INVALID_CONFIG)
    );
    assert_eq!(world.ruleset(), "");
    assert!(with("backend", json!("nftables")).is_ok());
    assert!(with("conditionsV4", json!([])).is_ok());
    assert!(with("externalSetMarkChain", json!("KUBE-MARK-MASQ")).is_ok());
    assert!(with("markMasqBit", json!(13)).is_ok());
    let twice = conf(&[(9000, 80, "tcp"), (9000, 81, "tcp")]);
    let error = world.try_add(&pod, &twice).expect_err("mapped twice");
    assert_eq!(error.code, Code::INVALID_CONFIG);
    // Without mappings nothing happens, and prevResult passes.
    let other = world.pod(2);
    world.add(&other, &json!({}));
    assert!(!world.ruleset().contains("pod2"));
}

#[test]
fn the_thousandth_mapping_costs_what_the_first_did() {
    let world = World::new();
    let crowd = paper_pod(1000);
    let probe = paper_pod(1001);
    let mappings = conf(&[(60_000, 80, "tcp")]);
    let time = |what: &str| {
        let mut times: Vec<_> = (0..50)
            .map(|_| {
                world.node.enter(|| ()); // The thread's own cost, once, before the clock starts.
                let start = Instant::now();
                world.add(&probe, &mappings);
                let added = start.elapsed();
                let start = Instant::now();
                world.del(&probe, &mappings);
                (added, start.elapsed())
            })
            .collect();
        times.sort();
        let (added, removed) = times[times.len() / 2];
        println!("{what}: ADD {added:?}, DEL {removed:?} (median of 50)");
    };
    world.add(&probe, &mappings);
    world.del(&probe, &mappings);
    time("alone");
    let many: Vec<_> = (0..1000).map(|at| (20_000 + at, 80, "tcp")).collect();
    world.add(&crowd, &conf(&many));
    time("beside 1,000 mappings");
    let start = Instant::now();
    world.del(&crowd, &json!({}));
    println!("all 1,000 at once by their owner: {:?}", start.elapsed());
    assert_eq!(world.elements(), 0);
}

/// As the reference plugin does: `0.0.0.0` is every IPv4 address of the node and no IPv6 one.
#[test]
fn an_unspecified_host_address_means_all_of_its_family_alone() {
    let world = World::new();
    let pod = world.pod(1);
    let mapping = |port, to, address: &str| json!({ "hostPort": port, "containerPort": to, "protocol": "tcp", "hostIP": address });
    let mappings = json!({ "runtimeConfig": { "portMappings": [
        mapping(8080, 80, "0.0.0.0"), mapping(8080, 81, "::"), mapping(8081, 81, "::"),
    ] } });
    world.add(&pod, &mappings);
    let ruleset = world.ruleset();
    for (element, there) in [
        (
            "tcp . 8080 comment \"test-net/pod1/eth0\" : 10.244.0.1 . 80",
            true,
        ),
        (
            "tcp . 8080 comment \"test-net/pod1/eth0\" : fd44::1 . 81",
            true,
        ),
        (
            "tcp . 8081 comment \"test-net/pod1/eth0\" : fd44::1 . 81",
            true,
        ),
        (
            "tcp . 8081 comment \"test-net/pod1/eth0\" : 10.244.0.1",
            false,
        ),
    ] {
        assert_eq!(ruleset.contains(element), there, "{element}\n{ruleset}");
    }
    world.check(&pod, &mappings).unwrap();
    world.del(&pod, &mappings);
    assert_eq!(world.elements(), 0, "{}", world.ruleset());
    // What says the same as another, and leads elsewhere, is a mistake.
    let twice = json!({ "runtimeConfig": { "portMappings": [
        mapping(8080, 80, "0.0.0.0"), mapping(8080, 81, ""),
    ] } });
    let error = world.try_add(&pod, &twice).expect_err("mapped twice");
    assert!(error.to_string().contains("twice"), "{error}");
}
