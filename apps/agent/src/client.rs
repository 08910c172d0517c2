//! Asking an agent.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::protocol::{Ask, Question, Refusal};

/// How long an answer may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer, line by line.
#[derive(Debug)]
pub struct Answer {
    lines: BufReader<UnixStream>,
    socket: PathBuf,
}

/// Puts a question; none if no agent listens there.
pub fn ask(socket: &Path, ask: Ask) -> Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(socket) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        other => other.with_context(|| format!("connect to the agent at {}", socket.display()))?,
    };
    let follows = matches!(ask, Ask::Flows { follow: true, .. });
    // Between two events any time may pass.
    stream.set_read_timeout((!follows).then_some(PATIENCE))?;
    let mut line = serde_json::to_string(&Question::new(ask))?;
    line.push('\n');
    stream
        .write_all(line.as_bytes())
        .with_context(|| format!("ask the agent at {}", socket.display()))?;
    Ok(Some(Answer {
        lines: BufReader::new(stream),
        socket: socket.to_owned(),
    }))
}

impl Answer {
    /// The next line; none at the end.
    pub fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        read.with_context(|| format!("read the answer of the agent at {}", self.socket.display()))?;
        if line.is_empty() {
            return Ok(None);
        }
        if let Ok(refusal) = serde_json::from_str::<Refusal>(&line) {
            bail!("the agent refuses: {}", refusal.error);
        }
        Ok(Some(line.trim_end().to_owned()))
    }

    /// An answer of one line.
    pub fn single<T: DeserializeOwned>(mut self) -> Result<T> {
        let line = self.line()?.context("the agent closed without an answer")?;
        serde_json::from_str(&line).context("the agent's answer is of another version")
    }
}
