use std::collections::BTreeMap;

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

/// The names of all links, read at once: for who needs many, where [`name_of`] costs three system
/// calls for each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(BTreeMap<u32, IfName>);

impl Names {
    /// The name of the link of that index, if there is one. One that came since the reading is
    /// looked up, or what a plugin has just attached would be taken for a leftover.
    pub fn of(&self, index: u32) -> Option<IfName> {
        let known = self.0.get(&index).cloned();
        known.or_else(|| name_of(index))
    }
}

impl FromIterator<(u32, IfName)> for Names {
    fn from_iter<T: IntoIterator<Item = (u32, IfName)>>(links: T) -> Self {
        Self(links.into_iter().collect())
    }
}
