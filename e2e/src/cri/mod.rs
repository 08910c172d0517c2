//! A small client of the Container Runtime Interface: what `crictl` says to containerd, without
//! the Go toolchain that building `crictl` takes. gRPC over HTTP/2 on a Unix socket, unary calls.

#[allow(
    missing_docs,
    reason = "the field names are those of the CRI specification"
)]
mod messages;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

pub use messages::*;

/// How long one call may take: containerd itself gives a pod's network two minutes.
const CALL: Duration = Duration::from_secs(130);

/// What a call came to when it did not succeed.
#[derive(Debug)]
pub struct CallError {
    /// The method called.
    pub method: String,
    /// What containerd, or the way to it, said.
    pub message: String,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.method, self.message)
    }
}

impl std::error::Error for CallError {}

/// A client of one containerd. Every call connects anew: tests are not in a hurry, and a client that
/// holds nothing cannot keep anything alive.
#[derive(Debug)]
pub struct Cri {
    socket: PathBuf,
    runtime: Runtime,
}

impl Cri {
    /// A client of the containerd that listens at `socket`; nothing is said to it yet.
    ///
    /// # Panics
    /// When the process can start no event loop.
    pub fn new(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("start an event loop");
        Self {
            socket: socket.to_owned(),
            runtime,
        }
    }

    /// Calls one method of `runtime.v1.RuntimeService`.
    pub fn runtime<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A, CallError> {
        self.call(&format!("/runtime.v1.RuntimeService/{method}"), request)
    }

    /// Calls one method of `runtime.v1.ImageService`.
    pub fn image<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A, CallError> {
        self.call(&format!("/runtime.v1.ImageService/{method}"), request)
    }

    fn call<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, CallError> {
        let failed = |message: String| CallError {
            method: path.to_owned(),
            message,
        };
        let answer = self.runtime.block_on(async {
            match tokio::time::timeout(CALL, unary(&self.socket, path, frame(request))).await {
                Ok(answer) => answer.map_err(failed),
                Err(_) => Err(failed(format!("no answer within {CALL:?}"))),
            }
        })?;
        // One frame: a flag byte, four bytes of length, the message.
        let body = answer.get(5..).unwrap_or_default();
        A::decode(body).map_err(|error| failed(format!("not the expected message: {error}")))
    }
}

/// A message as gRPC puts it into a body: uncompressed (0), its length, big-endian, itself.
fn frame(message: &impl Message) -> Bytes {
    let body = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(body.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(body.len()).expect("a request is small"));
    framed.put_slice(&body);
    framed.freeze()
}

async fn unary(socket: &Path, path: &str, body: Bytes) -> Result<Bytes, String> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| format!("cannot connect to {}: {error}", socket.display()))?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let headers = response.headers().clone();
    let collected = response
        .into_body()
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    connection.abort();
    // A call that fails at once has its status in the headers, any other in the trailers.
    let trailers = collected.trailers().unwrap_or(&headers);
    let field = |name: &str| {
        trailers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    };
    match field("grpc-status") {
        "0" => Ok(collected.to_bytes()),
        status => Err(format!("status {status}: {}", field("grpc-message"))),
    }
}
