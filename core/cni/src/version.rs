use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::field::{Object, parse_object};
use crate::{CniError, Code, Command};

/// The versions of the specification that this implementation speaks, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Version {
    /// 0.3.0: the AKS conflist.
    V0_3_0,
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: adds CHECK.
    V0_4_0,
    /// 1.0.0: no `ip.version` field.
    V1_0_0,
    /// 1.1.0: adds GC and STATUS.
    V1_1_0,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
    /// The newest.
    pub const LATEST: Self = Self::V1_1_0;

    /// As written in a `cniVersion` field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The `cniVersion` of a configuration, whatever else it holds; the newest when it names none
    /// that we speak. For an error about a configuration that could not be read.
    pub fn sniff(conf: &[u8]) -> Self {
        parse_object(conf, "the configuration")
            .ok()
            .and_then(|map| map.get("cniVersion")?.as_str()?.parse().ok())
            .unwrap_or(Self::LATEST)
    }

    /// Does this version know the command? CHECK is of 0.4.0, GC and STATUS are of 1.1.0.
    pub fn admit(self, command: Command) -> Result<(), CniError> {
        if self >= command.since() {
            return Ok(());
        }
        Err(CniError::new(
            Code::INCOMPATIBLE_VERSION,
            format!("{command} is not part of CNI {self}"),
        )
        .because(format_args!(
            "it needs cniVersion {} or newer",
            command.since()
        )))
    }
}

/// A version that we do not speak.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("CNI version {0:?} is not supported (supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0)")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;
    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
            .ok_or_else(|| VersionError(text.chars().take(32).collect()))
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;
    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.as_str().to_owned()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to VERSION.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionReply {
    /// The version of this reply's form.
    pub cni_version: String,
    /// What the plugin speaks.
    pub supported_versions: Vec<String>,
}

impl VersionReply {
    /// Our answer, in the form of `asked`.
    pub fn ours(asked: &str) -> Self {
        Self {
            cni_version: asked.to_owned(),
            supported_versions: Version::ALL.iter().map(ToString::to_string).collect(),
        }
    }
    /// Our answer to VERSION with this standard input, in whatever version it asks: the version
    /// is repeated, our newest when it names none (before 1.0.0 the input may be empty).
    pub fn answer(input: &[u8]) -> Result<Self, CniError> {
        if input.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::ours(Version::LATEST.as_str()));
        }
        let map = parse_object(input, "the input of VERSION")?;
        let asked = Object::root(&map).text("cniVersion")?;
        Ok(Self::ours(asked.unwrap_or(Version::LATEST.as_str())))
    }

    /// Another plugin's answer.
    pub fn from_json(bytes: &[u8]) -> Result<Self, CniError> {
        let map = parse_object(bytes, "the answer to VERSION")?;
        let root = Object::root(&map);
        Ok(Self {
            cni_version: root.text("cniVersion")?.unwrap_or_default().to_owned(),
            supported_versions: root.texts("supportedVersions")?,
        })
    }

    /// As printed.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}
