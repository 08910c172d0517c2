//! Traffic between two pods of which no packet may be lost.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use watari_testkit::wait_until;

use crate::world::Pod;

/// How long an answer may take: far longer than on any machine, and a lost one never comes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A conversation: one asks, the other answers, for each protocol and family; with a pause of
/// less than a millisecond.
pub struct Traffic<'a> {
    pods: [&'a Pod; 2],
    stop: Arc<AtomicBool>,
    /// Round trips so far, by conversation.
    counts: Vec<(&'static str, Arc<AtomicU64>)>,
    threads: Vec<JoinHandle<()>>,
    lost: [u64; 2],
}

/// A counter of a pod's TCP, from a file as `/proc/net/snmp`: a line of names, then one of values.
fn counter(pod: &Pod, file: &str, kind: &str, wanted: &str) -> u64 {
    let text = pod
        .ns
        .enter(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")))
        .expect("read the counters");
    let mut lines = text.lines().filter(|line| line.starts_with(kind));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    names
        .split(' ')
        .zip(values.split(' '))
        .find(|(name, _)| *name == wanted)
        .and_then(|(_, value)| value.parse().ok())
        .expect("the counter")
}

/// Segments that a pod's TCP has sent again, less those that arrived twice: on a busy machine an
/// answer may take so long that it is asked for again.
fn lost(pod: &Pod) -> u64 {
    let again = counter(pod, "snmp", "Tcp:", "RetransSegs");
    again.saturating_sub(counter(pod, "netstat", "TcpExt:", "TCPDSACKRecv"))
}

impl<'a> Traffic<'a> {
    pub fn start(client: &'a Pod, server: &'a Pod) -> Self {
        let mut traffic = Self {
            pods: [client, server],
            stop: Arc::default(),
            counts: Vec::new(),
            threads: Vec::new(),
            lost: [lost(client), lost(server)],
        };
        for address in &server.addresses {
            let (tcp, udp) = if address.is_ipv4() {
                ("TCP over IPv4", "UDP over IPv4")
            } else {
                ("TCP over IPv6", "UDP over IPv6")
            };
            traffic.tcp(tcp, *address);
            traffic.udp(udp, *address);
        }
        traffic.goes_on("the beginning");
        traffic
    }

    fn ask(&mut self, name: &'static str, mut once: impl FnMut(u64) + Send + 'static) {
        let count = Arc::new(AtomicU64::new(0));
        self.counts.push((name, Arc::clone(&count)));
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                once(count.load(Ordering::Relaxed));
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(500));
            }
        }));
    }

    fn tcp(&mut self, name: &'static str, address: IpAddr) {
        let [client, server] = self.pods;
        let listener = server
            .ns
            .enter(|| TcpListener::bind((address, 0)).expect("listen"));
        let port = listener.local_addr().expect("an address").port();
        let mut near = client
            .ns
            .enter(|| TcpStream::connect((address, port)).expect("connect"));
        let (mut far, _) = listener.accept().expect("accept");
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("set no delay");
            stream
                .set_read_timeout(Some(PATIENCE))
                .expect("set a deadline");
        }
        self.threads.push(std::thread::spawn(move || {
            let mut bytes = [0; 8];
            // Ends with the connection.
            while far.read_exact(&mut bytes).is_ok() && far.write_all(&bytes).is_ok() {}
        }));
        self.ask(name, move |number| {
            near.write_all(&number.to_ne_bytes()).expect("send");
            let mut bytes = [0; 8];
            near.read_exact(&mut bytes).expect("an answer");
            assert_eq!(u64::from_ne_bytes(bytes), number);
        });
    }

    fn udp(&mut self, name: &'static str, address: IpAddr) {
        let [client, server] = self.pods;
        let bind = |pod: &Pod, address: IpAddr| {
            let socket = pod
                .ns
                .enter(|| UdpSocket::bind((address, 0)).expect("bind"));
            socket
                .set_read_timeout(Some(PATIENCE))
                .expect("set a deadline");
            socket
        };
        let far = bind(server, address);
        let turn = Duration::from_millis(100);
        far.set_read_timeout(Some(turn)).expect("set a turn");
        let to: SocketAddr = far.local_addr().expect("an address");
        let own = client
            .addresses
            .iter()
            .find(|a| a.is_ipv4() == address.is_ipv4());
        let near = bind(client, *own.expect("an address"));
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let mut bytes = [0; 8];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = far.recv_from(&mut bytes) {
                    far.send_to(&bytes, from).expect("answer");
                }
            }
        }));
        self.ask(name, move |number| {
            near.send_to(&number.to_ne_bytes(), to).expect("send");
            let mut bytes = [0; 8];
            near.recv(&mut bytes)
                .unwrap_or_else(|error| panic!("datagram {number} or its answer is lost: {error}"));
            assert_eq!(u64::from_ne_bytes(bytes), number);
        });
    }

    /// Waits until every conversation has gone on.
    pub fn goes_on(&self, when: &str) {
        let before: Vec<u64> = self
            .counts
            .iter()
            .map(|(_, c)| c.load(Ordering::Relaxed))
            .collect();
        for ((name, count), before) in self.counts.iter().zip(before) {
            wait_until(PATIENCE * 2, &format!("{name} to go on ({when})"), || {
                count.load(Ordering::Relaxed) > before + 3
            });
        }
    }

    /// Ends it, and holds that nothing was lost. Gives the round trips of each conversation.
    pub fn end(self) -> Vec<(&'static str, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a conversation that ends well");
        }
        for (pod, before) in self.pods.into_iter().zip(self.lost) {
            assert_eq!(lost(pod), before, "segments were lost");
        }
        let counts = self.counts.into_iter();
        counts
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
            .collect()
    }
}
