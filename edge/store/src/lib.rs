//! The node store: leases, endpoints and cached address documents in one SQLite file.
//!
//! Many short plugin processes share `node.db`; each does its work in one [`Store::write`],
//! which is one commit.
//!
//! # Lifetime
//! The file is void under another boot id, since a reboot ends every sandbox that it speaks of.
//! So nothing is ever synchronised to a disk: a power loss ends the boot too. It may leave the
//! file torn, therefore the boot id stands beside it, in `node.db.boot`, and is compared before
//! the file is opened. See [`open`](Store::open) for what happens when it differs.
//!
//! Under one boot the file is never thrown away: an empty or damaged one is an error that says
//! what to do, because an empty store would lease addresses that pods still have.

mod boot;
mod clock;
mod endpoint;
mod error;
mod ledger;
mod open;
mod replace;
mod schema;
mod tx;

pub use clock::now;
pub use endpoint::EndpointRecord;
pub use error::StoreError;
pub use open::{Options, Store};
pub use tx::{Lease, Tx};

/// Where the store of a node is, unless `dataDir` moves it.
pub const DEFAULT_DIR: &str = "/run/watari";

/// The file's name in its directory.
pub const FILE: &str = "node.db";
