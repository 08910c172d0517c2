use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::StatusCode;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::http::{self, Asked, canonical};
use crate::layout::SCHEMA;

/// The port of HTTP and UDP when none is named.
const DEFAULT_PORT: u16 = 80;
/// A TCP client that says nothing for so long is hung up on.
const IDLE: Duration = Duration::from_mins(10);
/// The longest datagram that is answered, in bytes.
const DATAGRAM: usize = 65_535;
/// How much of a datagram is repeated in the answer, in bytes.
const REPEATED: usize = 256;

/// What the built-in server listens on.
#[derive(Debug, Clone, Default)]
pub struct EchoOptions {
    /// HTTP ports.
    pub http: Vec<u16>,
    /// TCP ports: says who it is, then repeats what it hears.
    pub tcp: Vec<u16>,
    /// UDP ports.
    pub udp: Vec<u16>,
    /// What it calls itself.
    pub name: Option<String>,
}

/// Who this server is.
struct Who {
    name: String,
    hostname: String,
    node: Option<String>,
}

impl Who {
    fn find(name: Option<String>) -> Result<Self> {
        let hostname = nix::unistd::gethostname().context("find the host name")?;
        let hostname = hostname.to_string_lossy().into_owned();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Ok(Self {
            name: name
                .or_else(|| variable("WATARI_NAME"))
                .unwrap_or_else(|| hostname.clone()),
            node: variable("WATARI_NODE"),
            hostname,
        })
    }

    /// Who it is and whom it saw.
    fn answer(&self, protocol: &str, peer: SocketAddr, local: Option<SocketAddr>) -> Value {
        json!({
            "schema": SCHEMA,
            "name": self.name,
            "hostname": self.hostname,
            "node": self.node,
            "protocol": protocol,
            "peer": canonical(peer).to_string(),
            "local": local.map(|local| canonical(local).to_string()),
        })
    }
}

/// Serves until told to end (SIGTERM or SIGINT).
pub fn echo(options: EchoOptions) -> Result<()> {
    echo_then(options, || Ok(()))
}

/// The same; `ready` is called when all ports are listened on.
pub fn echo_then(mut options: EchoOptions, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    if options.http.is_empty() && options.tcp.is_empty() && options.udp.is_empty() {
        options.http.push(DEFAULT_PORT);
        options.udp.push(DEFAULT_PORT);
    }
    let who = Arc::new(Who::find(options.name.take())?);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the server")?
        .block_on(run(options, who, ready))
}

async fn run(
    options: EchoOptions,
    who: Arc<Who>,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    // Before it listens: who waits for a port and then ends the server ends it cleanly.
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut tasks = JoinSet::new();
    for port in options.http {
        let (listener, who) = (listen(port)?, Arc::clone(&who));
        let handler = move |asked: &Asked<'_>| {
            let mut answer = who.answer("http", asked.peer, Some(asked.local));
            answer["method"] = asked.method.into();
            answer["target"] = asked.target.into();
            (StatusCode::OK, "application/json", format!("{answer}\n"))
        };
        tasks.spawn(http::serve(listener, Arc::new(handler)));
    }
    for port in options.tcp {
        tasks.spawn(serve_tcp(listen(port)?, Arc::clone(&who)));
    }
    for port in options.udp {
        tasks.spawn(serve_udp(bind_udp(port)?, Arc::clone(&who)));
    }
    ready()?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = tasks.join_next() => bail!("a listener ended"),
    }
}

/// Both families on one socket, or IPv4 alone where there is no IPv6.
fn bind<T>(port: u16, bind: impl Fn(SocketAddr) -> io::Result<T>) -> Result<T> {
    let both = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    both.or_else(|error| match error.raw_os_error() {
        Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL) => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        _ => Err(error),
    })
    .with_context(|| format!("listen on port {port}"))
}

fn listen(port: u16) -> Result<TcpListener> {
    let listener = bind(port, std::net::TcpListener::bind)?;
    listener
        .set_nonblocking(true)
        .context("set up a listener")?;
    TcpListener::from_std(listener).context("set up a listener")
}

async fn serve_tcp(listener: TcpListener, who: Arc<Who>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let who = Arc::clone(&who);
                // A client that breaks off is no failure of the server.
                tokio::spawn(async move { repeat(stream, peer, &who).await.ok() });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn repeat(mut stream: TcpStream, peer: SocketAddr, who: &Who) -> io::Result<()> {
    let answer = who.answer("tcp", peer, stream.local_addr().ok());
    stream.write_all(format!("{answer}\n").as_bytes()).await?;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tokio::time::timeout(IDLE, stream.read(&mut buffer)).await;
        match read {
            Ok(Ok(length)) if length > 0 => stream.write_all(&buffer[..length]).await?,
            _ => return Ok(()),
        }
    }
}

fn bind_udp(port: u16) -> Result<UdpSocket> {
    let socket = bind(port, StdUdpSocket::bind)?;
    // On a node with several addresses the answer must come from the one that was called.
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).context("ask for called addresses")?;
    if socket.local_addr().is_ok_and(|local| local.is_ipv6()) {
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
            .context("ask for called addresses")?;
    }
    socket.set_nonblocking(true).context("set up a socket")?;
    UdpSocket::from_std(socket).context("set up a socket")
}

async fn serve_udp(socket: UdpSocket, who: Arc<Who>) {
    let port = socket.local_addr().map_or(0, |local| local.port());
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let received = socket
            .async_io(Interest::READABLE, || receive(&socket, &mut buffer))
            .await;
        let Ok((length, Some(peer), called)) = received else {
            continue;
        };
        let local = called.map(|called| SocketAddr::new(called.address(), port));
        let mut answer = who.answer("udp", peer, local);
        let heard = &buffer[..length.min(REPEATED)];
        answer["heard"] = String::from_utf8_lossy(heard).into();
        // Lost answers are the caller's to notice, as everywhere in UDP.
        let _ = send(&socket, format!("{answer}\n").as_bytes(), peer, called);
    }
}

/// The address that a datagram was sent to, in the form that the answer is sent from.
#[derive(Clone, Copy)]
enum Called {
    Four(nix::libc::in_pktinfo),
    Six(nix::libc::in6_pktinfo),
}

impl Called {
    fn address(self) -> IpAddr {
        match self {
            Self::Four(info) => IpAddr::V4(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())),
            Self::Six(info) => IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
        }
    }
}

fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<SocketAddr>, Option<Called>)> {
    let mut space = nix::cmsg_space!(nix::libc::in_pktinfo, nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let fd = socket.as_raw_fd();
    let message =
        recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let mut called = None;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => called = Some(Called::Four(info)),
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                called = called.or(Some(Called::Six(info)));
            }
            _ => {}
        }
    }
    let peer = message.address.as_ref().and_then(socket_address);
    Ok((message.bytes, peer, called))
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let four = storage
        .as_sockaddr_in()
        .map(|four| SocketAddr::V4((*four).into()));
    four.or_else(|| {
        storage
            .as_sockaddr_in6()
            .map(|six| SocketAddr::V6((*six).into()))
    })
}

fn send(
    socket: &UdpSocket,
    text: &[u8],
    peer: SocketAddr,
    called: Option<Called>,
) -> nix::Result<usize> {
    let parts = [io::IoSlice::new(text)];
    let to = SockaddrStorage::from(peer);
    let control = match &called {
        Some(Called::Four(info)) => Some(ControlMessage::Ipv4PacketInfo(info)),
        Some(Called::Six(info)) => Some(ControlMessage::Ipv6PacketInfo(info)),
        None => None,
    };
    let controls: Vec<_> = control.into_iter().collect();
    sendmsg(
        socket.as_raw_fd(),
        &parts,
        &controls,
        MsgFlags::empty(),
        Some(&to),
    )
}
