//! What connections meet.

use std::io::ErrorKind;
use std::net::TcpStream;

use serde_json::json;

use crate::world::{CLIENT, NODE, SHORT, World, asks, conf, connect, ip};
use crate::world::{listen, reaches, udp};

#[test]
fn tcp_and_udp_of_both_families_reach_the_pod_with_the_clients_address() {
    let world = World::new();
    let pod = world.pod(1);
    let server = listen(&pod.ns, "[::]:80");
    let [four, six] = ["10.244.0.1:53", "[fd44::1]:53"].map(|at| udp(&pod.ns, at));
    let conf = conf(&[(8080, 80, "tcp"), (5353, 53, "udp")]);
    assert!(connect(&world.client, "10.9.0.1:8080", SHORT).is_none());
    world.add(&pod, &conf);
    let seen = reaches(&world.client, "10.9.0.1:8080", &server);
    assert_eq!(seen.to_canonical().to_string(), CLIENT[0]);
    let seen = reaches(&world.client, "[fd09::1]:8080", &server);
    assert_eq!(seen.to_string(), CLIENT[1]);
    let client = udp(&world.client, "0.0.0.0:0");
    assert!(asks(&client, "10.9.0.1:5353", &four));
    let client = udp(&world.client, "[::]:0");
    assert!(asks(&client, "[fd09::1]:5353", &six));
    world.del(&pod, &conf);
    assert!(connect(&world.client, "10.9.0.1:8080", SHORT).is_none());
    assert!(connect(&world.client, "[fd09::1]:8080", SHORT).is_none());
    assert_eq!(world.elements(), 0);
}

#[test]
fn a_mapping_bound_to_an_address_is_met_there_alone_and_first() {
    let world = World::new();
    let (bound, any) = (world.pod(1), world.pod(2));
    let bound_server = listen(&bound.ns, "[::]:80");
    let any_server = listen(&any.ns, "[::]:80");
    let bound_conf = json!({ "runtimeConfig": { "portMappings": [
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": NODE[2] },
        { "hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": NODE[1] }
    ] } });
    world.add(&bound, &bound_conf);
    reaches(&world.client, "10.9.0.3:8080", &bound_server);
    reaches(&world.client, "[fd09::1]:8081", &bound_server);
    for elsewhere in ["10.9.0.1:8080", "[fd09::1]:8080", "10.9.0.3:8081"] {
        assert!(connect(&world.client, elsewhere, SHORT).is_none());
    }
    let any_conf = conf(&[(8080, 80, "tcp")]);
    world.add(&any, &any_conf);
    reaches(&world.client, "10.9.0.3:8080", &bound_server);
    reaches(&world.client, "10.9.0.1:8080", &any_server);
    world.check(&bound, &bound_conf).unwrap();
    world.del(&bound, &bound_conf);
    reaches(&world.client, "10.9.0.3:8080", &any_server);
}

#[test]
fn a_pod_reaches_itself_by_way_of_the_node() {
    let world = World::new();
    let pod = world.pod(1);
    let server = listen(&pod.ns, "[::]:80");
    world.add(&pod, &conf(&[(8080, 80, "tcp")]));
    let seen = reaches(&pod.ns, "10.9.0.1:8080", &server);
    assert!(!pod.addresses.contains(&seen.to_canonical()), "{seen}");
    let seen = reaches(&pod.ns, "[fd09::1]:8080", &server);
    assert!(!pod.addresses.contains(&seen), "{seen}");
    let other = world.pod(2);
    let seen = reaches(&other.ns, "10.9.0.1:8080", &server);
    assert_eq!(seen.to_canonical(), other.addresses[0]);
}

#[test]
fn the_node_reaches_the_pod_by_its_own_addresses_and_by_127_0_0_1() {
    let world = World::new();
    let pod = world.pod(1);
    let server = listen(&pod.ns, "[::]:80");
    let answering = udp(&pod.ns, "10.244.0.1:53");
    world.add(&pod, &conf(&[(8080, 80, "tcp"), (5353, 53, "udp")]));
    for own in ["10.9.0.1:8080", "10.9.0.3:8080", "[fd09::1]:8080"] {
        reaches(&world.node, own, &server);
    }
    let seen = reaches(&world.node, "127.0.0.1:8080", &server);
    assert!(!seen.to_canonical().is_loopback(), "{seen}");
    let client = udp(&world.node, "0.0.0.0:0");
    assert!(asks(&client, "127.0.0.1:5353", &answering));
    // ::1 cannot work, so it must not hang.
    let refused = world.node.enter(|| TcpStream::connect("[::1]:8080"));
    let kind = refused.map_err(|error| error.kind()).map(drop);
    assert_eq!(kind, Err(ErrorKind::ConnectionRefused));
}

#[test]
fn without_snat_the_loopback_does_not_work_and_with_masq_all_the_client_is_hidden() {
    let world = World::new();
    let pod = world.pod(1);
    let server = listen(&pod.ns, "[::]:80");
    let mut conf = conf(&[(8080, 80, "tcp")]);
    conf["snat"] = json!(false);
    world.add(&pod, &conf);
    world.check(&pod, &conf).unwrap();
    assert!(connect(&world.node, "127.0.0.1:8080", SHORT).is_none());
    reaches(&world.client, "10.9.0.1:8080", &server);
    world.del(&pod, &conf);
    conf["snat"] = json!(true);
    conf["masqAll"] = json!(true);
    world.add(&pod, &conf);
    world.check(&pod, &conf).unwrap();
    for from in [&world.client, &pod.ns] {
        let seen = reaches(from, "10.9.0.1:8080", &server).to_canonical();
        assert!(NODE.contains(&seen.to_string().as_str()), "{seen}");
    }
    reaches(&world.node, "127.0.0.1:8080", &server);
    world.del(&pod, &conf);
    assert_eq!(world.elements(), 0);
}

#[test]
fn a_pod_does_not_reach_the_nodes_loopback() {
    let world = World::new();
    let pod = world.pod(1);
    world.add(&pod, &conf(&[(8080, 80, "tcp")]));
    let private = udp(&world.node, "127.0.0.1:9");
    // A pod that may change its routes.
    ip(&pod.ns, "route del local 127.0.0.0/8 dev lo table local");
    ip(&pod.ns, "route del local 127.0.0.1 dev lo table local");
    let intruder = udp(&pod.ns, "10.244.0.1:9");
    let arrives = || {
        intruder.send_to(b"let me in", "127.0.0.1:9").unwrap();
        private.recv_from(&mut [0; 16]).is_ok()
    };
    assert!(!arrives());
    // It is the guard that keeps it out.
    let flush = ["nft", "flush", "chain", "inet", "watari-portmap", "guard"];
    world.node.run(&flush);
    assert!(arrives());
}

#[test]
fn a_udp_client_with_a_fixed_port_meets_the_change_at_once() {
    let world = World::new();
    let (one, two) = (world.pod(1), world.pod(2));
    let [first, second] =
        [(&one, "10.244.0.1:53"), (&two, "10.244.0.2:53")].map(|(pod, at)| udp(&pod.ns, at));
    let conf = conf(&[(5353, 53, "udp")]);
    let client = udp(&world.client, "10.9.0.2:4000");
    let to = "10.9.0.1:5353";
    // An entry that says "for the node itself", from before there was a mapping.
    let node = udp(&world.node, to);
    assert!(asks(&client, to, &node));
    drop(node);
    world.add(&one, &conf);
    assert!(asks(&client, to, &first));
    world.del(&one, &conf);
    // With nobody there, nothing arrives, but an entry appears again.
    assert!(!asks(&client, to, &first));
    world.add(&two, &conf);
    let client = {
        // The refusal of a moment ago is reported to the next call; take it.
        let _ = client.recv_from(&mut [0; 8]);
        client
    };
    assert!(asks(&client, to, &second));
}

#[test]
fn a_removed_udp_mapping_leaves_the_entries_of_others() {
    let world = World::new();
    let (one, two) = (world.pod(1), world.pod(2));
    let other = udp(&two.ns, "10.244.0.2:53");
    let mapped = udp(&one.ns, "10.244.0.1:53");
    let client = udp(&world.client, "10.9.0.2:4000");
    ip(&world.client, "route add 10.244.0.0/16 via 10.9.0.1");
    let conf = conf(&[(53, 53, "udp")]);
    world.add(&one, &conf);
    assert!(asks(&client, "10.9.0.1:53", &mapped));
    assert!(asks(&client, "10.244.0.2:53", &other));
    world.del(&one, &conf);
    let entries = world.node.run(&["conntrack", "-L", "-p", "udp"]);
    assert!(entries.contains("dst=10.244.0.2"), "{entries}");
    assert!(!entries.contains("src=10.244.0.1"), "{entries}");
}
