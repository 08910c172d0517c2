//! Servers that send back what they get, and clients that hold them to it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use watari_testkit::Netns;

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How often a server looks whether it shall end.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// The most data that UDP over IPv4 carries, and that `ping` sends by either family.
pub const LONGEST: usize = 65_507;

/// Sends everything back, by TCP and by UDP, on one port. Ends with this value.
pub struct EchoServer {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl EchoServer {
    /// Starts it in a namespace, on an address of that; any port for zero.
    pub fn start(netns: &Netns, address: IpAddr, port: u16) -> Result<Self> {
        let (listener, socket) = netns.enter(|| -> Result<_> {
            let listener = TcpListener::bind((address, port))
                .with_context(|| format!("cannot listen on {address}:{port}"))?;
            let socket = UdpSocket::bind(listener.local_addr()?)?;
            Ok((listener, socket))
        })?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        listener.set_nonblocking(true)?;
        socket.set_read_timeout(Some(BETWEEN_LOOKS))?;
        let (tcp, udp) = (stop.clone(), stop.clone());
        let threads = vec![
            std::thread::spawn(move || serve_tcp(&listener, &tcp)),
            std::thread::spawn(move || serve_udp(&socket, &udp)),
        ];
        Ok(Self {
            address,
            stop,
            threads,
        })
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It ends by itself, or has panicked and said so.
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    let mut threads = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let stop = stop.clone();
                threads.push(std::thread::spawn(move || serve_stream(stream, &stop)));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// Until the client closes, or somebody breaks it: the client finds out.
fn serve_stream(mut stream: TcpStream, stop: &AtomicBool) {
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_nodelay(true))
        .and_then(|()| stream.set_read_timeout(Some(BETWEEN_LOOKS)));
    let mut buffer = vec![0; 64 * 1024];
    while ready.is_ok() && !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}

fn serve_udp(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((count, from)) = socket.recv_from(&mut buffer) {
            // Who is gone gets no answer.
            let _ = socket.send_to(&buffer[..count], from);
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Bytes in which every place can be told from its neighbours.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(byte).take(length).collect()
}

/// A connection that stays open.
#[derive(Debug)]
pub struct Conversation(TcpStream);

impl Conversation {
    /// Opens one, from the namespace of the calling thread.
    pub fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)
            .with_context(|| format!("cannot connect to {server}"))?;
        Self::by(stream)
    }

    /// Opens one from a port that others of this namespace may use at the same time towards
    /// somebody else.
    pub fn open_from(port: u16, server: SocketAddr) -> Result<Self> {
        Self::by(shared_port(SockType::Stream, port, server)?.into())
    }

    fn by(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// This end's address.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    /// Sends so many bytes and gets them back, both ways at once.
    pub fn exchange(&mut self, length: usize) -> Result<()> {
        let bytes = pattern(length);
        let mut writer = self.0.try_clone()?;
        let mut back = vec![0; length];
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write_all(&bytes));
            self.0.read_exact(&mut back).context("no answer by TCP")?;
            let written = writing.join();
            written.map_err(|_| anyhow!("a thread panicked"))??;
            ensure!(back == bytes, "TCP changed {length} bytes");
            Ok(())
        })
    }
}

/// One connection, so many bytes each way.
pub fn tcp(server: SocketAddr, length: usize) -> Result<()> {
    Conversation::open(server)?.exchange(length)
}

/// A datagram of each of these lengths, each way. One that is lost is sent once more: the queues
/// of a busy machine are short; what never arrives fails.
pub fn udp(server: SocketAddr, lengths: &[usize]) -> Result<()> {
    let socket = UdpSocket::bind((unspecified(server), 0))?;
    socket.connect(server)?;
    ask(&socket, lengths, "UDP", <[u8]>::to_vec)
}

/// A connected UDP socket with a port that others of this namespace may use at the same time.
pub fn udp_from(port: u16, server: SocketAddr) -> Result<UdpSocket> {
    Ok(shared_port(SockType::Datagram, port, server)?.into())
}

/// A datagram of each of these lengths, each way, by a socket that is connected already.
pub fn udp_by(socket: &UdpSocket, lengths: &[usize]) -> Result<()> {
    ask(socket, lengths, "UDP", <[u8]>::to_vec)
}

/// A socket that is connected from a port which it shares.
fn shared_port(kind: SockType, port: u16, server: SocketAddr) -> Result<OwnedFd> {
    let family = if server.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd: OwnedFd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    let any = SocketAddr::new(unspecified(server), port);
    bind(fd.as_raw_fd(), &SockaddrStorage::from(any)).context("cannot share a port")?;
    // That long `connect` waits, too.
    let timeout = TimeVal::seconds(PATIENCE.as_secs().try_into()?);
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(server))
        .with_context(|| format!("cannot connect to {server} from port {port}"))?;
    Ok(fd)
}

/// Any address of the server's family.
const fn unspecified(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// A ping of each of these lengths, in bytes of data, from the namespace of the calling thread.
pub fn ping(to: IpAddr, lengths: &[usize]) -> Result<()> {
    // Who may use ICMP sockets.
    let path = "/proc/sys/net/ipv4/ping_group_range";
    std::fs::write(path, "0 0").with_context(|| format!("cannot write {path}"))?;
    let (family, protocol, kind) = if to.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp, 8)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6, 128)
    };
    let socket: OwnedFd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)
        .context("cannot open an ICMP socket")?;
    let socket = UdpSocket::from(socket);
    socket.connect((to, 0))?;
    let mut sequence = 0_u16;
    ask(&socket, lengths, "ping", |payload| {
        sequence = sequence.wrapping_add(1);
        let [high, low] = sequence.to_be_bytes();
        // The kernel fills checksum and identifier in.
        [&[kind, 0, 0, 0, 0, 0, high, low], payload].concat()
    })
}

fn ask(
    socket: &UdpSocket,
    lengths: &[usize],
    what: &str,
    mut message: impl FnMut(&[u8]) -> Vec<u8>,
) -> Result<()> {
    let all = pattern(LONGEST);
    let mut buffer = vec![0; 65_536];
    socket.set_read_timeout(Some(PATIENCE / 20))?;
    for &length in lengths {
        let payload = &all[..length];
        let deadline = Instant::now() + PATIENCE;
        'again: loop {
            if Instant::now() >= deadline {
                bail!("no answer to {length} bytes by {what}");
            }
            let sent = socket.send(&message(payload));
            sent.with_context(|| format!("cannot send {length} bytes by {what}"))?;
            loop {
                match socket.recv(&mut buffer) {
                    Ok(count) if buffer[..count].ends_with(payload) && count <= length + 8 => {
                        break 'again;
                    }
                    // The late answer to one that was sent again.
                    Ok(_) => {}
                    Err(error) if is_timeout(&error) => break,
                    Err(error) => {
                        let what = format!("no answer to {length} bytes by {what}");
                        return Err(error).context(what);
                    }
                }
            }
        }
    }
    Ok(())
}
