//! SCTP, by a packet written by hand: the kernel of a test machine may have no SCTP sockets.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::world::{World, conf};

/// CRC-32C, as SCTP uses it (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}

/// An SCTP INIT with its IPv4 header (the kernel fills in length and checksum of that).
fn init(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut sctp = Vec::new();
    sctp.extend(40_000_u16.to_be_bytes());
    sctp.extend(port.to_be_bytes());
    // Verification tag, checksum.
    sctp.extend([0; 8]);
    // INIT: tag, window, streams out and in, first TSN.
    sctp.extend([1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&sctp).to_le_bytes();
    sctp[8..12].copy_from_slice(&sum);
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 132, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(sctp);
    packet
}

#[test]
fn an_sctp_association_is_led_to_the_pod() {
    let world = World::new();
    let pod = world.pod(1);
    let capture = pod.ns.enter(|| {
        let kind = SockType::Raw;
        let all = SockProtocol::EthAll;
        let fd = socket(AddressFamily::Packet, kind, SockFlag::empty(), all).unwrap();
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).unwrap();
        fd
    });
    let conf = conf(&[(3868, 3869, "sctp")]);
    world.add(&pod, &conf);
    world.check(&pod, &conf).unwrap();
    let (client, node) = (Ipv4Addr::new(10, 9, 0, 2), Ipv4Addr::new(10, 9, 0, 1));
    world.client.enter(|| {
        let raw = SockProtocol::Raw;
        let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), raw).unwrap();
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(node, 0));
        let packet = init(client, node, 3868);
        sendto(fd.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    });
    let mut frame = [0; 2048];
    for _ in 0..100 {
        let length = recv(capture.as_raw_fd(), &mut frame, MsgFlags::empty())
            .expect("the INIT arrives in the pod");
        let packet = &frame[14..length];
        if packet[0] != 0x45 || packet[9] != 132 {
            continue;
        }
        assert_eq!(packet[12..16], client.octets());
        assert_eq!(packet[16..20], [10, 244, 0, 1]);
        assert_eq!(packet[22..24], 3869_u16.to_be_bytes());
        return;
    }
    panic!("a hundred other packets arrived in the pod");
}
