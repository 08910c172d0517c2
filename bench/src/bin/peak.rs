//! Runs the plugin of its own name in the last directory of `CNI_PATH` with its own standard
//! streams, and appends the name and the plugin's peak resident memory in KiB to the file `peaks`
//! beside itself.
//!
//! A child's peak counts what it shared with its parent before it executed the plugin, so the
//! parent has to be smaller than the plugin: hence a program of its own.

use std::fs::OpenOptions;
use std::io::{Error, Result, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sys::resource::{UsageWho, getrusage};

fn main() -> Result<ExitCode> {
    let called = std::env::args_os().next().unwrap_or_default();
    let called = Path::new(&called);
    let name = called.file_name().unwrap_or_default();
    let path = std::env::var_os("CNI_PATH").unwrap_or_default();
    let plugins = std::env::split_paths(&path).last();
    let plugins = plugins.ok_or_else(|| Error::other("CNI_PATH is not set"))?;
    let status = Command::new(plugins.join(name)).status()?;
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    let peaks = called.with_file_name("peaks");
    let mut file = OpenOptions::new().append(true).open(peaks)?;
    writeln!(file, "{} {peak}", name.display())?;
    Ok(ExitCode::from(u8::from(!status.success())))
}
