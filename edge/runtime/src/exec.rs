//! Executes a program with bounded input, output and time, on the caller's thread.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use watari_cni_spec::{Command, MAX_INPUT};

use crate::Error;

/// How much of standard error is kept, in bytes; the rest is read and dropped.
const KEPT_STDERR: usize = 16 << 10;
/// How long an executable that is open for writing (ETXTBSY) is tried again.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// How long the pipes are waited on before looking whether the plugin ended and left them to a
/// child of its own.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One execution.
pub(crate) struct Job<'a> {
    pub(crate) program: &'a Path,
    pub(crate) command: Command,
    /// The `CNI_` variables; the rest is inherited.
    pub(crate) env: Vec<(&'static str, OsString)>,
    pub(crate) stdin: &'a [u8],
    pub(crate) timeout: Duration,
    /// A delegate shares our standard error and our process group, so that it dies with us.
    pub(crate) delegate: bool,
}

/// What came of it.
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Job<'_> {
    pub(crate) fn run(&self) -> Result<Done, Error> {
        let deadline = Instant::now() + self.timeout;
        let mut child = self.spawn()?;
        let mut pump = Pump {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            input: self.stdin,
            out: Vec::new(),
            err: Vec::new(),
        };
        let status = pump.start().and_then(|()| {
            pump.drive(&mut child, deadline)?;
            wait(&mut child, deadline)
        });
        let stderr = String::from_utf8_lossy(&pump.err).into_owned();
        let status = status.map_err(|stop| {
            self.kill(&mut child);
            self.stopped(stop, stderr.clone())
        })?;
        Ok(Done {
            status,
            stdout: pump.out,
            stderr,
        })
    }

    fn spawn(&self) -> Result<Child, Error> {
        let mut command = std::process::Command::new(self.program);
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"CNI_") {
                command.env_remove(variable);
            }
        }
        command
            .envs(self.env.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if self.delegate {
            command.stderr(Stdio::inherit());
        } else {
            command.stderr(Stdio::piped()).process_group(0);
        }
        let end = Instant::now() + BUSY_FOR;
        loop {
            match command.spawn() {
                Err(error)
                    if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < end =>
                {
                    sleep(Duration::from_millis(5));
                }
                other => {
                    return other.map_err(|source| Error::Start {
                        program: self.program.to_owned(),
                        source,
                    });
                }
            }
        }
    }

    /// Kills the plugin and what it started, and reaps it.
    fn kill(&self, child: &mut Child) {
        if !self.delegate
            && let Ok(id) = i32::try_from(child.id())
        {
            // It fails only when all are gone.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    fn stopped(&self, stop: Stop, stderr: String) -> Error {
        let program = self.program.to_owned();
        let command = self.command;
        match stop {
            Stop::Timeout => Error::Timeout {
                program,
                command,
                after: self.timeout,
                stderr,
            },
            Stop::TooLong => Error::TooLong { program, command },
            Stop::Io(what, source) => Error::Pipe {
                what,
                program,
                source,
            },
        }
    }
}

/// Why an execution is ended early.
enum Stop {
    Timeout,
    TooLong,
    Io(&'static str, io::Error),
}

/// The three pipes and what goes through them.
struct Pump<'a> {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    input: &'a [u8],
    out: Vec<u8>,
    err: Vec<u8>,
}

fn nonblocking(fd: Option<&impl AsFd>) -> Result<(), Stop> {
    if let Some(fd) = fd {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
            .map_err(|error| Stop::Io("prepare the pipes of", error.into()))?;
    }
    Ok(())
}

impl Pump<'_> {
    fn start(&self) -> Result<(), Stop> {
        nonblocking(self.stdin.as_ref())?;
        nonblocking(self.stdout.as_ref())?;
        nonblocking(self.stderr.as_ref())
    }

    /// Until the plugin closed its output, or ended.
    fn drive(&mut self, child: &mut Child, deadline: Instant) -> Result<(), Stop> {
        let mut ended = false;
        loop {
            self.step()?;
            if ended || (self.stdout.is_none() && self.stderr.is_none()) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Stop::Timeout);
            }
            if self.idle(left.min(LOOK_EVERY))? {
                // Once more after the end, for what was printed in between.
                ended = matches!(child.try_wait(), Ok(Some(_)));
            }
        }
    }

    /// Waits for a pipe; true when none had anything.
    fn idle(&self, time: Duration) -> Result<bool, Stop> {
        let mut fds = Vec::with_capacity(3);
        if let Some(pipe) = &self.stdin {
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(pipe) = &self.stdout {
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        if let Some(pipe) = &self.stderr {
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        // Rounded up, so that the last millisecond is waited for, not spun through.
        let time = PollTimeout::try_from(time + Duration::from_millis(1));
        match poll(&mut fds, time.unwrap_or(PollTimeout::ZERO)) {
            Ok(ready) => Ok(ready == 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(error) => Err(Stop::Io("wait for", error.into())),
        }
    }

    /// Moves what can be moved without waiting.
    fn step(&mut self) -> Result<(), Stop> {
        self.feed()?;
        let io = |error| Stop::Io("read the output of", error);
        if let Some(pipe) = &mut self.stdout {
            // One byte over the limit tells too long from just long enough.
            let room = MAX_INPUT + 1 - self.out.len();
            if drain(pipe, &mut self.out, room).map_err(io)? {
                self.stdout = None;
            } else if self.out.len() > MAX_INPUT {
                return Err(Stop::TooLong);
            }
        }
        if let Some(pipe) = &mut self.stderr {
            let ended = drain(pipe, &mut self.err, MAX_INPUT).map_err(io)?;
            self.err.truncate(KEPT_STDERR);
            if ended {
                self.stderr = None;
            }
        }
        Ok(())
    }

    fn feed(&mut self) -> Result<(), Stop> {
        while let Some(pipe) = &mut self.stdin {
            if self.input.is_empty() {
                self.stdin = None;
                break;
            }
            match pipe.write(self.input) {
                Ok(count) => self.input = &self.input[count..],
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => break,
                    // A plugin need not read its input.
                    ErrorKind::BrokenPipe => self.stdin = None,
                    _ => return Err(Stop::Io("write the input of", error)),
                },
            }
        }
        Ok(())
    }
}

/// Reads at most `room` bytes, without waiting; true at the end.
fn drain(pipe: &mut impl Read, into: &mut Vec<u8>, room: usize) -> io::Result<bool> {
    let mut left = room;
    let mut chunk = [0; 8192];
    while left > 0 {
        let most = left.min(chunk.len());
        match pipe.read(&mut chunk[..most]) {
            Ok(0) => return Ok(true),
            Ok(count) => {
                into.extend_from_slice(&chunk[..count]);
                left -= count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The exit status of a plugin that has closed its output: there at once, or nearly.
fn wait(child: &mut Child, deadline: Instant) -> Result<ExitStatus, Stop> {
    let mut pause = Duration::from_micros(20);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() >= deadline => return Err(Stop::Timeout),
            Ok(None) => sleep(pause),
            Err(error) => return Err(Stop::Io("wait for", error)),
        }
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}
