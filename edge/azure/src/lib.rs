//! Where an Azure node learns its addresses: wire server and Azure Stack file.
//!
//! Only IP literals: a static binary has no resolver, and the wire server has no name.

mod file;
mod wire;

pub use file::{read_file, stack_file};
pub use wire::{HASTY, PATH, PATIENT, wire_server};

use watari_ipam::DocumentError;

/// A source of addresses gave none.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The URL is not one that is asked.
    #[error("the wire server's URL {url:?} is not usable: {why}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No good answer.
    #[error(
        "the wire server gave no addresses: GET {url}: {why} ({tries} tries); is the node on Azure, \
         and is the address routed and not blocked on it?"
    )]
    Fetch {
        /// What was asked.
        url: String,
        /// The last failure.
        why: String,
        /// How often.
        tries: u32,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {why}")]
    File {
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
    /// The answer is not a document.
    #[error("the answer of {from} cannot be used: {why}")]
    Document {
        /// Whose.
        from: String,
        /// What is wrong with it.
        why: DocumentError,
    },
}
