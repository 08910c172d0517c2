use serde::{Deserialize, Serialize};

use crate::Ranges;

/// Whose packets leave the node with the node's own address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masquerade {
    /// Sources that are masqueraded: the addresses of this node's pods.
    pub pods: Ranges,
    /// Destinations that see the pod's own address all the same.
    pub exceptions: Ranges,
}
