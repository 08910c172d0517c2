//! A plugin that does nothing but say so: what executing any program costs.

use std::io::Write as _;

fn main() {
    // A failure is seen by whoever misses the answer.
    let _ = std::io::stdout().write_all(b"{\"cniVersion\":\"1.0.0\"}");
}
