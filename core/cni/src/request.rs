use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use watari_model::{Attachment, ContainerId, IfName, NameError};

use crate::{CniError, Code, Version};

/// `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Is it as ADD left it? From 0.4.0.
    Check,
    /// Remove what belongs to no valid attachment. From 1.1.0.
    Gc,
    /// Can this node take a container? From 1.1.0.
    Status,
    /// Which versions are spoken.
    Version,
}

/// `CNI_ARGS`, `K=V;K=V`, in order of key. Kubernetes runtimes pass `IgnoreUnknown`,
/// `K8S_POD_NAMESPACE`, `K8S_POD_NAME`, `K8S_POD_INFRA_CONTAINER_ID`, `K8S_POD_UID`.
pub type CniArgs = BTreeMap<String, String>;

/// The environment of one execution of a plugin, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// `CNI_CONTAINERID`; absent for STATUS, GC and VERSION.
    pub container: Option<ContainerId>,
    /// `CNI_IFNAME`; absent likewise.
    pub ifname: Option<IfName>,
    /// `CNI_NETNS`: a path to a network namespace; required for ADD and CHECK.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`.
    pub args: CniArgs,
    /// `CNI_PATH`, split; empty when the runtime gave none.
    pub path: Vec<PathBuf>,
}

impl Request {
    /// The attachment that ADD, DEL and CHECK are about.
    pub fn attachment(&self) -> Option<Attachment> {
        Some(Attachment {
            container: self.container.clone()?,
            ifname: self.ifname.clone()?,
        })
    }
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Gc,
        Self::Status,
        Self::Version,
    ];

    /// As written in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version of the specification that knows it.
    pub fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    /// Is it about one attachment, so that it needs a container and an interface?
    pub fn of_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Command {
    type Err = CniError;
    fn from_str(text: &str) -> Result<Self, CniError> {
        Self::ALL
            .into_iter()
            .find(|command| command.as_str() == text)
            .ok_or_else(|| {
                invalid(
                    "CNI_COMMAND",
                    text,
                    "want ADD, DEL, CHECK, GC, STATUS or VERSION",
                )
            })
    }
}

fn invalid(variable: &str, value: &str, rule: impl fmt::Display) -> CniError {
    let shown: String = value.chars().take(128).collect();
    CniError::new(
        Code::INVALID_ENVIRONMENT,
        format!("the environment variable {variable}={shown:?} is not valid"),
    )
    .because(rule)
}

/// A path that the kernel could take (`PATH_MAX` with its terminating zero).
fn bounded(variable: &str, path: OsString) -> Result<PathBuf, CniError> {
    const LONGEST: usize = 4095;
    if path.len() > LONGEST {
        let rule = format_args!("want a path of at most {LONGEST} bytes");
        return Err(invalid(variable, &path.to_string_lossy(), rule));
    }
    Ok(path.into())
}

/// The variable as text; none when unset or empty, which the specification does not tell apart.
fn text(
    lookup: &impl Fn(&str) -> Option<OsString>,
    variable: &str,
) -> Result<Option<String>, CniError> {
    let Some(value) = lookup(variable).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    value
        .into_string()
        .map(Some)
        .map_err(|value| invalid(variable, &value.to_string_lossy(), "want UTF-8"))
}

fn parsed<T: FromStr<Err = NameError>>(
    lookup: &impl Fn(&str) -> Option<OsString>,
    variable: &str,
) -> Result<Option<T>, CniError> {
    let Some(value) = text(lookup, variable)? else {
        return Ok(None);
    };
    let parsed = value
        .parse()
        .map_err(|rule| invalid(variable, &value, rule))?;
    Ok(Some(parsed))
}

/// Parses `CNI_ARGS`: `K=V` joined by `;`. Of a repeated key the last counts.
pub fn parse_args(value: &str) -> Result<CniArgs, CniError> {
    if value.is_empty() {
        return Ok(CniArgs::new());
    }
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => {
            let shown: String = pair.chars().take(128).collect();
            Err(invalid(
                "CNI_ARGS",
                value,
                format_args!("want KEY=VALUE pairs joined by ';', but one is {shown:?}"),
            ))
        }
    };
    value.split(';').map(pair).collect()
}

/// `CNI_ARGS` as text, the inverse of [`parse_args`].
pub fn format_args_variable(args: &CniArgs) -> String {
    let pairs: Vec<_> = args.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(";")
}

impl Request {
    /// Reads the environment of a plugin (specification, section "Parameters" and the list of
    /// required variables of each operation). `lookup` is `std::env::var_os` in a plugin.
    ///
    /// Variables that the command does not use are not looked at.
    pub fn from_env(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, CniError> {
        let command = text(&lookup, "CNI_COMMAND")?.ok_or_else(|| missing(None, "CNI_COMMAND"))?;
        let command: Command = command.parse()?;
        let mut request = Self {
            command,
            container: None,
            ifname: None,
            netns: None,
            args: CniArgs::new(),
            path: Vec::new(),
        };
        if command == Command::Version {
            return Ok(request);
        }
        let path = lookup("CNI_PATH").filter(|path| !path.is_empty());
        request.path = path.map_or_else(Vec::new, |path| {
            std::env::split_paths(&path)
                .filter(|dir| !dir.as_os_str().is_empty())
                .collect()
        });
        if command.of_attachment() {
            request.read_attachment(&lookup)?;
        }
        if command == Command::Gc && request.path.is_empty() {
            return Err(missing(Some(command), "CNI_PATH"));
        }
        Ok(request)
    }

    fn read_attachment(
        &mut self,
        lookup: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), CniError> {
        self.container = parsed(lookup, "CNI_CONTAINERID")?;
        self.ifname = parsed(lookup, "CNI_IFNAME")?;
        self.netns = lookup("CNI_NETNS")
            .filter(|path| !path.is_empty())
            .map(|path| bounded("CNI_NETNS", path))
            .transpose()?;
        let wants_netns = self.command != Command::Del;
        let absent: Vec<_> = [
            ("CNI_CONTAINERID", self.container.is_none()),
            ("CNI_IFNAME", self.ifname.is_none()),
            ("CNI_NETNS", wants_netns && self.netns.is_none()),
        ]
        .into_iter()
        .filter_map(|(variable, absent)| absent.then_some(variable))
        .collect();
        if !absent.is_empty() {
            return Err(missing(Some(self.command), &absent.join(", ")));
        }
        let args = text(lookup, "CNI_ARGS")?;
        self.args = parse_args(args.as_deref().unwrap_or_default())?;
        Ok(())
    }
}

fn missing(command: Option<Command>, variables: &str) -> CniError {
    let of = command.map_or_else(String::new, |command| format!(" of {command}"));
    CniError::new(
        Code::INVALID_ENVIRONMENT,
        format!("the environment{of} lacks {variables}"),
    )
    .because("a CNI plugin is executed by a container runtime, which sets the CNI_ variables")
}
