use serde::{Deserialize, Serialize};

use crate::Version;
use crate::field::parse_object;

/// Error codes: those of the specification (section "Error"), and ours from 100 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The `cniVersion` is not one that the plugin speaks.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A field of the configuration is not supported; the message names it.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown or gone; the runtime need not call DEL.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// A required environment variable is missing or malformed.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// An I/O failure, reading standard input for one.
    pub const IO: Self = Self(5);
    /// The input is not the JSON that was expected.
    pub const DECODE: Self = Self(6);
    /// The configuration is invalid.
    pub const INVALID_CONFIG: Self = Self(7);
    /// Try again later.
    pub const TRY_AGAIN: Self = Self(11);
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: the plugin cannot serve ADD, and existing containers may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// Every address of the pool is leased or cooling down.
    pub const POOL_EXHAUSTED: Self = Self(100);
    /// A requested address is outside the pool, reserved, or leased to somebody else.
    pub const ADDRESS_UNAVAILABLE: Self = Self(101);
    /// The kernel refused a change to a link, an address, a route, a neighbour or a setting.
    pub const KERNEL: Self = Self(102);
    /// The node store cannot be used: corrupt, from a newer version, or not writable.
    pub const STORE: Self = Self(103);
    /// CHECK: what is there differs from what should be.
    pub const CHECK_FAILED: Self = Self(104);
    /// No source of addresses answered.
    pub const NO_SOURCE: Self = Self(105);
    /// A host port is taken by another container.
    pub const PORT_TAKEN: Self = Self(106);
    /// A delegated plugin could not be found or executed, or broke the protocol.
    pub const DELEGATE: Self = Self(107);
    /// A defect of ours.
    pub const INTERNAL: Self = Self(999);
}

/// A CNI error object: what a plugin prints on standard output when it fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct CniError {
    /// What kind of failure.
    pub code: Code,
    /// What was tried, on what.
    pub msg: String,
    /// Why it failed and what to do; may be empty.
    pub details: String,
}

impl CniError {
    /// An error with an empty `details`.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// The same error with `details`: why, and what to do.
    #[must_use]
    pub fn because(self, details: impl std::fmt::Display) -> Self {
        Self {
            details: details.to_string(),
            ..self
        }
    }
}

/// The error object of the specification (section "Error").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorObject<'a> {
    cni_version: Version,
    code: Code,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

impl CniError {
    /// The error object that a plugin prints on standard output, in one line. `version` is that
    /// of the configuration, [`Version::sniff`] when it could not be read.
    pub fn to_json(&self, version: Version) -> String {
        let object = ErrorObject {
            cni_version: version,
            code: self.code,
            msg: &self.msg,
            details: &self.details,
        };
        serde_json::to_string(&object).unwrap_or_default()
    }

    /// The error object that a plugin printed; none if these bytes are none. Only `code` is
    /// insisted on, since plugins are careless with the rest.
    pub fn from_json(bytes: &[u8]) -> Option<Self> {
        let map = parse_object(bytes, "the plugin's output").ok()?;
        let code = map.get("code")?.as_u64().filter(|code| *code != 0)?;
        let text = |key: &str| {
            let value = map.get(key).and_then(|value| value.as_str());
            value.unwrap_or_default().to_owned()
        };
        Some(Self {
            code: Code(u32::try_from(code).unwrap_or(Code::INTERNAL.0)),
            msg: text("msg"),
            details: text("details"),
        })
    }
}
