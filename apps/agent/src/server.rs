//! The agent's socket.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::drops::Drops;
use crate::flows::{Filter, Row, SCHEMA};
use crate::names::Names;
use crate::pinned;
use crate::protocol::{Ask, MAX_QUESTION, Question, Refusal, Status};

/// Lines of connections that are written at once, in bytes.
const CHUNK: usize = 32 << 10;

/// What a connection asks of the agent's own task.
pub enum Request {
    /// How the node stands.
    Status(oneshot::Sender<Status>),
    /// What was dropped.
    Drops(oneshot::Sender<Drops>),
    /// Whose addresses are, and what happens from now on.
    Follow(oneshot::Sender<(Arc<Names>, broadcast::Receiver<Arc<Row>>)>),
}

/// The listening socket; its file goes with it.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens, for root alone. A socket that a killed agent left is replaced.
    pub fn bind(path: &Path) -> Result<Self> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        // What a killed agent left there is nobody's.
        let _ = fs::remove_file(&beside);
        let bind = || -> std::io::Result<UnixListener> {
            let socket = UnixListener::bind(&beside)?;
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
            fs::rename(&beside, path)?;
            Ok(socket)
        };
        let socket = bind().with_context(|| format!("listen at {}", path.display()))?;
        let path = path.to_owned();
        Ok(Self { socket, path })
    }

    /// Serves whoever connects, for ever.
    pub async fn serve(&self, requests: &mpsc::Sender<Request>, pins: &Path) {
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    let (requests, pins) = (requests.clone(), pins.to_owned());
                    tokio::spawn(async move {
                        // Who does not wait for the answer does not want it.
                        if let Err(error) = answer(stream, &requests, pins).await {
                            tracing::debug!("a question was not answered: {error:#}");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A file that stays is replaced by the next agent.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, requests: &mpsc::Sender<Request>, pins: PathBuf) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut lines = BufReader::new(read.take(MAX_QUESTION));
    lines.read_line(&mut line).await?;
    let question = match serde_json::from_str::<Question>(&line) {
        Ok(question) if question.schema == SCHEMA => question,
        Ok(question) => {
            let words = format!("schema {} is not spoken here, {SCHEMA} is", question.schema);
            return refuse(&mut write, words).await;
        }
        Err(error) => return refuse(&mut write, error.to_string()).await,
    };
    match question.ask {
        Ask::Status => {
            let (to, status) = oneshot::channel();
            requests.send(Request::Status(to)).await?;
            tell(&mut write, &status.await?).await
        }
        Ask::Drops => {
            let (to, drops) = oneshot::channel();
            requests.send(Request::Drops(to)).await?;
            tell(&mut write, &drops.await?).await
        }
        Ask::Flows { filter, follow } => {
            let (to, told) = oneshot::channel();
            requests.send(Request::Follow(to)).await?;
            let (names, events) = told.await?;
            snapshot(&mut write, pins, names, filter.clone()).await?;
            if !follow {
                return Ok(());
            }
            tokio::select! {
                done = follow_events(&mut write, events, &filter) => done,
                // The asker went.
                () = until_closed(lines) => Ok(()),
            }
        }
    }
}

async fn until_closed(mut lines: BufReader<tokio::io::Take<tokio::net::unix::OwnedReadHalf>>) {
    let mut rest = [0; 64];
    while lines.read(&mut rest).await.is_ok_and(|read| read > 0) {}
}

async fn refuse(write: &mut (impl AsyncWrite + Unpin), error: String) -> Result<()> {
    let schema = SCHEMA;
    tell(write, &Refusal { schema, error }).await
}

async fn tell(write: &mut (impl AsyncWrite + Unpin), value: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(write.write_all(&line).await?)
}

/// The tables may hold hundreds of thousands of connections: a thread of its own reads them, no
/// faster than the asker does.
async fn snapshot(
    write: &mut (impl AsyncWrite + Unpin),
    pins: PathBuf,
    names: Arc<Names>,
    filter: Filter,
) -> Result<()> {
    let (chunks, mut written) = mpsc::channel::<Vec<u8>>(2);
    let reader = tokio::task::spawn_blocking(move || {
        let mut chunk = Vec::with_capacity(CHUNK);
        pinned::flows(&pins, &names, &filter, &mut |row| {
            serde_json::to_writer(&mut chunk, row)?;
            chunk.push(b'\n');
            if chunk.len() >= CHUNK {
                chunks.blocking_send(std::mem::take(&mut chunk))?;
            }
            Ok(())
        })?;
        Ok::<_, anyhow::Error>(chunks.blocking_send(chunk)?)
    });
    while let Some(chunk) = written.recv().await {
        write.write_all(&chunk).await?;
    }
    match reader.await? {
        Ok(()) => Ok(()),
        Err(error) => refuse(write, format!("{error:#}")).await,
    }
}

async fn follow_events(
    write: &mut (impl AsyncWrite + Unpin),
    mut events: broadcast::Receiver<Arc<Row>>,
    filter: &Filter,
) -> Result<()> {
    loop {
        match events.recv().await {
            Ok(row) if row.passes(filter) => tell(write, &*row).await?,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                let lost = serde_json::json!({"schema": SCHEMA, "event": "lost", "count": lost});
                tell(write, &lost).await?;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}
