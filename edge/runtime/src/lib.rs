//! The runtime side of the Container Network Interface, in one synchronous library: finding and
//! executing plugins, network configuration lists, chaining, delegation, and the cache of results
//! in the format of libcni, so that either can end what the other began.
//!
//! ```no_run
//! use std::path::Path;
//! use watari_cni_spec::{Capabilities, CniArgs};
//! use watari_model::{Attachment, ContainerId, IfName};
//! use watari_runtime::{NetworkList, Runtime};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = Runtime::new(vec!["/opt/cni/bin".into()]);
//! let list = NetworkList::load(Path::new("/etc/cni/net.d"), None)?;
//! let attachment = Attachment {
//!     container: ContainerId::new("c0ffee")?,
//!     ifname: IfName::new("eth0")?,
//! };
//! let netns = Path::new("/run/netns/c0ffee");
//! let (args, capabilities) = (CniArgs::new(), Capabilities::new());
//! let result = runtime.add(&list, &attachment, netns, &args, &capabilities)?;
//! println!("{}", result.to_json(list.conf.version));
//! runtime.del(&list, &attachment, Some(netns), &args, &capabilities)?;
//! # Ok(())
//! # }
//! ```

mod cache;
mod chain;
mod delegate;
mod error;
mod exec;
mod list;
mod plugin;

pub use cache::{CacheEntry, ResultCache};
pub use chain::Runtime;
pub use delegate::{DELEGATE_TIMEOUT, delegate};
pub use error::Error;
pub use list::NetworkList;
pub use plugin::find_plugin;
