use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::thread;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::answer::{Answer, Handler};

/// Connections of one port at once.
const PLACES: usize = 32;
/// How long a client may take to send its headers.
const HEADERS: Duration = Duration::from_secs(5);
/// How long a connection may last, whatever happens on it.
const WHOLE: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes.
const HEAD: usize = 8 << 10;
/// The most headers of a request.
const MAX_HEADERS: usize = 64;
/// How long the server rests when the kernel gives it no connection (no descriptors are left).
const REST: Duration = Duration::from_millis(100);

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", hint(.source))]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another process has the port)",
        io::ErrorKind::AddrNotAvailable => " (no link has the address)",
        _ => "",
    }
}

enum Command {
    Open(SocketAddr, StdListener, Handler),
    Close(SocketAddr),
}

/// The server, and what it listens on. It ends with this value.
#[derive(Debug)]
pub struct Server {
    commands: mpsc::UnboundedSender<Command>,
    open: BTreeSet<SocketAddr>,
}

impl Server {
    /// Starts the thread, which listens on nothing yet.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (commands, told) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("http".to_owned())
            .stack_size(256 << 10)
            .spawn(move || runtime.block_on(run(told)))?;
        let open = BTreeSet::new();
        Ok(Self { commands, open })
    }

    /// Answers at an address from now on, in the namespace of the calling thread. All of IPv4
    /// (`0.0.0.0`) is all of IPv6 too, as Go's servers have it.
    pub fn open(&mut self, address: SocketAddr, handler: Handler) -> Result<(), ListenError> {
        let listener = listen(address).map_err(|source| ListenError { address, source })?;
        self.close(address);
        // The thread is there as long as this is.
        let _ = self
            .commands
            .send(Command::Open(address, listener, handler));
        self.open.insert(address);
        Ok(())
    }

    /// Answers there no more. The port is free soon after.
    pub fn close(&mut self, address: SocketAddr) {
        if self.open.remove(&address) {
            let _ = self.commands.send(Command::Close(address));
        }
    }

    /// Whether it answers at an address.
    pub fn is_open(&self, address: SocketAddr) -> bool {
        self.open.contains(&address)
    }
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let everywhere = address.ip() == IpAddr::from([0, 0, 0, 0]);
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port()));
    let listener = if everywhere {
        StdListener::bind(both).or_else(|error| match error.raw_os_error() {
            // A kernel without IPv6.
            Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL) => StdListener::bind(address),
            _ => Err(error),
        })
    } else {
        StdListener::bind(address)
    }?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn run(mut told: mpsc::UnboundedReceiver<Command>) {
    let mut ports: BTreeMap<SocketAddr, JoinHandle<()>> = BTreeMap::new();
    while let Some(command) = told.recv().await {
        match command {
            Command::Open(address, listener, handler) => match TcpListener::from_std(listener) {
                Ok(listener) => {
                    let port = tokio::spawn(serve(listener, handler));
                    if let Some(old) = ports.insert(address, port) {
                        old.abort();
                    }
                }
                Err(error) => tracing::warn!("cannot listen on {address}: {error}"),
            },
            Command::Close(address) => {
                if let Some(port) = ports.remove(&address) {
                    port.abort();
                }
            }
        }
    }
}

/// Ends its task when it goes, so that connections go with their port.
struct Place(JoinHandle<()>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(listener: TcpListener, handler: Handler) {
    let mut places: VecDeque<Place> = VecDeque::with_capacity(PLACES);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or the client is gone already: neither ends the server.
            tokio::time::sleep(REST).await;
            continue;
        };
        places.retain(|place| !place.0.is_finished());
        if places.len() >= PLACES {
            places.pop_front();
        }
        let handler = handler.clone();
        places.push_back(Place(tokio::spawn(async move {
            // A client that breaks off, or sends what is no HTTP, is no failure of the server.
            let _ = tokio::time::timeout(WHOLE, converse(stream, handler)).await;
        })));
    }
}

async fn converse(stream: TcpStream, handler: Handler) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &handler);
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(request: &Request<Incoming>, handler: &Handler) -> Response<String> {
    let mut response = if matches!(*request.method(), Method::GET | Method::HEAD) {
        put(handler(request.uri().path()))
    } else {
        let mut refused = put(Answer::text(405, "405 method not allowed\n"));
        let headers = refused.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        refused
    };
    let headers = response.headers_mut();
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(hyper::header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn put(answer: Answer) -> Response<String> {
    let mut response = Response::new(answer.body);
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static(answer.content_type);
    headers.insert(CONTENT_TYPE, kind);
    for (name, value) in answer.headers {
        // What is no header is left out: the answer counts.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}
