//! Connection tracking entries in a namespace of their own.

use std::net::UdpSocket;

use watari_nft::conntrack::Flows;
use watari_nft::message::Family;
use watari_nft::{Error, Socket};
use watari_testkit::Netns;

/// Entries of UDP flows to ports 53 and 54 of two loopback addresses, and to the first of them
/// over IPv6; then what is left of them after a deletion, as `address:port`.
fn left(forget: fn(&mut Socket, &Flows) -> Result<(), Error>, flows: Flows) -> Vec<String> {
    let ns = Netns::new("conntrack");
    // Tracking starts with the first rule that needs it.
    ns.run(&[
        "nft",
        "add table inet t; add chain inet t c { type filter hook output priority 0; }; \
         add rule inet t c ct state new accept",
    ]);
    ns.enter(|| {
        let four = UdpSocket::bind("127.0.0.1:0").expect("a socket of the test");
        let six = UdpSocket::bind("[::1]:0").expect("a socket of the test");
        for to in ["127.0.0.1:53", "127.0.0.2:53", "127.0.0.1:54"] {
            // A refusal of the one before may be reported here; the datagram leaves at the
            // second attempt then.
            if four.send_to(b"x", to).is_err() {
                four.send_to(b"x", to).expect("a socket of the test");
            }
        }
        six.send_to(b"x", "[::1]:53").expect("a socket of the test");
        let mut socket = Socket::open().expect("a socket of the test");
        forget(&mut socket, &flows).expect("a socket of the test");
    });
    let entries = ns.run(&["sh", "-c", "conntrack -L -f ipv4; conntrack -L -f ipv6"]);
    let mut left: Vec<String> = entries
        .lines()
        .filter_map(|line| {
            let field = |name| Some(line.split(name).nth(1)?.split(' ').next()?.to_owned());
            Some(format!("{}:{}", field(" dst=")?, field(" dport=")?))
        })
        .collect();
    left.sort();
    left
}

#[test]
fn the_entries_of_a_port_go_and_no_others() {
    for forget in [Socket::forget_flows, Socket::forget_flows_one_by_one] {
        let mut flows = Flows {
            family: Family::Ip,
            protocol: 17,
            address: None,
            port: 53,
            target: None,
        };
        assert_eq!(left(forget, flows), ["127.0.0.1:54", "::1:53"]);
        flows.address = Some([127, 0, 0, 2].into());
        let rest = ["127.0.0.1:53", "127.0.0.1:54", "::1:53"];
        assert_eq!(left(forget, flows), rest);
        flows.address = None;
        flows.target = Some([127, 0, 0, 1].into());
        let rest = ["127.0.0.1:54", "127.0.0.2:53", "::1:53"];
        assert_eq!(left(forget, flows), rest);
        flows.family = Family::Ip6;
        flows.target = None;
        let rest = ["127.0.0.1:53", "127.0.0.1:54", "127.0.0.2:53"];
        assert_eq!(left(forget, flows), rest);
        flows.port = 1;
        assert_eq!(left(forget, flows).len(), 4);
    }
}
