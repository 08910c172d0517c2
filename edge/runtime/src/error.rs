use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use watari_cni_spec::{CniError, Code, Command, MAX_INPUT};
use watari_model::Attachment;

/// What can go wrong on the runtime's side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No directory of `CNI_PATH` holds the plugin.
    #[error("the plugin {kind:?} is not in {}: install it there, or correct CNI_PATH or the type{}",
        searched(.path), hint(.not_executable))]
    NotFound {
        /// `type`.
        kind: String,
        /// The directories searched, in order.
        path: Vec<PathBuf>,
        /// Files of that name that cannot be executed.
        not_executable: Vec<PathBuf>,
    },
    /// The plugin could not be executed.
    #[error("cannot execute {}: {source}", program.display())]
    Start {
        /// Which file.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Talking to the plugin failed.
    #[error("cannot {what} {}: {source}", program.display())]
    Pipe {
        /// What was tried.
        what: &'static str,
        /// Which plugin.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The plugin did not end in time and was killed.
    #[error("{} did not end {command} within {after:?} and was killed{}", program.display(), said(.stderr))]
    Timeout {
        /// Which plugin.
        program: PathBuf,
        /// What it was to do.
        command: Command,
        /// The time it had.
        after: Duration,
        /// What it said on standard error.
        stderr: String,
    },
    /// The plugin printed more than [`MAX_INPUT`] bytes and was killed.
    #[error("{} printed more than {MAX_INPUT} bytes on {command} and was killed", program.display())]
    TooLong {
        /// Which plugin.
        program: PathBuf,
        /// What it was to do.
        command: Command,
    },
    /// The plugin said no, with an error object.
    #[error("{kind} failed {command} (code {}): {error}{}", error.code.0, said(.stderr))]
    Plugin {
        /// `type`.
        kind: String,
        /// What it was to do.
        command: Command,
        /// Its error.
        error: CniError,
        /// What it said on standard error.
        stderr: String,
    },
    /// The plugin ended, but what it printed is neither result nor error object.
    #[error("{kind} broke the protocol on {command}: {why} ({status}){}{}", printed(.stdout), said(.stderr))]
    Protocol {
        /// `type`.
        kind: String,
        /// What it was to do.
        command: Command,
        /// What is wrong.
        why: String,
        /// How it ended.
        status: ExitStatus,
        /// The beginning of what it printed.
        stdout: String,
        /// What it said on standard error.
        stderr: String,
    },
    /// A configuration is not valid.
    #[error("{}: {error}", file.display())]
    Config {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        error: CniError,
    },
    /// No configuration of that name, or none at all.
    #[error("no network configuration{} in {}{}", named(.name.as_ref()), dir.display(), unusable(.broken))]
    NoNetwork {
        /// The directory searched.
        dir: PathBuf,
        /// The name wanted.
        name: Option<String>,
        /// Files that could not be read, and why.
        broken: Vec<String>,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A cached result is not what it should be.
    #[error("the cached result {} cannot be used: {why}; DEL removes it", file.display())]
    Cache {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// ADD of an attachment that has a cached result: it was added and not deleted.
    #[error("{attachment} is attached to {network} already ({}): DEL it first", file.display())]
    Attached {
        /// Which attachment.
        attachment: Attachment,
        /// Which network.
        network: String,
        /// The evidence.
        file: PathBuf,
    },
    /// CHECK of an attachment without a cached result.
    #[error("{attachment} is not attached to {network}: there is no {}", file.display())]
    NotAttached {
        /// Which attachment.
        attachment: Attachment,
        /// Which network.
        network: String,
        /// What was looked for.
        file: PathBuf,
    },
    /// ADD failed, and undoing it did not end well either.
    #[error("{add}; undoing it: {}", joined(.undo))]
    Undo {
        /// Why ADD failed.
        add: Box<Error>,
        /// What DEL could not undo.
        undo: Vec<Error>,
    },
    /// Several things went wrong; the rest was done.
    #[error("{}", joined(.0))]
    Several(Vec<Error>),
    /// The request itself cannot be made.
    #[error(transparent)]
    Request(#[from] CniError),
    /// GC waits for ADD and DEL to end, and they for GC; one took too long.
    #[error("waited {after:?} for the lock {}: another ADD, DEL or GC is still running", path.display())]
    Busy {
        /// The lock's file.
        path: PathBuf,
        /// How long.
        after: Duration,
    },
}

impl Error {
    /// One error for a list: none, the only one, or all of them.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }

    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }
}

/// The error object to print. A plugin's own error keeps its code and its words.
impl From<Error> for CniError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Plugin { error, .. } | Error::Config { error, .. } | Error::Request(error) => {
                error
            }
            Error::Undo { add, undo } => {
                let add = Self::from(*add);
                let undone = format!("undoing it: {}", joined(&undo));
                let details = if add.details.is_empty() {
                    undone
                } else {
                    format!("{}; {undone}", add.details)
                };
                add.because(details)
            }
            Error::Several(mut errors) if !errors.is_empty() => {
                let first = Self::from(errors.remove(0));
                let rest = joined(&errors);
                let details = format!("{}; then: {rest}", first.details);
                first.because(details.trim_start_matches("; "))
            }
            Error::NotFound { .. }
            | Error::Start { .. }
            | Error::Pipe { .. }
            | Error::Timeout { .. }
            | Error::TooLong { .. }
            | Error::Protocol { .. } => Self::new(Code::DELEGATE, text),
            Error::NoNetwork { .. } => Self::new(Code::INVALID_CONFIG, text),
            Error::NotAttached { .. } => Self::new(Code::UNKNOWN_CONTAINER, text),
            Error::Busy { .. } => Self::new(Code::TRY_AGAIN, text),
            _ => Self::new(Code::IO, text),
        }
    }
}

fn searched(path: &[PathBuf]) -> String {
    if path.is_empty() {
        return "CNI_PATH, which is empty".to_owned();
    }
    let dirs: Vec<_> = path.iter().map(|dir| dir.display().to_string()).collect();
    dirs.join(", ")
}

fn hint(not_executable: &[PathBuf]) -> String {
    match not_executable.first() {
        Some(file) => format!("; {} is there, but not executable", file.display()),
        None => String::new(),
    }
}

fn named(name: Option<&String>) -> String {
    name.map_or_else(String::new, |name| format!(" named {name:?}"))
}

fn unusable(files: &[String]) -> String {
    if files.is_empty() {
        return String::new();
    }
    format!(" (not usable: {})", files.join("; "))
}

fn said(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!("; it said: {text}"),
    }
}

fn printed(stdout: &str) -> String {
    match stdout.trim() {
        "" => String::new(),
        text => format!("; it printed: {text:?}"),
    }
}

fn joined(errors: &[Error]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
