//! The CNI plugins of Watari, in one program: an interface plugin (`azure-vnet`), its address
//! management (`azure-vnet-ipam`, `azure-vnet-ipamv6`), host ports (`portmap`) and `loopback`.
//! The name it is called by selects the plugin; called `watari-cni`, the configuration's `type`.

mod answer;
mod interface;
pub mod ipam;
mod loopback;
mod node;
mod plugin;
pub mod portmap;

pub use answer::{Answer, run};
pub use plugin::Plugin;
