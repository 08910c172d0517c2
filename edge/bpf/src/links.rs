use nix::net::if_::{if_indextoname, if_nametoindex};
use watari_model::IfName;

use crate::error::BpfError;

/// The index of a link in this thread's network namespace.
pub fn index_of(link: &IfName) -> Result<u32, BpfError> {
    if_nametoindex(link.as_str()).map_err(|_| BpfError::NoLink(link.clone()))
}

/// The name of the link of that index, if there is one.
pub fn name_of(index: u32) -> Option<IfName> {
    let name = if_indextoname(index).ok()?;
    IfName::new(name.to_str().ok()?).ok()
}
