use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections served at once; more wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// How long a client may take to send its headers.
const HEADERS: Duration = Duration::from_secs(10);

/// What a handler looks at: the request line, and both ends of the connection.
pub struct Asked<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query, as sent.
    pub target: &'a str,
    /// The client.
    pub peer: SocketAddr,
    /// The address it called.
    pub local: SocketAddr,
}

/// An answer: a status, its content type, a text.
pub type Answer = (StatusCode, &'static str, String);

/// Answers every request on `listener` until the future is dropped.
pub async fn serve<H>(listener: TcpListener, handler: Arc<H>)
where
    H: Fn(&Asked<'_>) -> Answer + Send + Sync + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, or the client is gone already: neither ends the server.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let target = request.uri().path_and_query();
                let asked = Asked {
                    method: request.method().as_str(),
                    target: target.map_or("/", |target| target.as_str()),
                    peer: canonical(peer),
                    local: canonical(local),
                };
                let (status, kind, text) = handler(&asked);
                let mut response = Response::new(text);
                *response.status_mut() = status;
                response.headers_mut().insert(
                    hyper::header::CONTENT_TYPE,
                    hyper::header::HeaderValue::from_static(kind),
                );
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            // A client that breaks off is no failure of the server.
            drop((served, permit));
        });
    }
}

/// An IPv4 address that came in over a socket of both families, as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
