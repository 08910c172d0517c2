//! Clients and servers: threads in the pods' namespaces.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::bed::Pod;
use crate::cpu::{busy, pin};

/// How long anything may take beyond what was asked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests between two looks at the clock.
const BETWEEN_LOOKS: u32 = 32;
/// What a sender of bulk writes at once, in bytes.
const CHUNK: usize = 128 * 1024;

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Opens connections, and sends the bulk.
    pub client: &'a Pod,
    /// Is connected to.
    pub server: &'a Pod,
    /// By IPv6.
    pub v6: bool,
    /// The CPUs of client and server.
    pub cpus: [Option<usize>; 2],
}

/// What a bulk transfer came to.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Received in a second.
    pub bytes_per_second: f64,
    /// What the whole machine worked for a byte.
    pub cpu_seconds_per_byte: f64,
}

impl Ends<'_> {
    fn server(&self) -> IpAddr {
        self.server.address(self.v6)
    }

    /// Runs both, each on its CPU. The server tells where it listens; both get a deadline.
    fn run<C: Send, S: Send>(
        &self,
        duration: Duration,
        server: impl FnOnce(TcpListener, Instant) -> Result<S> + Send,
        client: impl FnOnce(SocketAddr, Instant) -> Result<C> + Send,
    ) -> Result<(C, S)> {
        let (sender, receiver) = channel();
        let deadline = Instant::now() + duration + PATIENCE;
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                self.server.netns.enter(|| {
                    self.cpus[1].map_or(Ok(()), pin)?;
                    let listener = TcpListener::bind((self.server(), 0))
                        .with_context(|| format!("cannot listen on {}", self.server()))?;
                    sender.send(listener.local_addr()?)?;
                    server(listener, deadline)
                })
            });
            let address = receiver.recv_timeout(PATIENCE);
            let asked = address
                .context("the server does not listen")
                .and_then(|address| {
                    self.client.netns.enter(|| {
                        self.cpus[0].map_or(Ok(()), pin)?;
                        client(address, deadline)
                    })
                });
            let ended = joined(serving);
            Ok((asked?, ended?))
        })
    }
}

fn joined<R>(thread: ScopedJoinHandle<'_, Result<R>>) -> Result<R> {
    let panicked = |_| Err(anyhow!("a thread of the traffic panicked"));
    thread.join().unwrap_or_else(panicked)
}

/// Accepts one connection; a client that does not come ends the wait.
fn accept(listener: &TcpListener, deadline: Instant) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                ensure!(Instant::now() < deadline, "no client came");
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(error) => return Err(error).context("cannot accept a connection"),
        }
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Does `work` on a stream without any time-out in its calls, which would cost it; another thread
/// shuts the stream down at the deadline.
fn watched<R>(
    stream: &TcpStream,
    deadline: Instant,
    work: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let (done, waiting): (Sender<()>, Receiver<()>) = channel();
    std::thread::scope(|scope| {
        let watch = scope.spawn(move || {
            let left = deadline.saturating_duration_since(Instant::now());
            if waiting.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                // An error here means that it is shut down already.
                let _ = stream.shutdown(Shutdown::Both);
            }
            Ok(())
        });
        let value = work();
        drop(done);
        joined(watch)?;
        value
    })
}

/// Requests a second on one connection: one byte each way.
pub fn request_rate(ends: &Ends<'_>, duration: Duration) -> Result<f64> {
    let server = |listener: TcpListener, deadline| {
        let mut stream = accept(&listener, deadline)?;
        let guarded = stream.try_clone()?;
        watched(&guarded, deadline, || {
            let mut byte = [0];
            while stream.read(&mut byte)? == 1 {
                stream.write_all(&byte)?;
            }
            Ok(())
        })
    };
    let client = |address, deadline| {
        let mut stream = connect(address)?;
        let guarded = stream.try_clone()?;
        watched(&guarded, deadline, || {
            let mut ask = |count: u32| -> Result<()> {
                for _ in 0..count {
                    let mut byte = [1];
                    stream.write_all(&byte)?;
                    stream.read_exact(&mut byte).context("no answer")?;
                }
                Ok(())
            };
            ask(BETWEEN_LOOKS)?;
            let rate = rate(duration, BETWEEN_LOOKS, || ask(BETWEEN_LOOKS));
            // The server reads on until the connection ends.
            guarded.shutdown(Shutdown::Both)?;
            rate
        })
    };
    Ok(ends.run(duration, server, client)?.0)
}

/// How often `work` was done in a second, `each` times a call.
fn rate(duration: Duration, each: u32, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0.0;
    loop {
        work()?;
        count += f64::from(each);
        let elapsed = start.elapsed();
        if elapsed >= duration {
            return Ok(count / elapsed.as_secs_f64());
        }
    }
}

/// Connections a second, one after the other: connect, a byte each way, close.
pub fn connect_rate(ends: &Ends<'_>, duration: Duration) -> Result<f64> {
    // A port in TIME-WAIT may be used again after a second, and there are enough of them.
    for (key, value) in [("tcp_tw_reuse", "1"), ("ip_local_port_range", "1024 65535")] {
        let path = format!("/proc/sys/net/ipv4/{key}");
        let written = ends.client.netns.enter(|| std::fs::write(&path, value));
        written.with_context(|| format!("cannot write {path}"))?;
    }
    let server = |listener: TcpListener, _| loop {
        let (mut stream, _) = listener.accept().context("cannot accept a connection")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            bail!("a client said nothing");
        }
        // A zero is the last request.
        if byte == [0] {
            return Ok(());
        }
        stream.write_all(&byte)?;
        ensure!(stream.read(&mut byte)? == 0, "a client said too much");
    };
    let client = |address, _| {
        let ask = || -> Result<()> {
            let mut stream = connect_plain(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut byte = [1];
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte).context("no answer")
        };
        let rate = ask().and_then(|()| rate(duration, 1, ask));
        // Whatever happened, and however broken the way is, the server waits for this.
        let stop = || Ok(connect(address)?.write_all(&[0])?);
        ends.server.netns.enter(stop).and(rate)
    };
    Ok(ends.run(duration, server, client)?.0)
}

/// Without the system calls that a time-out costs; the kernel gives up by itself after two
/// minutes.
fn connect_plain(address: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))
}

/// Sends as much as goes in that time over one connection.
pub fn bulk(ends: &Ends<'_>, duration: Duration) -> Result<Bulk> {
    let server = |listener: TcpListener, deadline| {
        let mut stream = accept(&listener, deadline)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = vec![0; CHUNK];
        let (start, mut bytes) = (Instant::now(), 0_u64);
        loop {
            match stream.read(&mut buffer).context("the bulk stopped")? {
                0 => break,
                count => bytes += count as u64,
            }
        }
        Ok((bytes, start.elapsed()))
    };
    let client = |address, _| {
        let mut stream = connect(address)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let chunk = vec![0x5a; CHUNK];
        rate(duration, 1, || Ok(stream.write_all(&chunk)?))?;
        stream.shutdown(Shutdown::Write)?;
        Ok(())
    };
    let before = busy()?;
    let ((), (bytes, elapsed)) = ends.run(duration, server, client)?;
    let worked = busy()?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let bytes = bytes as f64;
    Ok(Bulk {
        bytes_per_second: bytes / elapsed.as_secs_f64(),
        cpu_seconds_per_byte: worked.as_secs_f64() / bytes,
    })
}
