//! The weight of the binary, and the peak memory of an ADD.

use anyhow::{Context as _, Result};

use super::node::{Chain, Node, Plugins, Pod};
use super::{MEMORY_LIMIT, SIZE_LIMIT, add, del};
use crate::row::Row;

/// How many ADDs are looked at.
const ADDS: usize = 5;

/// The rows.
pub fn rows(plugins: &Plugins) -> Result<Vec<Row>> {
    let program = plugins.ours.path().join("azure-vnet");
    let bytes = std::fs::metadata(&program).context("cannot weigh the plugin")?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let bytes = bytes.len() as f64;
    let mut rows = vec![Row::limited(
        "size".to_owned(),
        "bytes",
        &[bytes],
        SIZE_LIMIT,
    )];
    let peaks = peaks(plugins)?;
    for name in ["azure-vnet", "portmap"] {
        let of_name = peaks.iter().filter(|(plugin, _)| plugin == name);
        let samples: Vec<f64> = of_name.map(|(_, peak)| *peak).collect();
        let case = format!("memory/{name}");
        rows.push(Row::limited(case, "KiB", &samples, MEMORY_LIMIT));
    }
    Ok(rows)
}

/// Plugin and KiB of each execution in some ADDs, the first of which makes the node's store.
fn peaks(plugins: &Plugins) -> Result<Vec<(String, f64)>> {
    let node = Node::new(Chain::OursNoted(plugins))?;
    let file = plugins.peak.path().join("peaks");
    let mut noted = String::new();
    for pod in Pod::some(ADDS)?.chunks(1) {
        // Of ADD alone: what DEL adds is not read.
        std::fs::write(&file, "")?;
        add(&node, pod, None)?;
        noted += &std::fs::read_to_string(&file)?;
        del(&node, pod, None)?;
    }
    let parse = |line: &str| {
        let (name, peak) = line.split_once(' ').context("a line without a figure")?;
        Ok((name.to_owned(), peak.parse()?))
    };
    noted.lines().map(parse).collect()
}
