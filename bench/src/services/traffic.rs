//! Servers and clients that stay for the whole run, so that a round is nothing but its requests.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use watari_netlink::Netns;
use watari_testbed::{Pod, pin};

use super::cgroup::{Entrance, Served};

/// Where every thread runs.
const CPU: usize = 0;
/// Requests between two looks at the clock.
const BETWEEN_LOOKS: u32 = 32;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a server of UDP takes for the end.
const END: [u8; 3] = [0; 3];

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a pod, and in a cgroup if it is given one, that does one thing after the other.
pub struct Client {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Starts it.
    pub fn new(pod: &Pod, cgroup: Option<&Served>) -> Result<Self> {
        let netns = Netns::open(pod.netns.path())?;
        let cgroup = cgroup.map(Served::entrance).transpose()?;
        let (jobs, waiting) = channel::<Job>();
        let (sender, ready) = channel();
        let thread = std::thread::spawn(move || {
            let enter = || -> Result<()> {
                netns.enter()?;
                pin(CPU)?;
                cgroup.map_or(Ok(()), Entrance::enter)
            };
            let entered = enter();
            let works = entered.is_ok();
            // Whoever started this waits for it.
            let _ = sender.send(entered);
            if works {
                for job in waiting {
                    job();
                }
            }
        });
        ready.recv().context("a client did not start")??;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Has it do this.
    pub fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (sender, answer) = channel();
        let job = move || {
            let _ = sender.send(work());
        };
        let jobs = self.jobs.as_ref().context("a client has ended")?;
        jobs.send(Box::new(job))
            .map_err(|_| anyhow!("a client has ended"))?;
        answer.recv().context("a client has ended")?
    }

    /// Connections a second, to each of these in turn: connect, a byte each way, close.
    pub fn connections(&self, targets: &[SocketAddr], duration: Duration) -> Result<f64> {
        let targets = targets.to_vec();
        self.run(move || {
            let mut targets = targets.iter().cycle();
            rate(duration, 1, || {
                let target = targets.next().context("there is nobody to connect to")?;
                let mut stream = TcpStream::connect(target)
                    .with_context(|| format!("cannot connect to {target}"))?;
                let mut byte = [1];
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte).context("no answer")
            })
        })
    }

    /// Requests a second on one connection: a byte each way.
    pub fn requests(&self, target: SocketAddr, duration: Duration) -> Result<f64> {
        self.run(move || {
            let mut stream = TcpStream::connect(target)
                .with_context(|| format!("cannot connect to {target}"))?;
            stream.set_nodelay(true)?;
            rate(duration, BETWEEN_LOOKS, || {
                let mut byte = [1];
                for _ in 0..BETWEEN_LOOKS {
                    stream.write_all(&byte)?;
                    stream.read_exact(&mut byte).context("no answer")?;
                }
                Ok(())
            })
        })
    }

    /// Datagrams a second that are answered: a byte each way, from a socket that is not connected.
    pub fn datagrams(&self, target: SocketAddr, duration: Duration) -> Result<f64> {
        self.run(move || {
            let socket = UdpSocket::bind((unspecified(target.ip()), 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            rate(duration, BETWEEN_LOOKS, || {
                let mut byte = [1];
                for _ in 0..BETWEEN_LOOKS {
                    socket.send_to(&byte, target)?;
                    let (_, from) = socket.recv_from(&mut byte).context("no answer")?;
                    ensure!(from == target, "{from} answered for {target}");
                }
                Ok(())
            })
        })
    }

    /// How long `connect()` takes, in ns, of a UDP socket, which sends nothing by it: the mean of
    /// each of so many stretches.
    pub fn connects(&self, target: SocketAddr, stretches: usize) -> Result<Vec<f64>> {
        self.run(move || {
            let socket = UdpSocket::bind((unspecified(target.ip()), 0))?;
            let stretch = |_| {
                let start = Instant::now();
                for _ in 0..BETWEEN_LOOKS {
                    socket.connect(target)?;
                }
                Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(BETWEEN_LOOKS))
            };
            (0..stretches).map(stretch).collect()
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // It has panicked and said so, or ends by itself.
            let _ = thread.join();
        }
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
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

/// Servers in one pod, each on a port and a thread of its own: what they are sent goes back.
pub struct Servers {
    at: Vec<SocketAddr>,
    netns: Netns,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Servers {
    /// Starts them, by TCP and UDP.
    pub fn new(pod: &Pod, at: &[SocketAddr]) -> Result<Self> {
        let bind = |at: &SocketAddr| -> Result<_> {
            let listener =
                TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
            Ok((listener, UdpSocket::bind(at)?))
        };
        let sockets = || at.iter().map(bind).collect::<Result<Vec<_>>>();
        let mut threads = Vec::new();
        for (listener, socket) in pod.netns.enter(sockets)? {
            threads.push(std::thread::spawn(move || serve(&listener)));
            threads.push(std::thread::spawn(move || answer(&socket)));
        }
        Ok(Self {
            at: at.to_vec(),
            netns: Netns::open(pod.netns.path())?,
            threads,
        })
    }

    /// Tells each of them that it is enough.
    fn stop(&self) -> Result<()> {
        self.netns.enter()?;
        for at in &self.at {
            TcpStream::connect(at)?.write_all(&[0])?;
            UdpSocket::bind((at.ip(), 0))?.send_to(&END, at)?;
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // A thread of its own: it is in the pod for good.
        let stopped = std::thread::scope(|scope| scope.spawn(|| self.stop()).join());
        if !matches!(stopped, Ok(Ok(()))) {
            eprintln!("cannot stop the servers: {stopped:?}");
            return;
        }
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("a server ended: {error:#}");
            }
        }
    }
}

/// One connection after the other, until one begins with a zero.
fn serve(listener: &TcpListener) -> Result<()> {
    pin(CPU)?;
    loop {
        let (mut stream, _) = listener.accept().context("cannot accept a connection")?;
        let mut byte = [0];
        // A client that vanishes is the client's failure, which it tells.
        while stream.read(&mut byte).is_ok_and(|count| count == 1) {
            if byte == [0] {
                return Ok(());
            }
            if stream.write_all(&byte).is_err() {
                break;
            }
        }
    }
}

fn answer(socket: &UdpSocket) -> Result<()> {
    pin(CPU)?;
    let mut bytes = [0; 8];
    loop {
        let (count, from) = socket.recv_from(&mut bytes)?;
        if bytes[..count] == END {
            return Ok(());
        }
        // A refusal that came for an earlier answer.
        let _ = socket.send_to(&bytes[..count], from);
    }
}
