//! The CNI protocol as data: requests, network configurations, results and errors of the
//! specification 1.1.0 and of 1.0.0, 0.4.0, 0.3.1 and 0.3.0. No I/O.

mod conf;
mod error;
mod field;
mod list;
mod request;
mod result;
mod runtime_config;
mod version;

pub use conf::{Dns, NetConf};
pub use error::{CniError, Code};
pub use field::{Field, Object, parse_object};
pub use list::{Capabilities, ConfList, PluginConf};
pub use request::{CniArgs, Command, Request, format_args_variable, parse_args};
pub use result::{CniResult, Interface, IpConfig, ResultRoute};
pub use runtime_config::{PortMapping, RuntimeConfig};
pub use version::{Version, VersionReply};

/// The longest standard input, file or reply that a plugin reads, in bytes. Larger ones are
/// refused before they are parsed.
pub const MAX_INPUT: usize = 1 << 20;
