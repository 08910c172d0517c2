//! One plugin: found in `CNI_PATH`, executed, its answer understood.

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use watari_cni_spec::{
    CniArgs, CniError, CniResult, Code, Command, Request, VersionReply, format_args_variable,
};
use watari_model::Attachment;

use crate::Error;
use crate::exec::{Done, Job};

/// How much of what a plugin printed an error shows, in characters.
const SHOWN: usize = 500;

/// The executable of a plugin: the first in these directories that can be executed.
pub fn find_plugin(path: &[PathBuf], kind: &str) -> Result<PathBuf, Error> {
    let mut not_executable = Vec::new();
    // A name with a slash would leave the directories.
    if !kind.is_empty() && !kind.contains('/') && kind != ".." && kind != "." {
        for dir in path {
            let file = dir.join(kind);
            match file.metadata() {
                Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => {
                    return Ok(file);
                }
                Ok(_) => not_executable.push(file),
                Err(_) => {}
            }
        }
    }
    Err(Error::NotFound {
        kind: kind.chars().take(SHOWN).collect(),
        path: path.to_vec(),
        not_executable,
    })
}

/// What a plugin is told besides its configuration.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) command: Command,
    pub(crate) attachment: Option<&'a Attachment>,
    pub(crate) netns: Option<&'a Path>,
    pub(crate) args: Option<&'a CniArgs>,
    pub(crate) path: &'a [PathBuf],
    pub(crate) timeout: Duration,
    pub(crate) delegate: bool,
}

impl<'a> Call<'a> {
    /// What this command of this request, passed on to a delegate, says.
    pub(crate) fn delegated(
        request: &'a Request,
        command: Command,
        attachment: Option<&'a Attachment>,
        timeout: Duration,
    ) -> Self {
        Self {
            command,
            attachment,
            netns: request.netns.as_deref(),
            args: Some(&request.args),
            path: &request.path,
            timeout,
            delegate: true,
        }
    }

    /// The variables of the specification, section "Parameters".
    fn env(&self) -> Result<Vec<(&'static str, OsString)>, CniError> {
        let path = std::env::join_paths(self.path).map_err(|error| {
            CniError::new(
                Code::INVALID_ENVIRONMENT,
                "a directory of CNI_PATH is not valid",
            )
            .because(error)
        })?;
        let mut env = vec![
            ("CNI_COMMAND", self.command.as_str().into()),
            ("CNI_PATH", path),
        ];
        if let Some(attachment) = self.attachment {
            let args = self.args.map(format_args_variable).unwrap_or_default();
            env.extend([
                ("CNI_CONTAINERID", attachment.container.as_str().into()),
                ("CNI_IFNAME", attachment.ifname.as_str().into()),
                ("CNI_NETNS", self.netns.unwrap_or(Path::new("")).into()),
                ("CNI_ARGS", args.into()),
            ]);
        }
        Ok(env)
    }

    /// Executes the plugin with this standard input; its standard output if it succeeded.
    pub(crate) fn run(&self, kind: &str, stdin: &[u8]) -> Result<Answer, Error> {
        let program = find_plugin(self.path, kind)?;
        let job = Job {
            program: &program,
            command: self.command,
            env: self.env()?,
            stdin,
            timeout: self.timeout,
            delegate: self.delegate,
        };
        let answer = Answer {
            kind: kind.to_owned(),
            command: self.command,
            done: job.run()?,
        };
        if answer.done.status.success() {
            return Ok(answer);
        }
        match CniError::from_json(&answer.done.stdout) {
            Some(error) => Err(Error::Plugin {
                kind: answer.kind,
                command: self.command,
                error,
                stderr: answer.done.stderr,
            }),
            None => Err(answer.broken("it failed without an error object")),
        }
    }
}

/// What a plugin that succeeded printed.
pub(crate) struct Answer {
    kind: String,
    command: Command,
    done: Done,
}

impl Answer {
    /// The result of ADD, as it was printed and as it was understood.
    pub(crate) fn result(self) -> Result<(Value, CniResult), Error> {
        let result = match CniResult::from_json(&self.done.stdout) {
            Ok(result) => result,
            Err(error) => return Err(self.broken(&error)),
        };
        match serde_json::from_slice(&self.done.stdout) {
            Ok(value) => Ok((value, result)),
            Err(error) => Err(self.broken(&error)),
        }
    }

    /// The answer to VERSION.
    pub(crate) fn versions(self) -> Result<VersionReply, Error> {
        VersionReply::from_json(&self.done.stdout).map_err(|error| self.broken(&error))
    }

    fn broken(self, why: &(impl Display + ?Sized)) -> Error {
        let stdout = String::from_utf8_lossy(&self.done.stdout);
        Error::Protocol {
            stdout: stdout.chars().take(SHOWN).collect(),
            kind: self.kind,
            command: self.command,
            why: why.to_string(),
            status: self.done.status,
            stderr: self.done.stderr,
        }
    }
}
