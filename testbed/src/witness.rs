//! Servers that say who they are and whom they see, and clients that ask them.

use std::fmt::Write as _;
use std::io::{self, Error, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use watari_model::Protocol;
use watari_testkit::Netns;

use crate::echo::{pattern, shared_port};

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Between two datagrams of one that waits.
const AGAIN: Duration = Duration::from_millis(250);
/// Bytes of what a server says first: text, then spaces.
const GREETING: usize = 128;
/// The most data that [`Talk::exchange`] can have in a datagram of either family.
pub const LONGEST: usize = 65_507 - GREETING;

/// What a server saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The server's name.
    pub name: String,
    /// Its client, as it sees it.
    pub client: SocketAddr,
    /// Where it was asked.
    pub at: SocketAddr,
}

impl Seen {
    fn text(&self) -> [u8; GREETING] {
        let mut text = String::new();
        // Writing to a String never fails.
        let _ = write!(text, "{} {} {}", self.name, self.client, self.at);
        let mut bytes = [b' '; GREETING];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<Self> {
        let parsed = (|| {
            let mut words = std::str::from_utf8(bytes).ok()?.split_ascii_whitespace();
            Some(Self {
                name: words.next()?.to_owned(),
                client: words.next()?.parse().ok()?,
                at: words.next()?.parse().ok()?,
            })
        })();
        parsed.ok_or_else(|| Error::new(ErrorKind::InvalidData, "that is no server's greeting"))
    }
}

/// A server by TCP and UDP at some addresses and ports: it says what it [`Seen`], and then sends
/// back whatever it gets. Ends with this value, and its connections with it.
#[derive(Debug)]
pub struct Witness {
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Witness {
    /// Starts it in a namespace.
    pub fn start(netns: &Netns, name: &str, addresses: &[IpAddr], ports: &[u16]) -> Result<Self> {
        let mut serving = Serving::new(name);
        netns.enter(|| -> Result<()> {
            for address in addresses {
                for port in ports {
                    let at = SocketAddr::new(*address, *port);
                    let listener = bind(at, TcpListener::bind);
                    let listener = listener.with_context(|| format!("cannot listen on {at}"))?;
                    listener.set_nonblocking(true)?;
                    serving.listeners.push((at, listener));
                    let socket = bind(at, UdpSocket::bind);
                    let socket = socket.with_context(|| format!("cannot have {at}"))?;
                    socket.set_nonblocking(true)?;
                    serving.sockets.push((at, socket));
                }
            }
            Ok(())
        })?;
        let (stop, stopped) = UnixStream::pair()?;
        let thread = std::thread::spawn(move || serving.run(&stopped));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

/// Binds, as soon as the socket of who had that before is gone: a child of this process has it until
/// it executes its program.
fn bind<T>(at: SocketAddr, bind: fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        match bind(at) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // It sees the end of the stream.
        let _ = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            // It ends by itself, or has panicked and said so.
            let _ = thread.join();
        }
    }
}

struct Serving {
    name: String,
    listeners: Vec<(SocketAddr, TcpListener)>,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    streams: Vec<Stream>,
    buffer: Vec<u8>,
}

/// A connection: what is to be sent back yet.
struct Stream {
    socket: TcpStream,
    pending: Vec<u8>,
    sent: usize,
    over: bool,
}

impl Serving {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            listeners: Vec::new(),
            sockets: Vec::new(),
            streams: Vec::new(),
            buffer: vec![0; 65_536 + GREETING],
        }
    }

    fn run(mut self, stopped: &UnixStream) {
        loop {
            let (listeners, sockets) = (self.listeners.len(), self.sockets.len());
            let mut fds = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
            let listening = self.listeners.iter().map(|(_, socket)| socket.as_fd());
            let bound = self.sockets.iter().map(|(_, socket)| socket.as_fd());
            let quiet = listening.chain(bound);
            fds.extend(quiet.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            fds.extend(self.streams.iter().map(|stream| {
                let wish = if stream.pending.is_empty() {
                    PollFlags::POLLIN
                } else {
                    PollFlags::POLLOUT
                };
                PollFd::new(stream.socket.as_fd(), wish)
            }));
            if poll(&mut fds, PollTimeout::NONE).is_err() {
                continue;
            }
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            drop(fds);
            let (head, streams) = ready.split_at(1 + listeners + sockets);
            if head[0] {
                return;
            }
            for (number, ready) in streams.iter().enumerate() {
                if *ready {
                    self.streams[number].go_on(&mut self.buffer);
                }
            }
            self.streams.retain(|stream| !stream.over);
            for number in (0..listeners).filter(|number| head[1 + number]) {
                self.accept(number);
            }
            for number in (0..sockets).filter(|number| head[1 + listeners + number]) {
                self.answer(number);
            }
        }
    }

    fn accept(&mut self, number: usize) {
        let (at, listener) = &self.listeners[number];
        while let Ok((stream, client)) = listener.accept() {
            let seen = Seen {
                name: self.name.clone(),
                client,
                at: *at,
            };
            let ready = stream
                .set_nonblocking(true)
                .and_then(|()| stream.set_nodelay(true));
            let mut stream = Stream {
                socket: stream,
                pending: seen.text().to_vec(),
                sent: 0,
                over: ready.is_err(),
            };
            stream.go_on(&mut []);
            self.streams.push(stream);
        }
    }

    fn answer(&mut self, number: usize) {
        let (at, socket) = &self.sockets[number];
        while let Ok((count, client)) = socket.recv_from(&mut self.buffer[GREETING..]) {
            let seen = Seen {
                name: self.name.clone(),
                client,
                at: *at,
            };
            self.buffer[..GREETING].copy_from_slice(&seen.text());
            // Who is gone gets no answer.
            let _ = socket.send_to(&self.buffer[..GREETING + count], client);
        }
    }
}

impl Stream {
    /// Sends what is pending, else reads more, until it would have to wait.
    fn go_on(&mut self, buffer: &mut [u8]) {
        while !self.over {
            if self.pending.is_empty() {
                if buffer.is_empty() {
                    return;
                }
                match self.socket.read(buffer) {
                    Ok(0) => self.over = true,
                    Ok(count) => self.pending.extend(&buffer[..count]),
                    Err(error) if is_timeout(&error) => return,
                    Err(_) => self.over = true,
                }
                continue;
            }
            match self.socket.write(&self.pending[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    if self.sent == self.pending.len() {
                        self.pending.clear();
                        self.sent = 0;
                    }
                }
                Err(error) if is_timeout(&error) => return,
                Err(_) => self.over = true,
            }
        }
    }
}

fn is_timeout(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

enum Kind {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

/// A connection to a [`Witness`], by TCP or by a connected socket of UDP.
pub struct Talk {
    kind: Kind,
    /// What the server saw when it began.
    pub seen: Seen,
}

impl Talk {
    /// Opens one, from the namespace and the cgroup of the calling thread. TCP and UDP alone.
    pub fn open(protocol: Protocol, to: SocketAddr) -> io::Result<Self> {
        Self::open_within(protocol, to, PATIENCE)
    }

    /// Opens one, and gives up after a time: [`ErrorKind::TimedOut`].
    pub fn open_within(protocol: Protocol, to: SocketAddr, patience: Duration) -> io::Result<Self> {
        if protocol == Protocol::Udp {
            let socket = UdpSocket::bind((unspecified(to), 0))?;
            socket.connect(to)?;
            return Self::greet_udp(socket, patience);
        }
        Self::greet_tcp(TcpStream::connect_timeout(&to, patience)?, patience)
    }

    /// Opens one from a port, which it may share.
    pub fn open_from(protocol: Protocol, port: u16, to: SocketAddr) -> Result<Self> {
        use nix::sys::socket::SockType;
        if protocol == Protocol::Udp {
            let socket = shared_port(SockType::Datagram, port, to)?;
            return Ok(Self::greet_udp(socket.into(), PATIENCE)?);
        }
        let socket = shared_port(SockType::Stream, port, to)?;
        Ok(Self::greet_tcp(socket.into(), PATIENCE)?)
    }

    fn greet_tcp(mut stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let mut greeting = [0; GREETING];
        stream.read_exact(&mut greeting)?;
        Ok(Self {
            seen: Seen::read(&greeting)?,
            kind: Kind::Tcp(stream),
        })
    }

    fn greet_udp(socket: UdpSocket, patience: Duration) -> io::Result<Self> {
        let answer = ask_udp(&socket, b"?", patience)?;
        Ok(Self {
            seen: Seen::read(&answer[..GREETING])?,
            kind: Kind::Udp(socket),
        })
    }

    /// This end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        match &self.kind {
            Kind::Tcp(stream) => stream.local_addr(),
            Kind::Udp(socket) => socket.local_addr(),
        }
    }

    /// The other end, as this one is told.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        match &self.kind {
            Kind::Tcp(stream) => stream.peer_addr(),
            Kind::Udp(socket) => socket.peer_addr(),
        }
    }

    /// Sends so many bytes and gets them back, by TCP both ways at once, by UDP as one datagram.
    /// Gives what the server sees: by UDP it may be another one than before.
    pub fn exchange(&mut self, length: usize) -> Result<Seen> {
        let bytes = pattern(length);
        match &mut self.kind {
            Kind::Tcp(stream) => {
                let mut writer = stream.try_clone()?;
                let mut back = vec![0; length];
                std::thread::scope(|scope| {
                    let writing = scope.spawn(|| writer.write_all(&bytes));
                    stream.read_exact(&mut back).context("no answer by TCP")?;
                    let written = writing.join();
                    written.map_err(|_| anyhow!("a thread panicked"))??;
                    ensure!(back == bytes, "TCP changed {length} bytes");
                    Ok(self.seen.clone())
                })
            }
            Kind::Udp(socket) => {
                let answer = ask_udp(socket, &bytes, PATIENCE)?;
                ensure!(answer[GREETING..] == bytes, "UDP changed {length} bytes");
                Ok(Seen::read(&answer[..GREETING])?)
            }
        }
    }

    /// Waits for the other end, or whoever ends the connection from outside, by TCP: what the
    /// reader is told.
    pub fn ended(&mut self) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.read(&mut [0]),
            Kind::Udp(socket) => socket.recv(&mut [0]),
        }
    }
}

/// Asks once: opens a connection and ends it.
pub fn ask(protocol: Protocol, to: SocketAddr) -> io::Result<Seen> {
    Talk::open(protocol, to).map(|talk| talk.seen)
}

/// Sends a datagram until there is the answer to it: one that is lost is sent again.
fn ask_udp(socket: &UdpSocket, payload: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + patience;
    let mut buffer = vec![0; 65_536];
    while Instant::now() < end {
        socket.send(payload)?;
        let look = (Instant::now() + AGAIN).min(end);
        loop {
            let left = look.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(count) if count == GREETING + payload.len() => {
                    buffer.truncate(count);
                    return Ok(buffer);
                }
                // The late answer to one that was sent again.
                Ok(_) => {}
                Err(error) if is_timeout(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Err(Error::new(ErrorKind::TimedOut, "no answer by UDP"))
}

/// Asks by an unconnected socket, and gives what the server saw, and from whom the answer came.
pub fn ask_by(socket: &UdpSocket, to: SocketAddr) -> io::Result<(Seen, SocketAddr)> {
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(AGAIN))?;
    while Instant::now() < end {
        socket.send_to(b"?", to)?;
        match socket.recv_from(&mut buffer) {
            Ok((count, from)) if count >= GREETING => {
                return Ok((Seen::read(&buffer[..GREETING])?, from));
            }
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::new(ErrorKind::TimedOut, "no answer by UDP"))
}

/// Any address of the server's family.
const fn unspecified(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}
