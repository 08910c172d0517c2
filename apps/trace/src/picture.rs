//! A trace as people read it.

use crate::model::Trace;

/// Draws it.
pub fn picture(trace: &Trace) -> String {
    format!("{trace:?}")
}
